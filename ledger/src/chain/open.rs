//! Opening a ledger: making genesis, or reading back what is there and judging whether it may be built on.

use super::*;
use crate::fsck::Problem;
use crate::reserve::free_space;

/// Rows of [`Column::Meta`].
pub(crate) const GENESIS: &[u8] = b"genesis";
pub(crate) const TIP: &[u8] = b"tip";
pub(crate) const LATEST_CHECKPOINT: &[u8] = b"checkpoint";
pub(crate) const FIRST_PENDING: &[u8] = b"pending";

impl OpenOptions {
    /// Options with the usual stamp and mempool, that make no new chain.
    pub fn new(wallet: Wallet, log_key: LogKey) -> OpenOptions {
        let stamp_bits = crate::block::DEFAULT_STAMP_BITS;
        OpenOptions { wallet, log_key, create: false, stamp_bits, mempool_limit: MEMPOOL_LIMIT }
    }

    /// The same, making a new chain where there is none.
    pub fn create(self) -> OpenOptions {
        OpenOptions { create: true, ..self }
    }

    fn genesis(&self) -> std::result::Result<Genesis, OpenError> {
        if self.stamp_bits > MAX_STAMP_BITS {
            return Err(OpenError::Stamp(self.stamp_bits));
        }
        Ok(Genesis {
            version: GenesisVersion::V1,
            random: random()?,
            wallet: *self.wallet.public(),
            log_key: self.log_key.public(),
            time_us: now_us(),
            emission: EMISSION,
            reward: REWARD,
            stamp_bits: self.stamp_bits,
        })
    }
}

/// The verifier key a chain's checkpoints are signed by.
pub(crate) fn verifier(genesis: &Genesis) -> Vkey {
    Vkey { name: origin(&genesis.chain_id()), key: genesis.log_key }
}

impl Ledger {
    /// Opens the ledger in `dir`, or makes one there. A damaged one opens for reading when it can be read at all and has its
    /// end; see [`Ledger::poisoned`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, options: OpenOptions) -> std::result::Result<Ledger, OpenError> {
        // A ledger that has sealed or holds anything is not made anew, whatever is missing of it.
        let is_made = tip::is_there(dir) || RocksStore::holds_rows(dir);
        if !is_made && !RocksStore::exists(dir) {
            if !options.create {
                return Err(OpenError::Absent);
            }
            std::fs::create_dir_all(dir).map_err(|error| StoreError::Io(format!("{}: {error}", dir.display())))?;
        }
        // Opening writes too.
        let reserve = Reserve::new(dir);
        if let Err(error) = reserve.ease(free_space(dir).unwrap_or(u64::MAX)) {
            tracing::warn!(%error, "cannot release the ledger's reserve");
        }
        let store = open_dir(dir, is_made).map(Arc::new).map_err(|error| match error {
            StoreError::Corrupt(reason) => OpenError::Damaged(reason),
            other => OpenError::Store(other),
        })?;
        let mut ledger = Ledger::open_store(store.clone(), options).map_err(|error| match error {
            // What holds rows had a beginning.
            OpenError::Absent => OpenError::Damaged("the genesis parameters are missing".into()),
            other => other,
        })?;
        ledger.reserve = Some(reserve);
        ledger.dir = Some(dir.to_path_buf());
        crate::fsck::sweep(dir);
        ledger.space();
        if let Err(error) = tip::make(dir, &ledger.tip()) {
            // An older one does no harm, and a full disk must not keep anybody from removing files.
            if !tip::is_there(dir) {
                return Err(OpenError::Store(StoreError::Io(format!("cannot make the tip file: {error}"))));
            }
            tracing::warn!(%error, "cannot bring the tip file up to date");
        }
        if let Some(found) = crate::fsck::noted_damage(dir) {
            ledger.judge(Some(found));
        }
        if ledger.poisoned().is_none()
            && let Err(error) = ledger.purge()
        {
            tracing::warn!(%error, "what an erased transaction said may still be on the disk");
        }
        if ledger.poisoned().is_none()
            && let Err(error) = store.gather()
        {
            tracing::warn!(%error, "the small files of the store are not put together");
        }
        Ok(ledger)
    }

    /// As [`Ledger::open`], on a store already open.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_store(store: Arc<dyn Store>, options: OpenOptions) -> std::result::Result<Ledger, OpenError> {
        let genesis = match store.get(Column::Meta, GENESIS)? {
            Some(bytes) => {
                decode_versioned(&bytes).map_err(|error| OpenError::Damaged(format!("genesis parameters: {error}")))?
            }
            None if !options.create => return Err(OpenError::Absent),
            // A second beginning would put its first block over another's.
            None if store.get(Column::Meta, TIP)?.is_some() => {
                return Err(OpenError::Damaged("the genesis parameters are missing".into()));
            }
            None => {
                let genesis = options.genesis()?;
                let batch = super::seal::genesis_block(&*store, &genesis, &options.wallet, &options.log_key)?;
                store.write(batch, crate::store::Durability::Synced)?;
                genesis
            }
        };
        let live = load(&*store, &genesis).map_err(|error| match error {
            StoreError::Corrupt(reason) => OpenError::Damaged(reason),
            other => OpenError::Store(other),
        })?;
        // Parameters that rotted may name any keys.
        let other = |key| match live.tip.header.chain == genesis.chain_id() {
            true => OpenError::WrongKey(key),
            false => OpenError::Damaged("the genesis parameters are not those of the last block".into()),
        };
        if genesis.wallet != *options.wallet.public() {
            return Err(other("wallet"));
        }
        if genesis.log_key != options.log_key.public() {
            return Err(other("log key"));
        }
        Ok(Ledger {
            chain: genesis.chain_id(),
            store,
            dir: None,
            reserve: None,
            wallet: options.wallet,
            log_key: options.log_key,
            genesis,
            mempool_limit: options.mempool_limit.max(1),
            writer: Mutex::new(()),
            sealer: Mutex::new(()),
            live: Mutex::new(live),
            arrived: Condvar::new(),
            room: Condvar::new(),
            stalled: AtomicBool::new(false),
            revision: AtomicU64::new(0),
            plenty_at: AtomicU64::new(0),
            began: Instant::now(),
        })
    }
}

