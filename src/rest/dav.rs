//! WebDAV at `/dav/ORIGIN`, for machines that cannot mount: the crate dav-server over the same calls of the node as every
//! other route. Reads are checked against the ledger, writes are recorded, mounted or not.

mod conditions;
mod entry;
mod file;
mod locks;
mod request;

use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, bucket_path};
use crate::node::Node;
use crate::rest::body::{self, Upload};
use crate::rest::{blocking, content, failure};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavFileSystem, DavMetaData, DavProp, FsError, FsFuture, FsStream, OpenOptions, ReadDirMeta,
};
use dav_server::{DavHandler, DavMethodSet};
use entry::{Meta, Named};
use futures_util::future::ready;
use futures_util::{FutureExt, StreamExt};
use request::{Purpose, Transfer};
use std::sync::Arc;
use wizefs_fs::BucketPath;

/// Where it begins.
const PREFIX: &str = "/dav";

/// Answers everything below [`PREFIX`].
#[derive(Clone)]
pub(super) struct Dav {
    handler: DavHandler,
    node: Arc<Node>,
}

impl Dav {
    pub(super) fn new(node: Arc<Node>) -> Dav {
        let handler = DavHandler::builder()
            .strip_prefix(PREFIX)
            .methods(DavMethodSet::WEBDAV_RW)
            .locksystem(Box::new(locks::Locks::default()))
            .autoindex(false)
            .build_handler();
        Dav { handler, node }
    }
}

/// Whether a request is WebDAV's.
pub(super) fn is_dav(path: &str) -> bool {
    path == PREFIX || path.starts_with("/dav/")
}

/// Answer a request of a WebDAV client.
pub(super) async fn serve(dav: Dav, request: Request) -> Response {
    answer(dav, request).await.unwrap_or_else(IntoResponse::into_response)
}

/// What leads out of a bucket, or would make, move or delete one, is refused here, before the crate makes something of it:
/// to delete a folder, it deletes the files in it first, so a bucket would be empty before it is refused.
async fn answer(dav: Dav, mut request: Request) -> Result<Response> {
    let (method, place) = (request.method().clone(), request::place(request.uri())?);
    let changes = !matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PROPFIND" | "LOCK" | "UNLOCK");
    if changes && request::is_top(&place) {
        return Err(Error::new(Kind::Unauthorised, "buckets are not made, moved or deleted through WebDAV"));
    }
    conditions::readable(request.headers_mut())?;
    // Its tests want folders to be listed with all that is in them, for which the crate needs stack for each folder in another.
    request.headers_mut().remove("x-litmus");
    let mut purpose = Purpose::of(&method);
    let mut tops = vec![place.clone()];
    match method.as_str() {
        "GET" | "HEAD" => {
            if let Some(reply) = download(&dav.node, &place, request.headers()).await? {
                return Ok(if method == Method::HEAD { reply.map(|_| Body::empty()) } else { reply });
            }
        }
        "PUT" => match body::unfit(request.headers()) {
            Some(why) => return Ok(Upload::of_body(request.into_body()).refuse_as(why).await),
            None => request = request::measured(request),
        },
        "COPY" | "MOVE" => {
            let transfer = Transfer::of(&mut request, &place)?;
            if transfer.leaves_its_bucket() {
                let error = Error::new(Kind::Unsupported, "a file is not moved to another bucket, but can be copied");
                return Ok(failure(&error, StatusCode::BAD_GATEWAY));
            }
            tops.push(transfer.target());
            let node = Arc::clone(&dav.node);
            purpose = blocking(move || transfer.purpose(&node)).await?;
        }
        _ => request = request::harmless(request).await?,
    }
    let config = DavHandler::builder().filesystem(Box::new(Buckets { node: dav.node, purpose, tops }));
    let mut reply = dav.handler.handle_with(config, request).await.map(Body::new);
    *reply.status_mut() = status(&method, reply.status());
    Ok(reply)
}

/// The status of a reply where the crate has another one.
fn status(method: &Method, given: StatusCode) -> StatusCode {
    match (method.as_str(), given) {
        // A body that broke off is the client's mistake, not that of a server behind this one.
        ("PUT", StatusCode::BAD_GATEWAY) => StatusCode::BAD_REQUEST,
        // RFC 4918, 9.1: a folder is not listed with all that is in those in it.
        ("PROPFIND", StatusCode::NOT_IMPLEMENTED) => StatusCode::FORBIDDEN,
        (_, StatusCode::LOOP_DETECTED) => StatusCode::LOCKED,
        (_, given) => given,
    }
}

/// A file is sent as every download is: in checked pieces. Nothing, where there is no file.
async fn download(node: &Arc<Node>, place: &BucketPath, headers: &HeaderMap) -> Result<Option<Response>> {
    let Ok((name, path)) = Place::of(place.as_bytes()).and_then(Place::inside) else { return Ok(None) };
    match content::reply(Arc::clone(node), name, path, headers, false).await {
        Err(error) if error.kind == Kind::NotAFile => Ok(None),
        sent => sent.map(Some),
    }
}

