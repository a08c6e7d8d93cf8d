//! The predecessor's routes, with its bodies: `curl -X POST localhost:13000/buckets -d '{"data":{"origin":"O"}}'`.
//!
//! Bodies are read as JSON whatever their content type, because curl sends a form's. Failures keep its
//! `{"data":{error,message,status,exitcode}}` with a fitting HTTP status.

use crate::error::{Error, Result};
use crate::name::{BucketName, bucket_path};
use crate::node::Node;
use crate::rest::{blocking, bucket_at, files, json, parse, rest_of, wire};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State as Extract};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Bytes of a JSON `put`, which is held in memory: what the predecessor's desktop sends at most, and some.
const PUT_LIMIT: usize = 160 << 20;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/", get(home))
        .route("/buckets", post(create))
        .route("/buckets/{bucket}", delete(remove))
        .route("/buckets/{bucket}/mount", post(mount))
        .route("/buckets/{bucket}/unmount", post(unmount))
        .route("/buckets/{bucket}/state", get(state))
        .route("/buckets/{bucket}/put", post(put).layer(DefaultBodyLimit::max(PUT_LIMIT)))
        .route("/buckets/{bucket}/files/{*path}", get(fetch).delete(remove_file))
}

async fn home() -> Response {
    json(&"HOME")
}

/// `{"data": ...}`, the predecessor's envelope.
#[derive(Serialize, Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Serialize, Deserialize)]
struct Origin {
    origin: String,
}

/// The answer to what succeeded; the order of the fields is the predecessor's.
#[derive(Serialize)]
struct Success {
    success: bool,
    message: String,
    bucket: Data<Origin>,
}

#[derive(Serialize)]
struct State {
    success: bool,
    created: bool,
    mounted: bool,
}

/// The answer to what failed.
#[derive(Serialize)]
struct Failure {
    error: String,
    message: String,
    status: u16,
    exitcode: u8,
}

#[derive(Deserialize)]
struct TextFile {
    name: String,
    content: String,
}

fn unwrap<T: for<'a> Deserialize<'a>>(body: &Bytes) -> Result<T> {
    parse::<Data<T>>(body).map(|envelope| envelope.data)
}

async fn create(Extract(node): Extract<Arc<Node>>, body: Bytes) -> Response {
    let made = blocking(move || {
        let origin = BucketName::new(&unwrap::<Origin>(&body)?.origin)?;
        let request = wire::Create { origin: origin.clone(), kind: None, from: None, passfile: None };
        node.create(&request, &mut |_| ControlFlow::Continue(()))?;
        Ok(origin)
    });
    reply(made.await.map(|origin| (StatusCode::CREATED, success("Bucket was created!", &origin))))
}

async fn remove(Extract(node): Extract<Arc<Node>>, uri: Uri) -> Response {
    on_bucket(uri, "Bucket was deleted!", move |name| node.delete(name, false).map(drop)).await
}

async fn mount(Extract(node): Extract<Arc<Node>>, uri: Uri) -> Response {
    on_bucket(uri, "Bucket was mounted!", move |name| node.mount(name, &wire::MountRequest::default()).map(drop)).await
}

async fn unmount(Extract(node): Extract<Arc<Node>>, uri: Uri) -> Response {
    on_bucket(uri, "Bucket was unmounted!", move |name| node.unmount(name, false).map(drop)).await
}

async fn state(Extract(node): Extract<Arc<Node>>, uri: Uri) -> Response {
    let (created, mounted) = bucket_at(&uri, 1).map_or((false, false), |name| node.bucket_state(&name));
    json(&State { success: true, created, mounted })
}

async fn put(Extract(node): Extract<Arc<Node>>, uri: Uri, body: Bytes) -> Response {
    let put = blocking(move || {
        let name = bucket_at(&uri, 1)?;
        let TextFile { name: file, content } = unwrap(&body)?;
        node.put(&name, &bucket_path(file.as_bytes())?, 0o644, &mut content.as_bytes())?;
        Ok((name, file))
    });
    reply(put.await.map(|(name, file)| (StatusCode::OK, success(&format!("File {file} was upload to Bucket!"), &name))))
}

async fn fetch(Extract(node): Extract<Arc<Node>>, uri: Uri) -> Response {
    let fetched = blocking(move || {
        let path = bucket_path(&rest_of(&uri, 3))?;
        Ok((node.get(&bucket_at(&uri, 1)?, &path)?, path))
    });
    match fetched.await {
        Ok((fetched, path)) => {
            let mut reply = files::content(fetched);
            let last = path.split_last().map(|(_, name)| name.to_string_lossy().into_owned()).unwrap_or_default();
            let plain: String = last.chars().map(|c| if c.is_ascii_graphic() && c != '"' { c } else { '_' }).collect();
            if let Ok(value) = format!("attachment; filename=\"{plain}\"").parse() {
                reply.headers_mut().insert(header::CONTENT_DISPOSITION, value);
            }
            reply
        }
        Err(error) => failure(&error),
    }
}

async fn remove_file(Extract(node): Extract<Arc<Node>>, uri: Uri) -> Response {
    let removed = blocking(move || {
        let (name, path) = (bucket_at(&uri, 1)?, bucket_path(&rest_of(&uri, 3))?);
        node.remove(&name, &path)?;
        Ok((name, path))
    });
    let reply_of = |(name, path)| (StatusCode::OK, success(&format!("File {path} was removed from Bucket!"), &name));
    reply(removed.await.map(reply_of))
}

async fn on_bucket(uri: Uri, message: &str, work: impl FnOnce(&BucketName) -> Result<()> + Send + 'static) -> Response {
    let done = blocking(move || {
        let name = bucket_at(&uri, 1)?;
        work(&name)?;
        Ok(name)
    });
    reply(done.await.map(|name| (StatusCode::OK, success(message, &name))))
}

fn success(message: &str, name: &BucketName) -> Success {
    let data = Data { data: Origin { origin: name.to_string() } };
    Success { success: true, message: message.to_owned(), bucket: data }
}

fn reply(result: Result<(StatusCode, Success)>) -> Response {
    match result {
        Ok((status, body)) => (status, json(&body)).into_response(),
        Err(error) => failure(&error),
    }
}

fn failure(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = format!("Error: {error}. Exit code: {}", error.kind.exit());
    let (status_number, exitcode) = (status.as_u16(), error.kind.exit());
    let data = Failure { error: error.message.clone(), message, status: status_number, exitcode };
    (status, json(&Data { data })).into_response()
}
