//! Connections of clients: accepted while there is a place for them, with or without TLS, as HTTP/1 or HTTP/2, and finished at the
//! end.

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// How long requests under way may take at the end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// A client that has not sent the head of its request, or what begins TLS or HTTP/2, after this is dropped.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// A head has at most this many bytes and fields; who sends more is answered 431.
const HEAD_BYTES: usize = 128 * 1024;
const HEAD_FIELDS: usize = 100;
/// What every HTTP/2 connection begins with has this many bytes.
const PREFACE: usize = 24;
/// At the end a connection of which nothing was heard yet has this long: what it wants may be on its way.
const LAST_WORD: Duration = Duration::from_secs(1);
/// A silent HTTP/2 client is asked this often whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Calls of one HTTP/2 connection at once.
const CALLS: u32 = 256;

/// What is spoken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    /// REST.
    Http1,
    /// gRPC: HTTP/2 without an upgrade.
    Http2,
}

impl Protocol {
    /// Connections of a listener at once, at most: they leave descriptors for files.
    fn places(self) -> usize {
        let most = match self {
            Protocol::Http1 => 1024,
            Protocol::Http2 => 256,
        };
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let quarter = descriptors.and_then(|all| usize::try_from(all / 4).ok());
        quarter.map_or(most, |quarter| quarter.clamp(1, most))
    }
}

/// Serve whoever connects until `end` says so; requests under way are finished then.
pub(crate) async fn accept(
    mut listener: impl Listener,
    protocol: Protocol,
    router: Router,
    tls: Option<TlsAcceptor>,
    mut end: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(protocol.places()));
    loop {
        // Those beyond wait in the kernel's queue.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await.0, place)
        };
        tokio::select! {
            // Who connected before the socket was removed is accepted first, and told that the node ends.
            biased;
            (stream, place) = accepted => {
                let (router, watcher, tls, end) = (router.clone(), graceful.watcher(), tls.clone(), end.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, protocol, router, watcher, end).await,
                        Some(tls) => match timeout(HEAD_PATIENCE, tls.accept(stream)).await {
                            Ok(Ok(stream)) => serve(stream, protocol, router, watcher, end).await,
                            Ok(Err(e)) => tracing::debug!(error = %e, "no TLS"),
                            Err(_) => tracing::debug!("no TLS in time"),
                        },
                    }
                    drop(place);
                });
            }
            () = reached(&mut end) => break,
        }
    }
    drop(listener);
    if timeout(PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way at the end");
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: Protocol,
    router: Router,
    watcher: Watcher,
    end: watch::Receiver<bool>,
) {
    let served = match protocol {
        Protocol::Http1 => {
            let served = first(stream, router, end).await;
            // It is waited for until here.
            drop(watcher);
            served
        }
        Protocol::Http2 => match begun(stream).await {
            Some(stream) => watcher.watch(second(stream, router)).await,
            None => return tracing::debug!("no HTTP/2 in time"),
        },
    };
    if let Err(e) = served {
        tracing::debug!(error = %e, "a connection ended early");
    }
}

type Service = TowerToHyperService<Router>;

/// Serve to the end. Whoever has just connected then is heard first, and told that the node ends: hyper would hang up, and a
/// client that has sent a file would not know what became of it.
async fn first(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut end: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let (asked, routes) = (Arc::new(AtomicBool::new(false)), Service::new(router));
    let note = Arc::clone(&asked);
    let service = service_fn(move |request| {
        note.store(true, Ordering::Relaxed);
        routes.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_BYTES).max_headers(HEAD_FIELDS);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        served = connection.as_mut() => return served,
        () = reached(&mut end) => {}
    }
    if !asked.load(Ordering::Relaxed)
        && let Ok(served) = timeout(LAST_WORD, connection.as_mut()).await
    {
        return served;
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

fn second<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    router: Router,
) -> http2::Connection<TokioIo<S>, Service, TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(CALLS);
    // Parts of large files do not wait for one another's acknowledgement.
    http.adaptive_window(true);
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

/// The stream of a client that has begun to speak HTTP/2 in time; hyper itself waits for that without end.
async fn begun(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<impl AsyncRead + AsyncWrite + Unpin> {
    let mut preface = [0; PREFACE];
    timeout(HEAD_PATIENCE, stream.read_exact(&mut preface)).await.ok()?.ok()?;
    let (reader, writer) = tokio::io::split(stream);
    Some(tokio::io::join(Cursor::new(preface).chain(reader), writer))
}

/// Wait until it is true. A sender that is gone is as good.
pub(crate) async fn reached(signal: &mut watch::Receiver<bool>) {
    drop(signal.wait_for(|reached| *reached).await);
}

/// Small replies are not held back for more to come.
pub(crate) fn send_at_once(stream: &mut TcpStream) {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "cannot set TCP_NODELAY");
    }
}
