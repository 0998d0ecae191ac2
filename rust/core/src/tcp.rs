//! What TCP does and knows about a peer that vanishes without a word: its machine lost power, or the
//! way to it was cut.
//!
//! * While all was acknowledged and nothing comes, **keepalive** probes end the connection.
//! * While bytes are not acknowledged, keepalive rests, and the system goes on sending them for a
//!   quarter of an hour. Linux has `TCP_USER_TIMEOUT` to end that sooner. But it takes the place of
//!   keepalive's own count, and it also ends the connection to a living peer whose window is closed,
//!   such as an engine that has not come to read a long prompt yet (`tcp_keepalive_timer` and
//!   `tcp_probe_timer` of Linux). So it is not set, and the system is asked instead whether the peer still
//!   acknowledges: [`delivery`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt,
};

use tracing::debug;

use sans_io::seam::Timeouts;

/// Makes the system notice a peer, client or engine, whose machine vanishes. One on this machine
/// cannot.
pub(crate) fn notice_vanishing(socket: impl AsFd, peer: IpAddr, timeouts: &Timeouts) {
    if !peer.to_canonical().is_loopback()
        && let Err(error) = keep_alive(socket, timeouts)
    {
        debug!(%peer, reason = %error, "connection without keepalive");
    }
}

/// Makes the system probe a silent peer, and end the connection to one that has vanished.
fn keep_alive(socket: impl AsFd, timeouts: &Timeouts) -> io::Result<()> {
    let Some(idle) = timeouts.tcp_keepalive_idle else { return Ok(()) };
    // Linux takes whole seconds, and none of them 0.
    let whole = |time: Duration| Duration::from_secs(time.as_secs_f64().ceil().max(1.0) as u64);
    sockopt::set_tcp_keepidle(&socket, whole(idle))?;
    sockopt::set_tcp_keepintvl(&socket, whole(timeouts.tcp_keepalive_interval))?;
    sockopt::set_tcp_keepcnt(&socket, timeouts.tcp_keepalive_probes)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    Ok(())
}

/// What the system knows of the bytes that were written to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The peer's system has them all.
    Acknowledged,
    /// Some are on their way, or wait until the peer reads.
    Underway,
    /// The peer's system has answered to nothing for as long as was asked.
    Lost,
}

/// Asks the system (`sock_diag(7)`) about a connection of this network namespace. `limit`: the
/// silence after which bytes are lost. The error is the system's: it knows no such connection any
/// more, or does not tell.
pub(crate) fn delivery(
    local: SocketAddr,
    peer: SocketAddr,
    limit: Duration,
) -> io::Result<Delivery> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::DGRAM;
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(netlink::SOCK_DIAG))?;
    send(&socket, &question(local, peer), SendFlags::empty())?;
    // The kernel answers within the call that asks.
    let mut answer = [0_u8; 1024];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    read_answer(&answer[..length], limit)
}

/// `SOCK_DIAG_BY_FAMILY`, the type of question and answer.
const BY_FAMILY: u16 = 20;
/// The lengths of a netlink header and of `inet_diag_msg`, in bytes.
const HEADER: usize = 16;
const MESSAGE: usize = 72;
/// `INET_DIAG_INFO`: the attribute that holds a `tcp_info`.
const INFO: u16 = 2;

/// So many in a row without an answer are lost. A living peer with a closed window may leave one or
/// two out: a packet is lost, or came too soon after the last (`tcp_invalid_ratelimit`).
const UNANSWERED: u8 = 3;

/// A `nlmsghdr` and a `inet_diag_req_v2` (`linux/netlink.h`, `linux/inet_diag.h`) for one connection.
fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    const TCP: u8 = 6;
    const REQUEST: u16 = 1;
    let (family, interface) = match local {
        SocketAddr::V4(_) => (AddressFamily::INET, 0),
        SocketAddr::V6(address) => (AddressFamily::INET6, address.scope_id()),
    };
    let mut body = vec![family.as_raw() as u8, TCP, 1 << (INFO - 1), 0];
    body.extend_from_slice(&u32::MAX.to_ne_bytes());
    body.extend_from_slice(&local.port().to_be_bytes());
    body.extend_from_slice(&peer.port().to_be_bytes());
    for address in [local.ip(), peer.ip()] {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes = address.octets(),
        }
        body.extend_from_slice(&bytes);
    }
    body.extend_from_slice(&interface.to_ne_bytes());
    // No cookie: any connection of these addresses.
    body.extend_from_slice(&[0xFF; 8]);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&body);
    message
}

