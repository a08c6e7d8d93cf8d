//! `/v1` routes about the files of a bucket. Contents stream in both directions.

use crate::error::Result;
use crate::name::{BucketName, bucket_path};
use crate::node::Node;
use crate::rest::body::{Asked, Upload};
use crate::rest::described::{About, Routes, about};
use crate::rest::ranges::conditions;
use crate::rest::{answer, body, bucket_at, content, rest_of, wire};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use wizefs_fs::BucketPath;

pub(super) fn routes() -> Routes {
    let listed = || about("What is in a folder, or at a path").reply::<wire::Entries>();
    Routes::new()
        .get("/v1/buckets/{bucket}/entries", list, listed())
        .get("/v1/buckets/{bucket}/entries/", list, listed())
        .get("/v1/buckets/{bucket}/entries/{*path}", list, listed())
        .get(
            "/v1/buckets/{bucket}/files/{*path}",
            fetch,
            about_content("A file, checked against the ledger").query::<FetchQuery>(),
        )
        .put(
            "/v1/buckets/{bucket}/files/{*path}",
            store,
            conditional("Store a file, replacing what is there")
                .query::<StoreQuery>()
                .upload(BYTES)
                .reply::<wire::Stored>(),
        )
        .delete("/v1/buckets/{bucket}/files/{*path}", remove, conditional("Remove a file").reply::<wire::Changed>())
        .post(
            "/v1/buckets/{bucket}/accept/{*path}",
            accept,
            about("Sign a foreign state as one's own").reply::<wire::Changed>(),
        )
}

const BYTES: &str = "application/octet-stream";

/// What is said of a route that changes a file.
fn conditional(summary: &str) -> About {
    about(summary)
        .field("If-Match", "entity tags, or *: only if the file there has one of them; else 412")
        .field("If-None-Match", "entity tags, or *: only if the file there has none of them; else 412")
}

/// What is said of a route that gives content.
pub(super) fn about_content(summary: &str) -> About {
    about(summary)
        .field("Range", "parts of it, in bytes")
        .field("If-None-Match", "entity tags that are at hand: the BLAKE3 in quotes")
        .field("If-Match", "entity tags: another content is not wanted; 412 then")
        .field("If-Range", "an entity tag: the parts are wanted only of that content")
        .content()
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

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct StoreQuery {
    /// Permission bits, a decimal number; without it those of the file that is replaced, 420 (0644) where there is none.
    mode: Option<u32>,
}

async fn store(
    State(node): State<Arc<Node>>,
    uri: Uri,
    Asked(query): Asked<StoreQuery>,
    headers: HeaderMap,
    content: Body,
) -> Response {
    let _place = match body::place().await {
        Ok(place) => place,
        Err(error) => return error.into_response(),
    };
    let mut upload = Upload::of_body(content).of_client(&headers);
    if let Some(why) = body::unfit(&headers) {
        return upload.refuse_as(why).await;
    }
    let (name, path) = match target(&uri) {
        Ok(target) => target,
        Err(error) => return answer(move || upload.settle(Err::<(), _>(error))).await,
    };
    let mode = query.mode.map(|mode| mode & 0o777);
    answer(move || {
        let stored = node.put_if(&conditions(&headers), &name, &path, mode, &mut upload);
        upload.settle(stored)
    })
    .await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct FetchQuery {
    /// Read and compare all of it before the reply begins: damage is told as a failure then, and breaks no connection.
    check_first: bool,
}

async fn fetch(
    State(node): State<Arc<Node>>,
    uri: Uri,
    Asked(query): Asked<FetchQuery>,
    headers: HeaderMap,
) -> Response {
    match target(&uri) {
        Ok((name, path)) => {
            let reply = content::reply(node, name, path, &headers, query.check_first).await;
            reply.unwrap_or_else(IntoResponse::into_response)
        }
        Err(error) => error.into_response(),
    }
}

async fn remove(State(node): State<Arc<Node>>, uri: Uri, headers: HeaderMap) -> Response {
    match target(&uri) {
        Ok((name, path)) => answer(move || node.remove_if(&conditions(&headers), &name, &path)).await,
        Err(error) => error.into_response(),
    }
}

async fn accept(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    match target(&uri) {
        Ok((name, path)) => answer(move || node.accept(&name, &path)).await,
        Err(error) => error.into_response(),
    }
}
