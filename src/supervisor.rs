//! What a service manager (systemd) is told when the node runs under it: that it is ready, what it is at, that it lives and
//! that it ends. Without one every call does nothing.

use sd_notify::NotifyState;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The manager's patience with a start that goes on.
const PATIENCE: Duration = Duration::from_secs(60);

/// The node serves.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The start goes on.
pub fn phase(text: &str) {
    let patience = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Status(text), NotifyState::ExtendTimeoutUsec(patience)]);
}

/// The node ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("unmounting and sealing")]);
}

/// Say that the node lives, twice as often as the manager wants to hear it, until the runtime ends.
pub async fn live() {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let mut beat = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    loop {
        beat.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = notify(state) {
        tracing::debug!(error = %e, "the service manager does not listen");
    }
}

/// The crate knows sockets that have a path. `@NAME` is one that has none, as container managers use it.
fn notify(state: &[NotifyState<'_>]) -> io::Result<()> {
    let manager = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let Some(name) = manager.as_bytes().strip_prefix(b"@") else { return sd_notify::notify(state) };
    let text: String = state.iter().map(|one| format!("{one}\n")).collect();
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &SocketAddr::from_abstract_name(name)?).map(drop)
}
