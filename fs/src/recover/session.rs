//! The note a session leaves: which boot it ran in, since when, whether it ended in order, and its heartbeat (the time of the
//! file's last modification).

use crate::error::{FsError, FsResult};
use crate::recorder::Recorder;
use borsh::{BorshDeserialize, BorshSerialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How far behind the last heartbeat a change may lie and still be the session's.
const AFTER_HEARTBEAT_NS: i64 = 60_000_000_000;
const MAGIC: &[u8; 8] = b"wizses\0\x01";

#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Note {
    boot_id: String,
    /// Begin of the session, nanoseconds since 1970.
    began_ns: i64,
    clean: bool,
    /// The number the next intent would have had: numbers go on growing when the intents are lost.
    next_intent: u64,
}

/// This session's note.
#[derive(Debug, Clone)]
pub struct Session {
    path: PathBuf,
    boot_id: String,
    began_ns: i64,
}

/// What the session before left.
#[derive(Debug, Clone, Default)]
pub struct Left {
    note: Option<Note>,
    heartbeat_ns: i64,
    boot_id: String,
}

impl Left {
    /// It did not end in order.
    pub fn unclean(&self) -> bool {
        self.note.as_ref().is_some_and(|note| !note.clean)
    }

    /// It did not end in order and the machine has been started since: what was not on the disk is lost.
    pub fn machine_went_down(&self) -> bool {
        self.unclean() && self.note.as_ref().is_some_and(|note| note.boot_id != self.boot_id)
    }

    /// After a machine that went down: whether a change at this time was the session's.
    pub fn covers(&self, ctime_ns: i64) -> bool {
        self.machine_went_down()
            && self.note.as_ref().is_some_and(|note| {
                (note.began_ns..=self.heartbeat_ns.saturating_add(AFTER_HEARTBEAT_NS)).contains(&ctime_ns)
            })
    }

    /// The least number for the next intent.
    pub fn next_intent(&self) -> u64 {
        self.note.as_ref().map_or(1, |note| note.next_intent)
    }
}

impl Session {
    /// Begin a session in `state` and read what the one before left. Nothing is written yet.
    ///
    /// # Errors
    /// [`FsError::State`] for a note that cannot be read.
    pub fn begin(state: &Path, boot_id: &str) -> FsResult<(Self, Left)> {
        let path = state.join("session");
        let left = match std::fs::read(&path) {
            Ok(bytes) => Left {
                note: Some(decode(&path, &bytes)?),
                heartbeat_ns: modified_ns(&path)?,
                boot_id: boot_id.to_owned(),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Left::default(),
            Err(e) => return Err(FsError::os(path.display().to_string(), e)),
        };
        let session = Self { path, boot_id: boot_id.to_owned(), began_ns: change_clock_ns() };
        Ok((session, left))
    }

    /// Write the note, on the disk before this returns.
    ///
    /// # Errors
    /// What writing answers.
    pub fn write(&self, recorder: &Recorder, clean: bool) -> FsResult<()> {
        let note = Note {
            boot_id: self.boot_id.clone(),
            began_ns: self.began_ns,
            clean,
            next_intent: recorder.intents.next(),
        };
        let temporary = self.path.with_extension("new");
        let created = File::create(&temporary);
        let mut file = created.map_err(|e| FsError::os(temporary.display().to_string(), e))?;
        file.write_all(MAGIC)?;
        file.write_all(&borsh::to_vec(&note)?)?;
        file.sync_all()?;
        Ok(std::fs::rename(&temporary, &self.path)?)
    }

    /// Write the heartbeat.
    pub fn beat(&self) {
        let file = File::options().write(true).open(&self.path);
        if let Err(error) = file.and_then(|file| file.set_modified(SystemTime::now())) {
            tracing::warn!(%error, "heartbeat not written");
        }
    }
}

fn decode(path: &Path, bytes: &[u8]) -> FsResult<Note> {
    let body = bytes.strip_prefix(MAGIC);
    body.and_then(|body| Note::try_from_slice(body).ok())
        .ok_or_else(|| FsError::State { path: path.to_owned(), problem: "not a session note".into() })
}

fn modified_ns(path: &Path) -> FsResult<i64> {
    Ok(nanos(std::fs::metadata(path)?.modified()?))
}

/// The clock that change times are taken from: a tick behind the other one.
fn change_clock_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

fn nanos(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(boot_id: &str, clean: bool) -> Left {
        let note = Note { boot_id: "one".into(), began_ns: 100, clean, next_intent: 7 };
        Left { note: Some(note), heartbeat_ns: 200, boot_id: boot_id.into() }
    }

    #[test]
    fn only_an_unclean_end_of_another_boot_covers_changes_and_only_in_its_time() {
        assert!(!left("one", false).covers(150), "the same boot has its intents");
        assert!(!left("two", true).covers(150), "a session that ended in order left nothing");
        let down = left("two", false);
        assert!(down.covers(150) && down.covers(100) && down.covers(200 + AFTER_HEARTBEAT_NS));
        assert!(!down.covers(99) && !down.covers(201 + AFTER_HEARTBEAT_NS));
        assert!(!Left::default().unclean());
    }
}
