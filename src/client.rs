//! How commands reach a node: over the socket of the running one, or straight into the router of an own, short-lived one.
//! Either way the same routes and the same wire types.

mod content;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::interrupt::{self, interrupted};
use crate::node::{Node, Role};
use crate::rest::{self, wire::ErrorBody};
use crate::root::{Root, RootLock, lock_holder};
use crate::socket;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::process::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How long the own node may take to stop after an interrupt.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a node.
pub struct Client {
    runtime: Runtime,
    transport: Transport,
    root: Root,
    /// The process that was reached.
    node: Option<Pid>,
}

enum Transport {
    /// A node runs and listens here. The first connection is kept for the first request.
    Socket(Mutex<Option<UnixStream>>),
    /// This process is the node for the moment.
    Own { node: Arc<Node>, router: Router },
}

impl Client {
    /// Reach the running node, or open the root in this process; waits at most 10 s for another command to end.
    ///
    /// # Errors
    /// [`Kind::RootLocked`] after 10 s, and everything that keeps a node from opening its root.
    pub fn open(config: &Config) -> Result<Client> {
        let root = Root::new(&config.root);
        if let Some(client) = Client::running(config)? {
            return Ok(client);
        }
        root.create()?;
        let mut found = None;
        let lock = RootLock::wait(&root, || {
            found = Client::running(config).transpose();
            found.is_none()
        });
        match (found, lock) {
            (Some(client), _) => client,
            (None, Err(e)) => Err(e),
            (None, Ok(lock)) => {
                let runtime = runtime()?;
                let node = Node::open(config, lock, Role::Command, &|_| ())?;
                let router = rest::router(Arc::clone(&node));
                Ok(Client { runtime, transport: Transport::Own { node, router }, root, node: None })
            }
        }
    }

