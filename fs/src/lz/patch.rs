//! Big members that are written: their content comes into the stage behind the writer, who does not wait.
//!
//! What was written is noted in a file of its own before it is written, so that a killed node leaves no doubt which bytes are the
//! program's. The same ranges tell a commit which pieces of the member are to be packed anew.

use super::archive::{Archive, MemberId};
use crate::error::{FsError, FsResult};
use crate::stat::Stat;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a range in the note, behind the name of the boot: offset and length, little-endian.
const RECORD_BYTES: usize = 16;
/// Smaller members are copied before they are written.
pub(super) const BIG: u64 = 4 * 1024 * 1024;

/// What was written and not synced counts in the boot in which it was.
fn boot() -> FsResult<Vec<u8>> {
    Ok(std::fs::read("/proc/sys/kernel/random/boot_id")?)
}

/// Ranges of bytes that do not touch.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Add `range`.
    pub(super) fn add(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if start >= end {
            return;
        }
        let touching: Vec<u64> =
            self.0.range(..=end).rev().take_while(|(_, until)| **until >= start).map(|(from, _)| *from).collect();
        for from in touching {
            let until = self.0.remove(&from).unwrap_or(from);
            (start, end) = (start.min(from), end.max(until));
        }
        self.0.insert(start, end);
    }

    /// The pieces of `range`, in order, each with whether it is in here.
    pub(super) fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let first = self.0.range(..=at).next_back().map_or(at, |(from, _)| *from);
        for (&from, &until) in self.0.range(first..range.end) {
            let (from, until) = (from.max(at), until.min(range.end));
            if from >= until {
                continue;
            }
            if at < from {
                pieces.push((at..from, false));
            }
            pieces.push((from..until, true));
            at = until;
        }
        if at < range.end {
            pieces.push((at..range.end, false));
        }
        pieces
    }

    /// All of them, ascending.
    pub(super) fn all(&self) -> Vec<Range<u64>> {
        self.0.iter().map(|(&from, &until)| from..until).collect()
    }
}

/// A file whose content is on its way into the stage.
#[derive(Debug)]
pub(super) struct Filling {
    member: MemberId,
    /// Bytes of the member.
    size: u64,
    note: PathBuf,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    /// Closed at the end: while anybody has it open for writing, it is not at rest.
    file: Option<Arc<File>>,
    written: Ranges,
    /// The note being written.
    noted: File,
    /// Everything before this has been copied.
    copied: u64,
    /// Modification time that the last write left, or a program set since.
    mtime_ns: Option<i64>,
    end: Option<Result<(), Errno>>,
}

/// Notes begin with this.
pub(super) const NOTES: &[u8] = b"written-";

/// The note of the file with this inode number in the folder of the stage.
pub(super) fn note_of(folder: &Path, inode: u64) -> PathBuf {
    folder.join(format!("written-{inode:x}"))
}

