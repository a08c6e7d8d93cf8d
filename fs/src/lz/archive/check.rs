//! What is wrong with an archive: its form first, then what is in it.

use super::format::{self, CENTRAL_BYTES, Central, DEFLATE, DESCRIPTOR, LOCAL_BYTES, STORED, UTF_8};
use super::table::{Entry, Fit, Table};
use super::{Archive, Problem};
use crate::error::FsResult;
use crate::path::BucketPath;
use crate::stat::Kind;
use rawzip::extra_fields::{ExtraFieldId, ExtraFields};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Bytes looked at once.
const CHUNK_BYTES: usize = 1024 * 1024;

impl Archive {
    /// That the archive in `file` can be changed without loss.
    ///
    /// # Errors
    /// [`FsError::Archive`](crate::FsError::Archive) says why it cannot be, or that it is none.
    pub fn expect_writable(file: &File) -> FsResult<()> {
        Table::load(file)?.writable().map(drop)
    }

    pub(super) fn find_problems(&self) -> FsResult<Vec<Problem>> {
        // No commit meanwhile.
        let _writing = self.writing.lock();
        let state = self.state.read();
        let file = std::sync::Arc::clone(&state.output.file);
        let here = state.kept.values().filter(|kept| std::sync::Arc::ptr_eq(&kept.output.file, &file));
        let pinned: Vec<(u64, u64)> = here.map(|kept| kept.extent).collect();
        drop(state);
        // As it is on the disk, not as it is remembered.
        let table = Table::load(&file)?;
        let mut problems = Vec::new();
        // One that others wrote in another form than ours is whole all the same.
        if let Fit::Never(why) = table.fit {
            problems.push(Problem { path: None, what: why.into() });
        }
        let ours = table.entries.iter().all(|entry| entry.header > 0);
        if ours && table.fit == Fit::InPlace {
            holes(&table, &pinned, &file, &mut problems)?;
        }
        for number in 0..table.entries.len() as u32 {
            let path = BucketPath::new(table.path(number)).ok();
            let mut say = |what: String| problems.push(Problem { path: path.clone(), what });
            headers(&table.entries[number as usize], &file, &mut say)?;
        }
        for number in 0..table.entries.len() as u32 {
            let entry = &table.entries[number as usize];
            let path = BucketPath::new(table.path(number)).ok();
            if entry.kind.is_some_and(|kind| kind != Kind::Directory)
                && let Some(what) = self.content(entry)
            {
                problems.push(Problem { path, what });
            }
        }
        Ok(problems)
    }

    fn content(&self, entry: &Entry) -> Option<String> {
        let mut hasher = blake3::Hasher::new();
        let read = self.read_whole(entry.id, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        });
        match read {
            Err(error) => Some(error.to_string()),
            Ok(()) if entry.blake3.is_some_and(|hash| hash != *hasher.finalize().as_bytes()) => {
                Some("its content has another hash than the archive says".into())
            }
            Ok(()) => None,
        }
    }
}

/// Bytes that belong to nothing are zeros.
fn holes(table: &Table, pinned: &[(u64, u64)], file: &File, problems: &mut Vec<Problem>) -> FsResult<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut seeker = file.try_clone()?;
    for (from, to) in super::commit::gaps(&table.live(file, pinned)?, table.dir.0) {
        let mut at = from;
        while at < to {
            // Holes of the file system need no reading.
            let data = rustix::fs::seek(&seeker, rustix::fs::SeekFrom::Data(at)).unwrap_or(to);
            at = data.max(at);
            if at >= to {
                break;
            }
            let count = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..count], at)?;
            if buffer[..count].iter().any(|&byte| byte != 0) {
                problems.push(Problem {
                    path: None,
                    what: format!("bytes of something removed are between {from} and {to}"),
                });
                break;
            }
            at += count as u64;
        }
    }
    seeker.seek(SeekFrom::Start(0))?;
    Ok(())
}

/// Both headers of a member say the same, and what this program writes.
fn headers(entry: &Entry, file: &File, say: &mut dyn FnMut(String)) -> FsResult<()> {
    let mut bytes = vec![0; entry.record_len as usize];
    file.read_exact_at(&mut bytes, entry.record)?;
    let Some(central) = Central::read(&bytes) else {
        say("its record in the directory is damaged".into());
        return Ok(());
    };
    let mut local = vec![0; LOCAL_BYTES + central.name.len()];
    if file.read_exact_at(&mut local, entry.place).is_err() || local[..4] != *b"PK\x03\x04" {
        say("it has no local header".into());
        return Ok(());
    }
    let descriptor = central.flags & DESCRIPTOR != 0;
    // Version, flags, method and time; then checksum and sizes.
    if local[6..14] != bytes[8..16]
        || (!descriptor && local[14..26] != bytes[16..28])
        || local[LOCAL_BYTES..] != *central.name
    {
        say("its local header and the directory disagree".into());
    }
    // The rest is demanded of members that this program wrote.
    if entry.header == 0 {
        return Ok(());
    }
    let (extra, len) = format::local_extra(file, entry.place)?;
    if len as u32 != entry.header {
        say("its local header has another length than the directory says".into());
    }
    if descriptor {
        say("its sizes are behind it".into());
    }
    let wide = entry.size >= u64::from(u32::MAX) || entry.packed >= u64::from(u32::MAX);
    if ExtraFields::new(&extra).any(|(id, _)| id == ExtraFieldId::ZIP64) != wide {
        say("its local header has or lacks sizes of 64 bits".into());
    }
    if !central.name.is_ascii() && entry.kind.is_some() && central.flags & UTF_8 == 0 {
        say("its name is not marked as UTF-8".into());
    }
    if !matches!(central.method, STORED | DEFLATE) && entry.blake3.is_some() {
        say(format!("it is packed with method {}", central.method));
    }
    debug_assert!(bytes.len() >= CENTRAL_BYTES);
    Ok(())
}
