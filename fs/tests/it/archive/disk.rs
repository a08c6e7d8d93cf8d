//! Power cuts and kills: every step of commits is recorded, and what a disk may hold after each is tried. What was not
//! synced is dropped in any subset; what had been begun may be torn.

use super::model::Model;
use super::{IN_PLACE, WHOLE, assert_sound, in_memory, seen_by_zip, sequences, shown, tools_accept};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wizefs_fs::lz::archive::Step;
use wizefs_fs::lz::{Archive, Edits, Policy};

/// A step that owns what it speaks of.
#[derive(Debug, Clone)]
enum Done {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Append(PathBuf, u64, Vec<u8>),
    Zero(PathBuf, u64, u64),
    Truncate(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFolder,
}

impl Done {
    fn of(step: &Step<'_>) -> Self {
        match *step {
            Step::Create(path) => Self::Create(path.to_owned()),
            Step::Clone(..) => panic!("clones are not used here"),
            Step::Write(path, at, bytes) => Self::Write(path.to_owned(), at, bytes.to_vec()),
            Step::Append(path, at, bytes) => Self::Append(path.to_owned(), at, bytes.to_vec()),
            Step::Zero(path, at, len) => Self::Zero(path.to_owned(), at, len),
            Step::Truncate(path, len) => Self::Truncate(path.to_owned(), len),
            Step::Sync(path) => Self::Sync(path.to_owned()),
            Step::Rename(from, to) => Self::Rename(from.to_owned(), to.to_owned()),
            Step::Remove(path) => Self::Remove(path.to_owned()),
            Step::SyncFolder(_) => Self::SyncFolder,
        }
    }
}

/// A change of one file's bytes.
#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Truncate(u64),
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) => {
                let (at, end) = (*at as usize, *at as usize + new.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[at..end].copy_from_slice(new);
            }
            Self::Zero(at, len) => {
                let from = (*at as usize).min(bytes.len());
                let to = (*at as usize + *len as usize).min(bytes.len());
                bytes[from..to].fill(0);
            }
            Self::Truncate(len) => bytes.resize(*len as usize, 0),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    since: Vec<Change>,
}

/// Names to inodes; the names that are durable, and those that are seen.
#[derive(Debug, Clone, Default)]
struct Disk {
    inodes: Vec<Inode>,
    durable: HashMap<PathBuf, usize>,
    names: HashMap<PathBuf, usize>,
    /// Changes of names that may be lost, the later ones first.
    since: Vec<HashMap<PathBuf, usize>>,
}

impl Disk {
    fn change(&mut self, path: &Path, change: Change) {
        let inode = self.names[path];
        self.inodes[inode].since.push(change);
    }

    fn make(&mut self, step: &Done) {
        match step {
            Done::Create(path) => {
                self.inodes.push(Inode::default());
                self.names.insert(path.clone(), self.inodes.len() - 1);
                self.since.push(self.names.clone());
            }
            Done::Write(path, at, bytes) | Done::Append(path, at, bytes) => {
                self.change(path, Change::Write(*at, bytes.clone()));
            }
            Done::Zero(path, at, len) => self.change(path, Change::Zero(*at, *len)),
            Done::Truncate(path, len) => self.change(path, Change::Truncate(*len)),
            Done::Sync(path) => {
                let inode = &mut self.inodes[self.names[path]];
                let changes = std::mem::take(&mut inode.since);
                changes.iter().for_each(|change| change.make(&mut inode.durable));
            }
            Done::Rename(from, to) => {
                if let Some(inode) = self.names.remove(from) {
                    self.names.insert(to.clone(), inode);
                }
                self.since.push(self.names.clone());
            }
            Done::Remove(path) => {
                if self.names.remove(path).is_some() {
                    self.since.push(self.names.clone());
                }
            }
            Done::SyncFolder => {
                self.durable = self.names.clone();
                self.since.clear();
            }
        }
    }

    /// All files as they are seen after a kill.
    fn seen(&self) -> HashMap<PathBuf, Vec<u8>> {
        let all = |inode: &Inode| {
            let mut bytes = inode.durable.clone();
            inode.since.iter().for_each(|change| change.make(&mut bytes));
            bytes
        };
        self.names.iter().map(|(path, &inode)| (path.clone(), all(&self.inodes[inode]))).collect()
    }

    /// All files after a power cut; `chance` says which changes reached the disk.
    fn left(&self, chance: &mut impl FnMut() -> bool) -> HashMap<PathBuf, Vec<u8>> {
        let mut names = &self.durable;
        // Journals keep the order of names.
        for later in &self.since {
            if !chance() {
                break;
            }
            names = later;
        }
        let mut some = |inode: &Inode| {
            let mut bytes = inode.durable.clone();
            for change in inode.since.iter().filter(|_| chance()) {
                change.make(&mut bytes);
            }
            bytes
        };
        names.iter().map(|(path, &inode)| (path.clone(), some(&self.inodes[inode]))).collect()
    }
}

