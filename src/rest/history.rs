//! `/v1` routes about the ledger: the log, verify, integrity.

use crate::error::Result;
use crate::name::{BucketName, bucket_path};
use crate::node::{LogQuery, Node, SearchQuery};
use crate::rest::body::Asked;
use crate::rest::described::{About, Routes, about};
use crate::rest::wire::{IntegrityLine, Replayed, VerifyLine};
use crate::rest::{answer, bucket_at, rest_of, segment, stream, wire};
use crate::verify::{self, Tell};
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::IntoParams;
use wizefs_fs::BucketPath;

/// Progress is told at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/v1/log", log, logged())
        .get("/v1/buckets/{bucket}/log", log, logged())
        .get("/v1/buckets/{bucket}/log/{*path}", log, logged())
        .get("/v1/verify", verify_bytes, verified())
        .get("/v1/buckets/{bucket}/verify", verify_bytes, verified())
        .get("/v1/buckets/{bucket}/verify/{*path}", verify_bytes, verified())
        .get("/v1/integrity", integrity, checked())
        .get("/v1/search", search, found())
        .post(
            "/v1/transactions/{txid}/forget",
            forget,
            about("Erase what a transaction says").query::<ForgetQuery>().reply::<wire::Forgotten>(),
        )
}

fn logged() -> About {
    about("Transactions, newest first").query::<LogQuery>().lines::<wire::LogLine>()
}

fn verified() -> About {
    about("Bytes against the ledger").query::<Tell>().lines::<wire::VerifyLine>()
}

fn checked() -> About {
    let about = about("The chain itself, from genesis; with progress, lines of which the last is the result");
    about.query::<IntegrityQuery>().reply::<wire::Integrity>().lines::<IntegrityLine>()
}

fn found() -> About {
    about("Files by name, content hash or transaction").query::<SearchQuery>().lines::<wire::Match>()
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

async fn log(State(node): State<Arc<Node>>, uri: Uri, Asked(query): Asked<LogQuery>) -> Response {
    match scope(&node, &uri) {
        Ok(scope) => stream::lines(move |lines| {
            let scope = scope.as_ref().map(|(name, path)| (name, path));
            node.log(scope, query, lines)
        }),
        Err(error) => error.into_response(),
    }
}

async fn verify_bytes(State(node): State<Arc<Node>>, uri: Uri, Asked(tell): Asked<Tell>) -> Response {
    match scope(&node, &uri) {
        Ok(scope) => stream::lines(move |lines| {
            let scope = scope.as_ref().map(|(name, path)| (name, path));
            verify::run(&node, scope, tell, &mut |line| {
                lines.line(line)?;
                if matches!(line, VerifyLine::Progress(_)) { lines.flush() } else { ControlFlow::Continue(()) }
            })
        }),
        Err(error) => error.into_response(),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct ForgetQuery {
    /// Only say whether that can be done.
    dry_run: bool,
}

async fn forget(State(node): State<Arc<Node>>, uri: Uri, Asked(query): Asked<ForgetQuery>) -> Response {
    let txid = String::from_utf8_lossy(&segment(&uri, 2)).into_owned();
    answer(move || node.forget(&txid, query.dry_run)).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct IntegrityQuery {
    /// Tell now and then how far it is.
    progress: bool,
}

/// One document, or with `progress` lines of which it is the last.
async fn integrity(State(node): State<Arc<Node>>, Asked(query): Asked<IntegrityQuery>) -> Response {
    if !query.progress {
        return answer(move || node.integrity(&mut |_| ControlFlow::Continue(()))).await;
    }
    stream::lines(move |lines| {
        let mut told = Instant::now();
        let report = node.integrity(&mut |Replayed { done, total }| {
            if told.elapsed() < PROGRESS_INTERVAL {
                return ControlFlow::Continue(());
            }
            told = Instant::now();
            lines.line(&IntegrityLine::Progress { progress: Replayed { done, total } })?;
            lines.flush()
        })?;
        // When nobody reads the last line, there is nobody to tell.
        let _gone = lines.line(&report);
        Ok(())
    })
}

async fn search(State(node): State<Arc<Node>>, Asked(query): Asked<SearchQuery>) -> Response {
    match node.check_search(&query) {
        Ok(()) => stream::lines(move |lines| node.search(&query, lines)),
        Err(error) => error.into_response(),
    }
}
