//! What edits do, said simply.

use std::collections::BTreeMap;
use wizefs_fs::lz::{Edit, Source};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
}

/// Paths with what is there, its permission bits and its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<Vec<u8>, (Node, u32, i64)>,
}

impl Model {
    /// Whether `edit` makes sense; then it is done.
    pub(crate) fn apply(&mut self, edit: &Edit) -> bool {
        match edit {
            Edit::Put(new) => {
                let Source::Bytes(bytes) = &new.source else { return false };
                self.put(new.path.as_bytes(), (Node::File(bytes.clone()), new.mode, new.mtime_ns))
            }
            Edit::Directory { path, mode, mtime_ns } => self.put(path.as_bytes(), (Node::Directory, *mode, *mtime_ns)),
            Edit::Symlink { path, target, mtime_ns } => {
                self.put(path.as_bytes(), (Node::Symlink(target.clone()), 0o777, *mtime_ns))
            }
            Edit::Remove(path) => {
                self.nodes.remove(path.as_bytes());
                true
            }
            Edit::Rename { from, to } => self.rename(from.as_bytes(), to.as_bytes()),
            Edit::Attributes { path, mode, mtime_ns } => match self.nodes.get_mut(path.as_bytes()) {
                Some((Node::Symlink(_), ..)) | None => false,
                Some(node) => {
                    (node.1, node.2) = (*mode, *mtime_ns);
                    true
                }
            },
        }
    }

    fn put(&mut self, path: &[u8], node: (Node, u32, i64)) -> bool {
        self.nodes.insert(path.to_vec(), node);
        true
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let prefix = [from, b"/"].concat();
        if to.starts_with(&prefix) {
            return false;
        }
        if from == to {
            return true;
        }
        let is_moved = |path: &[u8]| path == from || path.starts_with(&prefix);
        let (moved, stay): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.nodes).into_iter().partition(|(path, _)| is_moved(path));
        self.nodes = stay;
        if !moved.is_empty() {
            self.nodes.remove(to);
        }
        self.nodes.extend(moved.into_iter().map(|(path, node)| ([to, &path[from.len()..]].concat(), node)));
        true
    }

    /// Names and contents as another program sees them.
    pub(crate) fn as_zip(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let nodes = self.nodes.iter();
        nodes
            .map(|(path, (node, ..))| match node {
                Node::File(bytes) | Node::Symlink(bytes) => (path.clone(), bytes.clone()),
                Node::Directory => ([&path[..], b"/"].concat(), Vec::new()),
            })
            .collect()
    }
}
