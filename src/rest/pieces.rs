//! The content of a file as a stream of checked pieces, in memory that does not depend on its size.

use crate::error::{Error, Kind, Result};
use crate::node::trouble;
use crate::rest::blocking;
use axum::body::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use rustix::io::Errno;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use wizefs_fs::Pieces;

/// Pieces that are read at once, because each time a worker thread must be woken.
const BATCH: usize = 8;
/// So many downloads at once have that; the others get a piece at a time, so that a crowd takes little memory.
static BATCHES: Semaphore = Semaphore::const_new(16);

/// The next pieces; none at the end.
async fn next(mut pieces: Pieces, most: usize) -> Result<(Vec<Result<Bytes>>, Pieces)> {
    blocking(move || {
        let mut read = Vec::with_capacity(most);
        while read.len() < most
            && let Some(piece) = pieces.next_piece().map_err(trouble::fs)?
        {
            read.push(Ok(Bytes::from_owner(piece)));
        }
        Ok((read, pieces))
    })
    .await
}

/// Pieces that are still to be sent.
enum Rest {
    /// What is in the kernel's memory is read by who sends it: waking another thread takes longer than reading.
    Here(Pieces),
    /// What the disk is asked for is read while that before is sent.
    Coming(JoinHandle<Result<(Vec<Result<Bytes>>, Pieces)>>, Option<SemaphorePermit<'static>>),
    Done,
}

/// The next pieces; nothing is read before somebody asks for it.
pub(crate) fn rest(pieces: Pieces) -> impl Stream<Item = Result<Bytes>> + Send {
    let batches = stream::unfold(Rest::Here(pieces), async |rest| match rest.read().await {
        Ok((read, _)) if read.is_empty() => None,
        Ok(more) => Some(more),
        Err(error) => {
            tracing::error!("a download breaks off: {error}");
            Some((vec![Err(error)], Rest::Done))
        }
    });
    batches.flat_map(stream::iter)
}

impl Rest {
    /// The next pieces, and what comes after them; none at the end.
    async fn read(self) -> Result<(Vec<Result<Bytes>>, Rest)> {
        let (coming, place) = match self {
            Rest::Done => return Ok((Vec::new(), Rest::Done)),
            Rest::Coming(coming, place) => (coming, place),
            Rest::Here(mut pieces) => match pieces.next_piece_at_once() {
                Ok(piece) => {
                    let read = piece.map(|piece| Ok(Bytes::from_owner(piece)));
                    return Ok((read.into_iter().collect(), Rest::Here(pieces)));
                }
                Err(error) if error.errno() == Errno::AGAIN => {
                    let place = BATCHES.try_acquire().ok();
                    (tokio::spawn(next(pieces, most(&place))), place)
                }
                Err(error) => return Err(trouble::fs(error)),
            },
        };
        let joined = coming.await.map_err(|e| Error::new(Kind::Internal, format!("reading failed: {e}")));
        let (read, pieces) = joined??;
        let rest = match read.is_empty() {
            true => Rest::Done,
            false => Rest::Coming(tokio::spawn(next(pieces, most(&place))), place),
        };
        Ok((read, rest))
    }
}

/// Pieces to read at once.
fn most(place: &Option<SemaphorePermit<'_>>) -> usize {
    if place.is_some() { BATCH } else { 1 }
}
