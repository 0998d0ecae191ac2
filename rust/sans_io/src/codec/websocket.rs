//! The opening handshake of a WebSocket (RFC 6455 4): what the client asks, and how an engine
//! answers it.

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha1::{Digest, Sha1};

use crate::codec::headers::{self, tokens};

/// What a server joins to the client's key to show that it speaks WebSocket (RFC 6455 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads keys. Some clients draw the last character like any other, though two of its bits mean
/// nothing: no server minds.
const KEYS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A client's request that no server can open a WebSocket for. Displayed as a whole sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningError {
    /// `Sec-WebSocket-Version` is not 13, or not there once.
    Version,
    /// `Sec-WebSocket-Key` is not 16 bytes in base64, or not there once.
    Key,
}

impl fmt::Display for OpeningError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Version => {
                "A WebSocket is opened with one Sec-WebSocket-Version field, and 13 is the version \
                 that is spoken here."
            }
            Self::Key => {
                "A WebSocket is opened with one Sec-WebSocket-Key field, of 16 random bytes in \
                 base64."
            }
        })
    }
}

/// A 101 that opens no WebSocket. Displayed as a clause that goes on "the response": "its 101 has
/// ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// `Connection` or `Upgrade` does not say so.
    Switch,
    /// It has a body.
    Body,
    /// `Sec-WebSocket-Accept` is not that of the key.
    Accept,
    /// Its subprotocol was not offered.
    Protocol,
    /// One of its extensions was not offered.
    Extensions,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Switch => "its 101 lacks Connection: upgrade with Upgrade: websocket",
            Self::Body => "its 101 has a Content-Length or Transfer-Encoding",
            Self::Accept => "its Sec-WebSocket-Accept is missing or does not fit the key",
            Self::Protocol => "it chooses a Sec-WebSocket-Protocol that was not offered",
            Self::Extensions => "it uses Sec-WebSocket-Extensions that were not offered",
        })
    }
}

/// Checks the fields of a client's request for a WebSocket (RFC 6455 4.2.1), so that an engine's
/// answer to it tells of the engine alone.
pub fn check_opening(request: &HeaderMap) -> Result<(), OpeningError> {
    if only(request, header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(OpeningError::Version);
    }
    let key = only(request, header::SEC_WEBSOCKET_KEY).ok_or(OpeningError::Key)?;
    // Room for what the engine takes whole units of three bytes for.
    let mut bytes = [0; 18];
    match KEYS.decode_slice(key, &mut bytes) {
        Ok(16) => Ok(()),
        Ok(_) | Err(_) => Err(OpeningError::Key),
    }
}

/// Checks that the fields of a 101, names and values, switch to a WebSocket.
pub(crate) fn check_switch<'a>(
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), HandshakeError> {
    let (mut connection, mut upgrades) = (false, 0);
    let mut to_websocket = true;
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("connection") {
            connection |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
        } else if name.eq_ignore_ascii_case("upgrade") {
            upgrades += 1;
            to_websocket &= value.trim_ascii().eq_ignore_ascii_case(b"websocket");
        }
    }
    if connection && upgrades == 1 && to_websocket { Ok(()) } else { Err(HandshakeError::Switch) }
}

/// Checks that the fields of an engine's 101 answer those of a client's request.
pub fn check(request: &HeaderMap, response: &HeaderMap) -> Result<(), HandshakeError> {
    let key = only(request, header::SEC_WEBSOCKET_KEY).unwrap_or_default();
    if only(response, header::SEC_WEBSOCKET_ACCEPT) != Some(accept(key).as_bytes()) {
        return Err(HandshakeError::Accept);
    }
    if response.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        let chosen = only(response, header::SEC_WEBSOCKET_PROTOCOL);
        let is_offered = |chosen| headers::plain_protocols(request).any(|name| name == chosen);
        if !chosen.is_some_and(is_offered) {
            return Err(HandshakeError::Protocol);
        }
    }
    let all_offered = extensions(response)
        .all(|used| extensions(request).any(|offered| offered.eq_ignore_ascii_case(used)));
    if all_offered { Ok(()) } else { Err(HandshakeError::Extensions) }
}

/// The `Sec-WebSocket-Accept` to a key (RFC 6455 4.2.2).
fn accept(key: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The value of a field that is there once; None: it is not.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    values.next().filter(|_| values.next().is_none()).map(<[u8]>::trim_ascii)
}

