//! `wizefs stop`.

use super::Context;
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::root::{Root, RootLock};
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
    let client = running(&config)?.ok_or_else(|| Error::new(Kind::Unreachable, "no node is running"))?;
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

/// The running node. One that is about to serve, or that ends, has the root already, or still, and is waited for.
fn running(config: &Config) -> Result<Option<Client>> {
    if let Some(client) = Client::running(config)? {
        return Ok(Some(client));
    }
    let mut found = None;
    let lock = RootLock::wait(&Root::new(&config.root), || {
        found = Client::running(config).transpose();
        found.is_none()
    });
    match lock {
        Err(e) if found.is_none() && e.kind == Kind::RootLocked => Err(e),
        _ => found.transpose(),
    }
}
