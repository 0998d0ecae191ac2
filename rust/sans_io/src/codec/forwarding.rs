//! Forwarding fields: what proxies in front say of a client, and which of them are believed.

// From `core`, where addresses are plain values: this crate knows no sockets.
use core::net::IpAddr;

use http::HeaderMap;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";

/// The most hops of one request that are looked at.
const HOPS: usize = 32;

/// Whether a field (its name in lower case) tells where a request came from: the client's address,
/// port or certificate, its user as a proxy has authenticated it, or the scheme, method, host, port
/// and path that it asked for. Frameworks of engines believe them, so a client's own go no further.
pub fn is_forwarding(name: &[u8]) -> bool {
    match name {
        b"forwarded"
        | b"via"
        // CGI makes HTTP_PROXY of it, by which libraries find the proxy of their own requests.
        | b"proxy"
        | b"x-forwarded"
        | b"client-ip"
        | b"true-client-ip"
        | b"x-client-ip"
        | b"x-client-port"
        | b"x-real-ip"
        | b"x-real-port"
        | b"x-remote-ip"
        | b"x-remote-addr"
        | b"remote-addr"
        | b"x-remote-user"
        | b"remote-user"
        | b"x-originating-ip"
        | b"x-cluster-client-ip"
        | b"x-proxyuser-ip"
        | b"proxy-client-ip"
        | b"wl-proxy-client-ip"
        | b"wl-proxy-ssl"
        | b"cf-connecting-ip"
        | b"cf-connecting-ipv6"
        | b"cf-pseudo-ipv4"
        | b"cf-visitor"
        | b"cloudfront-forwarded-proto"
        | b"cloudfront-viewer-address"
        | b"fastly-client-ip"
        | b"fastly-ssl"
        | b"fly-client-ip"
        | b"incap-client-ip"
        | b"ali-cdn-real-ip"
        | b"cdn-src-ip"
        | b"x-appengine-user-ip"
        | b"x-azure-clientip"
        | b"x-azure-socketip"
        | b"client-cert"
        | b"client-cert-chain"
        | b"front-end-https"
        | b"x-arr-ssl"
        | b"x-scheme"
        | b"x-url-scheme"
        | b"x-host"
        | b"x-http-host-override"
        | b"x-http-method"
        | b"x-http-method-override"
        | b"x-method-override"
        | b"x-rewrite-url"
        | b"x-script-name" => true,
        _ => is_of_family(name),
    }
}

/// Whether the beginning of a field's name says so. Of proxies that authenticate users each names
/// its own family.
fn is_of_family(name: &[u8]) -> bool {
    let families: &[&[u8]] = match name {
        [b'x', b'-', third, ..] => match third {
            b'a' => &[
                b"x-amzn-mtls-",
                b"x-amzn-oidc-",
                b"x-auth-request-",
                b"x-authenticated-",
                b"x-authentik-",
            ],
            b'c' => &[b"x-client-cert-", b"x-consumer-"],
            b'e' => &[b"x-envoy-"],
            b'f' => &[b"x-forwarded-"],
            b'g' => &[b"x-goog-authenticated-user-", b"x-goog-iap-"],
            b'm' => &[b"x-ms-client-principal"],
            b'o' => &[b"x-original-"],
            b'p' => &[b"x-pomerium-"],
            b's' => &[b"x-ssl-"],
            b'w' => &[b"x-webauth-"],
            _ => return false,
        },
        [b'c', b'f', ..] => &[b"cf-access-"],
        [b's', b's', ..] => &[b"ssl-client-"],
        [b't', b'a', ..] => &[b"tailscale-user-"],
        _ => return false,
    };
    families.iter().any(|family| name.starts_with(family))
}

/// The proxies whose forwarding fields are believed.
#[derive(Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    /// Whether clients of a Unix socket are.
    unix: bool,
}

/// A network of addresses with the same first bits.
#[derive(Debug)]
struct Network {
    address: IpAddr,
    /// The number of these bits.
    prefix: u32,
}

/// A text that names no proxy.
#[derive(Debug, thiserror::Error)]
#[error("trusted_proxies: {0:?} is neither an address, nor a network, nor \"unix\".")]
pub struct ProxyError(String);

/// What trusted proxies say of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Forwarded<'a> {
    /// The client's address; None: they say nothing, and the last of them counts as the client.
    pub address: Option<IpAddr>,
    /// `http` or `https`; None: they say nothing.
    pub scheme: Option<&'static str>,
    /// The host that the client asked for, with its port if it has one; None: they say nothing.
    pub host: Option<&'a str>,
}

