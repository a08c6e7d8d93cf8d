//! `verify`: every byte of a bucket against the ledger, and the ledger's entries against what is there.
//!
//! Directory by directory, the entries of the ledger and those of the backing are merged by name. A difference is looked at
//! once more after the ledger has caught up, because programs may be at work meanwhile.

use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::node::{Node, OpenBucket, trouble};
use crate::rest::wire::{self, VerifyLine, VerifyPath, VerifyProgress, VerifySummary};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};
use std::vec::IntoIter;
use wizefs_fs::{AnyBucket, ArchiveCheck, BucketPath, Found, FoundKind, FsError};
use wizefs_ledger::{Cause, Content, Entry, EntryNode, Leaf, TreePath};

/// Progress is told at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What is told beside differences.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default)]
pub struct Tell {
    /// Each match, too.
    pub verbose: bool,
    /// How far it is, now and then.
    pub progress: bool,
}

/// Compare all buckets, one, or a path in one, and report each difference and what else is to be told; last the summary.
///
/// # Errors
/// What keeps from comparing; differences are lines.
pub fn run(
    node: &Node,
    scope: Option<(&BucketName, &BucketPath)>,
    tell: Tell,
    emit: &mut dyn FnMut(&VerifyLine) -> ControlFlow<()>,
) -> Result<()> {
    let start = Instant::now();
    let mut summary = VerifySummary { v: wire::V, ..VerifySummary::default() };
    let mut told = start;
    let scopes = match scope {
        Some((name, path)) => vec![(name.clone(), path.clone())],
        None => node.bucket_names().into_iter().map(|name| (name, BucketPath::ROOT)).collect(),
    };
    for (name, path) in scopes {
        let bucket = node.bucket(&name)?;
        let fs = bucket.fs()?;
        fs.drain().map_err(trouble::fs)?;
        let (emit, summary, told) = (&mut *emit, &mut summary, &mut told);
        let mut check = Check { node, bucket: &bucket, fs: &fs, tell, told, emit, summary };
        if check.start(&path)?.is_break() {
            return Ok(());
        }
    }
    let bad = summary.damaged + summary.missing + summary.foreign > 0;
    summary.exit = if bad { Kind::Damaged.exit() } else { 0 };
    summary.seconds = start.elapsed().as_secs_f64();
    node.counters.verified(&summary);
    // Whether the reader is still there makes no difference at the end.
    let _ended = emit(&VerifyLine::Summary(summary));
    Ok(())
}

struct Check<'a> {
    node: &'a Node,
    bucket: &'a OpenBucket,
    fs: &'a AnyBucket,
    tell: Tell,
    /// When progress was told last.
    told: &'a mut Instant,
    emit: &'a mut dyn FnMut(&VerifyLine) -> ControlFlow<()>,
    summary: &'a mut VerifySummary,
}

/// What is left to compare of a folder, by name.
struct Level {
    path: BucketPath,
    recorded: Peekable<IntoIter<(Vec<u8>, Entry)>>,
    found: Peekable<IntoIter<Found>>,
}

/// A path, and what each side has there.
type Child = (BucketPath, Option<Entry>, Option<Found>);

impl Level {
    fn new(path: BucketPath) -> Level {
        let (recorded, found) = (Vec::new().into_iter().peekable(), Vec::new().into_iter().peekable());
        Level { path, recorded, found }
    }

    fn next_child(&mut self) -> Result<Option<Child>> {
        let order = match (self.recorded.peek(), self.found.peek()) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((name, _)), Some(there)) => name.as_slice().cmp(last_name(&there.path)),
        };
        let entry = if order == Ordering::Greater { None } else { self.recorded.next() };
        let there = if order == Ordering::Less { None } else { self.found.next() };
        let path = match (&entry, &there) {
            (_, Some(there)) => there.path.clone(),
            (Some((name, _)), None) => {
                let path = self.path.join(OsStr::from_bytes(name));
                path.map_err(|e| Error::new(Kind::LedgerDamaged, e.to_string()))?
            }
            (None, None) => return Ok(None),
        };
        Ok(Some((path, entry.map(|(_, entry)| entry), there)))
    }
}

/// How a path compares.
enum Verdict {
    Ok,
    Damaged { fields: Vec<&'static str>, expected: String, found: String, ranges: Vec<(u64, u64)> },
    Missing,
    Foreign,
    Pending,
}

impl Check<'_> {
    fn start(&mut self, path: &BucketPath) -> Result<ControlFlow<()>> {
        if path.is_root() {
            return match self.archive()? {
                ControlFlow::Continue(()) => self.directory(path),
                ended => Ok(ended),
            };
        }
        let entry = self.entry(path)?;
        let found = self.fs.inspect(path).map_err(trouble::fs)?;
        if entry.is_none() && found.is_none() {
            let error = Error::new(Kind::FileMissing, format!("there is no {path} in {}", self.bucket.name));
            return Err(error.hint(format!("wizefs list {} shows what is there", self.bucket.name)));
        }
        match self.path(path, entry, found)? {
            ControlFlow::Continue(true) => self.directory(path),
            ControlFlow::Continue(false) => Ok(ControlFlow::Continue(())),
            ControlFlow::Break(()) => Ok(ControlFlow::Break(())),
        }
    }