/// What a path of WebDAV names.
enum Place {
    /// The folder of all buckets.
    Top,
    In(BucketName, BucketPath),
}

impl Place {
    fn of(bytes: &[u8]) -> Result<Place> {
        let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        if bytes.is_empty() {
            return Ok(Place::Top);
        }
        let cut = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
        let name = BucketName::new(&String::from_utf8_lossy(&bytes[..cut]))?;
        Ok(Place::In(name, bucket_path(bytes.get(cut + 1..).unwrap_or_default())?))
    }

    /// A place in a bucket, below its top, which may be changed.
    fn inside(self) -> Result<(BucketName, BucketPath)> {
        match self {
            Place::In(name, path) if !path.is_root() => Ok((name, path)),
            _ => Err(Error::new(Kind::Unauthorised, "that is no place in a bucket")),
        }
    }
}

/// The same, in the words of WebDAV.
fn inside(path: &DavPath) -> Result<(BucketName, BucketPath), FsError> {
    Place::of(path.as_bytes()).and_then(Place::inside).map_err(|error| told(&error))
}

/// A failure in the words of WebDAV.
fn told(error: &Error) -> FsError {
    match error.kind {
        // A name that cannot be is not there; to make one is refused by its path's other checks.
        Kind::FileMissing | Kind::BucketUnknown | Kind::BucketName | Kind::BadPath => FsError::NotFound,
        Kind::FileExists => FsError::Exists,
        Kind::NoSpace => FsError::InsufficientStorage,
        Kind::Unsupported | Kind::NotAFile | Kind::Refused | Kind::Unauthorised => FsError::Forbidden,
        // The crate has no word for it; the reply gets the right status.
        Kind::Busy => FsError::LoopDetected,
        _ => {
            tracing::warn!("for a WebDAV client: {error}");
            FsError::GeneralFailure
        }
    }
}

/// The crate goes through folders by recursion: some thousand in one another would take all of the stack, and the process
/// with it. Those that are further down than this from what a request names are not gone into.
const MOST_LEVELS: usize = 128;

/// All buckets as one file system, each a folder at its top, for one request.
#[derive(Clone)]
struct Buckets {
    node: Arc<Node>,
    purpose: Purpose,
    /// What the request names.
    tops: Vec<BucketPath>,
}

impl Buckets {
    /// Run a call of the node on a worker thread.
    fn run<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T, FsError> + Send + 'static,
    ) -> FsFuture<'a, T> {
        let node = Arc::clone(&self.node);
        async move {
            match blocking(move || Ok(work(&node))).await {
                Ok(result) => result,
                Err(error) => Err(told(&error)),
            }
        }
        .boxed()
    }

    /// Whether a folder is further down than the crate may go.
    fn is_too_deep(&self, folder: &DavPath) -> bool {
        let parts = |bytes: &[u8]| bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count();
        let folder = folder.as_bytes();
        let above = |top: &&BucketPath| folder.strip_prefix(b"/").unwrap_or(folder).starts_with(top.as_bytes());
        let top = self.tops.iter().filter(above).map(|top| parts(top.as_bytes())).max();
        parts(folder) > top.unwrap_or_default() + MOST_LEVELS
    }

    /// Whether entity tags come in quotes: as a property, while the crate puts them around those of headers itself.
    fn quotes_tags(&self) -> bool {
        matches!(self.purpose, Purpose::Properties)
    }

    /// The same for what changes something in a bucket.
    fn change<'a>(
        &self,
        path: &DavPath,
        work: impl FnOnce(&Node, &BucketName, &BucketPath) -> Result<()> + Send + 'static,
    ) -> FsFuture<'a, ()> {
        let place = inside(path);
        self.run(move |node| {
            let (name, path) = place?;
            work(node, &name, &path).map_err(|error| told(&error))
        })
    }

    /// The same for what has a source and a target in one bucket.
    fn between<'a>(
        &self,
        from: &DavPath,
        to: &DavPath,
        work: impl FnOnce(&Node, (&BucketName, &BucketPath), (&BucketName, &BucketPath)) -> Result<(), FsError>
        + Send
        + 'static,
    ) -> FsFuture<'a, ()> {
        let (from, to) = (inside(from), inside(to));
        self.run(move |node| {
            let (from, to) = (from?, to?);
            work(node, (&from.0, &from.1), (&to.0, &to.1))
        })
    }
}