    /// Reach the running node; `None` when there is none.
    ///
    /// # Errors
    /// [`Kind::Unauthorised`] when it belongs to somebody else.
    pub fn running(config: &Config) -> Result<Option<Client>> {
        let root = Root::new(&config.root);
        let Some(stream) = socket::connect(&root)? else { return Ok(None) };
        let node = rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid);
        let transport = Transport::Socket(Mutex::new(Some(stream)));
        Ok(Some(Client { runtime: runtime()?, transport, root, node }))
    }

    /// Whether this process had to be the node itself.
    pub fn is_own(&self) -> bool {
        matches!(self.transport, Transport::Own { .. })
    }

    /// Ask with an optional JSON body and decode the whole JSON reply.
    ///
    /// # Errors
    /// What the node answers; [`Kind::Unreachable`] when it goes away.
    pub fn call<T: DeserializeOwned>(&self, method: Method, uri: &str, body: Option<&impl Serialize>) -> Result<T> {
        self.block_on(async {
            let reply = self.send(request(method, uri, json_body(body)?)?).await?;
            let bytes = reply.into_body().collect().await.map_err(broken)?.to_bytes();
            decode(&bytes)
        })
    }

    /// Ask with GET and decode the whole JSON reply.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn get<T: DeserializeOwned>(&self, uri: &str) -> Result<T> {
        self.call(Method::GET, uri, None::<&()>)
    }

    /// Ask, and decode the reply line by line as it comes. A line that reports a failure ends it with that failure.
    ///
    /// # Errors
    /// As [`Client::call`], and what `each` returns.
    pub fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: Option<&impl Serialize>,
        mut each: impl FnMut(T, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.block_on(async {
            let mut reply = self.send(request(method, uri, json_body(body)?)?).await?.into_body();
            let mut text = Vec::new();
            while let Some(chunk) = next_chunk(&mut reply).await? {
                text.extend_from_slice(&chunk);
                let mut start = 0;
                while let Some(length) = text[start..].iter().position(|b| *b == b'\n') {
                    let line = &text[start..start + length];
                    each(decode_line(line)?, line)?;
                    start += length + 1;
                }
                text.drain(..start);
            }
            if text.is_empty() { Ok(()) } else { Err(ended_early()) }
        })
    }

    /// Ask with GET for a whole reply that is no JSON.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn text(&self, uri: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.download(
            uri,
            |_| (),
            |chunk| {
                bytes.extend_from_slice(chunk);
                Ok(())
            },
        )?;
        Ok(bytes)
    }

    /// Send text and decode the JSON reply.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn post_text<T: DeserializeOwned>(&self, uri: &str, text: &str) -> Result<T> {
        self.block_on(async {
            let reply = self.send(request(Method::POST, uri, Body::from(text.to_owned()))?).await?;
            let bytes = reply.into_body().collect().await.map_err(broken)?.to_bytes();
            decode(&bytes)
        })
    }

    /// Send `content` as the body and decode the JSON reply. `count` hears how many bytes were read. Interrupted, it waits neither
    /// for more content nor does the node take what came for the whole.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn upload<T: DeserializeOwned>(
        &self,
        uri: &str,
        content: impl Read + Send + 'static,
        count: impl Fn(u64) + Send + 'static,
    ) -> Result<T> {
        let cancelled = CancellationToken::new();
        let _at_the_end = cancelled.clone().drop_guard();
        let pieces = content::read_aside(content, count).map_err(|e| Error::io(Kind::Internal, "cannot start", &e))?;
        let unread = Arc::default();
        let body = Body::from_stream(content::pieces_until(pieces, cancelled, Arc::clone(&unread)));
        let stored = self.block_on(async {
            let reply = self.send(request(Method::PUT, uri, body)?).await?;
            let bytes = reply.into_body().collect().await.map_err(broken)?.to_bytes();
            decode(&bytes)
        });
        // The node knows of it only that it does not come.
        match unread.lock().take() {
            Some(e) => Err(Error::io(Kind::FileMissing, "cannot read what is to be stored", &e).without_hint()),
            None => stored,
        }
    }

    /// Fetch `uri` and hand the body to `each` in pieces; returns the head of the reply. `expect` hears before how many bytes
    /// there will be, as far as known.
    ///
    /// # Errors
    /// As [`Client::call`], and what `each` returns.
    pub fn download(
        &self,
        uri: &str,
        expect: impl FnOnce(Option<u64>),
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<axum::http::HeaderMap> {
        self.block_on(async {
            let (head, mut body) = self.send(request(Method::GET, uri, Body::empty())?).await?.into_parts();
            let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
            expect(length.and_then(|text| text.parse().ok()));
            while let Some(chunk) = next_chunk(&mut body).await? {
                each(&chunk)?;
            }
            Ok(head.headers)
        })
    }

    /// Ask with GET until `done` is satisfied with the reply: at once, and again after each of the node's events that is called
    /// `event`.
    ///
    /// # Errors
    /// As [`Client::call`]; [`Kind::Unreachable`] when the node ends before.
    pub fn watch<T: DeserializeOwned>(&self, uri: &str, event: &str, mut done: impl FnMut(T) -> bool) -> Result<()> {
        let wanted = format!("event: {event}");
        self.block_on(async {
            // What happens from here on is told, so that nothing is missed between a look and the next.
            let mut events = self.send(request(Method::GET, "/v1/events", Body::empty())?).await?.into_body();
            let mut text = Vec::new();
            loop {
                let reply = self.send(request(Method::GET, uri, Body::empty())?).await?;
                if done(decode(&reply.into_body().collect().await.map_err(broken)?.to_bytes())?) {
                    return Ok(());
                }
                let mut heard = false;
                while !heard {
                    text.extend_from_slice(&next_chunk(&mut events).await?.ok_or_else(ended_early)?);
                    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
                    heard = text.drain(..whole).as_slice().split(|b| *b == b'\n').any(|line| line == wanted.as_bytes());
                }
            }
        })
    }

    /// Wait until the node that was asked serves the root no more; another one may by then.
    ///
    /// # Errors
    /// [`Kind::Busy`] when the node is still there after 10 s.
    pub fn wait_for_end(&self) -> Result<()> {
        let holder = || lock_holder(&self.root).and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let is_next = || self.node.is_some() && holder().is_some() && holder() != self.node;
        if self.is_own() || RootLock::wait_until_free(&self.root, is_next)? {
            return Ok(());
        }
        let text = format!("the node of {} has not ended after 10 s", self.root.path().display());
        Err(Error::new(Kind::Busy, text).hint("programs may still use a mounted folder; node.log says more"))
    }

    /// Let go: an own node settles and seals what this command did.
    ///
    /// # Errors
    /// What kept the own node from sealing.
    pub fn close(self) -> Result<()> {
        match self.transport {
            Transport::Socket(_) => Ok(()),
            Transport::Own { node, router } => {
                drop(router);
                // An interrupted request still has its worker; it stops at its next step.
                self.runtime.shutdown_timeout(SETTLE_PATIENCE);
                node.close()
            }
        }
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        let reply = match &self.transport {
            Transport::Own { router, .. } => match router.clone().oneshot(request).await {
                Ok(reply) => reply,
                Err(never) => match never {},
            },
            Transport::Socket(first) => {
                let kept = first.lock().take();
                self.send_over_socket(kept, request).await?
            }
        };
        if reply.status().is_success() {
            return Ok(reply);
        }
        let status = reply.status();
        let bytes = reply.into_body().collect().await.map_err(broken)?.to_bytes();
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(body.into()),
            Err(_) => Err(Error::new(Kind::Internal, format!("the node answered {status}"))),
        }
    }

    async fn send_over_socket(&self, kept: Option<UnixStream>, request: Request<Body>) -> Result<Response<Body>> {
        let stream = match kept {
            Some(stream) => stream,
            None => socket::connect(&self.root)?.ok_or_else(gone)?,
        };
        let stream = asynchronous(stream).map_err(|e| Error::io(Kind::Unreachable, "cannot use node.sock", &e))?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let handshake = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = handshake.map_err(|e| ended_before_answer(&e))?;
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "the connection to the node ended");
            }
        });
        let repeatable = is_repeatable(&request);
        let reply = sender.send_request(request).await;
        let reply = reply.map_err(|e| if repeatable { ended_before_answer(&e) } else { broken(e) })?;
        Ok(reply.map(Body::new))
    }

    /// Run to the end or to the first signal. Dropping the work stops it on the node's side too.
    fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                result = work => result,
                signal = interrupted() => Err(signal),
            }
        })
    }
}

