//! `node.sock`, the control socket of a running node: only its owner may connect, and the root's path may be longer than
//! a socket address can hold (108 bytes), because it is reached through an open descriptor of the root folder.

use crate::error::{Error, Kind, Result};
use crate::root::Root;
use rustix::fs::{Mode, OFlags, fchmod, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

const NAME: &str = "node.sock";

/// Listen on `<root>/node.sock`, replacing what a killed node left. The caller holds the root's lock.
///
/// # Errors
/// [`Kind::Root`] when the socket cannot be made.
pub fn listen_on(root: &Root) -> Result<UnixListener> {
    let failed = |what: &str, e: std::io::Error| {
        Error::io(Kind::Root, format!("cannot {what} {}", root.path().join(NAME).display()), &e)
    };
    let folder = open_root(root).map_err(|e| failed("reach", e))?;
    match rustix::fs::unlinkat(&folder, NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(failed("replace", e.into())),
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| failed("make", e.into()))?;
    // bind(2) gives the file the mode of the socket, so there is no moment at which others could connect.
    let bound = fchmod(&socket, Mode::from_raw_mode(0o600))
        .and_then(|()| SocketAddrUnix::new(short_path(&folder)))
        .and_then(|address| bind(&socket, &address))
        .and_then(|()| listen(&socket, 128));
    bound.map_err(|e| failed("listen on", e.into()))?;
    Ok(UnixListener::from(socket))
}

/// Remove the socket so that commands no longer find this node.
pub fn remove(root: &Root) {
    if let Err(e) = std::fs::remove_file(root.path().join(NAME)) {
        tracing::debug!(error = %e, "node.sock was gone already");
    }
}

/// Connect to the running node; `None` when there is none.
///
/// # Errors
/// [`Kind::Unauthorised`] when the node belongs to somebody else, [`Kind::Unreachable`] for anything unexpected.
pub fn connect(root: &Root) -> Result<Option<UnixStream>> {
    let connected = open_root(root).and_then(|folder| UnixStream::connect(short_path(&folder)));
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED | libc::ENOTDIR) => Ok(None),
            Some(libc::EACCES | libc::EPERM) => {
                let text = format!("the node of {} belongs to another user", root.path().display());
                Err(Error::new(Kind::Unauthorised, text).hint("run this as the user who started it"))
            }
            _ => {
                let what = format!("cannot reach the node of {}", root.path().display());
                Err(Error::io(Kind::Unreachable, what, &e))
            }
        },
    }
}

fn open_root(root: &Root) -> std::io::Result<OwnedFd> {
    Ok(open(root.path(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn short_path(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_root_path_longer_than_a_socket_address_works() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(&dir.path().join("x".repeat(200)));
        root.create().unwrap();
        assert!(connect(&root).unwrap().is_none());

        let listener = listen_on(&root).unwrap();
        let mode = std::fs::metadata(root.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(connect(&root).unwrap().is_some());

        drop(listener);
        assert!(connect(&root).unwrap().is_none(), "a socket nobody listens on is no node");
        let _again = listen_on(&root).unwrap();
        remove(&root);
        assert!(connect(&root).unwrap().is_none());
    }
}