/// The names of the extensions that a head offers or uses.
fn extensions(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    let elements = values.flat_map(|value| tokens(value.as_bytes()));
    elements
        .map(|element| element.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        // `collect` would replace what is there twice.
        let mut map = HeaderMap::new();
        fields.for_each(|(name, value)| _ = map.append(name, value));
        map
    }

    /// The example of RFC 6455 1.3.
    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const ACCEPT: (&str, &str) = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

    #[test]
    fn a_request_has_one_key_of_16_bytes_and_the_one_version() {
        use OpeningError::{Key, Version};
        const VERSION: (&str, &str) = ("sec-websocket-version", "13");
        let key = |key| ("sec-websocket-key", key);
        for (request, expected) in [
            (&[KEY, VERSION][..], Ok(())),
            (&[VERSION, key("xxxxxxxxxxxxxxxxxxxxxx==")], Ok(())),
            (&[KEY], Err(Version)),
            (&[KEY, VERSION, VERSION], Err(Version)),
            (&[KEY, ("sec-websocket-version", "8")], Err(Version)),
            (&[KEY, ("sec-websocket-version", "13, 8")], Err(Version)),
            (&[KEY, VERSION, ("sec-websocket-version", "8")], Err(Version)),
            (&[VERSION], Err(Key)),
            (&[KEY, KEY, VERSION], Err(Key)),
            (&[key(""), VERSION], Err(Key)),
            (&[key("dGhlIHNhbXBsZSBub25jZQ"), VERSION], Err(Key)),
            (&[key("dGhlIHNhbXBsZSBub25j"), VERSION], Err(Key)),
            (&[key("dGhlIHNhbXBsZSBub25jZXN0"), VERSION], Err(Key)),
            (&[key("dGhlIHNhbXBsZSBub25jZXN0IG9uZQ=="), VERSION], Err(Key)),
            (&[key("dGhlIHNhbXBsZSBub25j*Q=="), VERSION], Err(Key)),
        ] {
            assert_eq!(check_opening(&map(request)), expected, "{request:?}");
        }
    }

    #[test]
    fn an_answer_fits_the_key_and_what_was_offered() {
        use HandshakeError::{Accept, Extensions, Protocol};
        const PROTOCOL: &str = "sec-websocket-protocol";
        const EXTENSIONS: &str = "sec-websocket-extensions";
        let offer = map(&[
            KEY,
            (PROTOCOL, "realtime, openai-insecure-api-key.k"),
            (PROTOCOL, "other"),
            (EXTENSIONS, "permessage-deflate; client_max_window_bits, x-a"),
        ]);
        for (answer, expected) in [
            (&[ACCEPT][..], Ok(())),
            (&[ACCEPT, (PROTOCOL, "realtime")], Ok(())),
            (&[ACCEPT, (PROTOCOL, "other")], Ok(())),
            (&[ACCEPT, (EXTENSIONS, "permessage-deflate; server_no_context_takeover")], Ok(())),
            (&[ACCEPT, (EXTENSIONS, "X-A"), (EXTENSIONS, "permessage-deflate")], Ok(())),
            (&[], Err(Accept)),
            (&[ACCEPT, ACCEPT], Err(Accept)),
            (&[("sec-websocket-accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")], Err(Accept)),
            (&[("sec-websocket-accept", "")], Err(Accept)),
            (&[ACCEPT, (PROTOCOL, "")], Err(Protocol)),
            (&[ACCEPT, (PROTOCOL, "soap")], Err(Protocol)),
            (&[ACCEPT, (PROTOCOL, "Realtime")], Err(Protocol)),
            (&[ACCEPT, (PROTOCOL, "realtime, other")], Err(Protocol)),
            (&[ACCEPT, (PROTOCOL, "realtime"), (PROTOCOL, "other")], Err(Protocol)),
            (&[ACCEPT, (PROTOCOL, "openai-insecure-api-key.k")], Err(Protocol)),
            (&[ACCEPT, (EXTENSIONS, "x-b")], Err(Extensions)),
            (&[ACCEPT, (EXTENSIONS, "x-a, x-b; y")], Err(Extensions)),
        ] {
            assert_eq!(check(&offer, &map(answer)), expected, "{answer:?}");
        }
        let bare = map(&[KEY]);
        assert_eq!(check(&bare, &map(&[ACCEPT])), Ok(()));
        assert_eq!(check(&bare, &map(&[ACCEPT, (PROTOCOL, "realtime")])), Err(Protocol));
        assert_eq!(
            check(&bare, &map(&[ACCEPT, (EXTENSIONS, "permessage-deflate")])),
            Err(Extensions)
        );
    }

    #[test]
    fn a_101_says_to_what_it_switches() {
        let switch = |fields: &[(&str, &str)]| {
            check_switch(fields.iter().map(|(name, value)| (*name, value.as_bytes()))).is_ok()
        };
        assert!(switch(&[("Connection", "Upgrade"), ("Upgrade", "websocket")]));
        assert!(switch(&[("connection", "keep-alive, upgrade"), ("UPGRADE", "WebSocket ")]));
        for fields in [
            &[][..],
            &[("Connection", "upgrade")],
            &[("Upgrade", "websocket")],
            &[("Connection", "close"), ("Upgrade", "websocket")],
            &[("Connection", "upgrade"), ("Upgrade", "h2c")],
            &[("Connection", "upgrade"), ("Upgrade", "websocket, h2c")],
            &[("Connection", "upgrade"), ("Upgrade", "websocket"), ("Upgrade", "websocket")],
        ] {
            assert!(!switch(fields), "{fields:?}");
        }
    }
}
