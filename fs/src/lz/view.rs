//! What the archive holds, as a tree: built when it is opened, moved along with every commit.
//!
//! A node is a member, or a directory that members imply. Nodes are numbered, and a number stays with what it names when that
//! is renamed, so that the files of the stage can be tied to it.

use super::archive::{Archive, MemberId, MemberInfo};
use crate::error::FsResult;
use crate::path::BucketPath;
use crate::stat::{Id, Kind};
use std::ops::ControlFlow;

/// Number of a node.
pub(super) type Number = u32;

/// The top directory.
pub(super) const TOP: Number = 0;
/// The parent of what is in no directory: the top, and what was taken out.
const NOWHERE: Number = Number::MAX;

/// No member, and no inode: there are a million of these, so an `Option` is too much.
const NO_MEMBER: MemberId = MemberId(u64::MAX);
const NO_INODE: Id = Id(0);

/// A member or directory.
#[derive(Debug, Clone)]
struct Node {
    parent: Number,
    name: Box<[u8]>,
    kind: Kind,
    /// None for a directory without a member of its own.
    member: MemberId,
    /// The inode of the stage that stands for it, if any does.
    inode: Id,
    /// Sorted by name.
    children: Vec<Number>,
}

/// The tree of an archive.
#[derive(Debug)]
pub(super) struct View {
    nodes: Vec<Node>,
    /// Numbers of nodes that are gone for good.
    free: Vec<Number>,
}

impl View {
    /// The tree of `archive` now.
    ///
    /// # Errors
    /// What reading the directory answers.
    pub(super) fn of(archive: &Archive) -> FsResult<Self> {
        let mut view = Self::empty();
        // Most members are in the directory of the one before.
        let mut last = (BucketPath::ROOT, TOP);
        archive.members(&mut |info| {
            view.add(info, &mut last);
            ControlFlow::Continue(())
        })?;
        view.sort();
        Ok(view)
    }

    fn empty() -> Self {
        let top = Node {
            parent: NOWHERE,
            name: Box::default(),
            kind: Kind::Directory,
            member: NO_MEMBER,
            inode: Id::ROOT,
            children: Vec::new(),
        };
        Self { nodes: vec![top], free: Vec::new() }
    }

    fn add(&mut self, info: MemberInfo, last: &mut (BucketPath, Number)) {
        let Some((dir, name)) = info.path.split_last() else { return };
        if last.0 != dir {
            let mut at = TOP;
            for part in dir.components() {
                at = match self.child(at, part.as_encoded_bytes()) {
                    Some(known) => known,
                    None => self.insert(at, part.as_encoded_bytes(), Kind::Directory, None),
                };
            }
            *last = (dir, at);
        }
        let name = name.as_encoded_bytes();
        // The directory may have been implied by a member before it.
        match self.child(last.1, name).filter(|_| info.kind == Kind::Directory) {
            Some(known) => self.nodes[known as usize].member = info.id,
            None => {
                self.insert(last.1, name, info.kind, Some(info.id));
            }
        }
    }

    fn sort(&mut self) {
        for node in &mut self.nodes {
            node.children.shrink_to_fit();
        }
    }

    fn position(&self, dir: Number, name: &[u8]) -> Result<usize, usize> {
        let children = &self.nodes[dir as usize].children;
        // Archives list most names in order.
        if let Some(&last) = children.last()
            && *self.nodes[last as usize].name < *name
        {
            return Err(children.len());
        }
        children.binary_search_by(|&child| (*self.nodes[child as usize].name).cmp(name))
    }

    /// The node with this name in `dir`.
    pub(super) fn child(&self, dir: Number, name: &[u8]) -> Option<Number> {
        let at = self.position(dir, name).ok()?;
        Some(self.nodes[dir as usize].children[at])
    }

    /// What is in `dir`, sorted by name.
    pub(super) fn children(&self, dir: Number) -> &[Number] {
        &self.nodes[dir as usize].children
    }

    /// The node at `path`.
    pub(super) fn at(&self, path: &BucketPath) -> Option<Number> {
        path.components().try_fold(TOP, |at, name| self.child(at, name.as_encoded_bytes()))
    }

    /// The name of a node.
    pub(super) fn name(&self, number: Number) -> &[u8] {
        &self.nodes[number as usize].name
    }

    /// The directory a node is in; none of the top and of what was taken out.
    pub(super) fn parent(&self, number: Number) -> Option<Number> {
        Some(self.nodes[number as usize].parent).filter(|parent| *parent != NOWHERE)
    }

    /// What a node is.
    pub(super) fn kind(&self, number: Number) -> Kind {
        self.nodes[number as usize].kind
    }

    /// The content of a node; none of a directory without a member of its own.
    pub(super) fn member(&self, number: Number) -> Option<MemberId> {
        Some(self.nodes[number as usize].member).filter(|member| *member != NO_MEMBER)
    }

    /// The member of a node is another one now.
    pub(super) fn set_member(&mut self, number: Number, member: Option<MemberId>) {
        self.nodes[number as usize].member = member.unwrap_or(NO_MEMBER);
    }

    /// The inode of the stage that stands for a node.
    pub(super) fn inode(&self, number: Number) -> Option<Id> {
        Some(self.nodes[number as usize].inode).filter(|inode| *inode != NO_INODE)
    }

