//! The tip file: beside the store, the last block sealed, so that a store which lost its end is noticed before it is built
//! upon.
//!
//! It is overwritten in place after each block, without a sync of its own. After a power cut alone nothing needs it: a block
//! is synced in the store before anybody hears of it, so whatever block the file names is there, and an older line claims
//! less, which does no harm. Shorter than the 512 bytes that a disk writes together, the file holds an old line or a new one
//! and never a mix: with its checksum, what is neither was damaged. It guards against what befalls the store itself: rot in
//! its write-ahead log, files of it that are gone or older than the rest.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::TIP;
use crate::block::Block;
use crate::fsck::Problem;
use crate::hash::{BlockHash, Hash};
use crate::store::rocks::RocksStore;
use crate::store::{Column, Read, StoreError};

/// Its name in the ledger's folder.
const FILE: &str = "tip";

/// The one line in it: height and hash of the block, and the SHA-256 of both as they stand there. Of one length always.
fn line(height: u64, hash: &BlockHash) -> String {
    let named = format!("{height:020} {hash}");
    let sum = Hash::of(&[named.as_bytes()]);
    format!("{named} {sum}\n")
}

/// The block that a whole file names.
fn parse(text: &str) -> Option<(u64, BlockHash)> {
    let mut words = text.split_whitespace();
    let (height, hash) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (text == line(height, &hash)).then_some((height, hash))
}

/// Whether one is in `dir`.
pub(super) fn is_there(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// Notes a block just sealed.
pub(super) fn note(dir: &Path, block: &Block) -> io::Result<()> {
    let line = line(block.header.height, &block.hash());
    let file = OpenOptions::new().write(true).open(dir.join(FILE))?;
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
}

/// Makes it name `block` where it does not; on the disk when this returns.
pub(crate) fn make(dir: &Path, block: &Block) -> io::Result<()> {
    let (path, line) = (dir.join(FILE), line(block.header.height, &block.hash()));
    if std::fs::read(&path).is_ok_and(|found| found == line.as_bytes()) {
        return Ok(());
    }
    let temporary = path.with_extension("tmp");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()
}

/// What the file in `dir` has against the store there, which is only read: opened for writing, one that lost its end deletes
/// what lies behind the loss.
///
/// # Errors
/// The store does not open.
pub(crate) fn check_dir(dir: &Path) -> Result<Option<Problem>, StoreError> {
    let problem = check(dir, &RocksStore::open_existing_read_only(dir)?)?;
    let Some(mut problem) = problem else { return Ok(None) };
    // Both guards of the end are gone then.
    if problem.derived && !RocksStore::is_log_whole(dir) {
        problem.problem += ", and the write-ahead log has a torn end";
        problem.derived = false;
    }
    Ok(Some(problem))
}

/// What the file in `dir` has against a store that is open. Nobody may seal meanwhile.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn check(dir: &Path, read: &dyn Read) -> Result<Option<Problem>, StoreError> {
    let stored = read.get(Column::Meta, TIP)?.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
    let text = std::fs::read(dir.join(FILE));
    let lost = |problem: String| Ok(Some(Problem { block: None, index: None, problem, derived: false }));
    let Some((height, hash)) = text.as_ref().ok().and_then(|text| parse(std::str::from_utf8(text).ok()?)) else {
        let is_new =
            text.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && stored.unwrap_or_default() == 0;
        let problem = "the tip file is missing or damaged, which names the last block sealed".to_owned();
        return Ok((!is_new).then_some(Problem { block: None, index: None, problem, derived: true }));
    };
    match stored {
        None => return lost(format!("block {height} was sealed, but the store has none")),
        Some(stored) if stored < height => return lost(ends_early(height, stored)),
        Some(_) => {}
    }
    let block = read.get(Column::Blocks, &height.to_be_bytes())?.and_then(|bytes| Block::from_bytes(&bytes).ok());
    // One that is missing or malformed is for others to tell.
    match block {
        Some(block) if block.hash() != hash => lost(is_another(height)),
        _ => Ok(None),
    }
}

/// What is wrong with a store that was opened again and ends with `found`, when `sealed` was the last block before: opening
/// takes damage in the write-ahead log for the torn end that a failed write leaves. A block whose write failed may be there.
pub(super) fn lost(sealed: &Block, found: &Block) -> Option<String> {
    let (height, ends) = (sealed.header.height, found.header.height);
    let goes_on = match ends.checked_sub(height) {
        None => return Some(ends_early(height, ends)),
        Some(0) => found.hash() == sealed.hash(),
        Some(_) => found.header.previous == sealed.hash(),
    };
    (!goes_on).then(|| is_another(height))
}

fn ends_early(height: u64, stored: u64) -> String {
    format!("block {height} was sealed, but the store ends with block {stored}")
}

fn is_another(height: u64) -> String {
    format!("another block {height} was sealed than the store has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_whole_or_says_nothing() {
        let hash = Hash::of(&[b"block"]);
        let good = line(15, &hash);
        assert!(good.len() < 512 && line(u64::MAX, &hash).len() == good.len());
        assert_eq!(parse(&good), Some((15, hash)));
        assert_eq!(parse(""), None);
        assert_eq!(parse(&format!("15 {hash}\n")), None);
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] ^= 1;
            assert_eq!(parse(&String::from_utf8(bad).unwrap()), None, "{at}");
            assert_eq!(parse(&good[..at]), None, "{at}");
        }
    }
}
