//! Bringing the archive up to date with the stage: in the background, and when somebody asks.

use super::archive::{Archive, Committed};
use super::draft::Draft;
use super::plan::{Plan, Puts};
use super::stage::Stage;
use super::touched::Paths;
use crate::error::{FsError, FsResult};
use rustix::io::Errno;
use std::sync::Arc;

/// A file that is written while it is packed makes a commit fail; then it is tried again, without that file.
const TRIES: usize = 5;

impl Stage {
    /// Bring the archive up to date with everything that was reported. What is not at rest is left as the archive has it.
    ///
    /// # Errors
    /// `ENOSPC` and whatever else writing the archive answers: the stage keeps what is not in the archive. [`FsError::Archive`]
    /// when another program changed the archive; then nothing can be changed any more.
    pub(super) fn commit(&self) -> FsResult<()> {
        let done = match self.commit_with(Puts::Recorded) {
            Err(error) if error.is_full() => self.commit_smaller(error),
            done => done.map(drop),
        };
        if let Err(errno) = self.reserve.keep() {
            tracing::debug!(%errno, archive = %self.archive.path().display(), "no space is kept");
        }
        done
    }

    /// There was no room for all: what was removed makes some, and needs a little itself.
    fn commit_smaller(&self, error: FsError) -> FsResult<()> {
        self.reserve.give_up();
        match self.commit_with(Puts::Nothing)? {
            true => self.commit_with(Puts::Recorded).map(drop),
            false => Err(error),
        }
    }

    /// As [`Stage::commit`], with these contents; whether there was anything to be done.
    ///
    /// # Errors
    /// As there.
    pub(super) fn commit_with(&self, puts: Puts) -> FsResult<bool> {
        if let Some(why) = self.trouble() {
            return Err(FsError::Archive(why));
        }
        let _one_at_a_time = self.committing.lock();
        let (mut tries, mut is_done) = (0, false);
        loop {
            let (draft, paths) = self.draft(puts)?;
            if draft.edits.0.is_empty() {
                let Draft { waiting, left, .. } = draft;
                self.touched.give_back(waiting, false);
                self.touched.give_back(left, false);
                self.expect_as_left()?;
                self.settle(paths)?;
                return Ok(is_done);
            }
            let is_all = draft.left.is_empty();
            match self.write(|archive| archive.commit(&draft.edits)) {
                Ok(committed) => {
                    tracing::debug!(edits = draft.edits.0.len(), ?committed.strategy, bytes = committed.bytes_written, "archive");
                    self.touched.give_back(draft.waiting.clone(), false);
                    self.touched.give_back(draft.left.clone(), false);
                    draft.done(&mut self.view.lock(), self, &committed.ids);
                    self.settle(paths)?;
                    (tries, is_done) = (0, true);
                    if is_all {
                        return Ok(true);
                    }
                }
                Err(error) => {
                    draft.undo(&mut self.view.lock(), self);
                    if error.errno() == Errno::STALE {
                        // Perhaps one was not a member with those parts replaced: each is packed as a whole then.
                        self.inodes.lock().patched.clear();
                    }
                    tries += 1;
                    let is_final = matches!(error, FsError::Archive(_)) || error.is_full();
                    if matches!(error, FsError::Archive(_)) {
                        self.give_up(error.to_string());
                    }
                    if is_final || tries >= TRIES {
                        self.touched.give_back(paths, true);
                        return Err(error);
                    }
                    tracing::debug!(%error, "the archive is tried again");
                    self.touched.give_back(paths, false);
                }
            }
        }
    }

    /// Do what the commit of `paths` left to do. Where the disk refuses that, they are looked at again, so that it is tried again.
    fn settle(&self, paths: Paths) -> FsResult<()> {
        self.archive.settle().inspect_err(|_| self.touched.give_back(paths, true))
    }

    /// Write the archive, unless somebody else has.
    fn write(&self, act: impl FnOnce(&Archive) -> FsResult<Committed>) -> FsResult<Committed> {
        self.expect_as_left()?;
        let committed = act(&self.archive)?;
        // What was written may have no name any more.
        self.expect_as_left()?;
        Ok(committed)
    }

    /// Whether another program has written the archive since it was opened.
    pub(super) fn is_outdated(&self) -> bool {
        let is_as_left = || self.is_as_left().unwrap_or(false);
        // In the middle of a commit it is in no state that is noted.
        !is_as_left() && {
            let _nobody_commits = self.committing.lock();
            !is_as_left()
        }
    }

    /// Before something is changed.
    ///
    /// # Errors
    /// As [`Stage::admit`]; [`FsError::Archive`] when another program has written the archive, which could not take the change.
    pub(super) fn expect_writable(&self) -> FsResult<()> {
        self.admit()?;
        if !self.is_outdated() {
            return Ok(());
        }
        let _nobody_commits = self.committing.lock();
        self.expect_as_left()
    }

    /// That nobody else has written the archive.
    ///
    /// # Errors
    /// [`FsError::Archive`]; nothing can be changed any more then.
    pub(super) fn expect_as_left(&self) -> FsResult<()> {
        if self.is_as_left()? {
            return Ok(());
        }
        let why = self.written_by_another();
        self.give_up(why.clone());
        Err(FsError::Archive(why))
    }

    /// What is said when another program has written the archive.
    pub(super) fn written_by_another(&self) -> String {
        format!("{} was changed by another program while it was open", self.archive.path().display())
    }

    /// Rewrite the archive without holes.
    ///
    /// # Errors
    /// As [`Stage::commit`].
    pub(super) fn compact(&self) -> FsResult<Committed> {
        let _one_at_a_time = self.committing.lock();
        let committed = self.write(Archive::compact)?;
        self.archive.settle()?;
        Ok(committed)
    }

    /// What is to be done, with the paths that were looked at for it.
    fn draft(&self, puts: Puts) -> FsResult<(Draft, Paths)> {
        let recorder = self.recorder()?;
        // Whatever was moved until now is noted, and nothing moves.
        let _moving = self.moving.write();
        let _names = recorder.lock_names();
        let paths = self.touched.take();
        let drafted = Plan::new(self, recorder, &mut self.view.lock(), puts).make(&paths);
        match drafted {
            Ok(draft) => Ok((draft, paths)),
            Err(error) => {
                self.touched.give_back(paths, true);
                Err(error)
            }
        }
    }

    /// Whether the archive has everything that is in the stage.
    pub(super) fn is_committed(&self) -> bool {
        self.touched.is_empty() && self.trouble().is_none()
    }

    /// The thread that brings the archive up to date in the background, until the end.
    pub(super) fn follow(self: &Arc<Self>) {
        crate::stream::yield_to_programs();
        while self.touched.wait() {
            if let Err(error) = self.commit() {
                tracing::warn!(archive = %self.archive.path().display(), %error, "not brought up to date");
                if self.trouble().is_some() {
                    return;
                }
            }
        }
    }
}
