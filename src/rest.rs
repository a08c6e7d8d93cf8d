//! REST: routes over the one [`Node`], for programs on TCP and for the command line on `node.sock`.
//!
//! Handlers only translate: wire types in, a blocking call of the node on a worker thread, wire types out.

pub(crate) mod body;
mod buckets;
mod chain;
mod content;
mod dav;
mod described;
mod events;
mod files;
mod front;
mod guard;
mod history;
mod legacy;
pub(crate) mod logged;
mod multipart;
mod operation;
pub(crate) mod pieces;
mod proofs;
mod ranges;
pub mod stream;
mod text;
mod warm;
pub mod wire;

use crate::error::{Error, Kind, Result};
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use described::{Routes, about};
pub use guard::Guard;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};

/// Most bytes of a body in JSON; the content of a `put` streams.
const JSON_LIMIT: usize = 2 << 20;

/// All routes, described.
fn routes() -> Routes {
    Routes::new()
        .get("/openapi.json", openapi, about("This document").reply::<serde_json::Value>())
        .post("/v1/stop", stop, about("End the node").reply::<wire::Stopping>())
        .merge(operation::routes())
        .merge(described::failures())
        .merge(buckets::routes())
        .merge(events::routes())
        .merge(files::routes())
        .merge(history::routes())
        .merge(legacy::routes())
        .merge(proofs::routes())
        .merge(chain::routes())
}

/// All routes, for callers that need no further check: the socket's owner and this process itself.
pub fn router(node: Arc<Node>) -> Router {
    front::private(all(&node), node)
}

/// All routes for TCP: requests that a foreign web page caused are refused, and slow ones cut off.
pub fn public_router(node: Arc<Node>, guard: Arc<Guard>) -> Router {
    front::public(all(&node), node, guard, "rest")
}

fn all(node: &Arc<Node>) -> Router<Arc<Node>> {
    let dav = dav::Dav::new(Arc::clone(node));
    let others = move |request: Request| {
        let dav = dav.clone();
        async move {
            match dav::is_dav(request.uri().path()) {
                true => dav::serve(dav, request).await,
                false => unknown_route(request.uri().clone()).await.into_response(),
            }
        }
    };
    routes().router().fallback(others)
}

/// The predecessor's chain routes alone, as its own service had them.
pub fn chain_router(node: Arc<Node>, guard: Arc<Guard>) -> Router {
    let routes = chain::routes()
        .get("/", chain::home, about("A greeting with the chain's id").reply::<String>())
        .router()
        .fallback(unknown_route);
    front::public(routes, node, guard, "chain")
}

/// The OpenAPI document of all routes, made once.
async fn openapi() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| routes().document().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

async fn stop(State(node): State<Arc<Node>>) -> Response {
    node.request_stop();
    json(&wire::Stopping { v: wire::V, stopping: true })
}

async fn unknown_route(uri: Uri) -> Error {
    Error::new(Kind::NotFound, format!("there is nothing at {}", uri.path()))
}

/// Run a blocking call of the node on a worker thread and answer with its result as JSON.
async fn answer<T: Serialize + Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Response {
    match blocking(work).await {
        Ok(value) => json(&value),
        Err(error) => error.into_response(),
    }
}

/// Run a blocking call of the node on a worker thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(Kind::Internal, format!("a request failed: {e}"))),
    }
}

/// The JSON body of a request, whatever its content type says: curl sends a form's.
fn parse<T: for<'a> Deserialize<'a>>(body: &Bytes) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|e| Error::new(Kind::Usage, format!("the body is not the JSON that is expected: {e}")))
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(e) => Error::new(Kind::Internal, format!("cannot write the answer: {e}")).into_response(),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        failure(&self, status)
    }
}

fn failure(error: &Error, status: StatusCode) -> Response {
    if status.is_server_error() {
        tracing::warn!(kind = error.kind.name(), "{error}");
    }
    let mut reply = json(&wire::ErrorBody::from(error));
    *reply.status_mut() = status;
    reply
}

/// The bytes of the path segment with this number, decoded. Segments may hold bytes that are not UTF-8, which the
/// framework's own extractor refuses.
fn segment(uri: &Uri, number: usize) -> Vec<u8> {
    let raw = uri.path().split('/').nth(number + 1).unwrap_or_default();
    percent_decode_str(raw).collect()
}

/// Everything from the path segment with this number on, decoded, without a slash at the end.
fn rest_of(uri: &Uri, number: usize) -> Vec<u8> {
    let raw = uri.path().splitn(number + 2, '/').nth(number + 1).unwrap_or_default();
    let bytes: Vec<u8> = percent_decode_str(raw).collect();
    bytes.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(bytes)
}

/// The bucket named in the path segment with this number.
fn bucket_at(uri: &Uri, number: usize) -> Result<crate::name::BucketName> {
    crate::name::BucketName::new(&String::from_utf8_lossy(&segment(uri, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_bytes() {
        let uri: Uri = "/v1/buckets/docs/files/a%2Fb/%FF?x=1".parse().unwrap();
        assert_eq!(segment(&uri, 2), b"docs");
        assert_eq!(rest_of(&uri, 4), b"a/b/\xff");
        assert_eq!(rest_of(&uri, 9), b"");
        let uri: Uri = "/v1/buckets/docs/entries/sub/".parse().unwrap();
        assert_eq!(rest_of(&uri, 4), b"sub");
    }
}
