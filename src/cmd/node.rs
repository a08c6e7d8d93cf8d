//! `wizefs node`.

use super::Context;
use crate::background::{self, Reporter, exit_code};
use crate::client::Client;
use crate::config::ListenArgs;
use crate::error::{Error, Kind, Result};
use crate::rest::wire::{Status, Trace, TraceRequest};
use crate::root::Root;
use crate::{server, trace};
use axum::http::Method;

/// Run the node without a mount; it serves until it is stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs node                             in the background, until wizefs stop
  wizefs node --fg --listen 127.0.0.1:0   here, on any free port; Ctrl-C ends it")]
pub struct Args {
    /// Stay in the foreground
    #[arg(short, long)]
    fg: bool,
    /// How much it traces: info, debug, or info,wizefs_fs=trace; also changes what a running node does
    #[arg(long, value_name = "FILTER")]
    trace: Option<String>,
    #[command(flatten)]
    listen: ListenArgs,
}

impl Args {
    /// Whether the node stays in the foreground.
    pub fn is_foreground(&self) -> bool {
        self.fg
    }
}

/// Start, and say where it listens.
///
/// # Errors
/// [`Kind::RootLocked`] when a node runs already; as `server::run`.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let config = context.serving_config(&args.listen)?;
    if let Some(client) = Client::running(&config)? {
        args.listen.agree(&client)?;
        return match &args.trace {
            Some(filter) => set_trace(context, &client, filter).map(|()| 0),
            None => Err(server::already_running(&config)),
        };
    }
    if let Some(filter) = &args.trace {
        trace::set_filter(filter)?;
    }
    context.warn_of_owner(&config);
    if !args.fg {
        let (root, slow) = (Root::new(&config.root), |text: &str| context.out.note(text));
        let ready = background::start(&root, &slow, |reporter| exit_code(server::run(&config, None, &reporter)))?;
        return tell(context, ready).map(|()| 0);
    }
    let (out, told) = (context.out, Context { global: context.global.clone(), out: context.out });
    let reporter = Reporter::foreground(move |ready| {
        if let Err(e) = tell(&told, ready) {
            out.error(&e);
        }
    });
    super::ended(context, server::run(&config, None, &reporter)?)
}

fn set_trace(context: &Context, client: &Client, filter: &str) -> Result<()> {
    let set: Trace = client.call(Method::PUT, "/v1/trace", Some(&TraceRequest { filter: filter.to_owned() }))?;
    context.out.done(&format!("the node traces: {}", set.filter));
    if context.out.json { context.out.document(&set) } else { Ok(()) }
}

fn tell(context: &Context, ready: serde_json::Value) -> Result<()> {
    let status: Status = serde_json::from_value(ready)
        .map_err(|e| Error::new(Kind::Internal, format!("the node's answer cannot be understood: {e}")))?;
    if context.out.json {
        return context.out.document(&status);
    }
    let pid = status.node.pid.unwrap_or_default();
    let rest = status.node.rest.as_deref().unwrap_or("off");
    let grpc = status.node.grpc.as_deref().unwrap_or("off");
    context.out.done(&format!("the node runs (pid {pid}, REST {rest}, gRPC {grpc})"));
    if let Some(fingerprint) = &status.node.tls {
        context.out.done(&format!("its certificate has the SHA-256 fingerprint {fingerprint}"));
    }
    context.out.hint("wizefs stop");
    Ok(())
}
