//! `/v1` routes about the ledger: the log, verify, integrity.

use crate::error::Result;
use crate::name::{BucketName, bucket_path};
use crate::node::{LogQuery, Node};
use crate::rest::{answer, bucket_at, rest_of, stream};
use crate::verify;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::sync::Arc;
use wizefs_fs::BucketPath;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/log", get(log))
        .route("/v1/buckets/{bucket}/log", get(log))
        .route("/v1/buckets/{bucket}/log/{*path}", get(log))
        .route("/v1/verify", get(verify_bytes))
        .route("/v1/buckets/{bucket}/verify", get(verify_bytes))
        .route("/v1/buckets/{bucket}/verify/{*path}", get(verify_bytes))
        .route("/v1/integrity", get(integrity))
        .route("/v1/transactions/{txid}/forget", post(forget))
}

/// The bucket and path of `/v1/buckets/BUCKET/WHAT[/PATH]`; none of `/v1/WHAT`. The bucket exists.
fn scope(node: &Node, uri: &Uri) -> Result<Option<(BucketName, BucketPath)>> {
    if !uri.path().starts_with("/v1/buckets/") {
        return Ok(None);
    }
    let name = bucket_at(uri, 2)?;
    node.bucket_status(&name)?;
    Ok(Some((name, bucket_path(&rest_of(uri, 4))?)))
}

async fn log(State(node): State<Arc<Node>>, uri: Uri, Query(query): Query<LogQuery>) -> Response {
    match scope(&node, &uri) {
        Ok(scope) => stream::lines(move |lines| {
            let scope = scope.as_ref().map(|(name, path)| (name, path));
            node.log(scope, query, lines)
        }),
        Err(error) => error.into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VerifyQuery {
    verbose: bool,
}

async fn verify_bytes(State(node): State<Arc<Node>>, uri: Uri, Query(query): Query<VerifyQuery>) -> Response {
    match scope(&node, &uri) {
        Ok(scope) => stream::lines(move |lines| {
            let scope = scope.as_ref().map(|(name, path)| (name, path));
            verify::run(&node, scope, query.verbose, &mut |line| lines.line(line))
        }),
        Err(error) => error.into_response(),
    }
}

async fn forget(State(node): State<Arc<Node>>, Path(txid): Path<String>) -> Response {
    answer(move || node.forget(&txid)).await
}

async fn integrity(State(node): State<Arc<Node>>) -> Response {
    answer(move || node.integrity()).await
}
