//! Bodies of requests: JSON whatever its content type says, uploads as a stream that worker threads read, and how slow a
//! client may be.

use crate::error::{Error, Kind, Result};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// How slow a body may be: who drips holds a place for nothing.
#[derive(Clone, Copy)]
struct Pace {
    /// A body may take this long ...
    grace: Duration,
    /// ... and a second more for each of these bytes that have come.
    bytes_per_second: u64,
}

const PACE: Pace = Pace { grace: Duration::from_secs(30), bytes_per_second: 1024 };

/// So many uploads are stored at once: each holds a worker thread.
static UPLOADS: Semaphore = Semaphore::const_new(64);
/// The others wait for a place, without being read, and at most this long.
const PLACE_PATIENCE: Duration = Duration::from_secs(60);

/// A place for an upload.
///
/// # Errors
/// [`Kind::Overloaded`] when others have held all for long.
pub(crate) async fn place() -> Result<SemaphorePermit<'static>> {
    match tokio::time::timeout(PLACE_PATIENCE, UPLOADS.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(Error::new(Kind::Overloaded, "too many uploads at once")),
    }
}

/// Why what a PUT brings is not a whole file, or not as it is to be stored, and the status that says so.
pub(super) fn unfit(headers: &HeaderMap) -> Option<(Error, StatusCode)> {
    let no = |text: &str, status| Some((Error::new(Kind::Usage, text).without_hint(), status));
    if headers.contains_key(header::CONTENT_RANGE) {
        return no("a part of a file is not stored, only all of it: leave Content-Range out", StatusCode::BAD_REQUEST);
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return no("a body is stored as it is: leave Content-Encoding out", StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    None
}

/// A body that was wholly read, or why not; curl sends JSON as a form, so its content type is not looked at.
pub(super) struct Sent(Result<Bytes>);

impl Sent {
    /// The body of this request.
    pub(super) async fn of(request: Request) -> Sent {
        Sent(Bytes::from_request(request, &()).await.map_err(|rejection| {
            let text = rejection.body_text();
            match rejection.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => Error::new(Kind::TooLarge, "the body of the request is too large"),
                _ if text.contains(SLOW) => Error::new(Kind::TooSlow, SLOW),
                _ => Error::new(Kind::Usage, format!("the body of the request cannot be read: {text}")),
            }
        }))
    }

    /// The JSON in it.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        super::parse(self.0.as_ref().map_err(Error::clone)?)
    }

    /// The bytes of it.
    pub(super) fn bytes(self) -> Result<Bytes> {
        self.0
    }
}

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Sent, Self::Rejection> {
        Ok(Sent::of(request).await)
    }
}

/// What stands after the question mark; a mistake in it is told as every failure is.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asked<T>> {
        let asked = Query::try_from_uri(&parts.uri);
        asked.map(|Query(asked)| Asked(asked)).map_err(|e| Error::new(Kind::Usage, e.body_text().to_lowercase()))
    }
}

/// An upload as a worker thread reads it. It remembers that it failed for the client's reasons, which a full or broken disk
/// is not.
pub(super) struct Upload {
    reader: Box<dyn Read + Send>,
    failed: Arc<Mutex<Option<Error>>>,
    /// The client sends nothing before it is asked to, by the first read.
    waits: bool,
}

impl Upload {
    pub(super) fn of_body(body: Body) -> Upload {
        Upload::of_stream(TryStreamExt::map_err(body.into_data_stream(), |e| e.to_string()))
    }

    /// Must be called on a thread of the runtime.
    pub(super) fn of_stream(
        stream: impl futures_util::Stream<Item = Result<Bytes, String>> + Send + Unpin + 'static,
    ) -> Upload {
        let failed = Arc::new(Mutex::new(None));
        let note = Arc::clone(&failed);
        let stream = stream.map_err(move |text| {
            *note.lock() = Some(broken_off(&text));
            io::Error::other(text)
        });
        Upload { reader: Box::new(SyncIoBridge::new(StreamReader::new(stream))), failed, waits: false }
    }

    /// Of a request with these fields: with `Expect: 100-continue` its client waits.
    pub(super) fn of_client(mut self, headers: &HeaderMap) -> Upload {
        let expected = headers.get(header::EXPECT);
        self.waits = expected.is_some_and(|what| what.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        self
    }

    /// Read it to its end, for a request that is refused anyway.
    pub(super) async fn refuse<T: Send + 'static>(self, error: Error) -> Result<T> {
        super::blocking(move || self.settle(Err(error))).await
    }

