//! The predecessor's routes, with its bodies: `curl -X POST localhost:13000/buckets -d '{"data":{"origin":"O"}}'`.
//!
//! Bodies are read as JSON whatever their content type, because curl sends a form's. Failures keep its
//! `{"data":{error,message,status,exitcode}}` with a fitting HTTP status.

use crate::error::{Error, Result};
use crate::name::{BucketName, bucket_path};
use crate::node::Node;
use crate::rest::body::{Sent, Upload};
use crate::rest::described::{Routes, about};
use crate::rest::multipart::Form;
use crate::rest::text::{Text, TextPut};
use crate::rest::{blocking, body, bucket_at, content, files, json, rest_of, wire};
use axum::body::Body;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::sync::Arc;
use utoipa::ToSchema;

pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/", home, about("\"HOME\", or a page for people").reply::<String>())
        .post("/", home, about("\"HOME\"").reply::<String>())
        .post("/state", ping, about("Free storage in MiB and uptime in seconds").body::<Ping>().reply::<Pong>())
        .post("/buckets", create, about("Make a bucket").body::<Named>().status(201).reply::<Success>())
        .delete("/buckets/{bucket}", remove, about("Delete an unmounted bucket").reply::<Success>())
        .post("/buckets/{bucket}/mount", mount, about("Mount a bucket").reply::<Success>())
        .post("/buckets/{bucket}/unmount", unmount, about("Unmount a bucket").reply::<Success>())
        .get("/buckets/{bucket}/state", state, about("Whether it exists and is mounted").reply::<State>())
        .post(
            "/buckets/{bucket}/putfile",
            put_file,
            about("Store the file in a form").upload("multipart/form-data").reply::<Success>(),
        )
        .post("/buckets/{bucket}/put", put, about("Store a text").body::<Text>().reply::<Success>())
        .get("/buckets/{bucket}/files/{*path}", fetch, files::about_content("A file, checked against the ledger"))
        .delete("/buckets/{bucket}/files/{*path}", remove_file, about("Remove a file").reply::<Success>())
}

/// What people see who came with a browser.
const PAGE: &str = "<!doctype html><title>wizefs</title><p>This is a <b>wizefs</b> node.\
    <p><a href=\"/v1/status\">status</a> <a href=\"/v1/buckets\">buckets</a> <a href=\"/v1/log?n=100\">log</a>\
    <a href=\"/openapi.json\">all routes</a>\n";

async fn home(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") { Html(PAGE).into_response() } else { json(&"HOME") }
}

/// Whoever asks for the state knows the word.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
struct Ping {
    /// SHA-256 of `pingstorage`, in hex.
    #[serde(alias = "ping")]
    ping: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
struct Pong {
    /// MiB.
    free_storage: u64,
    /// Seconds.
    uptime: u64,
}

async fn ping(Extract(node): Extract<Arc<Node>>, sent: Sent) -> Response {
    let plain = |status: StatusCode, text: &'static str| (status, json(&text)).into_response();
    let Ok(Ping { ping }) = sent.json() else { return plain(StatusCode::BAD_REQUEST, "Bad request") };
    if !ping.eq_ignore_ascii_case(&wire::hex(&Sha256::digest(b"pingstorage"))) {
        return plain(StatusCode::FORBIDDEN, "auth required");
    }
    match blocking(move || node.free_space()).await {
        Ok((free, uptime)) => json(&Pong { free_storage: free >> 20, uptime: uptime.as_secs() }),
        Err(error) => failure(&error),
    }
}

/// A bucket in the predecessor's envelope, `{"data": ...}`. Each use of it has a type of its own: what stands in a generic one
/// would be missing in the OpenAPI document.
#[derive(Serialize, Deserialize, ToSchema)]
struct Named {
    data: Origin,
}

#[derive(Serialize, Deserialize, ToSchema)]
struct Origin {
    origin: String,
}

/// The answer to what succeeded; the order of the fields is the predecessor's.
#[derive(Serialize, ToSchema)]
struct Success {
    success: bool,
    message: String,
    bucket: Named,
}

#[derive(Serialize, ToSchema)]
struct State {
    success: bool,
    created: bool,
    mounted: bool,
}

/// The answer to what failed.
#[derive(Serialize, ToSchema)]
pub(super) struct Failed {
    data: Failure,
}

/// Why it failed.
#[derive(Serialize, ToSchema)]
struct Failure {
    error: String,
    message: String,
    status: u16,
    exitcode: u8,
}

async fn create(Extract(node): Extract<Arc<Node>>, sent: Sent) -> Response {
    let made = blocking(move || {
        let Named { data: Origin { origin } } = sent.json()?;
        let origin = BucketName::new(&origin)?;
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

async fn put(Extract(node): Extract<Arc<Node>>, uri: Uri, content: Body) -> Response {
    let _place = match body::place().await {
        Ok(place) => place,
        Err(error) => return failure(&error),
    };
    let mut upload = Upload::of_body(content);
    let put = blocking(move || {
        let stored = put_text(&node, &uri, &mut upload);
        upload.settle(stored)
    });
    reply(put.await.map(|(name, file)| (StatusCode::OK, uploaded(&name, &file))))
}

fn put_text(node: &Node, uri: &Uri, upload: &mut Upload) -> Result<(BucketName, String)> {
    let name = bucket_at(uri, 1)?;
    let mut text = TextPut::open(upload)?;
    let path = bucket_path(text.name.as_bytes())?;
    let stored = node.put(&name, &path, None, &mut text);
    match text.fault() {
        Some(fault) => Err(fault),
        None => stored.map(|_| (name, text.name)),
    }
}

async fn put_file(Extract(node): Extract<Arc<Node>>, uri: Uri, headers: HeaderMap, content: Body) -> Response {
    let _place = match body::place().await {
        Ok(place) => place,
        Err(error) => return failure(&error),
    };
    let form = match bucket_at(&uri, 1) {
        Ok(name) => Form::open(&headers, content).await.map(|form| (name, form)),
        Err(error) => Upload::of_body(content).refuse(error).await,
    };
    let (name, form) = match form {
        Ok(form) => form,
        Err(error) => return failure(&error),
    };
    let file = form.name.clone();
    let (mut upload, rest) = form.content();
    let put = blocking(move || {
        let stored = bucket_path(file.as_bytes()).and_then(|path| node.put(&name, &path, None, &mut upload));
        upload.settle(stored)?;
        Ok((name, file))
    });
    let put = put.await;
    rest.drain().await;
    reply(put.map(|(name, file)| (StatusCode::OK, uploaded(&name, &file))))
}

fn uploaded(name: &BucketName, file: &str) -> Success {
    success(&format!("File {file} was upload to Bucket!"), name)
}

async fn fetch(Extract(node): Extract<Arc<Node>>, uri: Uri, headers: HeaderMap) -> Response {
    let target = bucket_at(&uri, 1).and_then(|name| Ok((name, bucket_path(&rest_of(&uri, 3))?)));
    match target {
        Ok((name, path)) => {
            let reply = content::reply(node, name, path, &headers, false).await;
            reply.unwrap_or_else(|error| failure(&error))
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
    let data = Named { data: Origin { origin: name.to_string() } };
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
    (status, json(&Failed { data })).into_response()
}