/// Opens the store in `dir`, or makes one unless `is_made`.
fn open_dir(dir: &Path, is_made: bool) -> std::result::Result<RocksStore, StoreError> {
    if !is_made {
        return RocksStore::open(dir);
    }
    match tip::check_dir(dir)? {
        Some(Problem { problem, .. }) => Err(StoreError::Corrupt(problem)),
        None => RocksStore::open_existing(dir),
    }
}

/// Reads what changes as the chain grows. Damage that leaves the tip readable poisons; other damage is an error.
pub(super) fn load(store: &dyn Store, genesis: &Genesis) -> std::result::Result<Live, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt(what);
    let height = match store.get(Column::Meta, TIP)?.map(|bytes| <[u8; 8]>::try_from(bytes.as_slice())) {
        Some(Ok(height)) => u64::from_be_bytes(height),
        _ => return Err(corrupt("the number of the last block is missing or malformed".into())),
    };
    let bytes = store.get(Column::Blocks, &height.to_be_bytes())?;
    let bytes = bytes.ok_or_else(|| corrupt(format!("block {height} is missing")))?;
    let tip = Block::from_bytes(&bytes).map_err(|error| corrupt(format!("block {height}: {error}")))?;
    let checkpoint = store.get(Column::Meta, LATEST_CHECKPOINT)?.unwrap_or_default();
    let checkpoint = String::from_utf8_lossy(&checkpoint).into_owned();
    let first = store.get(Column::Meta, FIRST_PENDING)?.map(|bytes| <[u8; 8]>::try_from(bytes.as_slice()));
    let (edge, mempool) = (Edge::default(), Mempool::default());
    let mut live = Live { tip, checkpoint, edge, mempool, poisoned: None, found: None };
    let checked = check_tip(store, genesis, height, &mut live).and_then(|()| match first {
        Some(Ok(first)) => load_pending(store, genesis, u64::from_be_bytes(first), &mut live),
        _ => Err(corrupt("the number of the first pending transaction is missing or malformed".into())),
    });
    match checked {
        Err(StoreError::Corrupt(reason)) => live.poisoned = Some(reason),
        other => other?,
    }
    Ok(live)
}

/// Whether the tip is what this chain would have sealed; reads the log's right edge.
fn check_tip(
    store: &dyn Store,
    genesis: &Genesis,
    height: u64,
    live: &mut Live,
) -> std::result::Result<(), StoreError> {
    let corrupt = |what: &str| Err(StoreError::Corrupt(format!("block {height}: {what}")));
    let header = &live.tip.header;
    if header.height != height || header.chain != genesis.chain_id() || header.sealer != genesis.wallet {
        return corrupt("its header is not of this chain and height");
    }
    if !live.tip.signature_holds() {
        return corrupt("its signature does not hold");
    }
    live.edge = Edge::load(store, header.log_size)?;
    if live.edge.root() != header.log_root {
        return corrupt("the log's root differs from its header's");
    }
    if map::root(store, height)? != header.state_root {
        return corrupt("the state's root differs from its header's");
    }
    let stated = Checkpoint { origin: origin(&header.chain), size: header.log_size, root: header.log_root };
    if Checkpoint::verify(&live.checkpoint, &verifier(genesis)) != Ok(stated) {
        return corrupt("the stored checkpoint is not its");
    }
    Ok(())
}

/// Reads the mempool and applies it to the sealed state.
fn load_pending(
    store: &dyn Store,
    genesis: &Genesis,
    first: u64,
    live: &mut Live,
) -> std::result::Result<(), StoreError> {
    live.mempool = Mempool::new(first);
    let mut rows = Vec::new();
    scan_prefix(store, Column::Mempool, b"", &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    let decoded: Vec<_> = rows.into_iter().map(|(key, bytes)| (key, Transaction::from_bytes(&bytes), bytes)).collect();
    let holds = submit::in_parallel(&decoded, |(_, transaction, bytes)| {
        transaction.as_ref().is_ok_and(|transaction| transaction.signature_holds(bytes))
    });
    for ((key, transaction, bytes), holds) in decoded.into_iter().zip(holds) {
        let number = live.mempool.span().next;
        let corrupt = |what: String| StoreError::Corrupt(format!("pending transaction {number}: {what}"));
        let transaction = transaction.map_err(|error| corrupt(error.to_string()))?;
        if key != number.to_be_bytes() || transaction.chain != genesis.chain_id() || !holds {
            return Err(corrupt("missing, of another chain, or its signature does not hold".into()));
        }
        let txid = Transaction::id(&bytes);
        let sealed = Sealed(store);
        let view = Layered { over: &live.mempool.overlay, base: &sealed };
        let effects = match apply(&view, txid, &transaction) {
            Ok(effects) => effects,
            Err(ApplyError::Store(error)) => return Err(error),
            Err(other) => return Err(corrupt(other.to_string())),
        };
        live.mempool.push(Waiting::new(txid, &transaction, bytes, effects));
    }
    Ok(())
}