impl DavFileSystem for Buckets {
    fn open<'a>(&'a self, path: &'a DavPath, mut options: OpenOptions) -> FsFuture<'a, Box<dyn DavFile>> {
        async move {
            let (name, path) = inside(path)?;
            if matches!(self.purpose, Purpose::Lock) {
                // RFC 4918 7.3: there is a file with a locked name from the beginning. The crate only opens it.
                options.create_new = true;
                let mut file = file::Writing::start(Arc::clone(&self.node), name, path, &options).await?;
                file.flush().await?;
                return Ok(file);
            }
            if options.write || options.append {
                // What is stored replaces what was there as a whole: parts of a file are not written this way.
                if options.append || !options.truncate {
                    return Err(FsError::NotImplemented);
                }
                return file::Writing::start(Arc::clone(&self.node), name, path, &options).await;
            }
            file::Reading::open(Arc::clone(&self.node), name, path).await
        }
        .boxed()
    }

    fn read_dir<'a>(&'a self, path: &'a DavPath, _: ReadDirMeta) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        if self.is_too_deep(path) {
            return ready(Err(FsError::Forbidden)).boxed();
        }
        let (place, quoted) = (Place::of(path.as_bytes()), self.quotes_tags());
        let listed = self.run(move |node| {
            let entries = match place.map_err(|error| told(&error))? {
                Place::Top => node.bucket_names().into_iter().map(|name| Named::bucket(name.as_str())).collect(),
                Place::In(name, path) => {
                    let listed = node.list(&name, &path).map_err(|error| told(&error))?;
                    listed.entries.iter().filter_map(|entry| Named::of(entry, quoted)).collect::<Vec<_>>()
                }
            };
            Ok(entries)
        });
        async move {
            let entries = listed.await?.into_iter().map(|entry| Ok(Box::new(entry) as Box<dyn DavDirEntry>));
            Ok(futures_util::stream::iter(entries).boxed() as FsStream<Box<dyn DavDirEntry>>)
        }
        .boxed()
    }

    fn metadata<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, Box<dyn DavMetaData>> {
        let (place, quoted) = (Place::of(path.as_bytes()), self.quotes_tags());
        self.run(move |node| {
            let meta = match place.map_err(|error| told(&error))? {
                Place::Top => Meta::folder(),
                Place::In(name, path) => {
                    let entry = node.entry_at(&name, &path).map_err(|error| told(&error))?;
                    Meta::of(&entry, quoted).ok_or(FsError::NotFound)?
                }
            };
            Ok(Box::new(meta) as Box<dyn DavMetaData>)
        })
    }

    fn create_dir<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        self.change(path, |node, name, path| node.make_dir(name, path))
    }

    fn remove_dir<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        self.change(path, |node, name, path| node.remove_dir(name, path))
    }

    fn remove_file<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        let kept = match &self.purpose {
            Purpose::Replace(name, path) => Some((name.clone(), path.clone())),
            _ => None,
        };
        self.change(path, move |node, name, path| match kept {
            // The crate makes room for what comes; a file gives way in the same step.
            Some(kept) if (&kept.0, &kept.1) == (name, path) => Ok(()),
            _ => node.remove(name, path).map(drop),
        })
    }

    fn rename<'a>(&'a self, from: &'a DavPath, to: &'a DavPath) -> FsFuture<'a, ()> {
        self.between(from, to, |node, from, to| match from.0 == to.0 {
            true => node.rename(from.0, from.1, to.1).map_err(|error| told(&error)),
            false => Err(FsError::IsRemote),
        })
    }

    fn copy<'a>(&'a self, from: &'a DavPath, to: &'a DavPath) -> FsFuture<'a, ()> {
        self.between(from, to, |node, from, to| {
            let copied = node.recorded(from.0, from.1).and_then(|recorded| {
                let (recorded, content) = node.open_recorded(from.0, from.1, recorded, false)?;
                node.put(to.0, to.1, Some(recorded.mode), &mut content.reader()).map(drop)
            });
            copied.map_err(|error| told(&error))
        })
    }

    /// Properties are what they are: each that a client wants to have otherwise is refused.
    fn patch_props<'a>(
        &'a self,
        _: &'a DavPath,
        patch: Vec<(bool, DavProp)>,
    ) -> FsFuture<'a, Vec<(StatusCode, DavProp)>> {
        let refused = patch.into_iter().map(|(_, property)| (StatusCode::FORBIDDEN, property));
        ready(Ok(refused.collect())).boxed()
    }

    fn get_quota(&self) -> FsFuture<'_, (u64, Option<u64>)> {
        let is_top = self.tops.iter().all(BucketPath::is_root);
        self.run(move |node| {
            let buckets = node.buckets().map_err(|error| told(&error))?;
            let used = buckets.iter().map(|bucket| bucket.bytes).sum::<u64>();
            let (free, _) = node.free_space().map_err(|error| told(&error))?;
            // What is left: the crate takes away what is used, which it takes for the size of anything but the top.
            Ok((used, Some(if is_top { used.saturating_add(free) } else { free })))
        })
    }
}
