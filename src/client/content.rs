//! What is stored, on its way to the node: read beside it, so that a signal is heard while nothing comes.

use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use parking_lot::Mutex;
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Read `content` in a thread that nobody waits for: it may be a terminal where nobody types. An empty piece is its end.
pub(super) fn read_aside(
    mut content: impl Read + Send + 'static,
    count: impl Fn(u64) + Send + 'static,
) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let (to, pieces) = mpsc::channel(2);
    let mut next = move || {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match content.read(&mut piece) {
                Ok(read) => {
                    count(read as u64);
                    piece.truncate(read);
                    return Ok(Bytes::from(piece));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    };
    std::thread::Builder::new().name("content".to_owned()).spawn(move || {
        let mut more = true;
        while more {
            let piece = next();
            more = piece.as_ref().is_ok_and(|piece| !piece.is_empty());
            more &= to.blocking_send(piece).is_ok();
        }
    })?;
    Ok(pieces)
}

/// The pieces as a body, which fails as soon as it is cancelled: its end would be taken for the end of the content. `unread` hears
/// why the content cannot be read, when that is why it fails.
pub(super) fn pieces_until(
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    cancelled: CancellationToken,
    unread: Arc<Mutex<Option<io::Error>>>,
) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((pieces, cancelled, unread), |(mut pieces, cancelled, unread)| async move {
        let piece = tokio::select! {
            biased;
            () = cancelled.cancelled() => None,
            piece = pieces.recv() => piece,
        };
        let piece = match piece {
            Some(Ok(piece)) => piece,
            Some(Err(e)) => {
                *unread.lock() = Some(e);
                return Err(io::Error::other("the content cannot be read"));
            }
            None => return Err(io::Error::other("interrupted")),
        };
        Ok((!piece.is_empty()).then_some((piece, (pieces, cancelled, unread))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    /// What comes of this content: pieces, then how it ends.
    fn uploaded(content: impl Read + Send + 'static, cancel: bool) -> (Vec<u8>, Option<io::Error>) {
        let cancelled = CancellationToken::new();
        if cancel {
            cancelled.cancel();
        }
        let pieces = pieces_until(read_aside(content, |_| ()).unwrap(), cancelled, Arc::default());
        let mut pieces = std::pin::pin!(pieces);
        let mut all = Vec::new();
        let failed = crate::interrupt::runtime().unwrap().block_on(async {
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => all.extend_from_slice(&piece),
                    Err(e) => return Some(e),
                }
            }
            None
        });
        (all, failed)
    }

    #[test]
    fn a_cancelled_upload_fails_even_at_the_end_of_its_content() {
        let content = vec![7; PIECE_BYTES * 5 + 1];
        let (all, failed) = uploaded(io::Cursor::new(content.clone()), false);
        assert!(all == content && failed.is_none(), "{failed:?}");
        assert_eq!(uploaded(io::empty(), true).1.unwrap().to_string(), "interrupted");
        // Nobody will ever write to it.
        let (silent, _kept_open) = io::pipe().unwrap();
        assert_eq!(uploaded(silent, true).1.unwrap().to_string(), "interrupted");
    }
}