impl Filling {
    /// Begin to fill `file`, which stands for `member` of so many bytes; space for all of it is taken now.
    ///
    /// # Errors
    /// `ENOSPC`; what making the note answers.
    pub(super) fn begin(member: MemberId, size: u64, file: File, note: PathBuf) -> FsResult<Self> {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(FsError::os("space for a file of the archive", errno)),
        }
        let mut noted = File::create(&note).map_err(|e| FsError::os(note.display().to_string(), e))?;
        noted.write_all(&boot()?)?;
        let file = Some(Arc::new(file));
        let state = State { file, written: Ranges::default(), noted, copied: 0, mtime_ns: None, end: None };
        Ok(Self { member, size, note, state: Mutex::new(state), ended: Condvar::new() })
    }

    /// The member that this was.
    pub(super) fn member(&self) -> MemberId {
        self.member
    }

    /// What was written until now.
    pub(super) fn written(&self) -> Vec<Range<u64>> {
        self.state.lock().written.all()
    }

    /// Do `write`, which writes so many bytes at `offset`.
    ///
    /// # Errors
    /// What it answers, and what noting it does.
    pub(super) fn write(&self, offset: u64, len: usize, write: impl FnOnce() -> FsResult<usize>) -> FsResult<usize> {
        let mut state = self.state.lock();
        if let Some(Err(errno)) = state.end {
            return Err(FsError::os("content of a file of the archive", errno));
        }
        let range = offset..offset.saturating_add(len as u64);
        if state.end.is_none() {
            let record = [range.start.to_le_bytes(), (len as u64).to_le_bytes()].concat();
            state.noted.write_all(&record)?;
        }
        state.written.add(range);
        let done = write()?;
        if let Some(file) = &state.file {
            state.mtime_ns = Some(Stat::of_fd(&**file)?.mtime_ns);
        }
        Ok(done)
    }

    /// The file has this modification time at the end, if nobody writes it.
    pub(super) fn date(&self, mtime_ns: i64) {
        self.state.lock().mtime_ns = Some(mtime_ns);
    }

    /// Content from `offset` on, of the file and of the member, whichever has it. None when the file has all of it.
    ///
    /// # Errors
    /// What reading answers.
    pub(super) fn read(&self, archive: &Archive, offset: u64, out: &mut [u8]) -> FsResult<Option<usize>> {
        let (file, pieces) = {
            let state = self.state.lock();
            if let Some(Err(errno)) = state.end {
                return Err(FsError::os("content of a file of the archive", errno));
            }
            let Some(file) = state.file.clone() else { return Ok(None) };
            let mut here = state.written.clone();
            here.add(0..state.copied);
            here.add(self.size..u64::MAX);
            (file, here.split(offset..offset.saturating_add(out.len() as u64)))
        };
        let mut done = 0;
        for (piece, is_here) in pieces {
            let part = &mut out[done..done + (piece.end - piece.start) as usize];
            let read = if is_here {
                file.read_at(part, piece.start)?
            } else {
                archive.read(self.member, piece.start, part)?
            };
            done += read;
            if read < part.len() {
                break;
            }
        }
        Ok(Some(done))
    }

    /// Copy what nobody has written; on the disk when this returns.
    ///
    /// # Errors
    /// What reading the member and writing the file answers.
    pub(super) fn copy(&self, archive: &Archive) -> FsResult<()> {
        let file = self.state.lock().file.clone().ok_or(Errno::BADF)?;
        let mut at = 0;
        archive.read_whole(self.member, &mut |bytes| {
            let mut state = self.state.lock();
            let range = at..at + bytes.len() as u64;
            for (piece, is_written) in state.written.split(range.clone()) {
                if !is_written {
                    file.write_all_at(&bytes[(piece.start - at) as usize..(piece.end - at) as usize], piece.start)?;
                }
            }
            at = range.end;
            state.copied = at;
            Ok(())
        })?;
        if at != self.size {
            return Err(FsError::os("content of another size than the archive says", Errno::IO));
        }
        Ok(file.sync_data()?)
    }

    /// Do `finish` with the file and the modification time its writers left, if nothing failed before, and tell those who
    /// wait how it ended.
    pub(super) fn end(&self, copied: FsResult<()>, finish: impl FnOnce(&File, Option<i64>) -> FsResult<()>) {
        let mut state = self.state.lock();
        let ended = copied.and_then(|()| {
            let file = state.file.as_ref().ok_or(Errno::BADF)?;
            finish(file, state.mtime_ns)
        });
        state.file = None;
        state.end = Some(ended.as_ref().map(|_| ()).map_err(FsError::errno));
        if let Err(error) = &ended {
            tracing::warn!(%error, "a member does not come into the stage");
        }
        // Without it, a failed one is a hollow file again, with nothing written.
        if ended.is_ok() {
            remove(&self.note);
        }
        self.ended.notify_all();
    }

    /// Wait for the end.
    ///
    /// # Errors
    /// Why it has failed.
    pub(super) fn wait(&self) -> FsResult<()> {
        let mut state = self.state.lock();
        loop {
            match state.end {
                Some(ended) => return ended.map_err(|errno| FsError::os("content of a file of the archive", errno)),
                None => wait(&self.ended, &mut state),
            }
        }
    }
}

fn wait(ended: &Condvar, state: &mut MutexGuard<'_, State>) {
    ended.wait(state);
}

/// Take a note away.
pub(super) fn remove(note: &Path) {
    if let Err(error) = std::fs::remove_file(note) {
        tracing::debug!(%error, "a note of what was written stays");
    }
}

/// Finish what a killed node had begun: `file` has what was written, as `note` says, and gets the rest of `member`. False when
/// nothing was begun in this boot.
///
/// # Errors
/// What reading and writing answers.
pub(super) fn finish(archive: &Archive, member: MemberId, file: &File, note: &Path) -> FsResult<bool> {
    let bytes = match std::fs::read(note) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(FsError::os(note.display().to_string(), e)),
    };
    let Some(bytes) = bytes.strip_prefix(&boot()?[..]) else {
        remove(note);
        return Ok(false);
    };
    let mut written = Ranges::default();
    for record in bytes.chunks_exact(RECORD_BYTES) {
        let number = |at: usize| record[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        written.add(number(0)..number(0).saturating_add(number(8)));
    }
    let mut at = 0;
    archive.read_whole(member, &mut |bytes| {
        let end = at + bytes.len() as u64;
        for (piece, is_written) in written.split(at..end) {
            if !is_written {
                file.write_all_at(&bytes[(piece.start - at) as usize..(piece.end - at) as usize], piece.start)?;
            }
        }
        at = end;
        Ok(())
    })?;
    file.sync_data()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_know_their_bytes(added in prop::collection::vec((0..60_u64, 0..20_u64), 0..12), from in 0..60_u64, len in 0..60_u64) {
            let mut ranges = Ranges::default();
            let mut bytes = [false; 200];
            for (from, len) in added {
                ranges.add(from..from + len);
                bytes[from as usize..(from + len) as usize].fill(true);
            }
            let all = ranges.all();
            prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start));
            let mut at = from;
            for (piece, is_in) in ranges.split(from..from + len) {
                prop_assert_eq!(piece.start, at);
                prop_assert!(piece.start < piece.end);
                prop_assert!(bytes[piece.start as usize..piece.end as usize].iter().all(|&byte| byte == is_in));
                at = piece.end;
            }
            prop_assert_eq!(at, from + len);
        }
    }
}
