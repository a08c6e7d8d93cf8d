//! The table of the inodes in use.

mod room;

use super::devices::Devices;
use super::resting::Resting;
use super::{Name, Node};
use crate::error::{FsError, FsResult};
use crate::path::BucketPath;
use crate::stat::{Id, Kind, Stat, know_births};
use crate::vfs::Ino;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

fn open_path(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// The path of `name` in `dir`, as far as it is known.
fn path_to(dir: &Arc<Node>, name: &OsStr) -> Vec<u8> {
    let (mut path, mut at) = (name.as_bytes().to_vec(), dir.clone());
    while let Some(name) = at.names().into_iter().next() {
        path = [name.name.as_bytes(), b"/", &path].concat();
        at = name.parent;
    }
    path
}

#[derive(Debug)]
struct Slot {
    node: Weak<Node>,
    /// Keeps the node alive while the kernel holds lookups.
    held: Option<Arc<Node>>,
    lookups: u64,
}

/// Every inode that somebody knows of is in one of them.
#[derive(Debug, Default)]
struct Slots {
    live: HashMap<Ino, Slot>,
    resting: Resting,
}

/// Inode number to [`Node`]. A node lives while the kernel, an open handle, a child or unfinished work refers to it. Of the files
/// that the kernel alone refers to, most are kept in a few bytes.
#[derive(Debug)]
pub struct InodeTable {
    slots: RwLock<Slots>,
    root: Arc<Node>,
    devices: RwLock<Devices>,
    descriptors: Arc<AtomicUsize>,
    /// Descriptors that may stay open; less once the process was refused one.
    most: AtomicUsize,
    /// Descriptors at which those of idle nodes are closed.
    close_at: AtomicUsize,
    /// Slots at which those of nodes that are gone are looked for.
    sweep_at: AtomicUsize,
    /// Inodes forgotten since memory was last given back.
    forgotten: AtomicUsize,
    /// Devices that were found nowhere when all was last brought to the disk.
    lost: Mutex<Vec<u64>>,
}

impl Slots {
    /// Make a node of a resting file again; `None` when the file, or the directory it is in, is not known.
    fn wake(
        &mut self,
        ino: Ino,
        root: &Arc<Node>,
        devices: &[u64],
        descriptors: &Arc<AtomicUsize>,
    ) -> Option<Arc<Node>> {
        // Somebody else may have been faster.
        if let Some(slot) = self.live.get(&ino) {
            return slot.node.upgrade();
        }
        let rest = self.resting.get(ino, devices)?;
        let parent =
            if rest.parent == Ino::ROOT { Some(root.clone()) } else { self.live.get(&rest.parent)?.node.upgrade() };
        let names = vec![Name { parent: parent?, name: rest.name }];
        let node = Arc::new(Node::with((ino, rest.kind), rest.backing, rest.btime_ns, (None, names), descriptors));
        self.resting.forget(ino, u64::MAX);
        let slot = Slot { node: Arc::downgrade(&node), held: Some(node.clone()), lookups: rest.lookups };
        self.live.insert(ino, slot);
        Some(node)
    }
}

impl InodeTable {
    /// A table whose root is the directory `root`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn new(root: OwnedFd) -> FsResult<Self> {
        know_births(&root)?;
        let stat = Stat::of_fd(&root)?;
        let descriptors = Arc::default();
        let node = Arc::new(Node::new(Ino::ROOT, &stat, Some(root), &descriptors));
        Ok(Self {
            slots: RwLock::default(),
            root: node,
            devices: RwLock::new(Devices::new(stat.dev)),
            descriptors,
            most: AtomicUsize::new(room::descriptors_max()),
            close_at: AtomicUsize::new(room::descriptors_max()),
            sweep_at: AtomicUsize::new(1024),
            forgotten: AtomicUsize::new(0),
            lost: Mutex::default(),
        })
    }

    /// Know the devices below the root by what `file` keeps of earlier sessions.
    ///
    /// # Errors
    /// [`FsError::State`] for a file that is not of this kind; what reading it answers.
    pub fn keep_devices(&self, file: PathBuf) -> FsResult<()> {
        self.devices.write().keep(file, &*self.root.fd()?)
    }

    /// Bring all data and names on all devices to the disk.
    ///
    /// # Errors
    /// What `syncfs` answers, of the first device that fails; the others are synced all the same.
    pub fn sync(&self) -> FsResult<()> {
        let top = self.root.fd()?;
        let below = self.devices.read().descriptors(&top);
        let mut result = rustix::fs::syncfs(&*top);
        let (mut found, mut lost) = (Vec::new(), Vec::new());
        for device in below {
            match device.or_else(|dev| self.open_on(dev).ok_or(dev)) {
                Ok(file) => found.push(file),
                Err(dev) => lost.push(dev),
            }
        }
        let mut before = self.lost.lock();
        // Each is somewhere, but nobody has anything open on it any more: once is enough, for this brings all disks to rest.
        if lost.iter().any(|dev| !before.contains(dev)) {
            rustix::fs::sync();
        }
        *before = lost;
        drop(before);
        for device in &found {
            result = result.and(rustix::fs::syncfs(device));
        }
        result.map_err(|errno| FsError::os("sync of the backing", errno))
    }

    /// Something in use on this device, wherever that is mounted now.
    fn open_on(&self, dev: u64) -> Option<File> {
        let opens = |node: &&Arc<Node>| node.is_open() && matches!(node.kind, Kind::File | Kind::Directory);
        let nodes = self.live_nodes();
        let mut there = nodes.iter().filter(|node| node.backing.0 == dev).filter(opens);
        there.find_map(|node| node.open(OFlags::RDONLY | OFlags::NONBLOCK).ok())
    }

    /// What was at `from` is at `to`, with what is mounted in it, and the other way round if they were exchanged.
    pub fn moved(&self, from: &BucketPath, to: &BucketPath, exchanged: bool) {
        if self.devices.read().numbers().len() > 1 {
            let (from, to) = (from.as_bytes(), to.as_bytes());
            self.devices.write().moved(&[(from, to), (to, from)][..1 + usize::from(exchanged)]);
        }
    }

    /// Learn where a device begins that is not known yet.
    fn meet(&self, parent: &Arc<Node>, name: &OsStr, stat: &Stat) {
        if self.devices.read().known(stat.dev).is_none() {
            let path = path_to(parent, name);
            self.devices.write().index(stat.dev, Some(&path));
        }
    }

    /// Attributes of the open file `fd`, which may be the first of its device.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn stat_of(&self, fd: impl AsFd) -> FsResult<Stat> {
        let stat = Stat::of_fd(&fd)?;
        if self.devices.read().known(stat.dev).is_some() {
            return Ok(stat);
        }
        know_births(&fd)?;
        Stat::of_fd(fd)
    }

    /// The root directory.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// The number of the file `stat` describes.
    pub fn ino_of(&self, stat: &Stat) -> Ino {
        if (stat.dev, stat.ino) == self.root.backing {
            return Ino::ROOT;
        }
        let known = self.devices.read().numbers().iter().position(|&d| d == stat.dev);
        let device = known.unwrap_or_else(|| self.devices.write().index(stat.dev, None));
        // A second device (a mount inside an adopted directory) gets the high bits; 1 is the root's number.
        let number = stat.ino ^ ((device as u64) << 48);
        Ino(if number <= 1 { u64::MAX - number } else { number })
    }

    /// The identity of the file `stat` describes.
    pub fn id_of(&self, stat: &Stat) -> Id {
        match self.ino_of(stat) {
            Ino::ROOT => Id::ROOT,
            ino => Id::of(ino.0, stat.btime_ns),
        }
    }

    /// The node the kernel means.
    ///
    /// # Errors
    /// `ESTALE` for a number it was never given or has given back.
    pub fn get(&self, ino: Ino) -> FsResult<Arc<Node>> {
        self.keep_room();
        self.find(ino).ok_or_else(|| FsError::os("unknown inode", Errno::STALE))
    }

    /// The node with this number if it is in use.
    pub fn find(&self, ino: Ino) -> Option<Arc<Node>> {
        if ino == Ino::ROOT {
            return Some(self.root.clone());
        }
        {
            let slots = self.slots.read();
            match slots.live.get(&ino) {
                Some(slot) => return slot.node.upgrade(),
                None if !slots.resting.has(ino) => return None,
                None => {}
            }
        }
        self.slots.write().wake(ino, &self.root, self.devices.read().numbers(), &self.descriptors)
    }

    /// Find `name` in `parent` without a lookup on the kernel's behalf.
    ///
    /// # Errors
    /// What the kernel answers, `ENOENT` above all.
    pub fn open_name(&self, parent: &Arc<Node>, name: &OsStr) -> FsResult<(Arc<Node>, Stat)> {
        self.keep_room();
        let dir = parent.fd()?;
        let fd = self.relieved(|| Ok(open_path(&dir, name)?))?;
        let stat = self.stat_of(&fd)?;
        self.meet(parent, name, &stat);
        self.refuse_loop(parent, name, &stat)?;
        Ok((self.adopt(parent, name, &stat, Some(fd)), stat))
    }

    /// A directory that is mounted somewhere below itself is not entered again: it would have no end, and no path.
    fn refuse_loop(&self, parent: &Arc<Node>, name: &OsStr, stat: &Stat) -> FsResult<()> {
        let ino = self.ino_of(stat);
        let known = if stat.kind == Kind::Directory { self.find(ino) } else { None };
        // Whose name is known was looked at before.
        match known {
            Some(node) if !node.has_name(parent.ino, name) && node.is_or_holds(parent)? => {
                Err(FsError::os(format!("{} holds itself", name.display()), Errno::LOOP))
            }
            _ => Ok(()),
        }
    }

    /// As [`InodeTable::open_name`], for what is about to lose the name: a node that is in use need not be opened again.
    ///
    /// # Errors
    /// As there.
    pub fn leaving(&self, parent: &Arc<Node>, name: &OsStr) -> FsResult<(Arc<Node>, Stat)> {
        let stat = Stat::of_name(&*parent.fd()?, name)?;
        match self.find(self.ino_of(&stat)) {
            Some(node) if node.is_open() && node.is_still(&stat) => {
                node.add_name(parent, name);
                Ok((node, stat))
            }
            _ => self.open_name(parent, name),
        }
    }

    /// The node for the file at `name` in `parent`, which `stat` describes and `fd`, if given, is an `O_PATH` descriptor of.
    pub fn adopt(&self, parent: &Arc<Node>, name: &OsStr, stat: &Stat, fd: Option<OwnedFd>) -> Arc<Node> {
        let ino = self.ino_of(stat);
        if ino == Ino::ROOT {
            return self.root.clone();
        }
        let mut fd = fd;
        let node = loop {
            let known = self.find(ino);
            // Looked at outside the lock: the backing may take long to answer.
            if let Some(node) = known.as_ref().filter(|node| node.is_still(stat)) {
                if let Some(fd) = fd {
                    node.keep(fd);
                }
                break node.clone();
            }
            match self.insert(ino, stat, fd, known.as_ref()) {
                Ok(node) => break node,
                Err(unused) => fd = unused,
            }
        };
        node.add_name(parent, name);
        node
    }

    /// A new node in the place of `old`, which is another file's. The descriptor is given back when somebody else was faster.
    fn insert(
        &self,
        ino: Ino,
        stat: &Stat,
        fd: Option<OwnedFd>,
        old: Option<&Arc<Node>>,
    ) -> Result<Arc<Node>, Option<OwnedFd>> {
        let mut slots = self.slots.write();
        let known = slots.live.get(&ino).and_then(|slot| slot.node.upgrade());
        if known.is_some_and(|node| old.is_none_or(|old| !Arc::ptr_eq(old, &node))) {
            return Err(fd);
        }
        let node = Arc::new(Node::new(ino, stat, fd, &self.descriptors));
        let slot = Slot { node: Arc::downgrade(&node), held: None, lookups: 0 };
        slots.resting.forget(ino, u64::MAX);
        slots.live.insert(ino, slot);
        if slots.live.len() >= self.sweep_at.load(Ordering::Relaxed) {
            slots.live.retain(|_, slot| slot.node.strong_count() > 0);
            self.sweep_at.store(slots.live.len() * 2 + 1024, Ordering::Relaxed);
        }
        Ok(node)
    }

    /// The kernel holds one more lookup of `node`.
    pub fn hold(&self, node: &Arc<Node>) {
        if node.ino == Ino::ROOT {
            return;
        }
        let mut slots = self.slots.write();
        let new = || Slot { node: Arc::downgrade(node), held: None, lookups: 0 };
        let slot = slots.live.entry(node.ino).or_insert_with(new);
        slot.lookups += 1;
        slot.held = Some(node.clone());
    }

    /// The kernel gives lookups back.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        let mut released = None;
        {
            let mut slots = self.slots.write();
            let Some(slot) = slots.live.get_mut(&ino) else {
                let gone = slots.resting.forget(ino, lookups);
                self.forgotten.fetch_add(usize::from(gone), Ordering::Relaxed);
                return;
            };
            slot.lookups = slot.lookups.saturating_sub(lookups);
            if slot.lookups == 0 {
                released = slot.held.take();
                if released.as_ref().is_some_and(|node| Arc::strong_count(node) == 1) {
                    slots.live.remove(&ino);
                    self.forgotten.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        // Dropped outside the lock: a node may be the last to hold a chain of parents.
        drop(released);
    }

    /// Inodes in use, for status and tests.
    pub fn len(&self) -> usize {
        let slots = self.slots.read();
        slots.live.len() + slots.resting.len()
    }

    /// Whether only the root is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looked up by the kernel, as a walk does it; the number of each.
    fn look_up(table: &InodeTable, count: usize) -> Vec<Ino> {
        let name = |i: usize| format!("file-{i}");
        let looked_up = (0..count).map(|i| {
            let (node, _) = table.open_name(table.root(), OsStr::new(&name(i))).unwrap();
            table.hold(&node);
            node.ino
        });
        looked_up.collect()
    }

    fn resting(table: &InodeTable) -> usize {
        table.slots.read().resting.len()
    }

    #[test]
    fn what_only_the_kernel_knows_rests_and_wakes_and_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..100 {
            File::create(dir.path().join(format!("file-{i}"))).unwrap();
        }
        let table = InodeTable::new(File::open(dir.path()).unwrap().into()).unwrap();
        let inos = look_up(&table, 100);
        let in_use = table.get(inos[7]).unwrap();
        let written = table.get(inos[8]).unwrap();
        written.writing.lock().writers = 1;
        drop(written);
        table.close_idle();
        assert_eq!((resting(&table), table.len()), (98, 100));

        // Known as it was, by number and by name.
        let node = table.get(inos[3]).unwrap();
        assert_eq!(table.ino_of(&node.stat().unwrap()), inos[3]);
        assert_eq!(look_up(&table, 100), inos);
        assert_eq!((resting(&table), table.len()), (0, 100));
        table.relieve();
        drop((node, in_use));

        // Two lookups of each are given back.
        for ino in &inos {
            table.forget(*ino, 1);
        }
        assert_eq!(table.len(), 100);
        for ino in &inos {
            table.forget(*ino, 1);
        }
        assert!(table.is_empty());
        assert!(table.get(inos[3]).is_err());
    }

    #[test]
    fn a_device_that_is_not_where_it_was_is_reached_by_what_is_in_use_on_it() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("file-0")).unwrap();
        let table = InodeTable::new(File::open(dir.path()).unwrap().into()).unwrap();
        let dev = table.root().backing.0;
        let check = |dev: u64, expect: bool| assert_eq!(table.open_on(dev).is_some(), expect);
        check(dev, false);
        let (node, _) = table.open_name(table.root(), OsStr::new("file-0")).unwrap();
        check(dev, true);
        check(dev + 1, false);
        drop(node);
        check(dev, false);
    }

    #[test]
    fn a_resting_file_that_is_replaced_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("file-0")).unwrap();
        let table = InodeTable::new(File::open(dir.path()).unwrap().into()).unwrap();
        let ino = look_up(&table, 1)[0];
        table.close_idle();
        assert_eq!(resting(&table), 1);
        std::fs::rename(dir.path().join("file-0"), dir.path().join("moved")).unwrap();
        File::create(dir.path().join("file-0")).unwrap();
        let old = table.get(ino).unwrap();
        assert_eq!(old.stat().unwrap_err().errno(), Errno::STALE);
        let (new, _) = table.open_name(table.root(), OsStr::new("file-0")).unwrap();
        assert_ne!(new.ino, ino);
    }
}
