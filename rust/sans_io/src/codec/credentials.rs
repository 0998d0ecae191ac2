//! What credentials look like, and in which fields they come. (Which of a request's count here:
//! [`super::headers::credentials`].)

/// No key is shorter, in bytes: those that are made are longer, and of those that are brought it is
/// asked.
pub(crate) const LENGTH_MIN: usize = 16;

/// The secret behind `Bearer`; None: another scheme stands there, or none.
pub(crate) fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Whether clients and proxies send a credential in the field of this name, in lower case. Most of
/// them open nothing here, but none is an engine's business. (`Proxy-Authorization` is for one
/// connection only, and what a WebSocket's subprotocols say is written anew.)
pub(super) fn is_carrier(name: &[u8]) -> bool {
    matches!(
        name,
        b"authorization"
            | b"cookie"
            | b"x-api-key"
            // As SDKs and gateways of Azure, Google and Kong send it,
            | b"api-key"
            | b"x-goog-api-key"
            | b"apikey"
            | b"ocp-apim-subscription-key"
            // and as others do.
            | b"x-auth-token"
            | b"x-access-token"
    )
}

/// The credentials of one request, to be known again in other fields.
pub(super) struct Shown<'h>([&'h [u8]; 3]);

impl<'h> Shown<'h> {
    /// Those of a request that are long enough to be a key: anything shorter is a placeholder, or a
    /// word that other fields may hold as well.
    pub(super) fn new(credentials: impl Iterator<Item = &'h [u8]>) -> Self {
        let mut shown = [&[][..]; 3];
        for (place, secret) in shown.iter_mut().zip(credentials) {
            *place = if secret.len() < LENGTH_MIN { &[] } else { secret };
        }
        Self(shown)
    }

    /// Whether a field's value is one of them, by itself or behind a scheme's name.
    pub(super) fn is_in(&self, value: &[u8]) -> bool {
        self.0.iter().any(|secret| {
            !secret.is_empty()
                && value
                    .strip_suffix(*secret)
                    .is_some_and(|before| matches!(before, [] | [.., b' ']))
        })
    }
}