/// Reads the answer, or the error in its place.
fn read_answer(answer: &[u8], limit: Duration) -> io::Result<Delivery> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "no answer of sock_diag");
    if u16_at(answer, 4).ok_or_else(broken)? != BY_FAMILY {
        let number = u32_at(answer, HEADER).ok_or_else(broken)?;
        return Err(io::Error::from_raw_os_error(number.cast_signed().wrapping_neg()));
    }
    let queued = u32_at(answer, HEADER + 60).ok_or_else(broken)?;
    if queued == 0 {
        return Ok(Delivery::Acknowledged);
    }
    let info = attribute(answer.get(HEADER + MESSAGE..).ok_or_else(broken)?, INFO);
    let info = info.ok_or_else(broken)?;
    // `tcpi_retransmits` and `tcpi_probes`: unanswered in a row.
    let unanswered = info.get(2..4).and_then(|counts| counts.iter().max().copied());
    let silent = u32_at(info, 56).ok_or_else(broken)?; // `tcpi_last_ack_recv`, milliseconds.
    let lost = unanswered >= Some(UNANSWERED) && Duration::from_millis(silent.into()) >= limit;
    Ok(if lost { Delivery::Lost } else { Delivery::Underway })
}

/// The value of the first attribute of this type; None without one.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? == wanted {
            return Some(value);
        }
        // Each begins at a multiple of four bytes.
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use sans_io::{seam::DataPlaneConfig, test_support};

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn asked(stream: &TcpStream, limit: Duration) -> io::Result<Delivery> {
        delivery(stream.local_addr().unwrap(), stream.peer_addr().unwrap(), limit)
    }

    #[test]
    fn the_system_tells_what_was_acknowledged_and_a_peer_that_does_not_read_is_not_lost() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut client, mut engine) = pair(address);
            client.write_all(b"request").unwrap();
            engine.read_exact(&mut [0; 7]).unwrap();
            while asked(&client, Duration::ZERO).unwrap() != Delivery::Acknowledged {
                std::thread::yield_now();
            }
            client.set_nonblocking(true).unwrap();
            while client.write(&[b'x'; 4_096]).is_ok() {}
            let hour = Duration::from_secs(3600);
            assert_eq!(asked(&client, hour).unwrap(), Delivery::Underway);
            let unknown = delivery(
                client.local_addr().unwrap(),
                client.local_addr().unwrap(),
                Duration::ZERO,
            );
            assert_eq!(unknown.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn bytes_are_lost_only_if_nothing_was_answered_for_the_whole_limit() {
        let answer = |queued: u32, unanswered: [u8; 2], silent: u32| {
            let mut info = vec![0_u8; 232];
            info[2..4].copy_from_slice(&unanswered);
            info[56..60].copy_from_slice(&silent.to_ne_bytes());
            let mut answer = vec![0_u8; HEADER + MESSAGE];
            answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
            answer[HEADER + 60..HEADER + 64].copy_from_slice(&queued.to_ne_bytes());
            // An attribute of another type and an odd length goes before.
            answer.extend_from_slice(&[5, 0, 8, 0, 0, 0, 0, 0]);
            answer.extend_from_slice(&236_u16.to_ne_bytes());
            answer.extend_from_slice(&INFO.to_ne_bytes());
            answer.extend_from_slice(&info);
            read_answer(&answer, Duration::from_secs(30)).unwrap()
        };
        assert_eq!(answer(0, [9, 9], 90_000), Delivery::Acknowledged);
        assert_eq!(answer(1, [0, 0], 90_000), Delivery::Underway);
        assert_eq!(answer(1, [2, 2], 90_000), Delivery::Underway);
        assert_eq!(answer(1, [3, 0], 29_999), Delivery::Underway);
        assert_eq!(answer(1, [3, 0], 30_000), Delivery::Lost);
        assert_eq!(answer(1, [0, 3], 30_000), Delivery::Lost);
        for broken in [&[0_u8; 3][..], &[0; 20], &[BY_FAMILY as u8; 60]] {
            assert!(read_answer(broken, Duration::ZERO).is_err());
        }
    }

    #[test]
    fn a_peer_is_probed_as_it_is_configured_and_not_at_all_with_0() {
        let mut timeouts = test_support::read::<DataPlaneConfig>(test_support::config()).timeouts;
        let (client, _engine) = pair("127.0.0.1:0");
        keep_alive(&client, &timeouts).unwrap();
        assert!(sockopt::socket_keepalive(&client).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&client).unwrap(), Duration::from_secs(5));
        assert_eq!(sockopt::tcp_keepintvl(&client).unwrap(), Duration::from_secs(2));
        assert_eq!(sockopt::tcp_keepcnt(&client).unwrap(), 3);
        for (peer, probed) in [("::ffff:127.0.0.1", false), ("::1", false), ("192.0.2.1", true)] {
            let (client, _engine) = pair("127.0.0.1:0");
            notice_vanishing(&client, peer.parse().unwrap(), &timeouts);
            assert_eq!(sockopt::socket_keepalive(&client).unwrap(), probed, "{peer}");
        }
        timeouts.tcp_keepalive_idle = None;
        let (client, _engine) = pair("127.0.0.1:0");
        keep_alive(&client, &timeouts).unwrap();
        assert!(!sockopt::socket_keepalive(&client).unwrap());
    }
}
