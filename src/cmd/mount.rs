//! `wizefs mount`: asks the running node, or becomes it.

use super::{Context, complete};
use crate::background::{self, Reporter, exit_code};
use crate::client::{Client, segment};
use crate::config::{Config, ListenArgs};
use crate::error::{Error, Kind, Result};
use crate::name::BucketName;
use crate::node::our_mounts;
use crate::rest::wire::{BucketStatus, Buckets, Durability, MountRequest, MountState, Mounted};
use crate::root::{LOCK_PATIENCE, Root};
use crate::server::{self, FirstMount};
use crate::terminal::count;
use axum::http::Method;
use clap::ArgAction;
use clap::builder::FalseyValueParser;
use clap_complete::engine::ArgValueCompleter;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::time::Instant;

/// Show a bucket as an ordinary folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs mount docs                       at <root>/mnt/docs; returns when the folder is usable
  wizefs mount docs ~/docs --read-only    somewhere else, for reading
  wizefs mount docs --fg                  stay in the foreground; Ctrl-C unmounts")]
pub struct Args {
    /// The bucket
    #[arg(value_name = "ORIGIN", add = ArgValueCompleter::new(complete::buckets))]
    origin: String,
    /// An empty folder [default: mnt/ORIGIN below the root, made and removed with the mount]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// Stay in the foreground
    #[arg(short, long)]
    fg: bool,
    /// Send SIGUSR1 to this process when the folder is usable
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    notifypid: Option<i32>,
    /// Refuse all writes
    #[arg(long, env = "WIZEFS_READ_ONLY", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    read_only: bool,
    /// What close and fsync wait for
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, env = "WIZEFS_DURABILITY", hide_env = true)]
    durability: Durability,
    /// Nobody changes the backing meanwhile: cache longer
    #[arg(long, env = "WIZEFS_EXCLUSIVE", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    exclusive: bool,
    /// Let other users in
    #[arg(long, env = "WIZEFS_ALLOW_OTHER", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    allow_other: bool,
    /// Let no program in it be run
    #[arg(long)]
    noexec: bool,
    /// File with the passphrase of an archive's encrypted members; its path is remembered
    #[arg(long, value_name = "FILE")]
    passfile: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArgs,
}

impl Args {
    /// Whether the node stays in the foreground.
    pub fn is_foreground(&self) -> bool {
        self.fg
    }
}

/// Mount, and say where.
///
/// # Errors
/// As `Node::mount` and `server::run`; [`Kind::Background`] when the node dies silently.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let bucket = BucketName::new(&args.origin)?;
    let request = MountRequest {
        mountpoint: args.mountpoint.as_deref().map(super::absolute).transpose()?,
        read_only: args.read_only,
        durability: args.durability,
        exclusive: args.exclusive,
        allow_other: args.allow_other,
        noexec: args.noexec,
        passfile: args.passfile.as_deref().map(super::absolute).transpose()?,
    };
    mount(context, &args.listen, &bucket, request, !args.fg, args.notifypid)
}

/// Mount through the running node; without one become it, in the background or here.
///
/// # Errors
/// As [`run`].
pub(super) fn mount(
    context: &Context,
    listen: &ListenArgs,
    bucket: &BucketName,
    request: MountRequest,
    background: bool,
    notify: Option<i32>,
) -> Result<u8> {
    let config = context.serving_config(listen)?;
    if let Some(client) = Client::running(&config)? {
        listen.agree(&client)?;
        let asked = ask(context, &client, bucket, &request, notify);
        if background {
            return asked.map(|()| 0);
        }
        return match unmount_on_signal(&client, bucket, asked.and_then(|()| stay_with(&client, bucket))) {
            Err(Error { kind: Kind::Signal(signal), .. }) => super::ended(context, Some(signal)),
            stayed => stayed.map(|()| 0),
        };
    }
    let (first, since) = (FirstMount { bucket: bucket.clone(), request }, Instant::now());
    context.warn_of_owner(&config);
    if !background {
        return stay(context, &config, first, notify).map_err(|e| quicker(e, since));
    }
    let slow = |text: &str| context.out.note(text);
    let ready = background::start(&Root::new(&config.root), &slow, |reporter| {
        exit_code(server::run(&config, Some(first), &reporter))
    });
    let mounted = serde_json::from_value(ready.map_err(|e| quicker(e, since))?)
        .map_err(|e| Error::new(Kind::Internal, format!("the node's answer cannot be understood: {e}")))?;
    tell(context, &mounted, notify).map(|()| 0)
}

