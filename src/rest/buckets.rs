//! `/v1` routes about buckets and the node.

use crate::error::{Error, Kind};
use crate::node::Node;
use crate::rest::{answer, blocking, bucket_at, json, parse, stream, wire};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/buckets", get(list).post(create))
        .route("/v1/buckets/{bucket}", delete(remove))
        .route("/v1/buckets/{bucket}/check", get(check))
        .route("/v1/buckets/{bucket}/mount", post(mount))
        .route("/v1/buckets/{bucket}/unmount", post(unmount))
        .route("/v1/buckets/{bucket}/sync", post(sync_one))
        .route("/v1/sync", post(sync_all))
}

async fn status(State(node): State<Arc<Node>>) -> Response {
    answer(move || node.status()).await
}

async fn list(State(node): State<Arc<Node>>) -> Response {
    answer(move || Ok(wire::Buckets { v: wire::V, buckets: node.buckets()? })).await
}

/// JSON lines: progress while a directory is adopted, then the bucket. A client that goes away interrupts the import.
async fn create(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let request: wire::Create = match parse(&body) {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    if request.from.is_none() {
        return answer(move || node.create(&request, &mut |_| std::ops::ControlFlow::Continue(()))).await;
    }
    stream::lines(move |lines| {
        let created = node.create(&request, &mut |progress| lines.line(&wire::CreateLine::Progress { progress }))?;
        // When nobody reads the last line, the bucket is there all the same.
        let _gone = lines.line(&wire::CreateLine::Created(created));
        Ok(())
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DeleteQuery {
    unmount: bool,
}

async fn remove(State(node): State<Arc<Node>>, uri: Uri, Query(query): Query<DeleteQuery>) -> Response {
    match bucket_at(&uri, 2) {
        Ok(name) => answer(move || node.delete(&name, query.unmount)).await,
        Err(error) => error.into_response(),
    }
}

async fn check(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    match bucket_at(&uri, 2) {
        Ok(name) => answer(move || node.check(&name)).await,
        Err(error) => error.into_response(),
    }
}

async fn mount(State(node): State<Arc<Node>>, uri: Uri, body: Bytes) -> Response {
    let request: wire::MountRequest = match parse(&body) {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    if request.mountpoint.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Error::new(Kind::Mountpoint, "the mountpoint must be an absolute path").into_response();
    }
    match bucket_at(&uri, 2) {
        Ok(name) => answer(move || node.mount(&name, &request)).await,
        Err(error) => error.into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UnmountQuery {
    lazy: bool,
}

async fn unmount(State(node): State<Arc<Node>>, uri: Uri, Query(query): Query<UnmountQuery>) -> Response {
    let name = match bucket_at(&uri, 2) {
        Ok(name) => name,
        Err(error) => return error.into_response(),
    };
    match blocking(move || node.unmount(&name, query.lazy)).await {
        Ok(unmounted) => json(&unmounted),
        Err(error) => error.into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SyncQuery {
    strict: bool,
}

async fn sync_one(State(node): State<Arc<Node>>, uri: Uri, Query(query): Query<SyncQuery>) -> Response {
    match bucket_at(&uri, 2) {
        Ok(name) => answer(move || node.sync(Some(&name), query.strict)).await,
        Err(error) => error.into_response(),
    }
}

async fn sync_all(State(node): State<Arc<Node>>, Query(query): Query<SyncQuery>) -> Response {
    answer(move || node.sync(None, query.strict)).await
}
