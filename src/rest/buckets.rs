//! `/v1` routes about buckets and the node.

use crate::error::{Error, Kind};
use crate::node::Node;
use crate::rest::body::{Asked, Sent};
use crate::rest::described::{Routes, about};
use crate::rest::{answer, blocking, bucket_at, json, stream, wire};
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/v1/status", status, about("The node at a glance").reply::<wire::Status>())
        .get("/v1/buckets", list, about("All buckets").reply::<wire::Buckets>())
        .post(
            "/v1/buckets",
            create,
            about("Make a bucket; with `from`, progress comes as lines before it")
                .body::<wire::Create>()
                .reply::<wire::Created>()
                .lines::<wire::CreateLine>(),
        )
        .delete(
            "/v1/buckets/{bucket}",
            remove,
            about("Delete a bucket").query::<DeleteQuery>().reply::<wire::Deleted>(),
        )
        .get("/v1/buckets/{bucket}/check", check, about("Structure and mount state").reply::<wire::Checked>())
        .post(
            "/v1/buckets/{bucket}/mount",
            mount,
            about("Mount a bucket").body::<wire::MountRequest>().reply::<wire::Mounted>(),
        )
        .post(
            "/v1/buckets/{bucket}/unmount",
            unmount,
            about("Unmount, then settle and seal").query::<UnmountQuery>().reply::<wire::Unmounted>(),
        )
        .post("/v1/buckets/{bucket}/sync", sync_one, synced())
        .post(
            "/v1/buckets/{bucket}/compact",
            compact,
            about("Rewrite the archive of an lz bucket without holes").reply::<wire::Compacted>(),
        )
        .post("/v1/sync", sync_all, synced())
}

fn synced() -> crate::rest::described::About {
    about("The barrier: everything done so far is final").query::<SyncQuery>().reply::<wire::Synced>()
}

async fn status(State(node): State<Arc<Node>>) -> Response {
    answer(move || node.status()).await
}

async fn list(State(node): State<Arc<Node>>) -> Response {
    answer(move || Ok(wire::Buckets { v: wire::V, buckets: node.buckets()? })).await
}

/// JSON lines: progress while a directory is adopted, then the bucket. A client that goes away interrupts the import.
async fn create(State(node): State<Arc<Node>>, sent: Sent) -> Response {
    let request: wire::Create = match sent.json() {
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

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct DeleteQuery {
    /// Unmount it first.
    unmount: bool,
}

async fn remove(State(node): State<Arc<Node>>, uri: Uri, Asked(query): Asked<DeleteQuery>) -> Response {
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

async fn mount(State(node): State<Arc<Node>>, uri: Uri, sent: Sent) -> Response {
    let request: wire::MountRequest = match sent.json() {
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

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct UnmountQuery {
    /// Detach it when programs use it.
    lazy: bool,
}

async fn unmount(State(node): State<Arc<Node>>, uri: Uri, Asked(query): Asked<UnmountQuery>) -> Response {
    let name = match bucket_at(&uri, 2) {
        Ok(name) => name,
        Err(error) => return error.into_response(),
    };
    match blocking(move || node.unmount(&name, query.lazy)).await {
        Ok(unmounted) => json(&unmounted),
        Err(error) => error.into_response(),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct SyncQuery {
    /// Fail when files are still being written.
    strict: bool,
}

async fn sync_one(State(node): State<Arc<Node>>, uri: Uri, Asked(query): Asked<SyncQuery>) -> Response {
    match bucket_at(&uri, 2) {
        Ok(name) => answer(move || node.sync(Some(&name), query.strict)).await,
        Err(error) => error.into_response(),
    }
}

async fn compact(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    match bucket_at(&uri, 2) {
        Ok(name) => answer(move || node.compact(&name)).await,
        Err(error) => error.into_response(),
    }
}

async fn sync_all(State(node): State<Arc<Node>>, Asked(query): Asked<SyncQuery>) -> Response {
    answer(move || node.sync(None, query.strict)).await
}