/// Another command was quicker to be the node, and may have ended by now: this one starts over, and asks that node or is the next.
/// Whoever holds the root and does not listen was waited for.
fn quicker(error: Error, since: Instant) -> Error {
    match error.kind {
        Kind::RootLocked if since.elapsed() < LOCK_PATIENCE => Error::new(Kind::Stopping, error.message),
        _ => error,
    }
}

fn ask(
    context: &Context,
    client: &Client,
    bucket: &BucketName,
    request: &MountRequest,
    notify: Option<i32>,
) -> Result<()> {
    let uri = format!("/v1/buckets/{}/mount", segment(bucket.as_str().as_bytes()));
    let mounted = client.call(Method::POST, &uri, Some(request))?;
    tell(context, &mounted, notify)
}

/// Whether it is there already: mount(8) mounts again what another line of fstab, or the same one, has mounted. The node hears of
/// umount(8) a moment later than the kernel, so both are asked.
pub fn is_there(context: &Context, args: &Args) -> bool {
    let Some(wanted) = args.mountpoint.as_deref().and_then(|place| super::absolute(place).ok()) else { return false };
    if !our_mounts().is_ok_and(|mounts| mounts.contains(&wanted)) {
        return false;
    }
    let Ok(Some(client)) = context.config().and_then(|config| Client::running(&config)) else { return false };
    let is_it = |one: &BucketStatus| {
        let is_mounted = one.state == MountState::Mounted && one.mountpoint.as_ref() == Some(&wanted);
        one.origin.as_str() == args.origin && is_mounted
    };
    client.get::<Buckets>("/v1/buckets").is_ok_and(|found| found.buckets.iter().any(is_it))
}

/// Stay while the running node keeps the bucket mounted.
fn stay_with(client: &Client, bucket: &BucketName) -> Result<()> {
    let mounted = |one: &BucketStatus| one.origin == *bucket && one.state == MountState::Mounted;
    let gone = |found: Buckets| !found.buckets.iter().any(mounted);
    match client.watch("/v1/buckets", "unmount", gone) {
        // The node has ended, and its mounts with it.
        Err(e) if matches!(e.kind, Kind::Unreachable | Kind::Stopping) => Ok(()),
        stayed => stayed,
    }
}

/// A signal takes the mount away, as it does when the node itself is in the foreground.
fn unmount_on_signal(client: &Client, bucket: &BucketName, stayed: Result<()>) -> Result<()> {
    if stayed.as_ref().is_err_and(|e| matches!(e.kind, Kind::Signal(_))) {
        match super::unmount::unmount(client, bucket, true) {
            Err(e) if e.kind != Kind::NotMounted => return Err(e),
            _ => {}
        }
    }
    stayed
}

fn stay(context: &Context, config: &Config, first: FirstMount, notify: Option<i32>) -> Result<u8> {
    let out = context.out;
    let told = Context { global: context.global.clone(), out };
    let reporter = Reporter::foreground(move |ready| match serde_json::from_value(ready) {
        Ok(mounted) => {
            if let Err(e) = tell(&told, &mounted, notify) {
                out.error(&e);
            }
        }
        Err(e) => tracing::error!("cannot tell that the folder is usable: {e}"),
    });
    super::ended(context, server::run(config, Some(first), &reporter)?)
}

fn tell(context: &Context, mounted: &Mounted, notify: Option<i32>) -> Result<()> {
    let Mounted { bucket, mountpoint, pid, recovered, .. } = mounted;
    if mounted.cleared_stale {
        context.out.warn(&format!("a node that was killed had left a dead mount of {bucket}; it is cleared"));
    }
    if *recovered > 0 {
        let names = count(*recovered, "name");
        context.out.warn(&format!("{names} looked at that may have changed: wizefs log {bucket} has those that did"));
    }
    let how = if mounted.read_only { "read-only" } else { "read-write" };
    context.out.done(&format!("{bucket} is mounted at {} ({how}, pid {pid})", mountpoint.display()));
    context.out.hint(&format!("wizefs unmount {bucket}"));
    if context.out.json {
        context.out.document(mounted)?;
    }
    match notify.and_then(Pid::from_raw) {
        None => Ok(()),
        Some(pid) => kill_process(pid, Signal::USR1)
            .map_err(|e| Error::io(Kind::Failed, format!("cannot notify process {}", pid.as_raw_nonzero()), &e.into())),
    }
}
