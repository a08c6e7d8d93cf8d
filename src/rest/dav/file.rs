//! Files as WebDAV reads and writes them: in checked pieces, and as an upload that counts when it is complete.

use super::entry::Meta;
use super::told;
use crate::error::{Error, Kind};
use crate::name::BucketName;
use crate::node::Node;
use crate::rest::body::Upload;
use crate::rest::{blocking, body, wire};
use bytes::{Buf, Bytes};
use dav_server::fs::{DavFile, DavMetaData, FsError, FsFuture, OpenOptions};
use futures_util::{FutureExt, StreamExt};
use std::io::SeekFrom;
use std::sync::Arc;
use tokio::sync::SemaphorePermit;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;
use wizefs_fs::{BucketPath, Verified};

type Result<T> = std::result::Result<T, FsError>;

/// A file that is read; used where the whole content is not sent as a download.
pub(super) struct Reading {
    content: Verified,
    meta: Meta,
    at: u64,
}

impl Reading {
    pub(super) async fn open(node: Arc<Node>, name: BucketName, path: BucketPath) -> Result<Box<dyn DavFile>> {
        let opened = blocking(move || {
            let entry = node.entry_at(&name, &path)?;
            let recorded = node.recorded(&name, &path)?;
            let (_, content) = node.open_recorded(&name, &path, recorded, false)?;
            Ok((entry, content))
        });
        let (entry, content) = opened.await.map_err(|error| told(&error))?;
        Ok(Box::new(Reading { content, meta: Meta::of(&entry, false).ok_or(FsError::NotFound)?, at: 0 }))
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("at", &self.at).finish_non_exhaustive()
    }
}

impl DavFile for Reading {
    fn metadata(&mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta = self.meta.clone();
        async move { Ok(Box::new(meta) as Box<dyn DavMetaData>) }.boxed()
    }

    fn write_buf(&mut self, _: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        async { Err(FsError::Forbidden) }.boxed()
    }

    fn write_bytes(&mut self, _: Bytes) -> FsFuture<'_, ()> {
        async { Err(FsError::Forbidden) }.boxed()
    }

    fn read_bytes(&mut self, count: usize) -> FsFuture<'_, Bytes> {
        async move {
            if self.at >= self.content.size() || count == 0 {
                return Ok(Bytes::new());
            }
            let last = self.at.saturating_add(count as u64 - 1).min(self.content.size() - 1);
            let mut pieces = self.content.pieces(self.at, last);
            let read = blocking(move || pieces.next_piece().map_err(crate::node::trouble::fs)).await;
            let piece = read.map_err(|error| told(&error))?.map(Bytes::from_owner).unwrap_or_default();
            self.at += piece.len() as u64;
            Ok(piece)
        }
        .boxed()
    }

    fn seek(&mut self, to: SeekFrom) -> FsFuture<'_, u64> {
        let size = self.content.size();
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        async move {
            self.at = at.ok_or(FsError::GeneralFailure)?;
            Ok(self.at)
        }
        .boxed()
    }

    fn flush(&mut self) -> FsFuture<'_, ()> {
        async { Ok(()) }.boxed()
    }
}

/// A file that is written: nothing is seen of it before it is complete, and nothing stays when it never is.
pub(super) struct Writing {
    /// Pieces, and then nothing: an upload that ends without that was given up.
    sender: Option<Sender<Option<Bytes>>>,
    storing: Option<JoinHandle<crate::error::Result<wire::Stored>>>,
    stored: Option<wire::Stored>,
    _place: SemaphorePermit<'static>,
}

impl Writing {
    pub(super) async fn start(
        node: Arc<Node>,
        name: BucketName,
        path: BucketPath,
        options: &OpenOptions,
    ) -> Result<Box<dyn DavFile>> {
        let place = body::place().await.map_err(|error| told(&error))?;
        let (create, create_new) = (options.create, options.create_new);
        let (at, there) = ((name.clone(), path.clone()), Arc::clone(&node));
        // The parent must be there: RFC 4918 wants 409, not folders out of nowhere.
        let looked = blocking(move || {
            let (name, path) = at;
            if let Some((parent, _)) = path.split_last()
                && !parent.is_root()
            {
                there.entry_at(&name, &parent)?;
            }
            match there.entry_at(&name, &path) {
                Ok(_) if create_new => Err(Error::new(Kind::FileExists, format!("{name}/{path} is there"))),
                Ok(entry) if entry.kind != "file" => {
                    Err(Error::new(Kind::NotAFile, format!("{name}/{path} is no file")))
                }
                Err(error) if error.kind != Kind::FileMissing || !create => Err(error),
                _ => Ok(()),
            }
        });
        looked.await.map_err(|error| told(&error))?;
        let (sender, receiver) = channel::<Option<Bytes>>(4);
        let pieces = futures_util::stream::unfold(Some(receiver), |mut receiver| async {
            match receiver.as_mut()?.recv().await {
                Some(Some(piece)) => Some((Ok(piece), receiver)),
                Some(None) => None,
                None => Some((Err("the client went away".to_owned()), None)),
            }
        });
        let mut upload = Upload::of_stream(pieces.boxed());
        let storing = tokio::task::spawn_blocking(move || {
            let stored = node.put(&name, &path, None, &mut upload);
            drop(upload);
            stored
        });
        Ok(Box::new(Writing { sender: Some(sender), storing: Some(storing), stored: None, _place: place }))
    }

    /// The end of the content: what became of it.
    async fn finish(&mut self) -> Result<()> {
        let (Some(sender), Some(storing)) = (self.sender.take(), self.storing.take()) else { return Ok(()) };
        if sender.send(None).await.is_err() {
            tracing::debug!("the storing thread has given up");
        }
        let stored = storing.await.map_err(|_| FsError::GeneralFailure)?;
        self.stored = Some(stored.map_err(|error| told(&error))?);
        Ok(())
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writing").finish_non_exhaustive()
    }
}

impl DavFile for Writing {
    fn metadata(&mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        async { Err(FsError::NotImplemented) }.boxed()
    }

    fn write_buf(&mut self, mut buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        self.write_bytes(bytes)
    }

    fn write_bytes(&mut self, bytes: Bytes) -> FsFuture<'_, ()> {
        async move {
            let sent = match &self.sender {
                Some(sender) => sender.send(Some(bytes)).await.is_ok(),
                None => false,
            };
            // The storing thread has given up; it knows why.
            if sent { Ok(()) } else { self.finish().await.and(Err(FsError::GeneralFailure)) }
        }
        .boxed()
    }

    fn read_bytes(&mut self, _: usize) -> FsFuture<'_, Bytes> {
        async { Err(FsError::Forbidden) }.boxed()
    }

    fn seek(&mut self, _: SeekFrom) -> FsFuture<'_, u64> {
        async { Err(FsError::NotImplemented) }.boxed()
    }

    fn flush(&mut self) -> FsFuture<'_, ()> {
        self.finish().boxed()
    }
}
