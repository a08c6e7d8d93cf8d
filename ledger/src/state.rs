//! What the chain says is true now: entries, buckets, unspent outputs, author sequences.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{Label, TreePath, decode};
use crate::hash::{BucketId, Hash, TxId};
use crate::store::{Column, Direction, Read, StoreError, Visitor};
use crate::transaction::{BucketKind, Cause, Content, Evidence, FileOp, OutputRef};
use crate::wallet::PublicKey;

pub(crate) mod apply;
pub(crate) mod map;
mod node;

/// Names a directory for as long as it exists, however it is renamed. A bucket's root directory has the bucket's id;
/// any other SHA-256("wizefs dir v1\0" || txid || depth as u32 little-endian) of the transaction that made or implied it.
pub type DirectoryId = Hash;

/// What is recorded at a path.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// Format version.
    pub version: EntryVersion,
    /// The transaction that last set or moved this very entry; the next one's `prior`.
    pub txid: TxId,
    /// What it is.
    pub node: EntryNode,
}

/// Format version of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum EntryVersion {
    /// The only version so far.
    V1 = 1,
}

/// The kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum EntryNode {
    /// A file or symlink.
    Leaf(Leaf) = 0,
    /// A directory.
    Directory {
        /// Its lasting name.
        id: DirectoryId,
        /// Permission bits; none while only implied by what is in it.
        mode: Option<u32>,
    } = 1,
}

/// A file's or symlink's recorded state.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Leaf {
    /// The put or accept that recorded this content, when later ones only moved the entry; none when it is
    /// [`Entry::txid`].
    pub put: Option<TxId>,
    /// How that change came about; [`Cause::Foreign`] is not vouched for until accepted.
    pub cause: Cause,
    /// Content.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Owner when settled.
    pub uid: u32,
    /// Group when settled.
    pub gid: u32,
    /// Modification time when settled, nanoseconds since 1970 UTC.
    pub mtime_ns: i64,
    /// How it was known to be complete.
    pub evidence: Evidence,
}

impl Entry {
    /// The transaction that recorded the content (a directory: that last set or moved it).
    pub fn content_txid(&self) -> TxId {
        match &self.node {
            EntryNode::Leaf(Leaf { put: Some(put), .. }) => *put,
            _ => self.txid,
        }
    }

    /// Whether `op`, of the transaction that [`Entry::content_txid`] names, is about this entry, which is at `path`: a
    /// directory that is only implied names a transaction about something below it.
    pub fn is_stated_by(&self, op: &FileOp, path: &TreePath) -> bool {
        match (&self.node, op) {
            (EntryNode::Leaf(_), FileOp::Put(_) | FileOp::Accept(_)) => true,
            (EntryNode::Directory { mode, .. }, FileOp::Mkdir { .. }) => mode.is_some(),
            (EntryNode::Directory { .. }, op) => op.moves().into_iter().any(|(to, _)| to == path),
            (EntryNode::Leaf(_), _) => false,
        }
    }

    /// The file or symlink, unless this is a directory.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.node {
            EntryNode::Leaf(leaf) => Some(leaf),
            EntryNode::Directory { .. } => None,
        }
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.leaf().is_none()
    }
}

/// What is recorded of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BucketRecord {
    /// Format version, as an entry's.
    pub version: EntryVersion,
    /// Name, unique among the open ones.
    pub name: Label,
    /// Kind of file system.
    pub kind: BucketKind,
    /// Who created it; only they may state changes in it.
    pub owner: PublicKey,
    /// Permission bits of the root directory, once stated.
    pub mode: Option<u32>,
    /// Whether it is deleted.
    pub closed: bool,
}

/// A bucket as a query returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket.
    pub id: BucketId,
    /// What is recorded of it.
    pub record: BucketRecord,
    /// What is in it.
    pub counts: Counts,
}

/// How much is recorded in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Counts {
    /// Files and symlinks.
    pub files: u64,
    /// Directories, the root not among them.
    pub directories: u64,
    /// Bytes in files.
    pub bytes: u64,
}

impl Counts {
    /// Counts an entry that comes (1) or goes (-1).
    pub(crate) fn count(&mut self, entry: &Entry, by: i64) {
        match &entry.node {
            EntryNode::Directory { .. } => self.directories = self.directories.wrapping_add_signed(by),
            EntryNode::Leaf(leaf) => {
                self.files = self.files.wrapping_add_signed(by);
                if let Content::File { size, .. } = leaf.content {
                    self.bytes = self.bytes.wrapping_add_signed((size as i64).wrapping_mul(by));
                }
            }
        }
    }
}

