//! Intents: durable notes "this may change", written before an operation touches the backing.
//!
//! They end when the changes they led to are in a sealed block; when none is left the file starts again, and when most of it is
//! dead it is written anew with the live ones.

mod record;

pub use record::{At, Intent, Record};

use crate::error::{FsError, FsResult};
use borsh::BorshDeserialize;
use parking_lot::Mutex;
use record::{MAGIC, encode, parse};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file smaller than this is not worth rewriting.
const COMPACT_BYTES: u64 = 4 * 1024 * 1024;

/// The intents of a bucket.
#[derive(Debug)]
pub struct Intents {
    path: PathBuf,
    state: Mutex<State>,
    /// Held by who brings the file to the disk: the others wait, and find that theirs is there too.
    syncing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    file: File,
    bytes: u64,
    synced: u64,
    next: u64,
    /// Encoded records that have not ended.
    live: BTreeMap<u64, Vec<u8>>,
    live_bytes: u64,
    /// Change number after whose seal the intents end.
    ending: Vec<(u64, Vec<u64>)>,
    /// All changes up to this number are in sealed blocks.
    sealed: u64,
}

/// An intent found in the file at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub id: u64,
    /// When it was noted, microseconds since 1970.
    pub time_us: u64,
    /// What may have happened.
    pub intent: Intent,
}

impl Intents {
    /// Open or make the file at `path`; returns the intents that had not ended, oldest first.
    /// Numbers go on above `next_at_least`, above those in the file and above the time in microseconds, so that they grow
    /// also when the file was lost.
    ///
    /// # Errors
    /// What the file system answers; [`FsError::State`] for a file that is not of this kind.
    pub fn open(path: &Path, next_at_least: u64) -> FsResult<(Self, Vec<Found>)> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(FsError::os(format!("read {}", path.display()), e)),
        };
        let (live, highest) = parse(&bytes)
            .ok_or_else(|| FsError::State { path: path.to_owned(), problem: "not a file of intents".into() })?;
        let found = live
            .values()
            .filter_map(|body| match Record::try_from_slice(&body[8..]) {
                Ok(Record::Noted { id, time_us, intent, .. }) => Some(Found { id, time_us, intent }),
                _ => None,
            })
            .collect();
        let live_bytes = live.values().map(|r| r.len() as u64).sum();
        let mut state = State {
            file: File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|e| FsError::os(path.display().to_string(), e))?,
            bytes: 0,
            synced: 0,
            next: highest.wrapping_add(1).max(next_at_least).max(crate::stream::now_us()),
            live,
            live_bytes,
            ending: Vec::new(),
            sealed: 0,
        };
        // Written anew, so that a torn tail is not appended to.
        state.rewrite(path)?;
        let intents = Self { path: path.to_owned(), state: Mutex::new(state), syncing: Mutex::default() };
        Ok((intents, found))
    }

    /// Note `intent`; it is in the file (not yet on the disk) when this returns.
    ///
    /// # Errors
    /// What writing answers; nothing was noted then, and the operation must not go on.
    pub fn note(&self, intent: Intent, uid: u32, pid: u32) -> FsResult<u64> {
        let mut state = self.state.lock();
        let id = state.next;
        let record = Record::Noted { id, time_us: crate::stream::now_us(), uid, pid, intent };
        let bytes = encode(&record)?;
        state.append(&bytes)?;
        state.next += 1;
        state.live_bytes += bytes.len() as u64;
        state.live.insert(id, bytes);
        Ok(id)
    }

    /// Bring everything noted so far to the disk.
    ///
    /// # Errors
    /// What fdatasync answers.
    pub fn sync(&self) -> FsResult<()> {
        let wanted = self.state.lock().bytes;
        let _turn = self.syncing.lock();
        let (file, bytes) = {
            let state = self.state.lock();
            if state.synced >= wanted.min(state.bytes) {
                return Ok(());
            }
            (state.file.try_clone()?, state.bytes)
        };
        file.sync_data()?;
        let mut state = self.state.lock();
        // A rewrite in between has synced the whole file and made `bytes` mean another one.
        state.synced = state.synced.max(bytes.min(state.bytes));
        Ok(())
    }

    /// These led to nothing that could be missing: the operation failed, or found nothing to report.
    pub fn end_now(&self, ids: &[u64]) {
        if !ids.is_empty() {
            self.state.lock().end(ids);
        }
    }

    /// These end once change `number` is in a sealed block, where it may be already.
    pub fn end_after(&self, number: u64, ids: Vec<u64>) {
        let mut state = self.state.lock();
        if number <= state.sealed {
            state.end(&ids);
        } else if !ids.is_empty() {
            state.ending.push((number, ids));
        }
    }

    /// All changes up to `number` are in sealed blocks.
    pub fn retire(&self, number: u64) {
        let mut state = self.state.lock();
        state.sealed = state.sealed.max(number);
        let mut ended = Vec::new();
        state.ending.retain_mut(|(after, ids)| {
            let over = *after <= number;
            if over {
                ended.append(ids);
            }
            !over
        });
        if !ended.is_empty() {
            state.end(&ended);
        }
        if let Err(error) = state.tidy(&self.path) {
            tracing::warn!(%error, "intents not tidied");
        }
    }

    /// Take what has ended from the file at once: it names paths.
    ///
    /// # Errors
    /// What the file system answers; it may be there still.
    pub fn erase_ended(&self) -> FsResult<()> {
        let mut state = self.state.lock();
        if state.bytes > MAGIC.len() as u64 + state.live_bytes { state.rewrite(&self.path) } else { Ok(()) }
    }

    /// Intents that have not ended.
    pub fn live(&self) -> usize {
        self.state.lock().live.len()
    }

    /// The number the next intent will have.
    pub fn next(&self) -> u64 {
        self.state.lock().next
    }
}

