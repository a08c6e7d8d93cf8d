//! [`Node`]: the one API that commands and services call. It owns the root's lock, the ledger, the open buckets, their
//! mounts and the sealer. Every method blocks; async callers use a worker thread.

mod backing;
mod buckets;
mod coins;
mod conditions;
mod described;
mod events;
mod files;
mod folders;
mod history;
mod idle;
mod keys;
mod mountpoint;
mod mounts;
mod proofs;
mod sealer;
mod search;
pub(crate) mod trouble;

pub use conditions::Conditions;
pub use events::Cursor;
pub use files::Recorded;
pub use history::{LogQuery, integrity_of_folder, rebuild_folder};
pub use mountpoint::{ALLOW_OTHERS, may_allow_other, our_mounts};
pub use search::SearchQuery;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::metrics::Counters;
use crate::name::BucketName;
use crate::registry::Registry;
use crate::rest::wire;
use crate::root::{Root, RootLock};
use crate::wallets;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use wizefs_fs::AnyBucket;
use wizefs_ledger::{BucketId, Ledger, Space, Wallet};

/// Why this process opened the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// For one command that needs no mount.
    Command,
    /// To serve mounts and requests until its last mount is gone.
    Mounts,
    /// To serve until it is told to stop.
    Service,
}

/// The process that serves one root. See the module's text.
pub struct Node {
    root: Root,
    role: Role,
    ledger: Arc<Ledger>,
    wallet: Wallet,
    registry: Mutex<Registry>,
    /// Buckets in use; opened at the first need.
    open: Mutex<BTreeMap<BucketName, Arc<OpenBucket>>>,
    /// One bucket is opened at a time.
    opening: Mutex<()>,
    /// Create, delete, mount and unmount happen one at a time.
    lifecycle: Mutex<()>,
    /// Conditional changes happen one at a time.
    conditional: Mutex<()>,
    /// Lazily unmounted, and still served to those who use them.
    detached: Mutex<Vec<(BucketName, wizefs_fs::Mount)>>,
    sealer: sealer::Sealer,
    events: events::Events,
    /// Transfers that wait for a signature.
    prepared: coins::Prepared,
    rest: Mutex<Option<SocketAddr>>,
    grpc: Mutex<Option<SocketAddr>>,
    chain: Mutex<Option<SocketAddr>>,
    fingerprint: Mutex<Option<String>>,
    token: AtomicBool,
    /// What metrics tell besides the state.
    pub counters: Counters,
    since: SystemTime,
    stop: watch::Sender<bool>,
    /// Declared last: everything above is closed before the next node may open it.
    _lock: RootLock,
}

/// A bucket in use.
pub struct OpenBucket {
    /// Its name.
    pub name: BucketName,
    /// Its id on the ledger.
    pub id: BucketId,
    /// The file system. Replaced when a mount asks for other promises, hence the lock.
    fs: RwLock<AnyBucket>,
    /// What is behind it was there before.
    adopted: bool,
    /// Looks at the mounts since it was last used.
    unused: AtomicU32,
    /// It is not used any more. Whoever found the bucket before that may still hold it.
    closed: AtomicBool,
    options: Mutex<buckets::Promises>,
    mount: Mutex<Option<mounts::Mounted>>,
    /// Changes that its opening found, until a mount reports them.
    recovered: Mutex<u64>,
}

impl OpenBucket {
    /// The file system, which is not closed and not replaced while this is held.
    ///
    /// # Errors
    /// [`Kind::Busy`] when the bucket was closed since it was found.
    pub fn fs(&self) -> Result<RwLockReadGuard<'_, AnyBucket>> {
        self.is_used();
        let fs = self.fs.read();
        if self.closed.load(Ordering::Acquire) {
            let error = Error::new(Kind::Busy, format!("{} was closed this moment", self.name));
            return Err(error.hint("try again"));
        }
        Ok(fs)
    }

    /// As [`OpenBucket::fs`], where nobody is to be waited for.
    fn fs_at_once(&self) -> Option<RwLockReadGuard<'_, AnyBucket>> {
        self.fs.try_read().filter(|_| !self.closed.load(Ordering::Acquire))
    }
}

impl Node {
    /// Open the root whose `lock` is held: folders, keys and ledger, made on first use. `phase` hears what takes long.
    ///
    /// # Errors
    /// Configuration (20-23), the ledger (26), a full disk.
    pub fn open(config: &Config, lock: RootLock, role: Role, phase: &dyn Fn(&str)) -> Result<Arc<Node>> {
        let root = Root::new(&config.root);
        root.create()?;
        let mut registry = Registry::open(root.path())?;
        buckets::sweep(&root, &mut registry)?;
        phase("opening the ledger");
        let (ledger, wallet) = keys::open_ledger(&root, &registry, config.stamp_bits)?;
        let node = Arc::new_cyclic(|node| Node {
            sealer: sealer::Sealer::new(node.clone()),
            events: events::Events::new(),
            root,
            role,
            ledger: Arc::new(ledger),
            wallet,
            registry: Mutex::new(registry),
            open: Mutex::new(BTreeMap::new()),
            opening: Mutex::new(()),
            lifecycle: Mutex::new(()),
            conditional: Mutex::new(()),
            detached: Mutex::new(Vec::new()),
            prepared: coins::Prepared::default(),
            rest: Mutex::new(None),
            grpc: Mutex::new(None),
            chain: Mutex::new(None),
            fingerprint: Mutex::new(None),
            token: AtomicBool::new(false),
            counters: Counters::default(),
            since: SystemTime::now(),
            stop: watch::Sender::new(false),
            _lock: lock,
        });
        node.forget_gone_mounts()?;
        node.sealer.start()?;
        Ok(node)
    }

