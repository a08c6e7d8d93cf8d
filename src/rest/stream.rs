//! Replies of unknown length: JSON lines, or one document, that a worker thread produces while the client reads.

use crate::error::{Error, Kind, Result};
use crate::rest::wire::ErrorBody;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Lines are sent together once they fill this many bytes ...
const BATCH_BYTES: usize = 16 * 1024;
/// ... or the oldest has waited this long when the next one comes.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// So many replies are streamed at once: each holds a worker thread for as long as its client reads.
static STREAMS: Semaphore = Semaphore::const_new(128);

/// Where a worker writes its lines. `Break` means the client went away and the work should stop.
pub struct Lines {
    sender: Sender<Result<Bytes>>,
    batch: Vec<u8>,
    sent: Instant,
}

impl Lines {
    /// Add a line.
    pub fn line(&mut self, value: &impl Serialize) -> ControlFlow<()> {
        if serde_json::to_writer(&mut self.batch, value).is_err() {
            return ControlFlow::Break(());
        }
        self.batch.push(b'\n');
        if self.batch.len() >= BATCH_BYTES || self.sent.elapsed() >= BATCH_TIME {
            self.flush()
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Whether the client is still there, for work that has found nothing to tell it for a while.
    pub fn are_read(&self) -> ControlFlow<()> {
        if self.sender.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Send what there is, for instance before waiting for more.
    pub fn flush(&mut self) -> ControlFlow<()> {
        self.sent = Instant::now();
        if self.batch.is_empty() {
            return self.are_read();
        }
        match self.sender.blocking_send(Ok(Bytes::from(std::mem::take(&mut self.batch)))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.batch.extend_from_slice(bytes);
        let flow = if self.batch.len() >= BATCH_BYTES { Lines::flush(self) } else { ControlFlow::Continue(()) };
        if flow.is_break() { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if Lines::flush(self).is_break() { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

/// Answer with the lines that `work` writes on a worker thread. A failure becomes the last line.
pub(super) fn lines(work: impl FnOnce(&mut Lines) -> Result<()> + Send + 'static) -> Response {
    let work = move |lines: &mut Lines| {
        let flow = work(lines).map_or_else(|error| lines.line(&ErrorBody::from(&error)), ControlFlow::Continue);
        if flow.is_break() {
            tracing::debug!("the client of a streamed reply went away before its last line");
        }
        Ok(())
    };
    streamed("application/x-ndjson", work)
}

/// Answer with one JSON document, written on a worker thread while its parts are made. A failure cuts it off.
pub(super) fn document(work: impl FnOnce(&mut Lines) -> serde_json::Result<()> + Send + 'static) -> Response {
    let work = |lines: &mut Lines| match work(lines) {
        Err(error) if !error.is_io() => Err(Error::new(Kind::LedgerDamaged, error.to_string())),
        _ => Ok(()),
    };
    streamed("application/json", work)
}

fn streamed(kind: &'static str, work: impl FnOnce(&mut Lines) -> Result<()> + Send + 'static) -> Response {
    let Ok(place) = STREAMS.try_acquire() else {
        return Error::new(Kind::Overloaded, "too many streamed replies at once").into_response();
    };
    let (sender, receiver) = channel(8);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut lines = Lines { sender, batch: Vec::new(), sent: Instant::now() };
        let done = work(&mut lines);
        let flow = lines.flush();
        if let (Err(error), ControlFlow::Continue(())) = (done, flow) {
            tracing::warn!(%error, "a streamed reply is cut off");
            drop(lines.sender.blocking_send(Err(error)));
        } else if flow.is_break() {
            tracing::debug!("the client of a streamed reply went away");
        }
    });
    ([(header::CONTENT_TYPE, kind)], body(receiver)).into_response()
}

fn body(receiver: Receiver<Result<Bytes>>) -> Body {
    Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    }))
}
