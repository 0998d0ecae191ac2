//! Header fields: which of a request pass to an engine, which stop here, and which are written here.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::codec::{
    credentials::{Shown, bearer, is_carrier},
    forwarding::is_forwarding,
};

/// Whether a field belongs to one connection only (RFC 9110 7.6.1). `Connection` may name more.
pub(super) fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
            | b"http2-settings"
    )
}

/// Whether a field of a client's request is withheld from engines: framing and host are made anew,
/// `Expect` was met here, bodies are asked for unencoded, and GPUStack's internal names are not a
/// client's to set. (Credentials and forwarding fields stop here, too.)
fn stops_here(name: &[u8]) -> bool {
    matches!(
        name,
        b"host"
            | b"content-length"
            | b"expect"
            | b"accept-encoding"
            | b"x-request-id"
            | b"x-gpustack-model"
            | b"x-gpustack-model-instance"
            | b"x-gpustack-auth-token"
            | b"x-gpustack-access-key"
            | b"x-gpustack-key-ref"
            | b"x-mse-consumer"
             // vLLM's /invocations takes the model from it.
             | b"x-amzn-sagemaker-adapter-identifier"
             | b"x-amzn-sagemaker-adapter-alias"
             // llm-d's sidecar beside an engine connects to these hosts, and gateways for inference
             // send the request to this one.
             | b"x-prefiller-host-port"
             | b"x-prefiller-url"
             | b"x-encoder-hosts-ports"
             | b"x-data-parallel-host-port"
             | b"x-gateway-destination-endpoint"
             // May hold a key; what an engine sees of it is written for a WebSocket alone.
             | b"sec-websocket-protocol"
    )
}

/// Whether a `Connection` field names anything but `keep-alive`, which nearly every client sends and
/// which stops anyway. Only then its words are compared with each field.
fn connection_names_others(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| tokens(value.as_bytes()))
        .any(|token| !token.eq_ignore_ascii_case(b"keep-alive"))
}

/// Whether a field's name has an underscore. Servers of the kind of CGI and WSGI read `-` and `_` as
/// one, so that `X_Forwarded_For` or `X_Api_Key` would be to them what stops here under its own
/// name. As in nginx, no such field goes on.
fn has_underscore(name: &[u8]) -> bool {
    memchr::memchr(b'_', name).is_some()
}

/// Whether a `Connection` field names this header.
fn named_by_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

/// Writes one field, with its line end.
pub fn put_field(head: &mut BytesMut, name: &[u8], value: &[u8]) {
    head.put_slice(name);
    head.put_slice(b": ");
    head.put_slice(value);
    head.put_slice(b"\r\n");
}

/// Facts about a request and its response that decide which fields an engine gets.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ForEngine {
    /// The response passes unread, so it may be compressed as the client likes.
    pub encoded_response: bool,
    /// The body was decompressed here.
    pub decoded: bool,
    /// The body is JSON, whatever its `Content-Type` says.
    pub json: bool,
    /// The body was made here, in a dialect other than the client's.
    pub translated: bool,
    /// The client asks for a WebSocket.
    pub upgrade: bool,
}

/// Writes the client's fields that pass to an engine, each with its line end, and those that are
/// made here. Neither the request line nor the framing is written.
pub fn put_for_engine(head: &mut BytesMut, headers: &HeaderMap, with: ForEngine) {
    let names_others = connection_names_others(headers);
    let json = with.json && !is_json(headers);
    let shown = Shown::new(credentials(headers));
    for (name, value) in headers {
        let bytes = name.as_str().as_bytes();
        let stops = is_hop_by_hop(bytes)
            || stops_here(bytes)
            || is_carrier(bytes)
            || is_forwarding(bytes)
            || with.decoded && name == header::CONTENT_ENCODING
            || json && name == header::CONTENT_TYPE
            || with.translated && name.as_str().starts_with("anthropic-")
            || has_underscore(bytes)
            || names_others && named_by_connection(headers, name)
            || shown.is_in(value.as_bytes());
        if !stops || with.encoded_response && name == header::ACCEPT_ENCODING {
            put_field(head, bytes, value.as_bytes());
        }
    }
    if json {
        put_field(head, b"content-type", b"application/json");
    }
    if !with.encoded_response {
        put_field(head, b"accept-encoding", b"identity");
    }
    if with.upgrade {
        put_field(head, b"connection", b"upgrade");
        put_field(head, b"upgrade", b"websocket");
        let plain: Vec<_> = plain_protocols(headers).collect();
        if !plain.is_empty() {
            put_field(head, b"sec-websocket-protocol", &plain.join(&b", "[..]));
        }
    }
}

