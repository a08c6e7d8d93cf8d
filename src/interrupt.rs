//! Signals that end a command: heard while it waits for a node, or for a person.

use crate::error::{Error, Kind, Result};
use std::io;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The first INT, TERM, HUP or QUIT, as a failure.
pub async fn interrupted() -> Error {
    async fn wait(signal: io::Result<Signal>) {
        match signal {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    }
    let number = tokio::select! {
        () = wait(signal(SignalKind::interrupt())) => libc::SIGINT,
        () = wait(signal(SignalKind::terminate())) => libc::SIGTERM,
        () = wait(signal(SignalKind::hangup())) => libc::SIGHUP,
        () = wait(signal(SignalKind::quit())) => libc::SIGQUIT,
    };
    Error::new(Kind::Signal(number as u8), "interrupted").without_hint()
}

/// Do what no signal would end by itself, such as reading from a terminal: handlers that were installed once stay. A signal leaves
/// it behind.
///
/// # Errors
/// [`Kind::Signal`].
pub fn unless_interrupted<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let cannot = |e: io::Error| Error::io(Kind::Internal, "cannot start", &e);
    let (done, result) = oneshot::channel();
    // No thread of the runtime, which would wait for it at its end.
    std::thread::Builder::new().spawn(move || done.send(work())).map_err(cannot)?;
    runtime().map_err(cannot)?.block_on(async {
        tokio::select! {
            result = result => result.map_err(|_| Error::new(Kind::Internal, "the work ended without a result")),
            signal = interrupted() => Err(signal),
        }
    })
}

/// What a command that asks a node runs on.
///
/// # Errors
/// What the system answers.
pub fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// From here on SIGUSR1, which asks how far the work is, ends nobody who has nothing to say.
pub fn survive_questions() {
    // SAFETY: installing SIG_IGN has no handler that could run.
    unsafe {
        libc::signal(libc::SIGUSR1, libc::SIG_IGN);
    }
}