    /// The chain.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Where everything is.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The address of the node's wallet, and its name.
    pub fn wallet(&self) -> (String, &'static str) {
        (self.wallet.address().to_string(), wallets::DEFAULT)
    }

    /// Tell where REST listens.
    pub fn set_rest(&self, address: SocketAddr) {
        *self.rest.lock() = Some(address);
    }

    /// Tell where gRPC listens.
    pub fn set_grpc(&self, address: SocketAddr) {
        *self.grpc.lock() = Some(address);
    }

    /// Tell where the chain routes listen of their own.
    pub fn set_chain(&self, address: SocketAddr) {
        *self.chain.lock() = Some(address);
    }

    /// Tell the fingerprint of the certificate that clients on TCP find.
    pub fn set_fingerprint(&self, fingerprint: String) {
        *self.fingerprint.lock() = Some(fingerprint);
    }

    /// Tell that clients on TCP are asked for a token.
    pub fn set_token(&self) {
        self.token.store(true, Ordering::Release);
    }

    /// Bytes free where the root is, and how long the node has been there.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn free_space(&self) -> Result<(u64, Duration)> {
        let space = rustix::fs::statvfs(self.root.path())
            .map_err(|e| Error::io(Kind::Root, "cannot see how much space is free", &e.into()))?;
        let uptime = self.since.elapsed().unwrap_or_default();
        Ok((space.f_bavail.saturating_mul(space.f_frsize), uptime))
    }

    /// Ask the node to end; the server sees to it.
    pub fn request_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether the node is about to end.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Changes to true when the node is asked to end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Why the node takes no writes, or does not answer the kernel, when that is so.
    pub fn problem(&self) -> Option<String> {
        if let Some(why) = self.ledger.poisoned() {
            return Some(format!("the ledger is damaged and takes no writes: {why}"));
        }
        match self.ledger.space() {
            Space::Ample => self.no_room().or_else(|| self.unanswered()),
            Space::Reserve => Some("the disk holding the ledger is almost full: only removes are taken".to_owned()),
            Space::Full => Some("the disk holding the ledger is full".to_owned()),
        }
    }

    /// What the ledger keeps for itself lets it go on where no file can be stored any more.
    fn no_room(&self) -> Option<String> {
        /// Less than this holds no file worth mentioning.
        const ROOM: u64 = 64 << 10;
        let disk = rustix::fs::statvfs(self.root.path()).ok()?;
        // Some blocks are for root alone.
        let blocks = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
        let is_full = blocks.saturating_mul(disk.f_frsize) < ROOM;
        is_full.then(|| "the disk holding the root folder is full".to_owned())
    }

    /// The node at a glance.
    ///
    /// # Errors
    /// The ledger or a bucket's configuration cannot be read.
    pub fn status(&self) -> Result<wire::Status> {
        let running = self.role != Role::Command;
        let tip = self.ledger.tip();
        let (buckets, witnessed) = (self.buckets()?, self.last_witnessed()?);
        let head_time = i64::try_from(tip.header.time_us).ok().map(wire::time);
        // A bucket that is being opened anew has nothing to tell for the moment.
        let open = self.open_buckets();
        let unsettled = open.iter().filter_map(|bucket| Some(bucket.fs_at_once()?.unsettled())).sum();
        Ok(wire::Status {
            v: wire::V,
            node: wire::NodeStatus {
                running,
                pid: running.then(std::process::id),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                rest: self.rest_address(),
                grpc: self.grpc.lock().map(|address| address.to_string()),
                chain: self.chain.lock().map(|address| address.to_string()),
                tls: self.fingerprint.lock().clone(),
                token: self.token.load(Ordering::Acquire),
                since: running.then(|| jiff::Timestamp::try_from(self.since).unwrap_or_default().to_string()),
                problem: self.problem(),
            },
            ledger: wire::LedgerStatus {
                chain: self.ledger.chain_id().to_string(),
                vkey: self.ledger.vkey(),
                height: tip.header.height,
                head: tip.hash().to_string(),
                head_time,
                transactions: self.ledger.size(),
                witnessed: witnessed.as_ref().map(|last| last.size),
                witnessed_root: witnessed.as_ref().and_then(|last| last.root.clone()),
                witnessed_time: witnessed.and_then(|last| last.time),
                pending: self.ledger.pending().count(),
                unsettled,
            },
            buckets,
            requests: self.requests(),
        })
    }

    /// Seal what is pending now; afterwards everything submitted before the call is final.
    ///
    /// # Errors
    /// The data could not be made durable, or the block not be written.
    pub fn seal(&self) -> Result<()> {
        self.sealer.seal(self)
    }

    /// End: settle, seal, close. The mounts are gone already.
    ///
    /// # Errors
    /// What could not be settled or sealed; it stays pending and is taken up at the next start.
    pub fn close(&self) -> Result<()> {
        let open = self.open_buckets();
        let mut result = Ok(());
        for bucket in &open {
            result = result.and(bucket.fs.read().record().map(drop).map_err(trouble::fs));
        }
        result = result.and(self.seal());
        for bucket in &open {
            result = result.and(bucket.fs.read().close().map_err(trouble::fs));
        }
        self.open.lock().clear();
        self.sealer.end();
        result
    }

    fn rest_address(&self) -> Option<String> {
        self.rest.lock().map(|address| address.to_string())
    }

    fn open_buckets(&self) -> Vec<Arc<OpenBucket>> {
        self.open.lock().values().cloned().collect()
    }
}
