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

use rustix::net::sockopt;
use tracing::debug;

use crate::sock_diag::{SockDiag, Tcp, u32_at};
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

/// Asks the system about a connection of this network namespace. `limit`: the silence after which
/// bytes are lost. The error is the system's: it knows no such connection any more, or does not
/// tell.
pub(crate) fn delivery(
    local: SocketAddr,
    peer: SocketAddr,
    limit: Duration,
) -> io::Result<Delivery> {
    SockDiag::open()?.tcp(local, peer)?.delivery(limit)
}

/// So many in a row without an answer are lost. A living peer with a closed window may leave one or
/// two out: a packet is lost, or came too soon after the last (`tcp_invalid_ratelimit`).
const UNANSWERED: u8 = 3;

impl Tcp {
    fn delivery(&self, limit: Duration) -> io::Result<Delivery> {
        if self.unacknowledged == 0 {
            return Ok(Delivery::Acknowledged);
        }
        // `tcpi_retransmits` and `tcpi_probes`: unanswered in a row.
        let unanswered = self.info.get(2..4).and_then(|counts| counts.iter().max().copied());
        // `tcpi_last_ack_recv`, milliseconds.
        let silent = u32_at(&self.info, 56).ok_or(io::ErrorKind::InvalidData)?;
        let lost = unanswered >= Some(UNANSWERED) && Duration::from_millis(silent.into()) >= limit;
        Ok(if lost { Delivery::Lost } else { Delivery::Underway })
    }
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
        let known = |unacknowledged: u32, unanswered: [u8; 2], silent: u32| {
            let mut info = vec![0_u8; 232];
            info[2..4].copy_from_slice(&unanswered);
            info[56..60].copy_from_slice(&silent.to_ne_bytes());
            let known = Tcp { unread: 0, unacknowledged, info };
            known.delivery(Duration::from_secs(30)).unwrap()
        };
        assert_eq!(known(0, [9, 9], 90_000), Delivery::Acknowledged);
        assert_eq!(known(1, [0, 0], 90_000), Delivery::Underway);
        assert_eq!(known(1, [2, 2], 90_000), Delivery::Underway);
        assert_eq!(known(1, [3, 0], 29_999), Delivery::Underway);
        assert_eq!(known(1, [3, 0], 30_000), Delivery::Lost);
        assert_eq!(known(1, [0, 3], 30_000), Delivery::Lost);
        let unknown = Tcp { unread: 0, unacknowledged: 1, info: vec![] };
        assert!(unknown.delivery(Duration::ZERO).is_err());
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
