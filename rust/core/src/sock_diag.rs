//! What Linux tells of single sockets of this network namespace (`sock_diag(7)`): how much of what
//! was written to them lies unread.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY`, the type of question and answer.
const BY_FAMILY: u16 = 20;
/// The lengths of a netlink header, of `inet_diag_msg` and of `unix_diag_msg`, in bytes.
const HEADER: usize = 16;
const TCP_MESSAGE: usize = 72;
const UNIX_MESSAGE: usize = 16;
/// `INET_DIAG_INFO`: the attribute that holds a `tcp_info`.
const TCP_INFO: u16 = 2;
/// `UNIX_DIAG_PEER` and `UNIX_DIAG_RQLEN`: the attributes that hold the peer's inode and the lengths
/// of the queues, and the bits of `unix_diag_req` that ask for them.
const UNIX_PEER: (u16, u32) = (2, 0x04);
const UNIX_QUEUES: (u16, u32) = (4, 0x10);

/// A socket to ask the system by. It takes a descriptor while it lives.
pub(crate) struct SockDiag(OwnedFd);

/// What the system knows of a TCP connection, from one of its ends.
#[derive(Debug)]
pub(crate) struct Tcp {
    /// Bytes that have come and were not read.
    pub(crate) unread: u32,
    /// Bytes that were written and not acknowledged.
    pub(crate) unacknowledged: u32,
    /// A `tcp_info`.
    pub(crate) info: Vec<u8>,
}

/// What the system knows of a Unix stream socket.
struct Unix {
    /// Its peer's inode; None: the peer is closed.
    peer: Option<u32>,
    /// Bytes that have come and were not read.
    unread: u32,
    /// The bytes of memory that what was written and was not read takes.
    held: u32,
}

impl SockDiag {
    /// The error is the system's: it has no descriptor, or does not tell.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (kind, protocol) = (SocketType::DGRAM, Some(netlink::SOCK_DIAG));
        Ok(Self(socket_with(AddressFamily::NETLINK, kind, flags, protocol)?))
    }

    /// Asks about the TCP connection with these ends. The error is the system's: it knows no such
    /// connection any more, or does not tell.
    pub(crate) fn tcp(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Tcp> {
        read_tcp(&self.ask(&tcp_question(local, peer))?)
    }

    /// Asks about the Unix stream socket of this inode. The error is as of `tcp`.
    fn unix(&self, inode: u32) -> io::Result<Unix> {
        let mut body = vec![AddressFamily::UNIX.as_raw() as u8, 0, 0, 0];
        // In any state; and no cookie.
        for number in [u32::MAX, inode, UNIX_PEER.1 | UNIX_QUEUES.1, u32::MAX, u32::MAX] {
            body.extend_from_slice(&number.to_ne_bytes());
        }
        let answer = self.ask(&body)?;
        let attributes = answer.get(UNIX_MESSAGE..).ok_or_else(broken)?;
        let queues = attribute(attributes, UNIX_QUEUES.0).ok_or_else(broken)?;
        let queue = |at| u32_at(queues, at).ok_or_else(broken);
        let peer = attribute(attributes, UNIX_PEER.0).and_then(|peer| u32_at(peer, 0));
        Ok(Unix { peer, unread: queue(0)?, held: queue(4)? })
    }

    /// Sends a question, and gives what lies behind the header of its answer.
    fn ask(&self, body: &[u8]) -> io::Result<Vec<u8>> {
        const REQUEST: u16 = 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&BY_FAMILY.to_ne_bytes());
        message.extend_from_slice(&REQUEST.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        send(&self.0, &message, SendFlags::empty())?;
        // The kernel answers within the call that asks.
        let mut answer = [0_u8; 1024];
        let (length, _) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        behind_header(&answer[..length]).map(<[u8]>::to_vec)
    }
}

/// Bytes that were written to a TCP connection and that its peer has not taken, as far as this
/// system knows: those that were not acknowledged, and where the peer is on this machine, too, those
/// that its program has not read. The error is as of [`SockDiag::tcp`].
pub(crate) fn tcp_unread(local: SocketAddr, peer: SocketAddr) -> io::Result<u64> {
    let diag = SockDiag::open()?;
    let own = u64::from(diag.tcp(local, peer)?.unacknowledged);
    Ok(own + diag.tcp(peer, local).map_or(0, |peer| peer.unread.into()))
}

