//! WebDAV at `/dav/ORIGIN`, for machines that cannot mount: the crate dav-server over the same calls of the node as every
//! other route. Reads are checked against the ledger, writes are recorded, mounted or not.

mod entry;
mod file;

use crate::error::{Error, Kind, Result};
use crate::name::{BucketName, bucket_path};
use crate::node::Node;
use crate::rest::{blocking, bucket_at, content, rest_of};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavFileSystem, DavMetaData, FsError, FsFuture, FsStream, OpenOptions, ReadDirMeta,
};
use dav_server::memls::MemLs;
use dav_server::{DavHandler, DavMethodSet};
use entry::{Meta, Named};
use futures_util::{FutureExt, StreamExt};
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
            .filesystem(Box::new(Buckets(Arc::clone(&node))))
            .locksystem(MemLs::new())
            .autoindex(false)
            .build_handler();
        Dav { handler, node }
    }
}

/// Whether a request is WebDAV's.
pub(super) fn is_dav(path: &str) -> bool {
    path == PREFIX || path.starts_with("/dav/")
}

/// Answer a request of a WebDAV client. Files are sent as every download is: in checked pieces.
pub(super) async fn serve(dav: Dav, request: Request) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && let Ok(name) = bucket_at(request.uri(), 1)
        && let Ok(path) = bucket_path(&rest_of(request.uri(), 2))
        && !path.is_root()
    {
        let head = request.method() == Method::HEAD;
        let sent = content::reply(Arc::clone(&dav.node), name, path, request.headers(), false).await;
        match sent {
            Err(error) if error.kind == Kind::NotAFile => {}
            Err(error) => return error.into_response(),
            Ok(reply) if head => return reply.map(|_| Body::empty()),
            Ok(reply) => return reply,
        }
    }
    // What leads out of a bucket is refused here, before the crate makes something of it.
    if let Err(error) = bucket_path(&rest_of(request.uri(), 2)) {
        return error.into_response();
    }
    let target = request.headers().get("destination").and_then(|value| value.to_str().ok()?.parse::<Uri>().ok());
    let changes = !matches!(request.method().as_str(), "GET" | "HEAD" | "OPTIONS" | "PROPFIND" | "LOCK" | "UNLOCK");
    if changes && [Some(request.uri()), target.as_ref()].into_iter().flatten().any(is_top) {
        // To delete a folder, its files are deleted first: a bucket would be empty before it is refused.
        return Error::new(Kind::Unauthorised, "buckets are not made, moved or deleted through WebDAV").into_response();
    }
    dav.handler.handle(request).await.map(Body::new)
}

/// Whether it names the folder of buckets, or a bucket: nothing in one.
fn is_top(uri: &Uri) -> bool {
    rest_of(uri, 1).split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count() < 2
}

/// What a path of WebDAV names.
enum Place {
    /// The folder of all buckets.
    Top,
    In(BucketName, BucketPath),
}

impl Place {
    fn of(path: &DavPath) -> Result<Place> {
        let bytes = path.as_bytes();
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
    fn inside(path: &DavPath) -> Result<(BucketName, BucketPath), FsError> {
        match Place::of(path) {
            Ok(Place::In(name, path)) if !path.is_root() => Ok((name, path)),
            Ok(_) => Err(FsError::Forbidden),
            Err(error) => Err(told(&error)),
        }
    }
}

/// A failure in the words of WebDAV.
fn told(error: &Error) -> FsError {
    match error.kind {
        // A name that cannot be is not there; to make one is refused by its path's other checks.
        Kind::FileMissing | Kind::BucketUnknown | Kind::BucketName | Kind::BadPath => FsError::NotFound,
        Kind::FileExists => FsError::Exists,
        Kind::NoSpace => FsError::InsufficientStorage,
        Kind::Unsupported | Kind::NotAFile | Kind::Busy | Kind::Refused => FsError::Forbidden,
        _ => {
            tracing::warn!("for a WebDAV client: {error}");
            FsError::GeneralFailure
        }
    }
}

/// All buckets as one file system, each a folder at its top.
#[derive(Clone)]
struct Buckets(Arc<Node>);

impl Buckets {
    /// Run a call of the node on a worker thread.
    fn run<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T, FsError> + Send + 'static,
    ) -> FsFuture<'a, T> {
        let node = Arc::clone(&self.0);
        async move {
            match blocking(move || Ok(work(&node))).await {
                Ok(result) => result,
                Err(error) => Err(told(&error)),
            }
        }
        .boxed()
    }

    /// The same for what changes something in a bucket.
    fn change<'a>(
        &self,
        path: &DavPath,
        work: impl FnOnce(&Node, &BucketName, &BucketPath) -> Result<()> + Send + 'static,
    ) -> FsFuture<'a, ()> {
        let place = Place::inside(path);
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
        let (from, to) = (Place::inside(from), Place::inside(to));
        self.run(move |node| {
            let (from, to) = (from?, to?);
            work(node, (&from.0, &from.1), (&to.0, &to.1))
        })
    }
}

impl DavFileSystem for Buckets {
    fn open<'a>(&'a self, path: &'a DavPath, options: OpenOptions) -> FsFuture<'a, Box<dyn DavFile>> {
        async move {
            let (name, path) = Place::inside(path)?;
            if options.write || options.append {
                // What is stored replaces what was there as a whole: parts of a file are not written this way.
                if options.append || !options.truncate {
                    return Err(FsError::NotImplemented);
                }
                return file::Writing::start(Arc::clone(&self.0), name, path, &options).await;
            }
            file::Reading::open(Arc::clone(&self.0), name, path).await
        }
        .boxed()
    }

    fn read_dir<'a>(&'a self, path: &'a DavPath, _: ReadDirMeta) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        let place = Place::of(path);
        let listed = self.run(move |node| {
            let entries = match place.map_err(|error| told(&error))? {
                Place::Top => node.bucket_names().into_iter().map(|name| Named::bucket(name.as_str())).collect(),
                Place::In(name, path) => {
                    let listed = node.list(&name, &path).map_err(|error| told(&error))?;
                    listed.entries.iter().filter_map(Named::of).collect::<Vec<_>>()
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
        let place = Place::of(path);
        self.run(move |node| {
            let meta = match place.map_err(|error| told(&error))? {
                Place::Top => Meta::folder(),
                Place::In(name, path) => {
                    Meta::of(&node.entry_at(&name, &path).map_err(|error| told(&error))?).ok_or(FsError::NotFound)?
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
        self.change(path, |node, name, path| node.remove(name, path).map(drop))
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
                node.put(to.0, to.1, recorded.mode, &mut content.reader()).map(drop)
            });
            copied.map_err(|error| told(&error))
        })
    }

    fn get_quota(&self) -> FsFuture<'_, (u64, Option<u64>)> {
        self.run(|node| {
            let buckets = node.buckets().map_err(|error| told(&error))?;
            let used = buckets.iter().map(|bucket| bucket.bytes).sum::<u64>();
            let (free, _) = node.free_space().map_err(|error| told(&error))?;
            Ok((used, Some(used.saturating_add(free))))
        })
    }
}
