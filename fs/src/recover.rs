//! What the session before left: its intents are replayed, and after an unclean boot the tree is compared with the table.
//!
//! Only what wizefs can answer for is recorded: a difference that an intent covers, or, after a power cut that may have
//! taken intents with it, one whose change time lies inside the session. Everything else is foreign and stays unsigned;
//! `verify` names it.

mod claims;
mod order;
mod replay;
mod session;
mod tell;
mod tree;

pub use session::{Left, Session};

use crate::error::{FsError, FsResult};
use crate::intent::{Found, Intent};
use crate::recorder::Recorder;
use claims::Claims;
use replay::Replay;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::sync::Arc;
use tree::Differences;

/// What was found and done at the start of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The session before did not end in order.
    pub unclean: bool,
    /// Names and contents recorded now, or looked at because they may have changed.
    pub recovered: u64,
    /// Differences that wizefs does not answer for.
    pub foreign: u64,
}

/// Replay what is left. Contents found changed are queued for the workers.
///
/// # Errors
/// Reading the backing or the sink.
pub fn recover(recorder: &Arc<Recorder>, found: &[Found], left: &Left) -> FsResult<Recovery> {
    let mut recovery = Recovery { unclean: left.unclean(), ..Recovery::default() };
    if found.is_empty() && !left.machine_went_down() {
        return Ok(recovery);
    }
    let names = recorder.lock_names();
    let claims = Claims::new(recorder, found, left)?;
    let mut differences = Differences::find(recorder, &claims)?;
    remove_stages(found, &mut differences)?;
    let mut replay = Replay::new(recorder, &names, &claims, &mut recovery);
    replay.run(differences)?;
    let mut ids = replay.answered;
    ids.extend(found.iter().map(|f| f.id));
    recorder.intents.sync()?;
    recorder.intents.end_after(recorder.stream.last(), ids);
    Ok(recovery)
}

/// Temporary files of a put that did not come to its end are not the user's.
fn remove_stages(found: &[Found], differences: &mut Differences) -> FsResult<()> {
    for Found { intent, .. } in found {
        let Intent::Stage { at } = intent else {
            continue;
        };
        for left in differences.appeared.extract_if(.., |new| new.at() == *at) {
            match rustix::fs::unlinkat(&*left.dir.fd()?, &left.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(FsError::os("remove a temporary file", errno)),
            }
        }
    }
    Ok(())
}
