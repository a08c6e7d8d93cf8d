//! Routes for those who run the node: `/healthz`, `/readyz`, `/metrics`, `/v1/trace`.

use crate::node::Node;
use crate::rest::body::Sent;
use crate::rest::described::{Routes, about};
use crate::rest::{blocking, json, wire};
use crate::{metrics, trace};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

pub(super) fn routes() -> Routes {
    let set = about("Trace more or less from now on").body::<wire::TraceRequest>().reply::<wire::Trace>();
    Routes::new()
        .get("/healthz", healthz, about("Whether the process answers").media("text/plain"))
        .get("/readyz", readyz, about("Whether it takes writes").media("text/plain"))
        .get("/metrics", tell, about("What Prometheus wants to know").media(metrics::MEDIA_TYPE))
        .get("/v1/trace", filter, about("How much the node traces").reply::<wire::Trace>())
        .put("/v1/trace", set_filter, set)
}

/// The process answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The node takes writes, and its mounts answer.
async fn readyz(State(node): State<Arc<Node>>) -> Response {
    match node.problem() {
        None => "ready\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

async fn tell(State(node): State<Arc<Node>>) -> Response {
    match blocking(move || metrics::text(&node)).await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn filter() -> Response {
    json(&wire::Trace { v: wire::V, filter: trace::filter() })
}

async fn set_filter(body: Sent) -> Response {
    match body.json().and_then(|wanted: wire::TraceRequest| trace::set_filter(&wanted.filter)) {
        Ok(()) => filter().await,
        Err(error) => error.into_response(),
    }
}
