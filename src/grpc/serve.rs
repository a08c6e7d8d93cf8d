//! Connections of gRPC clients: HTTP/2 without an upgrade.

use crate::server::{HEAD_PATIENCE, PATIENCE, reached};
use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// A silent client is asked this often whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Calls of one connection at once.
const CALLS: u32 = 256;
/// Connections at once; those beyond wait in the kernel's queue.
const CONNECTIONS: usize = 256;

/// Serve whoever connects until `end` says so; calls under way are finished then.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    tls: Option<TlsAcceptor>,
    mut end: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await.0, place)
        };
        tokio::select! {
            (stream, place) = accepted => {
                let (router, watcher, tls) = (router.clone(), graceful.watcher(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => connection(stream, router, watcher).await,
                        Some(tls) => match tokio::time::timeout(HEAD_PATIENCE, tls.accept(stream)).await {
                            Ok(Ok(stream)) => connection(stream, router, watcher).await,
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
    if tokio::time::timeout(PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("calls were still under way at the end");
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router, watcher: Watcher) {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(CALLS);
    // Parts of large files do not wait for one another's acknowledgement.
    http.adaptive_window(true);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(e) = watcher.watch(served).await {
        tracing::debug!(error = %e, "a connection ended early");
    }
}
