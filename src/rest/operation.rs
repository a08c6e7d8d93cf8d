//! Routes for those who run the node: `/healthz`, `/readyz`, `/metrics`, `/v1/trace`; and the count of all requests.

use crate::node::Node;
use crate::rest::body::Sent;
use crate::rest::described::{Routes, about};
use crate::rest::{blocking, json, wire};
use crate::{metrics, trace};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;

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

/// The same routes, each answer counted as one of `service`.
pub(super) fn counted(routes: Router, node: &Arc<Node>, service: &'static str) -> Router {
    routes.layer(axum::middleware::from_fn_with_state((Arc::clone(node), service), count))
}

async fn count(State((node, service)): State<(Arc<Node>, &'static str)>, request: Request, next: Next) -> Response {
    let (start, method) = (Instant::now(), request.method().clone());
    let reply = next.run(request).await;
    node.counters.answered(service, method.as_str(), reply.status().as_u16(), start.elapsed());
    reply
}
