//! `wizefs delete`.

use super::{Context, complete};
use crate::client::segment;
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::wire::{Checked, Deleted, MountState, V};
use crate::root::Root;
use crate::terminal::{count, size};
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;

/// Delete a bucket; an adopted folder or archive is released, not erased.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs delete docs --dry-run            what would go, and what would stay
  wizefs delete docs --yes                without a question
  wizefs delete docs --unmount            also when it is mounted
Its history stays on the ledger.")]
pub struct Args {
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
    /// Unmount it first when it is mounted
    #[arg(long)]
    unmount: bool,
    /// Do not ask (off a terminal nobody is asked)
    #[arg(short, long)]
    yes: bool,
    /// Say what would be deleted, and delete nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// Ask when a person is there, delete, tell.
///
/// # Errors
/// As `Node::delete`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let name = BucketName::new(&args.origin)?;
    let check = format!("/v1/buckets/{}/check", segment(args.origin.as_bytes()));
    if args.dry_run {
        let checked: Checked = context.with_node(|client| client.get(&check))?;
        return foretell(context, args, &checked);
    }
    if !args.yes && context.out.is_interactive() {
        // Nobody waits for the root while a person thinks.
        let checked: Checked = context.with_node(|client| client.get(&check))?;
        confirm(context, &checked)?;
    }
    let deleted: Deleted = context.with_node(|client| {
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
        Some(backing) if backing.symlink_metadata().is_err() => {
            format!("bucket {name} deleted; {} is not there", backing.display())
        }
        Some(backing) => format!("bucket {name} deleted; {} is left as it is", backing.display()),
    });
    Ok(())
}

fn confirm(context: &Context, checked: &Checked) -> Result<()> {
    let (origin, what) = (&checked.bucket.origin, contents(checked));
    if context.out.confirm(&format!("delete {origin} ({what}) at {}?", checked.backing.display()))? {
        Ok(())
    } else {
        Err(Error::new(Kind::Failed, "nothing was deleted"))
    }
}

fn contents(checked: &Checked) -> String {
    format!("{}, {}", count(checked.bucket.files, "file"), size(checked.bucket.bytes))
}

/// What a delete would do, or why it would be refused.
fn foretell(context: &Context, args: &Args, checked: &Checked) -> Result<()> {
    let bucket = &checked.bucket;
    let (origin, backing) = (&bucket.origin, checked.backing.display());
    if bucket.state == MountState::Mounted && !args.unmount {
        let place = bucket.mountpoint.clone().unwrap_or_default();
        let error = Error::new(Kind::AlreadyMounted, format!("{origin} is mounted at {}", place.display()));
        return Err(error.hint(format!("wizefs unmount {origin}, or wizefs delete {origin} --unmount")));
    }
    let own = checked.backing.starts_with(Root::new(&context.config()?.root).buckets());
    if context.out.json {
        return context.out.document(&serde_json::json!({
            "v": V, "dry_run": true, "bucket": origin, "files": bucket.files, "bytes": bucket.bytes,
            "backing": backing.to_string(), "released": (!own).then(|| backing.to_string()),
        }));
    }
    let what = contents(checked);
    context.out.line(&crate::name::escape(&match own {
        true => format!("would delete the bucket {origin} with its files ({what}) at {backing}"),
        false => format!("would delete the bucket {origin} ({what}) and leave {backing} as it is"),
    }))
}
