//! `/v1` routes about the files of a bucket. Contents stream in both directions.

use crate::error::Result;
use crate::name::{BucketName, bucket_path};
use crate::node::{Fetched, Node};
use crate::rest::{answer, blocking, bucket_at, rest_of};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::TryStreamExt;
use serde::Deserialize;
use std::sync::Arc;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use wizefs_fs::BucketPath;

/// Bytes read from a file at a time.
const CHUNK: usize = 256 * 1024;
/// Permission bits of a file that came without.
const DEFAULT_MODE: u32 = 0o644;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/buckets/{bucket}/entries", get(list))
        .route("/v1/buckets/{bucket}/entries/", get(list))
        .route("/v1/buckets/{bucket}/entries/{*path}", get(list))
        .route("/v1/buckets/{bucket}/files/{*path}", get(fetch).put(store).delete(remove))
        .route("/v1/buckets/{bucket}/accept/{*path}", post(accept))
}

/// The bucket and the path of `/v1/buckets/BUCKET/WHAT/PATH`.
fn target(uri: &Uri) -> Result<(BucketName, BucketPath)> {
    Ok((bucket_at(uri, 2)?, bucket_path(&rest_of(uri, 4))?))
}

async fn list(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    match target(&uri) {
        Ok((name, path)) => answer(move || node.list(&name, &path)).await,
        Err(error) => error.into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StoreQuery {
    mode: Option<u32>,
}

async fn store(State(node): State<Arc<Node>>, uri: Uri, Query(query): Query<StoreQuery>, body: Body) -> Response {
    match target(&uri) {
        Ok((name, path)) => store_body(node, name, path, query.mode, body).await,
        Err(error) => error.into_response(),
    }
}

async fn store_body(node: Arc<Node>, name: BucketName, path: BucketPath, mode: Option<u32>, body: Body) -> Response {
    let mut content = blocking_reader(body);
    answer(move || {
        let stored = node.put(&name, &path, mode.unwrap_or(DEFAULT_MODE) & 0o777, &mut content);
        if stored.is_err() {
            // A client that is still sending would take the end of the connection for the answer.
            if let Err(e) = std::io::copy(&mut content, &mut std::io::sink()) {
                tracing::debug!(error = %e, "the rest of a refused upload");
            }
        }
        stored
    })
    .await
}

/// A request body as worker threads read it.
pub(super) fn blocking_reader(body: Body) -> impl std::io::Read + Send {
    SyncIoBridge::new(StreamReader::new(body.into_data_stream().map_err(std::io::Error::other)))
}

async fn fetch(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    let fetched = match target(&uri) {
        Ok((name, path)) => blocking(move || node.get(&name, &path)).await,
        Err(error) => Err(error),
    };
    match fetched {
        Ok(fetched) => content(fetched),
        Err(error) => error.into_response(),
    }
}

/// The content, and what the ledger says of it in the head: `wizefs-stored` is the JSON of [`crate::rest::wire::Stored`].
pub(super) fn content(fetched: Fetched) -> Response {
    let Fetched { stored, mode, file } = fetched;
    let file = tokio::fs::File::from_std(file);
    let body = Body::from_stream(ReaderStream::with_capacity(file, CHUNK));
    let described = serde_json::to_string(&stored).unwrap_or_default();
    let mut reply = body.into_response();
    let head = reply.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        // Non-ASCII text is carried as UTF-8 bytes; control characters are escaped by JSON.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            head.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE.as_str(), "application/octet-stream");
    set(header::CONTENT_LENGTH.as_str(), &stored.size.to_string());
    set(header::ETAG.as_str(), &format!("\"{}\"", stored.blake3));
    set("wizefs-stored", &described);
    set("wizefs-mode", &mode.to_string());
    reply
}

async fn remove(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    match target(&uri) {
        Ok((name, path)) => answer(move || node.remove(&name, &path)).await,
        Err(error) => error.into_response(),
    }
}

async fn accept(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    match target(&uri) {
        Ok((name, path)) => answer(move || node.accept(&name, &path)).await,
        Err(error) => error.into_response(),
    }
}