fn runtime() -> Result<Runtime> {
    interrupt::runtime().map_err(|e| Error::io(Kind::Internal, "cannot start", &e))
}

fn asynchronous(stream: UnixStream) -> std::io::Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

fn request(method: Method, uri: &str, body: Body) -> Result<Request<Body>> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|e| Error::new(Kind::Usage, format!("cannot ask the node for {uri}: {e}")))
}

fn json_body(body: Option<&impl Serialize>) -> Result<Body> {
    let Some(body) = body else { return Ok(Body::empty()) };
    let bytes =
        serde_json::to_vec(body).map_err(|e| Error::new(Kind::Usage, format!("cannot send this to the node: {e}")))?;
    Ok(Body::from(bytes))
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame.map_err(broken)?.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(Kind::Internal, format!("the node's answer cannot be understood: {e}")))
}

fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Result<T> {
    match serde_json::from_slice::<ErrorBody>(line) {
        Ok(body) => Err(body.into()),
        Err(_) => decode(line),
    }
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Unreachable, format!("the node went away: {error}")).hint("node.log may say why")
}

/// Whether asking twice is as good as asking once, so that another node may be asked when this one dies over it.
fn is_repeatable(request: &Request<Body>) -> bool {
    let path = request.uri().path();
    request.method() == Method::GET || ["/mount", "/unmount", "/sync"].iter().any(|end| path.ends_with(end))
}

/// The node was killed, or ended, with the question unanswered: as for one that says it is about to end, the next is asked.
fn ended_before_answer(error: &hyper::Error) -> Error {
    Error::new(Kind::Stopping, format!("the node ended without an answer: {error}"))
}

fn ended_early() -> Error {
    broken("the answer is not complete")
}

fn gone() -> Error {
    Error::new(Kind::Unreachable, "no node is running")
}

/// What may stand unencoded in a path segment or query value.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same with the slashes of a path.
const PLAIN_PATH: &AsciiSet = &PLAIN.remove(b'/');

/// One path segment.
pub fn segment(bytes: &[u8]) -> String {
    percent_encode(bytes, PLAIN).to_string()
}

/// A path in a bucket, its slashes kept.
pub fn segments(bytes: &[u8]) -> String {
    percent_encode(bytes, PLAIN_PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_percent_encoded_by_bytes() {
        assert_eq!(segments(b"a b/\xff?.txt"), "a%20b/%FF%3F.txt");
        assert_eq!(segment(b"a/b"), "a%2Fb");
    }

    #[test]
    fn a_line_with_an_error_is_that_error() {
        let error = Error::new(Kind::Busy, "docs is busy");
        let line = serde_json::to_vec(&ErrorBody::from(&error)).unwrap();
        assert_eq!(decode_line::<serde_json::Value>(&line).unwrap_err(), error);
        assert_eq!(decode_line::<u32>(b"7").unwrap(), 7);
    }
}