impl TrustedProxies {
    /// Reads addresses, networks (`10.0.0.0/8`) and `unix`. The error names the first text that is
    /// none of them.
    pub fn new(texts: &[String], unix: &str) -> Result<Self, ProxyError> {
        let mut proxies = Self::default();
        for text in texts {
            if text == unix {
                proxies.unix = true;
            } else {
                let network = Network::parse(text).ok_or_else(|| ProxyError(text.clone()))?;
                proxies.networks.push(network);
            }
        }
        Ok(proxies)
    }

    /// Whether no proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// What is believed of a request; None: its connection is no trusted proxy's. `peer`: the
    /// address of the connection's other end; None: it came through a Unix socket.
    ///
    /// Each proxy adds the address of the hop before it to the end of `X-Forwarded-For`. So that is
    /// read from the right, up to the first hop that is not trusted: it is the client. What stands
    /// left of it, anybody may have written. Garbage ends the walk at the last good hop.
    pub fn read<'a>(&self, peer: Option<IpAddr>, headers: &'a HeaderMap) -> Option<Forwarded<'a>> {
        if !peer.map_or(self.unix, |peer| self.contains(peer)) {
            return None;
        }
        let (mut address, mut trusted) = (None, 1);
        for hop in from_the_right(headers, FOR).take(HOPS) {
            let Some(hop) = hop_address(hop) else { break };
            address = Some(hop);
            if !self.contains(hop) {
                break;
            }
            trusted += 1;
        }
        // Where these are lists, each proxy has added to their ends, too. A proxy that does not
        // replaces the value, or has nothing to add to it.
        let nearest_client = |name| from_the_right(headers, name).take(trusted).last();
        Some(Forwarded {
            address,
            scheme: nearest_client(PROTO).and_then(scheme),
            host: nearest_client(HOST).and_then(host),
        })
    }

    /// Whether an address is a trusted proxy's.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(address))
    }
}

impl Network {
    /// An IPv4-mapped IPv6 network is one of IPv4.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u32 = if text.contains('/') { prefix.parse().ok()? } else { bits };
        if prefix > bits {
            return None;
        }
        let canonical = address.to_canonical();
        if canonical == address {
            return Some(Self { address, prefix });
        }
        // Shorter than the mark of mapped addresses it would be other addresses, too.
        let prefix = prefix.checked_sub(96)?;
        Some(Self { address: canonical, prefix })
    }

    /// `address` is not IPv4-mapped.
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                let differing = ours.to_bits() ^ other.to_bits();
                differing.checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                let differing = ours.to_bits() ^ other.to_bits();
                differing.checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The parts of a list field, the last one first. One that is not UTF-8 reads as empty.
fn from_the_right<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().rev().flat_map(|value| {
        value
            .as_bytes()
            .rsplit(|byte| *byte == b',')
            .map(|part| std::str::from_utf8(part.trim_ascii()).unwrap_or_default())
    })
}

/// The address of a hop: `192.0.2.1`, `2001:db8::1` or `[2001:db8::1]`, and with a port
/// (`192.0.2.1:80`, `[2001:db8::1]:80`), as some load balancers write it.
fn hop_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() {
            port.strip_prefix(':')?.parse::<u16>().ok()?;
        }
        IpAddr::V6(address.parse().ok()?)
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        port.parse::<u16>().ok()?;
        IpAddr::V4(address.parse().ok()?)
    };
    Some(address.to_canonical())
}

/// The scheme by its own name, or by that of a WebSocket.
fn scheme(text: &str) -> Option<&'static str> {
    let is = |words: [&str; 2]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["https", "wss"]) {
        Some("https")
    } else if is(["http", "ws"]) {
        Some("http")
    } else {
        None
    }
}