/// The subprotocol in which a browser sends the key of a WebSocket, since it can set no other
/// field: `new WebSocket(url, ["realtime", "openai-insecure-api-key.KEY"])`, as `OpenAI`'s clients
/// do.
const KEY_PROTOCOL: &[u8] = b"openai-insecure-api-key.";

/// The subprotocols that a client offers for its WebSocket.
pub fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    values.flat_map(|value| tokens(value.as_bytes())).filter(|name| !name.is_empty())
}

/// Those of them that an engine sees: the ones without a key.
pub(crate) fn plain_protocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    protocols(headers).filter(|name| key_of(name).is_none())
}

/// The key in a subprotocol; None: it holds none.
fn key_of(protocol: &[u8]) -> Option<&[u8]> {
    let (start, key) = protocol.split_at_checked(KEY_PROTOCOL.len())?;
    start.eq_ignore_ascii_case(KEY_PROTOCOL).then_some(key)
}

/// The key among the subprotocols of a request for a WebSocket.
fn key_in_protocols(headers: &HeaderMap) -> Option<&[u8]> {
    let key = protocols(headers).find_map(key_of)?;
    asks_websocket(headers).then_some(key)
}

/// The credentials of a request, in the order in which they count. `Bearer` is read first: the SDKs
/// of `OpenAI` and (from 2.0) of Anthropic send it. Older ones of Anthropic's send `x-api-key`,
/// beside which a proxy on the way, or another login of the client's, may put an `Authorization` of
/// its own. Browsers can set no field of a WebSocket but its subprotocols.
pub(crate) fn credentials(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    // Each is looked for only where those before it opened nothing.
    let x_api_key = std::iter::once_with(|| headers.get("x-api-key")).flatten();
    let in_protocol = std::iter::once_with(|| key_in_protocols(headers)).flatten();
    bearer
        .into_iter()
        .chain(x_api_key.map(|value| value.as_bytes().trim_ascii()))
        .chain(in_protocol)
}

/// Whether a client asks for a WebSocket: `Connection: upgrade` with `Upgrade: websocket` (RFC 6455
/// 4.1).
pub fn asks_websocket(headers: &HeaderMap) -> bool {
    let says = |name: HeaderName, word: &[u8]| {
        headers
            .get_all(name)
            .iter()
            .flat_map(|value| tokens(value.as_bytes()))
            .any(|token| token.eq_ignore_ascii_case(word))
    };
    says(header::CONNECTION, b"upgrade") && says(header::UPGRADE, b"websocket")
}

/// Writes the client's fields that pass to the management API, the credential included, since it
/// authenticates by itself.
pub fn put_for_control_plane(head: &mut BytesMut, headers: &HeaderMap) {
    let names_others = connection_names_others(headers);
    for (name, value) in headers {
        let bytes = name.as_str().as_bytes();
        let stops = matches!(bytes, b"content-length" | b"expect" | b"x-request-id")
            || bytes.starts_with(b"x-gpustack-")
            || is_forwarding(bytes)
            || is_hop_by_hop(bytes)
            || has_underscore(bytes)
            || names_others && named_by_connection(headers, name);
        if !stops {
            put_field(head, bytes, value.as_bytes());
        }
    }
}

/// Writes who a client is (its address) and by which URL it came, in place of the forwarding fields
/// that it sent.
pub fn put_forwarding(head: &mut BytesMut, client: &str, scheme: &str, host: Option<&[u8]>) {
    put_field(head, b"x-forwarded-for", client.as_bytes());
    put_field(head, b"x-forwarded-proto", scheme.as_bytes());
    if let Some(host) = host {
        put_field(head, b"x-forwarded-host", host);
    }
}

/// Comma-separated parts of a field value, without the blanks around them; empty parts too.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether a token of `Expect` asks for a 100 before the body is sent, the one expectation that
/// there is (RFC 9110 10.1.1).
pub fn is_continue(expectation: &[u8]) -> bool {
    expectation.eq_ignore_ascii_case(b"100-continue")
}

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Sets the request id under both names that SDKs read: `x-request-id` (OpenAI) and `request-id`
/// (Anthropic). An id that no header may hold is left out.
pub fn put_request_id(headers: &mut HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value.clone());
        headers.insert(X_REQUEST_ID, value);
    }
}

