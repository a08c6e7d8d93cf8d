//! The wallet `default` and the log key, made together with the chain on first use, and the ledger they open.

use super::trouble;
use crate::error::{Error, Kind, Result};
use crate::registry::Registry;
use crate::root::Root;
use crate::wallets;
use std::fs::File;
use std::path::Path;
use wizefs_ledger::{KeyError, Ledger, LogKey, OpenOptions, Wallet};

/// Pending transactions after which whoever makes changes waits for a block.
const MEMPOOL_LIMIT: u64 = 16_384;
/// The log key in the folder of wallets until its chain is there. No wallet can have this name.
const BEGUN: &str = ".log.key";

/// Open the chain, or make it with new keys on first use.
pub(super) fn open_ledger(root: &Root, registry: &Registry, stamp_bits: u8) -> Result<(Ledger, Wallet)> {
    let (folder, begun) = (root.ledger(), root.wallets().join(BEGUN));
    let is_first = is_first_use(root, registry, &begun)?;
    if !is_first && is_empty(&folder)? {
        let text = format!("the ledger of this root is gone: {} is empty", folder.display());
        return Err(Error::new(Kind::LedgerDamaged, text).hint("mount it, or restore it from a copy"));
    }
    let wallet = key(&root.wallets().join(wallets::DEFAULT), is_first, Wallet::load, Wallet::generate, Wallet::save)?;
    let log_path = if is_first { begun.clone() } else { root.log_key() };
    let log_key = key(&log_path, is_first, LogKey::load, LogKey::generate, LogKey::save)?;
    let options =
        OpenOptions { wallet: wallet.clone(), log_key, create: is_first, stamp_bits, mempool_limit: MEMPOOL_LIMIT };
    let ledger = Ledger::open(&folder, options).map_err(|e| trouble::open_ledger(&folder, e))?;
    if is_first {
        let named = std::fs::rename(&begun, root.log_key()).and_then(|()| File::open(root.wallets())?.sync_all());
        named.map_err(|e| Error::io(Kind::ConfigSave, format!("cannot make {}", root.log_key().display()), &e))?;
    }
    Ok((ledger, wallet))
}

/// Whether this root never had a chain. A ledger that vanished, or whose disk is not mounted, is not made anew: the log key
/// gets its name when the chain is there, and buckets come later still.
fn is_first_use(root: &Root, registry: &Registry, begun: &Path) -> Result<bool> {
    if exists(&root.log_key())? {
        return Ok(false);
    }
    Ok(exists(begun)? || (is_empty(&root.ledger())? && is_empty(&root.buckets())? && registry.names().next().is_none()))
}

fn is_empty(folder: &Path) -> Result<bool> {
    let failed = |e: std::io::Error| Error::io(Kind::Root, format!("cannot read {}", folder.display()), &e);
    Ok(std::fs::read_dir(folder).map_err(failed)?.next().is_none())
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|e| Error::io(Kind::ConfigOpen, format!("cannot look for {}", path.display()), &e))
}

/// Load a key. Only a root without a chain gets a new one: a chain without its key must not be given another.
fn key<K>(
    path: &Path,
    fresh: bool,
    load: impl Fn(&Path) -> std::result::Result<K, KeyError>,
    generate: impl Fn() -> std::result::Result<K, KeyError>,
    save: impl Fn(&K, &Path) -> std::result::Result<(), KeyError>,
) -> Result<K> {
    if exists(path)? {
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
