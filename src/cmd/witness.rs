//! `wizefs witness`.

use super::Context;
use super::proof::replace;
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::rest::wire::{self, Consistency};
use axum::http::Method;
use std::path::{Path, PathBuf};
use wizefs_ledger::{Checkpoint, ConsistencyFile};

/// Take away a checkpoint, by which a rewritten history is found out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A node alone can rewrite its own history as long as nobody else has a checkpoint of it. Keep FILE elsewhere; each time this \
command is run with it, the log must go on from where it was (26 when it does not), and FILE is brought up to date.

Examples:
  wizefs witness                          print the checkpoint
  wizefs witness -o /media/stick/log      keep it elsewhere, and check it each time")]
pub struct Args {
    /// The checkpoint kept; made when it is not there. Without, the checkpoint is printed
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Compare the log with the checkpoint that was kept, and keep the new one.
///
/// # Errors
/// [`Kind::LedgerDamaged`] when the log does not go on from it; [`Kind::FileExists`] for a file that is no checkpoint.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    context.with_node(|client| witness(context, args, client))
}

fn witness(context: &Context, args: &Args, client: &Client) -> Result<()> {
    let kept = args.output.as_deref().map(kept).transpose()?.flatten();
    let old = kept.as_deref().map(Checkpoint::unchecked).transpose();
    let old = old.map_err(|e| {
        Error::new(Kind::FileExists, format!("the file to keep it in: {e}")).hint("choose another name")
    })?;
    let note = match &old {
        None => String::from_utf8_lossy(&client.text("/log/checkpoint")?).into_owned(),
        Some(old) => extended(client, old)?,
    };
    let new = Checkpoint::unchecked(&note).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    if let Some(path) = &args.output {
        replace(path, note.as_bytes(), old.as_ref().map_or("", |old| old.origin.as_str()))?;
    }
    let _told: serde_json::Value = client.post_text("/v1/log/witnessed", &note)?;
    let since = old.as_ref().map(|old| old.size);
    match (&args.output, context.out.json) {
        (_, true) => context.out.document(&serde_json::json!({
            "v": wire::V, "log": new.origin, "size": new.size, "root": new.root.to_string(), "since": since,
            "checkpoint": note,
        })),
        (None, false) => context.out.raw(note.as_bytes()),
        (Some(path), false) => {
            let since = since.map_or_else(String::new, |since| format!(", and it goes on from the one of {since}"));
            context.out.done(&format!("{} keeps the log of {} entries{since}", path.display(), new.size));
            Ok(())
        }
    }
}

/// What is kept in the file; none when it is not there. A pipe or a terminal is not read, which might wait for ever.
fn kept(path: &Path) -> Result<Option<String>> {
    let read = std::fs::metadata(path).and_then(|found| match found.is_file() {
        true => std::fs::read_to_string(path).map(Some),
        false => Ok(None),
    });
    match read {
        Ok(None) => {
            let error = Error::new(Kind::FileExists, format!("{} exists already and is no checkpoint", path.display()));
            Err(error.hint("choose another name"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => text.map_err(|e| Error::io(Kind::FileMissing, format!("cannot read {}", path.display()), &e)),
    }
}

/// The checkpoint of today, shown to go on from the one that was kept.
fn extended(client: &Client, old: &Checkpoint) -> Result<String> {
    let rewritten = |why: &str| {
        let text =
            format!("the history was rewritten: it does not go on from the kept log of {} entries: {why}", old.size);
        Error::new(Kind::LedgerDamaged, text)
            .hint("keep that checkpoint: it shows that this ledger is not the one it was")
    };
    let proof: Consistency = match client.call(Method::GET, &format!("/v1/log/since/{}", old.size), None::<&()>) {
        Err(e) if e.kind == Kind::Usage => return Err(rewritten(&e.message)),
        other => other?,
    };
    let proof = ConsistencyFile::parse(&proof.proof).map_err(|e| rewritten(&e.to_string()))?;
    proof.check(old).map_err(|e| rewritten(&e.to_string()))?;
    Ok(proof.checkpoint)
}