    /// Tie a node to an inode.
    pub(super) fn set_inode(&mut self, number: Number, inode: Option<Id>) {
        self.nodes[number as usize].inode = inode.unwrap_or(NO_INODE);
    }

    /// Whether a node can be reached from the top.
    pub(super) fn is_in(&self, number: Number) -> bool {
        number == TOP || self.parent(number).is_some_and(|parent| self.is_in(parent))
    }

    /// Where a node is.
    pub(super) fn path(&self, number: Number) -> FsResult<BucketPath> {
        let mut names = Vec::new();
        let mut at = number;
        while let Some(parent) = self.parent(at) {
            names.push(self.name(at));
            at = parent;
        }
        names.reverse();
        Ok(BucketPath::new(names.join(&b'/'))?)
    }

    /// A new node; the place must be free.
    pub(super) fn insert(&mut self, dir: Number, name: &[u8], kind: Kind, member: Option<MemberId>) -> Number {
        let member = member.unwrap_or(NO_MEMBER);
        let node = Node { parent: NOWHERE, name: name.into(), kind, member, inode: NO_INODE, children: Vec::new() };
        let number = match self.free.pop() {
            Some(number) => {
                self.nodes[number as usize] = node;
                number
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as Number - 1
            }
        };
        self.put_in(number, dir, name);
        number
    }

    /// Put a node that is nowhere at a place that must be free.
    pub(super) fn put_in(&mut self, number: Number, dir: Number, name: &[u8]) {
        let at = self.position(dir, name).unwrap_or_else(|at| at);
        self.nodes[dir as usize].children.insert(at, number);
        let node = &mut self.nodes[number as usize];
        node.parent = dir;
        if *node.name != *name {
            node.name = name.into();
        }
    }

    /// Take a node out, with all below it; where it was.
    pub(super) fn take_out(&mut self, number: Number) -> Option<(Number, Box<[u8]>)> {
        let dir = self.parent(number)?;
        let name = self.nodes[number as usize].name.clone();
        if let Ok(at) = self.position(dir, &name) {
            self.nodes[dir as usize].children.remove(at);
        }
        self.nodes[number as usize].parent = NOWHERE;
        Some((dir, name))
    }

    /// Let a node that was taken out go for good, with all below it; `each` hears of every inode tied to one.
    pub(super) fn drop_out(&mut self, number: Number, each: &mut dyn FnMut(Id)) {
        let mut left = vec![number];
        while let Some(number) = left.pop() {
            let node = &mut self.nodes[number as usize];
            node.parent = NOWHERE;
            left.append(&mut node.children);
            let inode = std::mem::replace(&mut node.inode, NO_INODE);
            if inode != NO_INODE {
                each(inode);
            }
            self.free.push(number);
        }
    }

    /// A node and all below it, parents first.
    pub(super) fn below(&self, number: Number) -> Vec<Number> {
        let mut found = vec![number];
        let mut next = 0;
        while next < found.len() {
            found.extend_from_slice(self.children(found[next]));
            next += 1;
        }
        found
    }

    /// A member by which a directory that nobody has looked into can be found again, wherever it is moved: one below it, and
    /// how many levels up from that the directory is. None for an empty one.
    pub(super) fn anchor(&self, dir: Number) -> Option<(MemberId, u32)> {
        let mut levels = vec![(dir, 0)];
        while let Some((at, depth)) = levels.pop() {
            for &child in self.children(at) {
                match self.member(child) {
                    Some(member) => return Some((member, depth + 1)),
                    None => levels.push((child, depth + 1)),
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u64) -> Option<MemberId> {
        Some(MemberId(number))
    }

    fn path(text: &str) -> BucketPath {
        BucketPath::new(text).unwrap()
    }

    #[test]
    fn a_number_stays_with_what_it_names() {
        let mut view = View::empty();
        let dir = view.insert(TOP, b"dir", Kind::Directory, None);
        let file = view.insert(dir, b"b", Kind::File, member(7));
        view.insert(dir, b"a", Kind::File, member(8));
        assert_eq!(view.children(dir).iter().map(|&n| view.name(n)).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(view.anchor(TOP), Some((MemberId(8), 2)));
        assert_eq!(view.take_out(dir), Some((TOP, b"dir"[..].into())));
        assert_eq!((view.at(&path("dir")), view.is_in(file)), (None, false));
        view.put_in(dir, TOP, b"moved");
        assert_eq!(view.at(&path("moved/b")), Some(file));
        assert_eq!(view.path(file).unwrap(), path("moved/b"));
        assert_eq!(view.below(TOP).len(), 4);
    }

    #[test]
    fn what_is_let_go_unties_its_inodes_and_its_number_is_used_again() {
        let mut view = View::empty();
        let dir = view.insert(TOP, b"dir", Kind::Directory, None);
        let file = view.insert(dir, b"f", Kind::File, member(1));
        view.set_inode(file, Some(Id(9)));
        view.take_out(dir);
        let mut untied = Vec::new();
        view.drop_out(dir, &mut |inode| untied.push(inode));
        assert_eq!(untied, [Id(9)]);
        let again = view.insert(TOP, b"x", Kind::File, None);
        assert!(again == dir || again == file);
        assert_eq!((view.inode(again), view.children(TOP)), (None, &[again][..]));
    }
}
