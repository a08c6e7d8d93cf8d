//! `wizefs delete`.

use super::Context;
use crate::client::segment;
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::wire::{Checked, Deleted};
use crate::terminal::{count, size};
use axum::http::Method;
use std::io::Write;

/// Delete a bucket; an adopted folder is released, not erased.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The bucket
    #[arg(value_name = "ORIGIN")]
    origin: String,
    /// Unmount it first when it is mounted
    #[arg(long)]
    unmount: bool,
    /// Do not ask (off a terminal nobody is asked)
    #[arg(short, long)]
    yes: bool,
}

/// Ask when a person is there, delete, tell.
///
/// # Errors
/// As `Node::delete`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let name = BucketName::new(&args.origin)?;
    let deleted: Deleted = context.with_node(|client| {
        if !args.yes && context.out.is_interactive() {
            let checked: Checked = client.get(&format!("/v1/buckets/{}/check", segment(args.origin.as_bytes())))?;
            confirm(&checked)?;
        }
        let uri = format!("/v1/buckets/{}?unmount={}", segment(args.origin.as_bytes()), args.unmount);
        let deleted: Deleted = client.call(Method::DELETE, &uri, None::<&()>)?;
        if deleted.node_ends {
            client.wait_for_end()?;
        }
        Ok(deleted)
    })?;
    if context.out.json {
        return context.out.document(&deleted);
    }
    context.out.done(&match &deleted.released {
        None => format!("bucket {name} deleted with its files; its history stays on the ledger"),
        Some(folder) => format!("bucket {name} deleted; {} is left as it is", folder.display()),
    });
    Ok(())
}

fn confirm(checked: &Checked) -> Result<()> {
    let bucket = &checked.bucket;
    let what = format!("{}, {}", count(bucket.files, "file"), size(bucket.bytes));
    anstream::eprint!("delete {} ({what}) at {}? [y/N] ", bucket.origin, checked.backing.display());
    let mut answer = String::new();
    let read = anstream::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
    read.map_err(|e| Error::io(Kind::Failed, "cannot read the answer", &e))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Error::new(Kind::Failed, "nothing was deleted"))
    }
}
