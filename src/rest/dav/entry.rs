//! What WebDAV is told of files and folders.

use crate::rest::wire;
use dav_server::fs::{DavDirEntry, DavMetaData, FsFuture, FsResult};
use futures_util::FutureExt;
use std::time::SystemTime;

/// Attributes of a file or folder.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    folder: bool,
    size: u64,
    modified: SystemTime,
    tag: Option<String>,
}

impl Meta {
    /// The folder of all buckets, or a bucket in it.
    pub(super) fn folder() -> Meta {
        Meta { folder: true, size: 0, modified: SystemTime::UNIX_EPOCH, tag: None }
    }

    /// Nothing for what WebDAV has no word for: symbolic links and special files. The entity tag is that of a download.
    pub(super) fn of(entry: &wire::Entry, quoted: bool) -> Option<Meta> {
        let folder = match entry.kind.as_str() {
            "directory" => true,
            "file" => false,
            _ => return None,
        };
        let modified = entry.modified.parse::<jiff::Timestamp>().unwrap_or_default().into();
        let tag = entry.blake3.as_ref().map(|hash| if quoted { format!("\"{hash}\"") } else { hash.clone() });
        // What a folder takes itself tells nobody how much is in it.
        let size = if folder { 0 } else { entry.size };
        Some(Meta { folder, size, modified, tag })
    }
}

impl DavMetaData for Meta {
    fn len(&self) -> u64 {
        self.size
    }

    fn modified(&self) -> FsResult<SystemTime> {
        Ok(self.modified)
    }

    fn is_dir(&self) -> bool {
        self.folder
    }

    fn etag(&self) -> Option<String> {
        self.tag.clone()
    }
}

/// An entry of a folder.
pub(super) struct Named {
    name: Vec<u8>,
    meta: Meta,
}

impl Named {
    pub(super) fn bucket(name: &str) -> Named {
        Named { name: name.as_bytes().to_vec(), meta: Meta::folder() }
    }

    /// Nothing for what WebDAV has no word for, and for names that are not UTF-8, which its XML cannot hold.
    pub(super) fn of(entry: &wire::Entry, quoted: bool) -> Option<Named> {
        if entry.path.path_b64.is_some() {
            return None;
        }
        let name = entry.path.text().rsplit('/').next()?.as_bytes().to_vec();
        Some(Named { name, meta: Meta::of(entry, quoted)? })
    }
}

impl DavDirEntry for Named {
    fn name(&self) -> Vec<u8> {
        self.name.clone()
    }

    fn metadata(&self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta = self.meta.clone();
        async move { Ok(Box::new(meta) as Box<dyn DavMetaData>) }.boxed()
    }
}