/// Prefix of a row's key in the state map.
pub const STATE_DOMAIN: &[u8] = b"wizefs state v1\0";
/// Prefix of a directory's id.
pub const DIRECTORY_DOMAIN: &[u8] = b"wizefs dir v1\0";

/// A row of [`Column::State`]; what a transaction does is a set of them. `None` removes the row.
pub(crate) type Effect = (Vec<u8>, Option<Vec<u8>>);

/// Keys of rows: a tag, then fixed-size fields, then at most one of variable size.
pub(crate) mod row {
    use super::*;

    /// What the keys of all entries of a bucket begin with.
    pub(crate) fn entry_prefix(bucket: &BucketId) -> Vec<u8> {
        [b"e", &bucket.0[..]].concat()
    }

    pub(crate) fn entry(bucket: &BucketId, directory: &DirectoryId, name: &[u8]) -> Vec<u8> {
        [b"e", &bucket.0[..], &directory.0, name].concat()
    }

    pub(crate) fn bucket(id: &BucketId) -> Vec<u8> {
        [b"b", &id.0[..]].concat()
    }

    pub(crate) fn author(key: &PublicKey) -> Vec<u8> {
        [b"a", &key.0[..]].concat()
    }

    pub(crate) fn output(output: &OutputRef) -> Vec<u8> {
        [b"o", &output.txid.0[..], &output.index.to_be_bytes()].concat()
    }

    pub(crate) fn counts(bucket: &BucketId) -> Vec<u8> {
        [b"c", &bucket.0[..]].concat()
    }

    pub(crate) fn name(name: &Label) -> Vec<u8> {
        [b"n", name.as_str().as_bytes()].concat()
    }

    /// Stands for a row of the map that says what an erased transaction said, in a deleted bucket: nobody reads that any more,
    /// and the map's root needs no more of it than hashes.
    pub(crate) fn hidden(map_key: &Hash) -> Vec<u8> {
        [b"x", &map_key.0[..]].concat()
    }

    /// What a stored row is in the state map: key, and hash of the value. None for a row that only repeats what others say.
    pub(crate) fn in_map(row: &[u8], value: &[u8]) -> Option<(Hash, Hash)> {
        match row.split_first() {
            Some((b'x', key)) => Some((Hash(key.try_into().ok()?), Hash(value.try_into().ok()?))),
            _ => map_key(row).map(|key| (key, Hash::of(&[value]))),
        }
    }

    /// The row's key in the state map; none for counts and names, which only repeat what other rows say.
    pub(crate) fn map_key(row: &[u8]) -> Option<Hash> {
        let hashed = matches!(row.first(), Some(b'e' | b'b' | b'a' | b'o'));
        hashed.then(|| Hash::of(&[STATE_DOMAIN, row]))
    }
}

/// Id of the directory that transaction `txid` makes or implies at `depth` components below the bucket's root.
pub fn directory_id(txid: &TxId, depth: u32) -> DirectoryId {
    Hash::of(&[DIRECTORY_DOMAIN, &txid.0, &depth.to_le_bytes()])
}

/// The state as some moment sees it.
pub(crate) trait View {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the rows that start with `prefix`, in order, from `from` on, which starts with it too.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError>;
}

/// The sealed state.
pub(crate) struct Sealed<'a>(pub(crate) &'a dyn Read);

impl View for Sealed<'_> {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(Column::State, row)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.0.scan(Column::State, from, Direction::Forward, &mut |row, value| {
            if row.starts_with(prefix) { visit(row, value) } else { ControlFlow::Break(()) }
        })
    }
}

/// Rows changed but not sealed, each with the number of the pending transaction that changed it last.
pub(crate) type Overlay = BTreeMap<Vec<u8>, (Option<Vec<u8>>, u64)>;

/// A state with changes laid over it.
pub(crate) struct Layered<'a> {
    pub(crate) over: &'a Overlay,
    pub(crate) base: &'a dyn View,
}

