//! What every request passes before its route: whether it may be asked, and whether the node still answers.

use crate::error::{Error, Kind};
use crate::node::Node;
use crate::rest::{Guard, body};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;

/// For those on TCP.
struct Public {
    node: Arc<Node>,
    guard: Arc<Guard>,
    service: &'static str,
}

/// The routes for those who need no check.
pub(super) fn private(routes: Router<Arc<Node>>, node: Arc<Node>) -> Router {
    routes.layer(from_fn_with_state(Arc::clone(&node), pass)).with_state(node)
}

/// The routes for everybody else: who may not ask is refused, slow bodies are cut off, and each answer is counted as one of
/// `service`.
pub(super) fn public(routes: Router<Arc<Node>>, node: Arc<Node>, guard: Arc<Guard>, service: &'static str) -> Router {
    let public = Arc::new(Public { node: Arc::clone(&node), guard, service });
    // One layer, not one for each: every layer costs each request some allocations.
    routes.layer(from_fn_with_state(public, check)).with_state(node)
}

async fn check(State(public): State<Arc<Public>>, request: Request, next: Next) -> Response {
    let (start, method) = (Instant::now(), request.method().clone());
    let Public { node, guard, service } = &*public;
    let reply = match guard.refusal(&request) {
        Some(refusal) => refusal,
        None => pass(State(Arc::clone(node)), body::paced(request), next).await,
    };
    node.counters.answered(service, method.as_str(), reply.status().as_u16(), start.elapsed());
    reply
}

/// Whoever asks a node that ends is told to ask the next one.
async fn pass(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    if node.is_stopping() {
        return Error::new(Kind::Stopping, "the node is about to end").into_response();
    }
    next.run(request).await
}
