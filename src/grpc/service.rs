//! The calls: names and contents in, a blocking call of the node on a worker thread, `OK` out.

use super::generated::wize_fs_service_server::WizeFsService;
use super::generated::{
    FilesystemRequest, FilesystemResponse, GetRequest, GetResponse, PutRequest, PutResponse, RemoveRequest,
    RemoveResponse,
};
use super::{MESSAGE_CONTENT, REPLY_CONTENT, status, too_large};
use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, bucket_path};
use crate::node::{Node, Recorded};
use crate::rest::{blocking, body, pieces, wire};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tonic::{Code, Request, Response, Status, Streaming};
use wizefs_fs::{BucketPath, Verified};

/// What a call that succeeded says.
const OK: &str = "OK";
/// What is wrong with a stream of several files.
const OTHER: &str = "a later message names another file than the first one";

/// The service of a node.
pub(super) struct Service {
    node: Arc<Node>,
}

type Reply<T> = Result<Response<T>, Status>;

impl Service {
    pub(super) fn new(node: Arc<Node>) -> Service {
        Service { node }
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let node = Arc::clone(&self.node);
        blocking(move || work(&node)).await.map_err(|error| status(&error))
    }

    async fn on_bucket(
        &self,
        request: Request<FilesystemRequest>,
        work: impl FnOnce(&Node, BucketName) -> Result<()> + Send + 'static,
    ) -> Reply<FilesystemResponse> {
        let origin = request.into_inner().origin;
        self.call(move |node| work(node, BucketName::new(&origin)?)).await?;
        Ok(Response::new(FilesystemResponse { executed: true, message: OK.to_owned() }))
    }

    async fn store(
        &self,
        origin: String,
        filename: String,
        mut content: impl Read + Send + 'static,
    ) -> Reply<PutResponse> {
        let _place = body::place().await.map_err(|error| status(&error))?;
        let stored = self.call(move |node| {
            let (name, path) = target(&origin, &filename)?;
            node.put(&name, &path, None, &mut content)
        });
        let txid = stored.await?.txid.unwrap_or_default();
        Ok(Response::new(PutResponse { executed: true, message: OK.to_owned(), txid }))
    }

    async fn fetch(&self, request: Request<GetRequest>) -> Result<(Recorded, Verified), Status> {
        let GetRequest { filename, origin } = request.into_inner();
        let fetched = self.call(move |node| {
            let (name, path) = target(&origin, &filename)?;
            node.get(&name, &path)
        });
        fetched.await
    }
}

fn target(origin: &str, filename: &str) -> Result<(BucketName, BucketPath)> {
    Ok((BucketName::new(origin)?, bucket_path(filename.as_bytes())?))
}

#[tonic::async_trait]
impl WizeFsService for Service {
    async fn create(&self, request: Request<FilesystemRequest>) -> Reply<FilesystemResponse> {
        let create = |node: &Node, origin| {
            let request = wire::Create { origin, kind: None, from: None, passfile: None };
            node.create(&request, &mut |_| ControlFlow::Continue(())).map(drop)
        };
        self.on_bucket(request, create).await
    }

    async fn delete(&self, request: Request<FilesystemRequest>) -> Reply<FilesystemResponse> {
        self.on_bucket(request, |node, name| node.delete(&name, false).map(drop)).await
    }

    async fn mount(&self, request: Request<FilesystemRequest>) -> Reply<FilesystemResponse> {
        let how = wire::MountRequest::default();
        self.on_bucket(request, move |node, name| node.mount(&name, &how).map(drop)).await
    }

    async fn unmount(&self, request: Request<FilesystemRequest>) -> Reply<FilesystemResponse> {
        self.on_bucket(request, |node, name| node.unmount(&name, false).map(drop)).await
    }

    async fn put(&self, request: Request<PutRequest>) -> Reply<PutResponse> {
        let PutRequest { filename, content, origin } = request.into_inner();
        if content.len() > MESSAGE_CONTENT {
            return Err(too_large());
        }
        self.store(origin, filename, std::io::Cursor::new(content)).await
    }

