//! gRPC: the predecessor's calls over the one [`Node`], streams for files of any size, reflection and health.
//!
//! Calls only translate, as the routes of [`crate::rest`] do. A failure is the status of its row in [`crate::error`].

#[allow(clippy::all, unreachable_pub, reason = "made by prost and tonic")]
pub mod generated;
mod service;

use crate::connections::reached;
use crate::error::{Error, Kind};
use crate::node::Node;
use crate::rest::{Guard, body};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use generated::wize_fs_service_server::{SERVICE_NAME, WizeFsServiceServer};
use http_body_util::BodyExt;
use service::Service;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What reflection tells.
const DESCRIPTORS: &[u8] = include_bytes!("grpc/descriptors.bin");
/// Most bytes of content in one message to the node.
const MESSAGE_CONTENT: usize = 4 << 20;
/// Most bytes of content in one from it: stock clients accept 4 MiB by default, with what stands beside the content.
const REPLY_CONTENT: usize = MESSAGE_CONTENT - 1024;
/// Most bytes of one message: the content, and names.
const MESSAGE: usize = MESSAGE_CONTENT + (64 << 10);
/// How often health looks whether the node takes writes.
const LOOK: Duration = Duration::from_secs(1);

/// The services, for requests that no foreign web page caused. Health follows the node from here on.
///
/// # Errors
/// [`Kind::Internal`]: the description of the service cannot be read.
pub fn router(node: &Arc<Node>, guard: Arc<Guard>) -> Result<Router, Error> {
    let described = |e: tonic_reflection::server::Error| Error::new(Kind::Internal, format!("gRPC reflection: {e}"));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let service = WizeFsServiceServer::new(Service::new(Arc::clone(node)));
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(reporter, Arc::downgrade(node), node.stopping()));
    let routes = Routes::new(service.max_decoding_message_size(MESSAGE))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(described)?)
        // What stock clients of today still ask.
        .add_service(reflection().build_v1alpha().map_err(described)?);
    Ok(routes
        .into_axum_router()
        .layer(axum::middleware::from_fn(explain_limit))
        .layer(axum::middleware::map_request(async |request: Request| paced(request).map(unbroken)))
        .layer(axum::middleware::from_fn_with_state((Arc::clone(node), guard), check))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(node), count)))
}

/// Tell the clients of the health service whether the node takes writes, for as long as there is a node. At its end nobody
/// watches on, whom the node would wait for.
async fn report_health(
    mut reporter: HealthReporter,
    node: std::sync::Weak<Node>,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = reached(&mut stopping) => {
                for service in [SERVICE_NAME, ""] {
                    reporter.set_service_status(service, ServingStatus::NotServing).await;
                    reporter.clear_service_status(service).await;
                }
                return;
            }
        }
        let Some(node) = node.upgrade() else { return };
        let status = match node.problem() {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        };
        // The empty name is the whole server, which probes ask for.
        for service in [SERVICE_NAME, ""] {
            reporter.set_service_status(service, status).await;
        }
    }
}

/// Refuse what a foreign web page caused, who does not know the token, and whoever asks a node that ends.
async fn check(State((node, guard)): State<(Arc<Node>, Arc<Guard>)>, mut request: Request, next: Next) -> Response {
    // HTTP/2 names the host in `:authority`.
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(why) = guard.foreign(request.headers()) {
        return status(&Error::new(Kind::Unauthorised, why)).into_http();
    }
    if !guard.knows_token(request.headers()) {
        return Status::unauthenticated("this node asks for its token: send the metadata authorization: Bearer TOKEN")
            .into_http();
    }
    if node.is_stopping() {
        return status(&Error::new(Kind::Stopping, "the node is about to end")).into_http();
    }
    next.run(request).await
}

/// Count the answer; its code is gRPC's.
async fn count(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let (start, path) = (Instant::now(), request.uri().path().to_owned());
    let reply = next.run(request).await;
    // A call that succeeded says so behind its messages.
    let code = Status::from_header_map(reply.headers()).map_or(Code::Ok, |status| status.code());
    let call = path.rsplit('/').next().unwrap_or_default();
    node.counters.answered("grpc", call, u16::try_from(i32::from(code)).unwrap_or_default(), start.elapsed());
    reply
}

/// Say what to do about a message that is too large: it is refused before a call sees it.
async fn explain_limit(request: Request, next: Next) -> Response {
    let reply = next.run(request).await;
    match Status::from_header_map(reply.headers()) {
        Some(refused) if refused.code() == Code::OutOfRange => too_large().into_http(),
        _ => reply,
    }
}

/// A file comes here at the pace that REST asks for: whoever sends nothing holds a place for uploads. Questions about health and by
/// reflection may stay open.
fn paced(request: Request) -> Request {
    let is_ours = request.uri().path().trim_start_matches('/').starts_with(SERVICE_NAME);
    if is_ours { body::paced(request) } else { request }
}

/// tonic takes a request that its client cancelled for one that has ended well: half a file would be stored as the whole. So the
/// error of such a body is made one that it does not know.
fn unbroken(body: Body) -> Body {
    Body::new(body.map_err(|e| std::io::Error::other(format!("the request broke off: {e}"))))
}

fn too_large() -> Status {
    let text = "a message holds at most 4 MiB of content; PutStream and GetStream carry files of any size";
    let told = status(&Error::new(Kind::TooLarge, text).hint("use PutStream or GetStream"));
    // What tonic itself says of it.
    Status::with_metadata(Code::OutOfRange, told.message(), told.metadata().clone())
}

/// A failure as gRPC tells it: code and sentence, and what scripts and people want besides.
fn status(error: &Error) -> Status {
    if error.kind.http() >= 500 {
        tracing::warn!(kind = error.kind.name(), "{error}");
    }
    let mut more = MetadataMap::new();
    let mut tell = |name: &'static str, value: &str| {
        // Text that a header cannot hold is left out.
        if let Ok(value) = MetadataValue::try_from(value) {
            more.insert(name, value);
        }
    };
    tell("wizefs-kind", error.kind.name());
    tell("wizefs-exit", &error.kind.exit().to_string());
    tell("wizefs-hint", error.hint.as_deref().unwrap_or_default());
    Status::with_metadata(Code::from_i32(error.kind.grpc().into()), error.message.clone(), more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_the_command_line_says() {
        let missing = status(&Error::new(Kind::FileMissing, "there is no ä in docs"));
        assert_eq!((missing.code(), missing.message()), (Code::NotFound, "there is no ä in docs"));
        let told = |name: &str| missing.metadata().get(name).unwrap().to_str().unwrap();
        assert_eq!((told("wizefs-kind"), told("wizefs-exit")), ("file-missing", "11"));
        assert_eq!(told("wizefs-hint"), "wizefs list ORIGIN shows the files there are");
        assert_eq!(status(&Error::new(Kind::Signal(2), "stopped")).code(), Code::Cancelled);
    }
}