impl State {
    fn append(&mut self, bytes: &[u8]) -> FsResult<()> {
        let written = self.file.write_all(bytes);
        if let Err(error) = written {
            // A part may be there: cut it off, so that the next record is not lost behind it.
            self.file.set_len(self.bytes)?;
            return Err(FsError::os("note an intent", error));
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(bytes) = self.live.remove(id) {
                self.live_bytes -= bytes.len() as u64;
            }
        }
        for ids in ids.chunks(4096) {
            // Without this line the intent is looked at once more after a crash, and found done.
            let ended = Record::Ended { ids: ids.to_vec() };
            if let Err(error) = encode(&ended).and_then(|bytes| self.append(&bytes)) {
                tracing::debug!(%error, "end of intents not noted");
            }
        }
    }

    fn tidy(&mut self, path: &Path) -> FsResult<()> {
        let empty = self.live.is_empty() && self.bytes > 64 * 1024;
        if empty || (self.bytes > COMPACT_BYTES && self.live_bytes < self.bytes / 4) {
            self.rewrite(path)?;
        }
        Ok(())
    }

    /// Replace the file by one with the live records.
    fn rewrite(&mut self, path: &Path) -> FsResult<()> {
        let temporary = path.with_extension("new");
        let mut bytes = MAGIC.to_vec();
        for record in self.live.values() {
            bytes.extend_from_slice(record);
        }
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)?;
        self.file = File::options().append(true).open(path)?;
        self.bytes = bytes.len() as u64;
        self.synced = self.bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str) -> Intent {
        Intent::Create { at: (1, name.as_bytes().to_vec()) }
    }

    fn ids(found: &[Found]) -> Vec<u64> {
        found.iter().map(|f| f.id).collect()
    }

    #[test]
    fn what_has_not_ended_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intents");
        let (intents, found) = Intents::open(&path, 1).unwrap();
        assert!(found.is_empty());
        let noted = ["a", "b", "c"].map(|name| intents.note(create(name), 0, 0).unwrap());
        intents.end_after(10, vec![noted[0]]);
        intents.end_after(11, vec![noted[2]]);
        intents.retire(10);
        drop(intents);
        let (intents, found) = Intents::open(&path, 1).unwrap();
        assert_eq!(ids(&found), noted[1..]);
        assert!(intents.note(create("d"), 0, 0).unwrap() > noted[2]);
        let (intents, _) = Intents::open(&path, u64::MAX / 2).unwrap();
        assert_eq!(intents.next(), u64::MAX / 2);
    }

    #[test]
    fn what_has_ended_is_erased() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intents");
        let (intents, _) = Intents::open(&path, 1).unwrap();
        let noted = ["a-secret", "kept"].map(|name| intents.note(create(name), 0, 0).unwrap());
        intents.end_after(1, vec![noted[0]]);
        intents.retire(1);
        let holds = |name: &str| std::fs::read(&path).unwrap().windows(name.len()).any(|at| at == name.as_bytes());
        assert!(holds("a-secret"));
        intents.erase_ended().unwrap();
        assert!(!holds("a-secret") && holds("kept"));
        let next = intents.note(create("next"), 0, 0).unwrap();
        drop(intents);
        let (_, found) = Intents::open(&path, 1).unwrap();
        assert_eq!(ids(&found), [noted[1], next]);
    }

    #[test]
    fn a_torn_tail_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intents");
        let (intents, _) = Intents::open(&path, 1).unwrap();
        let noted = ["a", "b"].map(|name| intents.note(create(name), 0, 0).unwrap());
        drop(intents);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (_, found) = Intents::open(&path, 1).unwrap();
            assert!(noted.starts_with(&ids(&found)));
        }
        std::fs::write(&path, b"something else").unwrap();
        assert!(matches!(Intents::open(&path, 1), Err(FsError::State { .. })));
    }

    #[test]
    fn the_file_does_not_grow_with_what_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intents");
        let (intents, _) = Intents::open(&path, 1).unwrap();
        for number in 0..3_000 {
            let id = intents.note(create(&"n".repeat(200)), 0, 0).unwrap();
            intents.end_after(number, vec![id]);
        }
        intents.retire(3_000);
        assert_eq!(intents.live(), 0);
        assert!(std::fs::metadata(&path).unwrap().len() < 100);
    }
}