    /// The archive behind the bucket, where there is one, against what was recorded.
    fn archive(&mut self) -> Result<ControlFlow<()>> {
        for problem in self.fs.archive_problems().map_err(trouble::fs)? {
            // What is wrong with a member's content shows when that is compared.
            if problem.path.is_some() {
                continue;
            }
            let (expected, found) = ("a whole zip archive".to_owned(), problem.what);
            let verdict = Verdict::Damaged { fields: vec!["archive"], expected, found, ranges: Vec::new() };
            let flow = self.report(&BucketPath::ROOT, None, verdict, true)?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        match self.fs.check_archive().map_err(trouble::fs)? {
            None | Some(ArchiveCheck::Same) => Ok(ControlFlow::Continue(())),
            Some(ArchiveCheck::Differs { expected, found }) => {
                let (expected, found) = (wire::hex(&expected), wire::hex(&found));
                let verdict = Verdict::Damaged { fields: vec!["archive"], expected, found, ranges: Vec::new() };
                self.report(&BucketPath::ROOT, None, verdict, true)
            }
        }
    }

    fn entry(&self, path: &BucketPath) -> Result<Option<Entry>> {
        self.node.ledger().entry(&self.bucket.id, &tree_path(path)?).map_err(trouble::ledger)
    }

    /// Compare what is in the folder at `path` and below it. There may be thousands of folders in one another.
    fn directory(&mut self, path: &BucketPath) -> Result<ControlFlow<()>> {
        let (mut levels, mut next) = (Vec::new(), Some(path.clone()));
        loop {
            if let Some(path) = next.take() {
                match self.level(&path)? {
                    ControlFlow::Continue(level) => levels.push(level),
                    ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
                }
            }
            let Some(level) = levels.last_mut() else { return Ok(ControlFlow::Continue(())) };
            let Some((path, entry, found)) = level.next_child()? else {
                levels.pop();
                continue;
            };
            match self.path(&path, entry, found)? {
                ControlFlow::Continue(true) => next = Some(path),
                ControlFlow::Continue(false) => {}
                ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
            }
        }
    }

    /// Both sides of the folder at `path`; neither of one that cannot be looked into, of which that is told.
    fn level(&mut self, path: &BucketPath) -> Result<ControlFlow<(), Level>> {
        let recorded = self.node.ledger().list(&self.bucket.id, &tree_path(path)?).map_err(trouble::ledger)?;
        let mut level = Level::new(path.clone());
        if let Some(Found { kind: FoundKind::Directory, .. }) = self.fs.inspect(path).map_err(trouble::fs)? {
            self.recognize(path);
            match self.fs.list(path) {
                Err(error) if !path.is_root() && error.is_of_one() => {
                    return Ok(match self.closed(path, &error)? {
                        ControlFlow::Continue(()) => ControlFlow::Continue(level),
                        ControlFlow::Break(()) => ControlFlow::Break(()),
                    });
                }
                found => level.found = found.map_err(trouble::fs)?.into_iter().peekable(),
            }
        }
        level.recorded = recorded.unwrap_or_default().into_iter().peekable();
        Ok(ControlFlow::Continue(level))
    }

    /// Nobody can say what is in a folder that cannot be looked into.
    fn closed(&mut self, path: &BucketPath, error: &FsError) -> Result<ControlFlow<()>> {
        let (expected, found) = ("a folder that can be read".to_owned(), error.to_string());
        let verdict = Verdict::Damaged { fields: vec!["content"], expected, found, ranges: Vec::new() };
        let entry = self.entry(path)?;
        self.report(path, entry.as_ref(), verdict, true)
    }

    /// Compare what is at `path`; whether it is a folder to look into.
    fn path(&mut self, path: &BucketPath, entry: Option<Entry>, found: Option<Found>) -> Result<ControlFlow<(), bool>> {
        if entry.is_none() && found.as_ref().is_some_and(|found| found.kind == FoundKind::Special) {
            return Ok(ControlFlow::Continue(false));
        }
        if self.progress().is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // What was in it is not looked for.
        let unreadable = found.as_ref().is_some_and(|found| found.kind == FoundKind::Unreadable);
        let is_dir = entry.as_ref().is_some_and(Entry::is_directory)
            || found.as_ref().is_some_and(|found| found.kind == FoundKind::Directory);
        let read_before = self.summary.bytes;
        let verdict = self.verdict(path, entry.as_ref(), found.as_ref())?;
        let (verdict, entry) = match verdict {
            Verdict::Ok | Verdict::Pending => (verdict, entry),
            _ => {
                self.summary.bytes = read_before;
                self.fs.drain().map_err(trouble::fs)?;
                let entry = self.entry(path)?;
                let found = self.fs.inspect(path).map_err(trouble::fs)?;
                (self.verdict(path, entry.as_ref(), found.as_ref())?, entry)
            }
        };
        Ok(match self.report(path, entry.as_ref(), verdict, is_dir)? {
            ControlFlow::Continue(()) => ControlFlow::Continue(is_dir && !unreadable),
            ControlFlow::Break(()) => ControlFlow::Break(()),
        })
    }

    /// What is at `path` is what the ledger says. Where it was restored from a copy, the bucket learns here that it is the same.
    fn recognize(&self, path: &BucketPath) {
        if let Err(error) = self.fs.recognize(path) {
            tracing::debug!(%path, %error, "not recognized");
        }
    }

    fn progress(&mut self) -> ControlFlow<()> {
        if !self.tell.progress || self.told.elapsed() < PROGRESS_INTERVAL {
            return ControlFlow::Continue(());
        }
        *self.told = Instant::now();
        let (files, bytes) = (self.summary.files, self.summary.bytes);
        (self.emit)(&VerifyLine::Progress(VerifyProgress { v: wire::V, files, bytes }))
    }

    fn verdict(&mut self, path: &BucketPath, entry: Option<&Entry>, found: Option<&Found>) -> Result<Verdict> {
        let (entry, found) = match (entry, found) {
            (None, None) => return Ok(Verdict::Ok),
            (Some(_), None) => return Ok(Verdict::Missing),
            (None, Some(found)) => {
                if found.kind != FoundKind::File {
                    return Ok(Verdict::Foreign);
                }
                if self.fs.is_pending(path) {
                    return Ok(Verdict::Pending);
                }
                return Ok(if self.fs.is_read_only() { self.unreadable(path) } else { Verdict::Foreign });
            }
            (Some(entry), Some(found)) => (entry, found),
        };
        match (&entry.node, found.kind) {
            (EntryNode::Directory { mode, .. }, FoundKind::Directory) => Ok(match mode {
                Some(mode) if *mode != found.mode => mode_differs(*mode, found.mode),
                _ => Verdict::Ok,
            }),
            (EntryNode::Leaf(leaf), FoundKind::Symlink) => {
                let verdict = symlink(leaf, found);
                if matches!(verdict, Verdict::Ok) {
                    self.recognize(path);
                }
                Ok(verdict)
            }
            (EntryNode::Leaf(leaf), FoundKind::File) => self.file(path, leaf, found),
            (node, kind) => Ok(Verdict::Damaged {
                fields: vec!["kind"],
                expected: if matches!(node, EntryNode::Directory { .. }) { "directory" } else { "file" }.to_owned(),
                found: format!("{kind:?}").to_lowercase(),
                ranges: Vec::new(),
            }),
        }
    }

    /// A member of an archive that can only be read, and that was not recorded: as a rule because it cannot be read.
    fn unreadable(&self, path: &BucketPath) -> Verdict {
        match self.fs.check_content(path, &[0; 32]) {
            Ok(_) => Verdict::Foreign,
            Err(error) => Verdict::Damaged {
                fields: vec!["content"],
                expected: "content that can be read".to_owned(),
                found: error.to_string(),
                ranges: Vec::new(),
            },
        }
    }

    fn file(&mut self, path: &BucketPath, leaf: &Leaf, found: &Found) -> Result<Verdict> {
        if self.fs.is_pending(path) {
            return Ok(Verdict::Pending);
        }
        let Content::File { size, hashes } = &leaf.content else {
            return Ok(Verdict::Damaged {
                fields: vec!["kind"],
                expected: "symlink".to_owned(),
                found: "file".to_owned(),
                ranges: Vec::new(),
            });
        };
        // Recorded while it was being written: there is nothing to compare with.
        let Some(hashes) = hashes else { return Ok(Verdict::Pending) };
        let checked = match self.fs.check_content(path, &hashes.blake3) {
            Err(error) if error.errno() == rustix::io::Errno::NOENT => return Ok(Verdict::Missing),
            // What cannot be read is not what was recorded: a member whose checksum fails, a bad block of the disk, a file of others.
            Err(error) if error.is_of_one() || error.errno() == rustix::io::Errno::IO => {
                return Ok(Verdict::Damaged {
                    fields: vec!["content"],
                    expected: wire::hex(&hashes.blake3),
                    found: error.to_string(),
                    ranges: size.checked_sub(1).map(|last| (0, last)).into_iter().collect(),
                });
            }
            checked => checked.map_err(trouble::fs)?,
        };
        self.summary.bytes += checked.size;
        let mut fields = Vec::new();
        if (checked.hashes.blake3, checked.hashes.sha256) != (hashes.blake3, hashes.sha256) {
            fields.push("content");
        }
        if checked.size != *size {
            fields.push("size");
        }
        if fields.is_empty() && leaf.mode != found.mode {
            return Ok(mode_differs(leaf.mode, found.mode));
        }
        if !fields.is_empty() {
            if leaf.mode != found.mode {
                fields.push("mode");
            }
            return Ok(Verdict::Damaged {
                fields,
                expected: wire::hex(&hashes.blake3),
                found: wire::hex(&checked.hashes.blake3),
                ranges: checked.ranges,
            });
        }
        Ok(if leaf.cause == Cause::Foreign { Verdict::Foreign } else { Verdict::Ok })
    }

    fn report(
        &mut self,
        path: &BucketPath,
        entry: Option<&Entry>,
        verdict: Verdict,
        is_dir: bool,
    ) -> Result<ControlFlow<()>> {
        let summary = &mut *self.summary;
        summary.files += u64::from(!is_dir);
        let logged = match entry {
            Some(entry) => self.node.ledger().transaction(&entry.content_txid()).map_err(trouble::ledger)?,
            None => None,
        };
        let leaf = entry.and_then(Entry::leaf);
        let mut line = VerifyPath {
            v: wire::V,
            bucket: self.bucket.name.clone(),
            path: path.into(),
            block: logged.and_then(|logged| logged.block),
            expected: leaf.and_then(expectation),
            found: None,
            fields: Vec::new(),
            ranges: Vec::new(),
            size: leaf.and_then(|leaf| match leaf.content {
                Content::File { size, .. } => Some(size),
                Content::Symlink { .. } => None,
            }),
        };
        let line = match verdict {
            Verdict::Ok => {
                summary.ok += u64::from(!is_dir);
                if !self.tell.verbose || is_dir {
                    return Ok(ControlFlow::Continue(()));
                }
                VerifyLine::Ok(line)
            }
            Verdict::Damaged { fields, expected, found, ranges } => {
                summary.damaged += 1;
                line.fields = fields.into_iter().map(str::to_owned).collect();
                (line.expected, line.found, line.ranges) = (Some(expected), Some(found), ranges);
                VerifyLine::Damaged(line)
            }
            Verdict::Missing => {
                summary.missing += 1;
                VerifyLine::Missing(line)
            }
            Verdict::Foreign => {
                summary.foreign += 1;
                VerifyLine::Foreign(line)
            }
            Verdict::Pending => {
                summary.pending += 1;
                VerifyLine::Pending(line)
            }
        };
        Ok((self.emit)(&line))
    }
}

fn tree_path(path: &BucketPath) -> Result<TreePath> {
    TreePath::new(path.as_bytes()).map_err(|e| Error::new(Kind::BadPath, e.to_string()))
}

fn last_name(path: &BucketPath) -> &[u8] {
    path.split_last().map_or(&[], |_| path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default())
}

fn mode_differs(expected: u32, found: u32) -> Verdict {
    Verdict::Damaged {
        fields: vec!["mode"],
        expected: format!("{expected:04o}"),
        found: format!("{found:04o}"),
        ranges: Vec::new(),
    }
}

fn symlink(leaf: &Leaf, found: &Found) -> Verdict {
    let there = found.target.as_deref().unwrap_or_default();
    match &leaf.content {
        Content::Symlink { target } if target == there => {
            if leaf.cause == Cause::Foreign {
                Verdict::Foreign
            } else {
                Verdict::Ok
            }
        }
        Content::Symlink { target } => Verdict::Damaged {
            fields: vec!["target"],
            expected: String::from_utf8_lossy(target).into_owned(),
            found: String::from_utf8_lossy(there).into_owned(),
            ranges: Vec::new(),
        },
        Content::File { .. } => Verdict::Damaged {
            fields: vec!["kind"],
            expected: "file".to_owned(),
            found: "symlink".to_owned(),
            ranges: Vec::new(),
        },
    }
}

fn expectation(leaf: &Leaf) -> Option<String> {
    match &leaf.content {
        Content::File { hashes, .. } => hashes.map(|hashes| wire::hex(&hashes.blake3)),
        Content::Symlink { target } => Some(String::from_utf8_lossy(target).into_owned()),
    }
}
