//! `wizefs unmount`.

use super::{Context, complete};
use crate::client::{Client, segment};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::rest::wire::Unmounted;
use axum::http::Method;
use clap_complete::engine::ArgValueCompleter;

/// Take the folder away and wait until everything is recorded.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A folder in use is refused with exit code 13, naming the programs that use it.

Examples:
  wizefs unmount docs
  wizefs unmount docs --lazy              detach it now; it ends with its last program")]
pub struct Args {
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
    /// Detach it even while programs use it; it ends with the last of them
    #[arg(long)]
    lazy: bool,
}

/// Unmount; when that was the node's last mount, wait for its end.
///
/// # Errors
/// As `Node::unmount`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let name = BucketName::new(&args.origin)?;
    let unmounted = context.with_node(|client| unmount(client, &name, args.lazy))?;
    if context.out.json {
        return context.out.document(&unmounted);
    }
    let place = unmounted.mountpoint.display();
    context.out.done(&match unmounted.detached {
        false => format!("{name} is unmounted from {place}"),
        true => format!("{name} is detached from {place}"),
    });
    if unmounted.detached && !args.lazy {
        context.out.hint(
            "it is mounted elsewhere too, by mount --bind or in another namespace, and served there until that ends",
        );
    }
    Ok(())
}

/// Ask for it; when that was the node's last mount, wait for its end.
pub(super) fn unmount(client: &Client, name: &BucketName, lazy: bool) -> Result<Unmounted> {
    let uri = format!("/v1/buckets/{}/unmount?lazy={lazy}", segment(name.as_str().as_bytes()));
    let unmounted: Unmounted = client.call(Method::POST, &uri, None::<&()>)?;
    if unmounted.node_ends && !unmounted.detached {
        client.wait_for_end().map_err(|e| match e.kind {
            Kind::Busy => Error::new(Kind::Busy, format!("{name} is unmounted, but {e}")),
            _ => e,
        })?;
    }
    Ok(unmounted)
}