    /// The same, answered with a status of its own.
    pub(super) async fn refuse_as(self, (error, status): (Error, StatusCode)) -> Response {
        match self.refuse::<std::convert::Infallible>(error).await {
            Ok(never) => match never {},
            Err(error) => super::failure(&error, status),
        }
    }

    /// Finish what was done with it: on failure, read the rest, because a client that is still sending would take the end
    /// of the connection for the answer, unless it still waits with all of it; and blame the client where it was the client's.
    pub(super) fn settle<T>(mut self, result: Result<T>) -> Result<T> {
        let failed = self.failed.lock().take();
        match (result, failed) {
            (Err(_), Some(client)) => Err(client),
            (Err(error), None) if self.waits => Err(error),
            (Err(error), None) => {
                if let Err(e) = io::copy(&mut self.reader, &mut io::sink()) {
                    tracing::debug!(error = %e, "the rest of a refused upload");
                }
                Err(error)
            }
            (done, _) => done,
        }
    }
}

impl Read for Upload {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.waits = false;
        self.reader.read(out)
    }
}

const SLOW: &str = "the body of the request comes too slowly";

/// Why an upload ended before its time, by what was said of it.
pub(crate) fn broken_off(text: &str) -> Error {
    if text.contains(SLOW) {
        return Error::new(Kind::TooSlow, SLOW);
    }
    Error::new(Kind::Usage, format!("the upload broke off: {text}"))
}

/// The same request, whose body fails when its client is too slow.
pub(crate) fn paced(request: Request) -> Request {
    request.map(|body| if http_body::Body::is_end_stream(&body) { body } else { PACE.of(body) })
}

impl Pace {
    fn of(self, body: Body) -> Body {
        let pieces =
            futures_util::stream::unfold((Some(body), None, 0_u64), move |(body, start, received)| async move {
                let mut body = body?;
                // The clock starts when somebody wants the body, not while its request waits for a place.
                let start = start.unwrap_or_else(Instant::now);
                let end = start + self.grace + Duration::from_secs(received / self.bytes_per_second);
                match tokio::time::timeout_at(end, body.frame()).await {
                    Ok(None) => None,
                    Ok(Some(Ok(frame))) => {
                        let data = frame.into_data().unwrap_or_default();
                        let received = received + data.len() as u64;
                        Some((Ok(data), (Some(body), Some(start), received)))
                    }
                    Ok(Some(Err(e))) => Some((Err(io::Error::other(e)), (None, Some(start), received))),
                    Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, SLOW)), (None, Some(start), received))),
                }
            });
        Body::from_stream(pieces.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    const TEST: Pace = Pace { grace: Duration::from_millis(20), bytes_per_second: 1 };

    fn on_runtime(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    }

    /// A body of which the pieces are sent by hand.
    fn by_hand() -> (mpsc::Sender<Bytes>, Body) {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
            Some((Ok::<_, io::Error>(receiver.recv().await?), receiver))
        });
        (sender, TEST.of(Body::from_stream(pieces.boxed())))
    }

    #[test]
    fn a_part_of_a_file_or_a_packed_one_is_not_stored() {
        fn check(name: &'static str, value: &'static str, expect: Option<u16>) {
            let headers = HeaderMap::from_iter([(
                header::HeaderName::from_static(name),
                header::HeaderValue::from_static(value),
            )]);
            assert_eq!(unfit(&headers).map(|(_, status)| status.as_u16()), expect, "{name}: {value}");
        }
        check("content-range", "bytes 900-999/1000", Some(400));
        check("content-encoding", "gzip", Some(415));
        check("content-encoding", "identity, gzip", Some(415));
        check("content-encoding", "Identity", None);
        check("content-type", "text/plain", None);
    }

    #[test]
    fn who_sends_nothing_is_cut_off() {
        on_runtime(async {
            let (_sender, mut body) = by_hand();
            let failure = body.frame().await.unwrap().unwrap_err();
            assert!(failure.to_string().contains(SLOW), "{failure}");
            assert!(body.frame().await.is_none(), "it ends with its failure");
        });
    }

    #[test]
    fn who_sends_enough_is_not() {
        on_runtime(async {
            let (sender, mut body) = by_hand();
            let start = Instant::now();
            // An hour's worth of bytes at first: afterwards there is time.
            sender.send(Bytes::from(vec![0; 3600])).await.unwrap();
            body.frame().await.unwrap().unwrap();
            while start.elapsed() < TEST.grace * 2 {
                tokio::task::yield_now().await;
            }
            sender.send(Bytes::from_static(b"x")).await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), Bytes::from_static(b"x"));
        });
    }
}
