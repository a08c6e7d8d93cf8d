//! `/v1` routes about the ledger: the log, verify, integrity.

use crate::error::Result;
use crate::name::{BucketName, bucket_path};
use crate::node::{LogQuery, Node};
use crate::rest::body::Asked;
use crate::rest::described::{About, Routes, about};
use crate::rest::{answer, bucket_at, rest_of, segment, stream, wire};
use crate::verify;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::IntoParams;
use wizefs_fs::BucketPath;

pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/v1/log", log, logged())
        .get("/v1/buckets/{bucket}/log", log, logged())
        .get("/v1/buckets/{bucket}/log/{*path}", log, logged())
        .get("/v1/verify", verify_bytes, verified())
        .get("/v1/buckets/{bucket}/verify", verify_bytes, verified())
        .get("/v1/buckets/{bucket}/verify/{*path}", verify_bytes, verified())
        .get("/v1/integrity", integrity, checked())
        .post(
            "/v1/transactions/{txid}/forget",
            forget,
            about("Erase what a transaction says").reply::<wire::Forgotten>(),
        )
}

fn logged() -> About {
    about("Transactions, newest first").query::<LogQuery>().lines::<wire::LogLine>()
}

fn checked() -> About {
    let about = about("The chain itself, from genesis").query::<IntegrityQuery>();
    about.reply::<wire::Integrity>().lines::<wire::IntegrityLine>()
}

fn verified() -> About {
    about("Bytes against the ledger").query::<VerifyQuery>().lines::<wire::VerifyLine>()
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

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct VerifyQuery {
    /// Name what is as it should be, too.
    verbose: bool,
}

async fn verify_bytes(State(node): State<Arc<Node>>, uri: Uri, Asked(query): Asked<VerifyQuery>) -> Response {
    match scope(&node, &uri) {
        Ok(scope) => stream::lines(move |lines| {
            let scope = scope.as_ref().map(|(name, path)| (name, path));
            verify::run(&node, scope, query.verbose, &mut |line| lines.line(line))
        }),
        Err(error) => error.into_response(),
    }
}

async fn forget(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    let txid = String::from_utf8_lossy(&segment(&uri, 2)).into_owned();
    answer(move || node.forget(&txid)).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct IntegrityQuery {
    /// Tell how far the check is meanwhile, a line each time; the report is the last.
    progress: bool,
}

/// How often a check tells how far it is.
const TELL: Duration = Duration::from_millis(100);

async fn integrity(State(node): State<Arc<Node>>, Asked(query): Asked<IntegrityQuery>) -> Response {
    if !query.progress {
        return answer(move || node.integrity(&mut |_| ControlFlow::Continue(()))).await;
    }
    stream::lines(move |lines| {
        let mut told = Instant::now();
        let report = node.integrity(&mut |progress| {
            if told.elapsed() < TELL {
                return ControlFlow::Continue(());
            }
            told = Instant::now();
            lines.line(&wire::IntegrityLine::Progress { progress })
        })?;
        // When nobody reads the last line, nobody waits for it either.
        let _gone = lines.line(&wire::IntegrityLine::Report(report));
        Ok(())
    })
}