/// A host of letters that a host may have: nothing else may get into a URL.
fn host(text: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    ((1..=255).contains(&text.len()) && text.bytes().all(fits)).then_some(text)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const NAMES: &str = "forwarded via proxy x-forwarded client-ip true-client-ip x-client-ip x-client-port \
        x-real-ip x-real-port x-remote-ip x-remote-addr remote-addr x-remote-user remote-user \
        x-originating-ip x-cluster-client-ip x-proxyuser-ip proxy-client-ip wl-proxy-client-ip \
        wl-proxy-ssl cf-connecting-ip cf-connecting-ipv6 cf-pseudo-ipv4 cf-visitor \
        cloudfront-forwarded-proto cloudfront-viewer-address fastly-client-ip fastly-ssl \
        fly-client-ip incap-client-ip ali-cdn-real-ip cdn-src-ip x-appengine-user-ip \
        x-azure-clientip x-azure-socketip client-cert client-cert-chain front-end-https x-arr-ssl \
        x-scheme x-url-scheme x-host x-http-host-override x-http-method x-http-method-override \
        x-method-override x-rewrite-url x-script-name";
    const FAMILIES: &str = "x-forwarded- x-original- x-envoy- x-amzn-mtls- x-amzn-oidc- \
        x-auth-request- x-authenticated- x-authentik- x-client-cert- x-consumer- \
        x-goog-authenticated-user- x-goog-iap- x-ms-client-principal x-pomerium- x-ssl- x-webauth- \
        cf-access- ssl-client- tailscale-user-";

    /// The slow twin.
    fn plainly_forwarding(name: &str) -> bool {
        NAMES.split_whitespace().any(|known| known == name)
            || FAMILIES.split_whitespace().any(|family| name.starts_with(family))
    }

    #[test]
    fn every_forwarding_field_is_known_and_its_neighbours_are_not() {
        let members = FAMILIES.split_whitespace().flat_map(|family| {
            ["for", "proto", "user", "url"].map(|last| format!("{family}{last}"))
        });
        for name in NAMES.split_whitespace().map(str::to_owned).chain(members) {
            assert!(is_forwarding(name.as_bytes()), "{name}");
            for other in [&name[1..], &name[..name.len() - 1], &format!("{name}x")] {
                assert_eq!(is_forwarding(other.as_bytes()), plainly_forwarding(other), "{other}");
            }
        }
        for name in [
            "for",
            "host",
            "x-stainless-os",
            "x-session-id",
            "user-agent",
            "traceparent",
            "x-forward",
            "origin",
        ] {
            assert!(!is_forwarding(name.as_bytes()), "{name}");
        }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    fn trusting(texts: &[&str]) -> TrustedProxies {
        let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
        TrustedProxies::new(&texts, "unix").unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_hop_from_the_right_that_is_not_trusted_is_the_client() {
        let proxies = trusting(&["10.0.0.0/8", "192.0.2.7", "fd00::/8"]);
        for (list, client) in [
            ("203.0.113.9", Some("203.0.113.9")),
            ("6.6.6.6, 203.0.113.9", Some("203.0.113.9")),
            ("6.6.6.6, 203.0.113.9, 10.1.1.1", Some("203.0.113.9")),
            ("203.0.113.9,192.0.2.7,10.1.1.1", Some("203.0.113.9")),
            ("192.0.2.8, 10.1.1.1", Some("192.0.2.8")),
            ("10.9.9.9, 10.1.1.1", Some("10.9.9.9")),
            ("2001:db8::1, fd00::5", Some("2001:db8::1")),
            ("[2001:db8::1]:443, 10.1.1.1:8080", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("203.0.113.9:1234", Some("203.0.113.9")),
            ("::ffff:203.0.113.9, ::ffff:10.1.1.1", Some("203.0.113.9")),
            // Garbage ends the walk.
            ("6.6.6.6, unknown, 10.1.1.1", Some("10.1.1.1")),
            ("6.6.6.6, , 10.1.1.1", Some("10.1.1.1")),
            ("6.6.6.6, 10.1.1.1, 10.1.1", None),
            ("6.6.6.6, 1.2.3.4:x", None),
            ("6.6.6.6, [::1", None),
            ("6.6.6.6, [1.2.3.4]", None),
            ("6.6.6.6, 1.2.3.4/8", None),
            ("6.6.6.6, \u{e9}", None),
            ("", None),
        ] {
            let headers = headers(&[("x-forwarded-for", list)]);
            let found = proxies.read(Some(ip("10.0.0.1")), &headers).unwrap();
            assert_eq!(found.address, client.map(ip), "{list}");
        }
        let nothing = HeaderMap::new();
        let none = proxies.read(Some(ip("::ffff:10.0.0.1")), &nothing);
        assert_eq!(none, Some(Forwarded { address: None, scheme: None, host: None }));
    }

    #[test]
    fn several_fields_are_one_list_and_its_length_is_bounded() {
        let proxies = trusting(&["10.0.0.0/8"]);
        let two = headers(&[
            ("x-forwarded-for", "6.6.6.6, 203.0.113.9"),
            ("x-forwarded-for", "10.1.1.1"),
        ]);
        let peer = Some(ip("10.0.0.1"));
        assert_eq!(proxies.read(peer, &two).unwrap().address, Some(ip("203.0.113.9")));
        let hops = format!("203.0.113.9{}", ", 10.1.1.1".repeat(HOPS));
        let long = headers(&[("x-forwarded-for", &hops)]);
        assert_eq!(proxies.read(peer, &long).unwrap().address, Some(ip("10.1.1.1")));
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        let said = headers(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")]);
        for (trusted, peer, believed) in [
            (&["10.0.0.0/8"][..], Some("10.255.0.1"), true),
            (&["10.0.0.0/8"], Some("11.0.0.1"), false),
            (&["10.0.0.0/8"], None, false),
            (&["unix"], None, true),
            (&["unix"], Some("127.0.0.1"), false),
            (&[], Some("127.0.0.1"), false),
            (&[], None, false),
            (&["0.0.0.0/0"], Some("203.0.113.9"), true),
            (&["0.0.0.0/0"], Some("2001:db8::1"), false),
            (&["::/0"], Some("2001:db8::1"), true),
            (&["::ffff:10.0.0.0/104"], Some("10.2.3.4"), true),
            (&["::ffff:10.0.0.1"], Some("10.0.0.1"), true),
            (&["192.0.2.1"], Some("192.0.2.2"), false),
            (&["192.0.2.128/25"], Some("192.0.2.127"), false),
            (&["192.0.2.128/25"], Some("192.0.2.129"), true),
            (&["2001:db8::/33"], Some("2001:db8:8000::1"), false),
        ] {
            let found = trusting(trusted).read(peer.map(ip), &said);
            assert_eq!(found.is_some(), believed, "{trusted:?} {peer:?}");
        }
        assert!(trusting(&[]).is_empty() && !trusting(&["unix"]).is_empty());
    }

    #[test]
    fn scheme_and_host_are_those_that_the_farthest_trusted_proxy_saw() {
        let proxies = trusting(&["10.0.0.0/8"]);
        for (hops, schemes, hosts, scheme, host) in [
            ("203.0.113.9", "https", "a.example", Some("https"), Some("a.example")),
            (
                "203.0.113.9",
                "http, https",
                "evil, a.example:8443",
                Some("https"),
                Some("a.example:8443"),
            ),
            ("203.0.113.9, 10.1.1.1", "evil, https, http", "x, a, b", Some("https"), Some("a")),
            ("203.0.113.9, 10.1.1.1", "WSS", "[::1]:80", Some("https"), Some("[::1]:80")),
            ("203.0.113.9", "gopher", "a/b", None, None),
            ("203.0.113.9", "", "", None, None),
        ] {
            let headers = headers(&[
                ("x-forwarded-for", hops),
                ("x-forwarded-proto", schemes),
                ("x-forwarded-host", hosts),
            ]);
            let found = proxies.read(Some(ip("10.0.0.1")), &headers).unwrap();
            assert_eq!((found.scheme, found.host), (scheme, host), "{hops} {schemes} {hosts}");
        }
    }

    #[test]
    fn what_names_no_proxy_is_an_error() {
        for text in
            ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/x", "proxy", "::ffff:0:0/8"]
        {
            let error = TrustedProxies::new(&[text.to_owned()], "unix").unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_network_holds_the_addresses_with_its_first_bits(
            ours in any::<u32>(), other in any::<u32>(), prefix in 0_u32..=32, flip in 0_u32..32,
        ) {
            let bits = |address: u32| format!("{address:032b}");
            for other in [other, ours, ours ^ (1 << flip)] {
                let network = format!("{}/{prefix}", core::net::Ipv4Addr::from_bits(ours));
                let address = IpAddr::V4(core::net::Ipv4Addr::from_bits(other));
                let length = prefix as usize;
                let same = bits(ours)[..length] == bits(other)[..length];
                prop_assert_eq!(trusting(&[&network]).contains(address), same);
            }
        }

        #[test]
        fn any_name_is_forwarding_only_if_it_is_listed(name in "(x-)?[a-z]{0,9}(-[a-z0-9]{1,7}){0,3}") {
            prop_assert_eq!(is_forwarding(name.as_bytes()), plainly_forwarding(&name));
        }

        #[test]
        fn no_list_of_hops_makes_anything_but_an_answer(list in "[0-9a-f.:, \\[\\]x]{0,60}") {
            let headers = headers(&[("x-forwarded-for", &list), ("x-forwarded-host", &list)]);
            let _ = trusting(&["10.0.0.0/8"]).read(Some(ip("10.0.0.1")), &headers);
        }
    }
}