/// Bytes that were written to a Unix stream socket and that its peer has not read; of a peer in
/// another network namespace, the memory that they take. The error is the system's.
pub(crate) fn unix_unread(socket: impl AsFd) -> io::Result<u64> {
    let inode = u32::try_from(rustix::fs::fstat(socket)?.st_ino).map_err(io::Error::other)?;
    let diag = SockDiag::open()?;
    let own = diag.unix(inode)?;
    let peer = own.peer.and_then(|peer| diag.unix(peer).ok());
    Ok(peer.map_or(own.held, |peer| peer.unread).into())
}

/// The body of a question about a TCP connection: an `inet_diag_req_v2` (`linux/inet_diag.h`).
fn tcp_question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    const TCP: u8 = 6;
    let (family, interface) = match local {
        SocketAddr::V4(_) => (AddressFamily::INET, 0),
        SocketAddr::V6(address) => (AddressFamily::INET6, address.scope_id()),
    };
    let mut body = vec![family.as_raw() as u8, TCP, 1 << (TCP_INFO - 1), 0];
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
    body
}

/// What lies behind the header of an answer, or the error in its place.
fn behind_header(answer: &[u8]) -> io::Result<&[u8]> {
    if u16_at(answer, 4).ok_or_else(broken)? != BY_FAMILY {
        let number = u32_at(answer, HEADER).ok_or_else(broken)?;
        return Err(io::Error::from_raw_os_error(number.cast_signed().wrapping_neg()));
    }
    answer.get(HEADER..).ok_or_else(broken)
}

/// Reads an `inet_diag_msg` with its attributes.
fn read_tcp(answer: &[u8]) -> io::Result<Tcp> {
    let queue = |at| u32_at(answer, at).ok_or_else(broken);
    let (unread, unacknowledged) = (queue(56)?, queue(60)?);
    let info = attribute(answer.get(TCP_MESSAGE..).ok_or_else(broken)?, TCP_INFO);
    Ok(Tcp { unread, unacknowledged, info: info.unwrap_or_default().to_vec() })
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no answer of sock_diag")
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

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    use super::*;

    /// Waits until this is so; bytes on their way are neither here nor there.
    fn until(unread: impl Fn() -> u64, wanted: u64) {
        while unread() != wanted {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_system_tells_what_a_client_has_not_read() {
        for (bound, connected) in
            [("127.0.0.1", "127.0.0.1"), ("[::1]", "[::1]"), ("[::]", "127.0.0.1")]
        {
            let listener = TcpListener::bind(format!("{bound}:0")).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut client = TcpStream::connect(format!("{connected}:{port}")).unwrap();
            let mut server = listener.accept().unwrap().0;
            let ends = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            let unread = || tcp_unread(ends.0, ends.1).unwrap();
            server.write_all(&[b'x'; 5_000]).unwrap();
            until(unread, 5_000);
            client.read_exact(&mut [0; 1]).unwrap();
            until(unread, 4_999);
            client.read_exact(&mut [0; 4_999]).unwrap();
            until(unread, 0);
        }
    }

    #[test]
    fn the_system_tells_what_a_client_of_a_unix_socket_has_not_read() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        server.write_all(&[b'x'; 5_000]).unwrap();
        assert_eq!(unix_unread(&server).unwrap(), 5_000);
        client.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(unix_unread(&server).unwrap(), 4_999);
        drop(client);
        assert_eq!(unix_unread(&server).unwrap(), 0);
    }

    #[test]
    fn an_answer_that_is_broken_or_an_error_is_an_error() {
        for answer in [&[0_u8; 3][..], &[0; 18], &[BY_FAMILY as u8; 60]] {
            assert!(behind_header(answer).and_then(read_tcp).is_err());
        }
        let mut error = vec![0_u8; HEADER];
        error[4] = 2;
        error.extend_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(behind_header(&error).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(read_tcp(&[0; TCP_MESSAGE]).unwrap().info.is_empty());
    }

    #[test]
    fn an_attribute_is_found_behind_others_of_odd_lengths() {
        let attributes = [5, 0, 8, 0, 0, 0, 0, 0, 6, 0, 2, 0, 7, 9];
        assert_eq!(attribute(&attributes, TCP_INFO), Some(&[7, 9][..]));
        assert_eq!(attribute(&attributes, 9), None);
        assert_eq!(attribute(&[0; 8], TCP_INFO), None);
    }
}