/// The client's own request id: 1 to 128 characters that need no quoting anywhere. None without
/// one, or when it is anything else.
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(&byte);
    ((1..=128).contains(&id.len()) && id.bytes().all(sane)).then_some(id)
}

/// Whether the body is a stream of server-sent events, by its media type.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes().trim_ascii_start();
        value.get(..KIND.len()).is_some_and(|start| start.eq_ignore_ascii_case(KIND))
    })
}

/// Whether the body is a form of parts, by its media type.
pub fn is_multipart(headers: &HeaderMap) -> bool {
    const KIND: &[u8] = b"multipart/";
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes().trim_ascii_start();
        value.get(..KIND.len()).is_some_and(|start| start.eq_ignore_ascii_case(KIND))
    })
}

/// Whether the body is JSON: the media type ends in `json`, with any parameters.
pub fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let kind =
            value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        kind.len() >= 4 && kind[kind.len() - 4..].eq_ignore_ascii_case(b"json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn engine_sees(fields: &[(&str, &str)]) -> String {
        let mut head = BytesMut::new();
        put_for_engine(&mut head, &map(fields), ForEngine::default());
        String::from_utf8(head.to_vec()).unwrap()
    }

    #[test]
    fn credentials_framing_and_hop_by_hop_fields_stop_here() {
        let seen = engine_sees(&[
            ("host", "a"),
            ("authorization", "Bearer k"),
            ("x-api-key", "k"),
            ("cookie", "c"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("connection", "X-Private, close"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("x-gpustack-model-instance", "1"),
            ("expect", "100-continue"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/json"),
            ("traceparent", "00-1"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
        ]);
        assert_eq!(
            seen,
            "content-type: application/json\r\ntraceparent: 00-1\r\naccept-encoding: identity\r\n"
        );
    }

    #[test]
    fn a_credential_stops_here_in_whatever_field_it_is_sent() {
        const KEY: &str = "sk-0123456789abcdef";
        let bearer = format!("Bearer {KEY}");
        for (carrier, value) in [("authorization", &*bearer), ("x-api-key", KEY)] {
            let seen = engine_sees(&[
                (carrier, value),
                ("proxy-authorization", "Basic YTpi"),
                ("api-key", "another"),
                ("apikey", "another"),
                ("x-goog-api-key", "another"),
                ("x-auth-token", "another"),
                ("x-access-token", "another"),
                ("ocp-apim-subscription-key", "another"),
                ("x-tenant-secret", KEY),
                ("x-login", &bearer),
                ("x-note", "sk-0123456789abcdefg"),
                ("x-other", "Xsk-0123456789abcdef"),
            ]);
            let own = "x-note: sk-0123456789abcdefg\r\nx-other: Xsk-0123456789abcdef\r\n";
            assert_eq!(seen, format!("{own}accept-encoding: identity\r\n"), "{carrier}");
        }
        let websocket = map(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", &format!("realtime, openai-insecure-api-key.{KEY}")),
            ("x-tenant-secret", KEY),
        ]);
        let mut head = BytesMut::new();
        put_for_engine(&mut head, &websocket, ForEngine { upgrade: true, ..ForEngine::default() });
        assert!(!String::from_utf8(head.to_vec()).unwrap().contains(KEY));
    }

    #[test]
    fn a_placeholder_for_a_key_takes_no_other_field_with_it() {
        let seen = engine_sees(&[("authorization", "Bearer none"), ("x-mode", "none")]);
        assert_eq!(seen, "x-mode: none\r\naccept-encoding: identity\r\n");
    }

    #[test]
    fn what_a_connection_field_names_stops_here_wherever_it_names_it() {
        for connections in [["Keep-Alive, X-Private", "close"], ["keep-alive", "X-Private"]] {
            let fields = [
                ("connection", connections[0]),
                ("x-private", "1"),
                ("x-open", "1"),
                ("connection", connections[1]),
            ];
            let own = "x-open: 1\r\n";
            assert_eq!(engine_sees(&fields), format!("{own}accept-encoding: identity\r\n"));
            let mut head = BytesMut::new();
            put_for_control_plane(&mut head, &map(&fields));
            assert_eq!(head, own);
        }
    }

    #[test]
    fn a_name_with_an_underscore_stops_here_wherever_it_stands() {
        let fields = [("authorization_", "k"), ("x_api_key", "k"), ("x-request_id", "k")];
        assert_eq!(engine_sees(&fields), "accept-encoding: identity\r\n");
        let mut head = BytesMut::new();
        put_for_control_plane(&mut head, &map(&fields));
        assert!(head.is_empty());
    }

    #[test]
    fn a_websockets_key_and_what_picks_an_adapter_stop_here() {
        let with = ForEngine { upgrade: true, ..ForEngine::default() };
        for (offered, passes) in [
            (
                "realtime, openai-insecure-api-key.K, openai-beta.realtime-v1",
                Some("realtime, openai-beta.realtime-v1"),
            ),
            ("realtime", Some("realtime")),
            ("OpenAI-Insecure-API-Key.K", None),
        ] {
            let fields =
                [("sec-websocket-protocol", offered), ("api-key", "K"), ("x-goog-api-key", "K")];
            let mut head = BytesMut::new();
            put_for_engine(&mut head, &map(&fields), with);
            let seen = String::from_utf8(head.to_vec()).unwrap();
            let line = passes.map(|names| format!("sec-websocket-protocol: {names}\r\n"));
            let expected =
                "accept-encoding: identity\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
            assert_eq!(seen, format!("{expected}{}", line.unwrap_or_default()));
            assert!(
                !engine_sees(&fields).contains("realtime"),
                "without a WebSocket it says nothing"
            );
        }
        assert_eq!(
            engine_sees(&[
                ("x-amzn-sagemaker-adapter-identifier", "tuned"),
                ("x-prefiller-host-port", "6.6.6.6:1"),
                ("x-gateway-destination-endpoint", "6.6.6.6:1"),
            ]),
            "accept-encoding: identity\r\n"
        );
    }

    #[test]
    fn what_was_decoded_or_is_json_is_told_so() {
        let fields = [
            ("content-encoding", "gzip"),
            ("content-type", "text/plain"),
            ("accept-encoding", "br"),
        ];
        let mut head = BytesMut::new();
        put_for_engine(
            &mut head,
            &map(&fields),
            ForEngine { decoded: true, json: true, ..ForEngine::default() },
        );
        assert_eq!(&head[..], b"content-type: application/json\r\naccept-encoding: identity\r\n");
        head.clear();
        put_for_engine(
            &mut head,
            &map(&fields),
            ForEngine { encoded_response: true, ..ForEngine::default() },
        );
        let as_it_was =
            b"content-encoding: gzip\r\ncontent-type: text/plain\r\naccept-encoding: br\r\n";
        assert_eq!(&head[..], as_it_was);
    }

    #[test]
    fn a_websocket_is_asked_for_by_two_fields() {
        assert!(asks_websocket(&map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket")
        ])));
        assert!(!asks_websocket(&map(&[("connection", "upgrade"), ("upgrade", "h2c")])));
        assert!(!asks_websocket(&map(&[("upgrade", "websocket")])));
    }

    #[test]
    fn an_event_stream_is_known_by_its_media_type() {
        for (value, stream) in [
            ("text/event-stream", true),
            (" Text/Event-Stream; charset=utf-8", true),
            ("text/plain", false),
        ] {
            assert_eq!(is_event_stream(&map(&[("content-type", value)])), stream, "{value}");
        }
    }

    #[test]
    fn a_request_id_is_taken_only_if_it_is_sane() {
        assert_eq!(request_id(&map(&[("x-request-id", "req-1.a:b/c")])), Some("req-1.a:b/c"));
        assert_eq!(request_id(&map(&[("x-request-id", "a b")])), None);
        assert_eq!(request_id(&map(&[("x-request-id", "")])), None);
        assert_eq!(request_id(&map(&[("x-request-id", &"a".repeat(129))])), None);
    }

    #[test]
    fn json_is_known_by_the_end_of_its_media_type() {
        for (value, json) in [
            ("application/json", true),
            ("application/problem+JSON; charset=x", true),
            ("text/plain", false),
        ] {
            assert_eq!(is_json(&map(&[("content-type", value)])), json, "{value}");
        }
    }
}
