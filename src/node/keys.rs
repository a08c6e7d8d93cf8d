//! The wallet `default` and the log key, made together with the chain on first use, and the ledger they open.

use super::trouble;
use crate::error::{Error, Kind, Result};
use crate::root::Root;
use crate::wallets;
use std::path::Path;
use wizefs_ledger::{KeyError, Ledger, LogKey, OpenOptions, Wallet};

/// Pending transactions after which whoever makes changes waits for a block.
const MEMPOOL_LIMIT: u64 = 16_384;

/// Open the chain, or make it with new keys when there is none.
pub(super) fn open_ledger(root: &Root, stamp_bits: u8) -> Result<(Ledger, Wallet)> {
    let folder = root.ledger();
    let failed = |e: std::io::Error| Error::io(Kind::Root, format!("cannot read {}", folder.display()), &e);
    let fresh = std::fs::read_dir(&folder).map_err(failed)?.next().is_none();
    let wallet = key(&root.wallets().join(wallets::DEFAULT), fresh, Wallet::load, Wallet::generate, Wallet::save)?;
    let log_key = key(&root.log_key(), fresh, LogKey::load, LogKey::generate, LogKey::save)?;
    let options =
        OpenOptions { wallet: wallet.clone(), log_key, create: fresh, stamp_bits, mempool_limit: MEMPOOL_LIMIT };
    let ledger = Ledger::open(&folder, options).map_err(|e| trouble::open_ledger(&folder, e))?;
    Ok((ledger, wallet))
}

/// Load a key. Only a root without a chain gets a new one: a chain without its key must not be given another.
fn key<K>(
    path: &Path,
    fresh: bool,
    load: impl Fn(&Path) -> std::result::Result<K, KeyError>,
    generate: impl Fn() -> std::result::Result<K, KeyError>,
    save: impl Fn(&K, &Path) -> std::result::Result<(), KeyError>,
) -> Result<K> {
    let exists = path
        .try_exists()
        .map_err(|e| Error::io(Kind::ConfigOpen, format!("cannot look for {}", path.display()), &e))?;
    if exists {
        return load(path)
            .map_err(|e| Error::new(Kind::ConfigParse, format!("cannot use the key {}: {e}", path.display())));
    }
    if !fresh {
        let text = format!("the key {} is missing, and the ledger can be written with no other", path.display());
        return Err(Error::new(Kind::ConfigOpen, text).hint("restore it from a copy"));
    }
    let cannot_save =
        |e: KeyError| Error::new(Kind::ConfigSave, format!("cannot make the key {}: {e}", path.display()));
    let key = generate().map_err(cannot_save)?;
    save(&key, path).map_err(cannot_save)?;
    Ok(key)
}
