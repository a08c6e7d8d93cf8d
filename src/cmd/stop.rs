//! `wizefs stop`.

use super::Context;
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::root::{Root, RootLock, locked};
use axum::http::Method;
use serde_json::{Value, json};

/// End the running node; its mounts are taken away.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What programs still write is recorded first; folders in use are detached.

Examples:
  wizefs stop")]
pub struct Args {}

/// Ask it to end and wait until it has.
///
/// # Errors
/// [`Kind::Unreachable`] when none runs, [`Kind::Busy`] when it does not end within 10 s.
pub fn run(context: &Context, _args: &Args) -> Result<()> {
    let config = context.config()?;
    let Some(client) = Client::running(&config)? else {
        let root = Root::new(&config.root);
        return Err(match RootLock::take(&root) {
            Ok(None) => locked(&root),
            _ => Error::new(Kind::Unreachable, "no node is running"),
        });
    };
    match client.call::<Value>(Method::POST, "/v1/stop", None::<&()>) {
        Ok(_) => {}
        Err(e) if e.kind == Kind::Stopping => {}
        Err(e) => return Err(e),
    }
    client.wait_for_end()?;
    if context.out.json {
        return context.out.document(&json!({"v": crate::rest::wire::V, "stopped": true}));
    }
    context.out.done("the node has ended");
    Ok(())
}
