//! The host that a request is for, with its port, as `Host` and `:authority` write it (RFC 9110
//! 7.2): `NAME`, `NAME:PORT`, `[IPV6]:PORT`.

// From `core`, where addresses are plain values: this crate knows no sockets.
use core::net::Ipv6Addr;

/// Whether a text is a host, with or without a port. An empty one is: its client knows of none.
pub fn is_host(text: &[u8]) -> bool {
    let (is_known, port) = if let Some(inner) = text.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', inner) else { return false };
        (is_ipv6(&inner[..end]), &inner[end + 1..])
    } else {
        let (name, port) = text.split_at(memchr::memchr(b':', text).unwrap_or(text.len()));
        (is_name(name) && (!name.is_empty() || port.is_empty()), port)
    };
    is_known && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port))
}

/// Whether two hosts are the same one. `scheme` is that of the URL, whose own port may be left out.
pub fn is_same(one: &[u8], other: &[u8], scheme: Option<&str>) -> bool {
    let own: &[u8] = match scheme {
        Some("http") => b":80",
        Some("https") => b":443",
        _ => b"",
    };
    let plain = |text| <[u8]>::strip_suffix(text, own).unwrap_or(text);
    plain(one).eq_ignore_ascii_case(plain(other))
}

/// Letters of a name or an IPv4 address (`reg-name`, RFC 3986 3.2.2).
fn is_name(text: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte);
    let mut parts = text.split(|byte| *byte == b'%');
    let is_plain = |part: &[u8]| part.iter().all(is_letter);
    let is_encoded = |part: &[u8]| {
        let behind = part.split_at_checked(2);
        behind.is_some_and(|(code, rest)| code.iter().all(u8::is_ascii_hexdigit) && is_plain(rest))
    };
    parts.next().is_none_or(is_plain) && parts.all(is_encoded)
}

/// An IPv6 address, whose zone (RFC 6874) some clients leave in.
fn is_ipv6(text: &[u8]) -> bool {
    let zone = memchr::memchr(b'%', text).unwrap_or(text.len());
    let address = std::str::from_utf8(&text[..zone]);
    address.is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok()) && is_zone(&text[zone..])
}

/// Nothing, or the name of an interface behind `%`, which URLs write as `%25`.
fn is_zone(text: &[u8]) -> bool {
    let name = text.strip_prefix(b"%25").or_else(|| text.strip_prefix(b"%"));
    name.map_or(text.is_empty(), |name| {
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        !name.is_empty() && name.iter().all(is_letter)
    })
}

/// A port, which may be left out behind its colon.
fn is_port(text: &[u8]) -> bool {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u16>().ok());
    text.is_empty() || text[0].is_ascii_digit() && number.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for host in [
            "",
            "x",
            "x:",
            "x:80",
            "LLM.Example.:65535",
            "my_host-1.lan",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "[fe80::1%25eth0]:1",
            "[fe80::1%eth0]",
            "a%20b",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for text in [
            "a b",
            " ",
            "a\tb",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a@b",
            "user:word@b",
            "http://a",
            "a:b",
            "a:-1",
            "a:+1",
            "a:8o",
            "a:1:2",
            "a:65536",
            ":80",
            ":",
            "::1",
            "[]",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:x",
            "[1.2.3.4]",
            "[::g]",
            "[fe80::1%]",
            "[fe80::1%25]",
            "[fe80::1%a/b]",
            "a%2",
            "a%",
            "a%gg",
            "a\"b",
            "<a>",
            "a\u{e9}",
            "a\u{7f}",
        ] {
            assert!(!is_host(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn hosts_are_compared_without_case_and_the_schemes_own_port() {
        for (one, other, scheme, same) in [
            ("X.example", "x.Example", None, true),
            ("x:80", "x", Some("http"), true),
            ("x", "x:443", Some("https"), true),
            ("x:80", "x", Some("https"), false),
            ("x:80", "x", None, false),
            ("x:81", "x", Some("http"), false),
            ("x", "y", Some("http"), false),
            ("", "x", Some("http"), false),
        ] {
            assert_eq!(is_same(one.as_bytes(), other.as_bytes(), scheme), same, "{one} {other}");
        }
    }
}
