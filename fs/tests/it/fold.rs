//! The state a stream of changes leads to, to compare with the state a tree is in.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use wizefs_fs::{BucketPath, Cause, Change, Content, FoundKind, MemorySink, Op, ZipBucket, ZipOptions};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    File { blake3: Option<[u8; 32]>, size: u64, mode: u32 },
    Symlink(Vec<u8>),
    Directory(u32),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fold(BTreeMap<Vec<u8>, Node>);

impl Fold {
    pub(crate) fn of(changes: &[Change]) -> Self {
        let mut fold = Self::default();
        for change in changes {
            if let (Cause::Put, Op::Put(put)) = (change.cause, &change.op) {
                fold.imply_parents(put.path.as_bytes());
            }
            fold.apply(&change.op);
        }
        fold
    }

    /// Only what the node stores itself comes without its directories.
    fn imply_parents(&mut self, path: &[u8]) {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.0.entry(path[..end].to_vec()).or_insert(Node::Directory(0o755));
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Put(put) | Op::Accept(put) => {
                let node = match &put.content {
                    Content::File { size, hashes } => {
                        Node::File { blake3: hashes.map(|h| h.blake3), size: *size, mode: put.mode }
                    }
                    Content::Symlink { target } => Node::Symlink(target.clone()),
                };
                self.0.insert(put.path.as_bytes().to_vec(), node);
            }
            Op::Remove { path } => {
                self.0.remove(path.as_bytes());
            }
            Op::Mkdir { path, mode } => {
                self.0.insert(path.as_bytes().to_vec(), Node::Directory(*mode));
            }
            Op::Rmdir { path } => {
                let there = self.0.remove(path.as_bytes());
                assert!(matches!(there, Some(Node::Directory(_))), "rmdir of {path} without a directory");
                assert!(self.subtree(path.as_bytes()).is_empty(), "rmdir of {path} with something in it");
            }
            Op::Rename { from, to } => {
                let moved = self.take(from.as_bytes());
                assert!(!moved.is_empty(), "rename of {from} without an entry");
                drop(self.take(to.as_bytes()));
                self.give(to.as_bytes(), moved);
            }
            Op::Exchange { a, b } => {
                let (from_a, from_b) = (self.take(a.as_bytes()), self.take(b.as_bytes()));
                assert!(!from_a.is_empty() && !from_b.is_empty(), "exchange of {a} and {b}");
                self.give(a.as_bytes(), from_b);
                self.give(b.as_bytes(), from_a);
            }
        }
    }

    fn subtree(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let prefix = [path, b"/"].concat();
        self.0.keys().filter(|key| key.starts_with(&prefix)).cloned().collect()
    }

    /// Take out what is at `path` and below; keys relative to it.
    fn take(&mut self, path: &[u8]) -> Vec<(Vec<u8>, Node)> {
        let mut taken: Vec<_> = self.0.remove(path).into_iter().map(|node| (Vec::new(), node)).collect();
        for key in self.subtree(path) {
            let node = self.0.remove(&key).unwrap();
            taken.push((key[path.len()..].to_vec(), node));
        }
        taken
    }

    fn give(&mut self, path: &[u8], nodes: Vec<(Vec<u8>, Node)>) {
        for (tail, node) in nodes {
            self.0.insert([path, &tail].concat(), node);
        }
    }

    pub(crate) fn of_tree(root: &Path) -> Self {
        let mut fold = Self::default();
        fold.walk(root, b"");
        fold
    }

    /// What a reader of archives finds, told of nothing else.
    pub(crate) fn of_archive(archive: &Path) -> Self {
        let state = tempfile::tempdir().unwrap();
        let options = ZipOptions { archive: archive.to_owned(), state: state.path().to_owned(), passphrase: None };
        let bucket = ZipBucket::open(options, Arc::<MemorySink>::default()).unwrap();
        let mut fold = Self::default();
        let mut dirs = vec![BucketPath::ROOT];
        while let Some(dir) = dirs.pop() {
            for found in bucket.list(&dir).unwrap() {
                let node = match found.kind {
                    FoundKind::Directory => Node::Directory(found.mode),
                    FoundKind::Symlink => Node::Symlink(found.target.unwrap()),
                    _ => {
                        let mut content = Vec::new();
                        bucket.open_file(&found.path).unwrap().read_to_end(&mut content).unwrap();
                        let blake3 = Some(*blake3::hash(&content).as_bytes());
                        Node::File { blake3, size: content.len() as u64, mode: found.mode }
                    }
                };
                fold.0.insert(found.path.as_bytes().to_vec(), node);
                if found.kind == FoundKind::Directory {
                    dirs.push(found.path);
                }
            }
        }
        bucket.close().unwrap();
        fold
    }

    fn walk(&mut self, dir: &Path, prefix: &[u8]) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let mut path = prefix.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            let meta = entry.metadata().unwrap();
            let mode = meta.mode() & 0o7777;
            let node = if meta.is_dir() {
                self.walk(&entry.path(), &path);
                Node::Directory(mode)
            } else if meta.is_symlink() {
                Node::Symlink(std::fs::read_link(entry.path()).unwrap().as_os_str().as_bytes().to_vec())
            } else {
                let content = std::fs::read(entry.path()).unwrap();
                let blake3 = Some(*blake3::hash(&content).as_bytes());
                Node::File { blake3, size: content.len() as u64, mode }
            };
            self.0.insert(path, node);
        }
    }
}