    async fn put_stream(&self, request: Request<Streaming<PutRequest>>) -> Reply<PutResponse> {
        let mut parts = request.into_inner();
        let first = parts.message().await.map_err(|e| broken_off(&e))?;
        let Some(first) = first else {
            return Err(Status::invalid_argument("the first message must name the file"));
        };
        let PutRequest { filename, content, origin } = first;
        let is_other = names_other(&origin, &filename);
        let fault = Arc::new(Mutex::new(None));
        let note = Arc::clone(&fault);
        // A stream that breaks off, or goes on with another file, is an error of the reader, and nothing is stored.
        let rest = parts.map(move |part| {
            let refused = match part {
                Ok(part) if is_other(&part) => status(&Error::new(Kind::Usage, OTHER).without_hint()),
                Ok(part) => return Ok(part.content),
                Err(e) => broken_off(&e),
            };
            let failed = std::io::Error::other(refused.message().to_owned());
            *note.lock() = Some(refused);
            Err(failed)
        });
        let all = stream::iter([Ok(content)]).chain(rest);
        let stored = self.store(origin, filename, SyncIoBridge::new(StreamReader::new(all))).await;
        let fault = fault.lock().take();
        fault.map_or(stored, Err)
    }

    async fn get(&self, request: Request<GetRequest>) -> Reply<GetResponse> {
        let (Recorded { stored, .. }, file) = self.fetch(request).await?;
        if stored.size > REPLY_CONTENT as u64 {
            return Err(too_large());
        }
        let read = move || {
            let mut content = Vec::new();
            file.reader().read_to_end(&mut content).map(|_| Bytes::from(content))
        };
        let content = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other).flatten()?;
        Ok(Response::new(part(content, stored.txid.unwrap_or_default())))
    }

    type GetStreamStream = BoxStream<'static, Result<GetResponse, Status>>;

    async fn get_stream(&self, request: Request<GetRequest>) -> Reply<Self::GetStreamStream> {
        let (Recorded { stored, .. }, file) = self.fetch(request).await?;
        let txid = stored.txid.unwrap_or_default();
        let (size, first) = (stored.size, part(Bytes::new(), txid.clone()));
        let parts =
            pieces::rest(file.all()).map_ok(move |piece| part(piece, txid.clone())).map_err(|error| status(&error));
        // An empty file has a part, too: whoever reads learns that it is there.
        let empty = stream::iter((size == 0).then_some(Ok(first)));
        Ok(Response::new(empty.chain(parts).boxed()))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Reply<RemoveResponse> {
        let RemoveRequest { filename, origin } = request.into_inner();
        let removed = self.call(move |node| {
            let (name, path) = target(&origin, &filename)?;
            node.remove(&name, &path)
        });
        let txid = removed.await?.txid.unwrap_or_default();
        Ok(Response::new(RemoveResponse { executed: true, message: OK.to_owned(), txid }))
    }
}

/// Why a stream ended before its time.
fn broken_off(e: &Status) -> Status {
    match e.code() {
        Code::OutOfRange => too_large(),
        _ => status(&body::broken_off(e.message())),
    }
}

/// Tells whether a message of a stream names another file than its first one; it need not name any.
fn names_other(origin: &str, filename: &str) -> impl Fn(&PutRequest) -> bool + Send + 'static + use<> {
    let first = (origin.to_owned(), filename.to_owned());
    move |part| {
        (!part.origin.is_empty() && part.origin != first.0) || (!part.filename.is_empty() && part.filename != first.1)
    }
}

fn part(content: Bytes, txid: String) -> GetResponse {
    GetResponse { executed: true, message: OK.to_owned(), content, txid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_of_one_file() {
        fn check(origin: &str, filename: &str, expect: bool) {
            let part = PutRequest { origin: origin.into(), filename: filename.into(), ..PutRequest::default() };
            assert_eq!(names_other("docs", "a")(&part), expect, "{origin} {filename}");
        }
        check("", "", false);
        check("docs", "a", false);
        check("docs", "b", true);
        check("work", "a", true);
    }
}
