//! Listening sockets, one for each thread, all on the same address.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 4_096;

/// Listens `count` times on `address`. With port 0 all share the port that the first one got.
///
/// # Errors
/// When the address is not of this machine, or in use, even by another router.
pub(crate) fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if count == 1 {
        return Ok(vec![bind(address, false)?]);
    }
    if address.port() != 0 {
        // Sockets that share a port would share it with another process too: ask first, alone.
        drop(bind(address, false)?);
    }
    let first = bind(address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind(address, true)?);
    }
    Ok(sockets)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_one_port_that_nobody_else_can_take() {
        let sockets = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        for count in [1, 2] {
            assert_eq!(listen(address, count).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }
}