/// Where the archive of the recorded commits is, and where what is left of it is laid out.
struct Bench {
    base: PathBuf,
    trial: tempfile::TempDir,
    tried: usize,
}

impl Bench {
    fn lay_out(&mut self, files: &HashMap<PathBuf, Vec<u8>>) -> PathBuf {
        self.tried += 1;
        let folder = self.trial.path().join(self.tried.to_string());
        std::fs::create_dir_all(folder.join("a.zip.lzfs")).unwrap();
        for (path, bytes) in files {
            std::fs::write(folder.join(path.strip_prefix(&self.base).unwrap()), bytes).unwrap();
        }
        folder
    }

    /// What was left must be the archive before or after, for everybody and at once; and for us afterwards too.
    fn try_state(&mut self, files: &HashMap<PathBuf, Vec<u8>>, allowed: [&Model; 2], policy: Policy, what: &str) {
        let folder = self.lay_out(files);
        let place = folder.join("a.zip");
        let seen = seen_by_zip(&std::fs::read(&place).unwrap()).unwrap_or_else(|e| panic!("{what}: {e}"));
        // Two that differ in modes and times alone are the same to others.
        let fits: Vec<_> = allowed.iter().filter(|model| model.as_zip() == seen).collect();
        assert!(!fits.is_empty(), "{what}: neither old nor new: {:?}", seen.keys());
        if self.tried.is_multiple_of(97) && !seen.is_empty() {
            tools_accept(&place);
        }
        let archive = Archive::open_with(&place, policy, None).unwrap_or_else(|e| panic!("{what}: {e}"));
        let found = shown(&archive);
        assert!(fits.iter().any(|model| model.nodes == found), "{what}: {:?}", found.keys());
        assert_sound(&archive);
        drop(archive);
        assert!(!folder.join("a.zip.lzfs").exists(), "{what}: a note is left");
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Where a file system tears what is written behind the end, we mend it.
    fn try_torn(&mut self, disk: &Disk, step: &Done, allowed: [&Model; 2], chance: &mut impl FnMut() -> bool) {
        let Done::Append(path, at, bytes) = step else { return };
        let mut torn = disk.clone();
        let count = bytes.len().div_ceil(4096);
        for (number, part) in bytes.chunks(4096).enumerate() {
            let place = at + number as u64 * 4096;
            if chance() && !(number + 1 == count && chance()) {
                torn.change(path, Change::Write(place, part[..part.len() - usize::from(chance()) * 100].to_vec()));
            }
        }
        let folder = self.lay_out(&torn.seen());
        let archive = Archive::open_with(&folder.join("a.zip"), IN_PLACE, None).unwrap();
        let found = shown(&archive);
        assert!(allowed.iter().any(|model| model.nodes == found), "a torn end: neither old nor new");
        assert_sound(&archive);
        drop(archive);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

fn cut_power(lists: &[Edits], policy: Policy, seed: u64) {
    let dir = in_memory();
    let place = dir.path().join("a.zip");
    Archive::create(&place).unwrap();
    let steps: Arc<Mutex<Vec<Done>>> = Arc::default();
    let told = Arc::clone(&steps);
    let archive =
        Archive::open_with(&place, policy, Some(Arc::new(move |step| told.lock().push(Done::of(step))))).unwrap();
    let mut disk = Disk::default();
    disk.inodes.push(Inode { durable: std::fs::read(&place).unwrap(), since: Vec::new() });
    disk.names.insert(place.clone(), 0);
    disk.durable = disk.names.clone();
    let mut bench = Bench { base: dir.path().to_owned(), trial: in_memory(), tried: 0 };
    let mut state = seed | 1;
    let mut chance = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 63 == 0
    };
    let mut model = Model::default();
    for edits in lists {
        let before = model.clone();
        edits.0.iter().for_each(|edit| assert!(model.apply(edit)));
        archive.commit(edits).unwrap();
        let made: Vec<Done> = std::mem::take(&mut *steps.lock());
        assert!(!made.is_empty() || before == model, "changed without a step");
        for (number, step) in made.iter().enumerate() {
            bench.try_torn(&disk, step, [&before, &model], &mut chance);
            let what = format!("step {number} of {}: {}", made.len(), name(step));
            disk.make(step);
            bench.try_state(&disk.seen(), [&before, &model], policy, &what);
            for _ in 0..2 {
                bench.try_state(&disk.left(&mut chance), [&before, &model], policy, &what);
            }
        }
        assert_eq!(disk.seen()[&place], std::fs::read(&place).unwrap(), "a step was not told");
    }
}

fn name(step: &Done) -> String {
    let text = format!("{step:?}");
    text.chars().take(100).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_power_cut_leaves_in_place_is_old_or_new(lists in sequences(2..7), seed: u64) {
        cut_power(&lists, IN_PLACE, seed);
    }

    #[test]
    fn what_a_power_cut_leaves_of_a_rewrite_is_old_or_new(lists in sequences(2..5), seed: u64) {
        cut_power(&lists, WHOLE, seed);
    }
}