impl View for Layered<'_> {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.over.get(row) {
            Some((value, _)) => Ok(value.clone()),
            None => self.base.get(row),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let changed = self.over.range(from.to_vec()..).take_while(|(row, _)| row.starts_with(prefix));
        let mut changed = changed.map(|(row, (value, _))| (row, value)).peekable();
        let mut stopped = false;
        self.base.scan(prefix, from, &mut |row, value| {
            // Changed rows up to this one come first; one with the same key stands in its place.
            while let Some((above, new)) = changed.next_if(|(above, _)| above.as_slice() <= row) {
                if let Some(new) = new
                    && visit(above, new).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                if above.as_slice() == row {
                    return ControlFlow::Continue(());
                }
            }
            let flow = visit(row, value);
            stopped = flow.is_break();
            flow
        })?;
        if !stopped {
            for (above, new) in changed {
                if let Some(new) = new
                    && visit(above, new).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// A state that does not change for a while, of which a row is read once however often it is asked for.
pub(crate) struct Memo<'a> {
    base: &'a dyn View,
    read: RefCell<HashMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl<'a> Memo<'a> {
    pub(crate) fn new(base: &'a dyn View) -> Memo<'a> {
        Memo { base, read: RefCell::default() }
    }
}

impl View for Memo<'_> {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.read.borrow().get(row) {
            return Ok(value.clone());
        }
        let value = self.base.get(row)?;
        self.read.borrow_mut().insert(row.to_vec(), value.clone());
        Ok(value)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.base.scan(prefix, from, visit)
    }
}

/// Decodes a stored row; a failure means damage, not bad input.
pub(crate) fn stored<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, StoreError> {
    decode(bytes).map_err(|error| StoreError::Corrupt(format!("a stored row: {error}")))
}

/// Typed reading of rows, and walking of paths.
pub(crate) struct Look<'a>(pub(crate) &'a dyn View);

/// Where a path leads.
pub(crate) struct Place {
    /// The directory it would be in, when all above it are recorded directories.
    pub(crate) directory: Option<DirectoryId>,
    /// What is recorded there.
    pub(crate) entry: Option<Entry>,
}

impl Look<'_> {
    pub(crate) fn row<T: BorshDeserialize>(&self, row: &[u8]) -> Result<Option<T>, StoreError> {
        self.0.get(row)?.map(|bytes| stored(&bytes)).transpose()
    }

    pub(crate) fn bucket(&self, id: &BucketId) -> Result<Option<BucketRecord>, StoreError> {
        self.row(&row::bucket(id))
    }

    pub(crate) fn counts(&self, id: &BucketId) -> Result<Counts, StoreError> {
        Ok(self.row(&row::counts(id))?.unwrap_or_default())
    }

    pub(crate) fn sequence(&self, author: &PublicKey) -> Result<u64, StoreError> {
        Ok(self.row(&row::author(author))?.unwrap_or_default())
    }

    pub(crate) fn named(&self, name: &Label) -> Result<Option<BucketId>, StoreError> {
        self.row(&row::name(name))
    }

    pub(crate) fn child(
        &self,
        bucket: &BucketId,
        directory: &DirectoryId,
        name: &[u8],
    ) -> Result<Option<Entry>, StoreError> {
        self.row(&row::entry(bucket, directory, name))
    }

    /// Follows a path that is not the root.
    pub(crate) fn place(&self, bucket: &BucketId, path: &TreePath) -> Result<Place, StoreError> {
        let mut directory = *bucket;
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            let entry = self.child(bucket, &directory, name)?;
            if names.peek().is_none() {
                return Ok(Place { directory: Some(directory), entry });
            }
            match entry.map(|entry| entry.node) {
                Some(EntryNode::Directory { id, .. }) => directory = id,
                _ => break,
            }
        }
        Ok(Place { directory: None, entry: None })
    }

    /// The transactions of the entries `op` touches, in the order of [`crate::FileBody`]: prior, source.
    pub(crate) fn priors(&self, bucket: &BucketId, op: &FileOp) -> Result<(Option<TxId>, Option<TxId>), StoreError> {
        let txid = |path: &TreePath| match path.is_root() {
            true => Ok(None),
            false => Ok(self.place(bucket, path)?.entry.map(|entry| entry.txid)),
        };
        let (path, other) = op.paths();
        Ok((txid(path)?, other.map(txid).transpose()?.flatten()))
    }

    /// Visits the entries in one directory, sorted by name, from the name `from` on.
    pub(crate) fn children(
        &self,
        bucket: &BucketId,
        directory: &DirectoryId,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let prefix = row::entry(bucket, directory, b"");
        let mut damage = None;
        self.0.scan(&prefix, &[&prefix, from].concat(), &mut |row, value| match stored(value) {
            Ok(entry) => visit(&row[prefix.len()..], entry),
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        })?;
        damage.map_or(Ok(()), Err)
    }
}
