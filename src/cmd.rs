//! The commands: one file each with its arguments, what it asks of the node, and what it prints.

pub mod accept;
pub mod block;
pub mod bucket;
pub mod check;
pub mod compact;
mod complete;
pub mod completions;
pub mod create;
pub mod delete;
pub mod doctor;
pub mod export;
pub mod forget;
pub mod get;
pub mod integrity;
pub mod list;
pub mod log;
pub mod man;
pub mod mount;
pub mod node;
pub mod proof;
pub mod put;
pub mod remove;
pub mod search;
pub mod send;
pub mod status;
pub mod stop;
pub mod sync;
pub mod unmount;
pub mod verify;
pub mod wallet;
pub mod witness;

use crate::cli::{Command, Global};
use crate::client::Client;
use crate::config::{Config, ListenArgs};
use crate::error::{Error, Kind, Result};
use crate::root::{Root, RootLock};
use crate::socket;
use crate::terminal::Terminal;
use std::os::unix::process::CommandExt;

/// What every command gets: the flags of all commands, and where to print.
pub struct Context {
    /// Global flags.
    pub global: Global,
    /// Where results go.
    pub out: Terminal,
}

impl Context {
    /// The configuration, for commands that start no listening node.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn config(&self) -> Result<Config> {
        self.serving_config(&ListenArgs::default())
    }

    /// The configuration, for commands that may start the node.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn serving_config(&self, listen: &ListenArgs) -> Result<Config> {
        Config::load(self.global.root.as_deref(), listen)
    }

    /// Say it when this process is about to leave files in a root folder that its owner cannot change.
    fn warn_of_owner(&self, config: &Config) {
        let root = Root::new(&config.root);
        if let Some(owner) = root.other_owner() {
            let text =
                format!("{} belongs to user {owner}, who cannot change what root makes there", config.root.display());
            self.out.warn(&text);
            self.out.hint("run this as that user, or choose another root with --root DIR");
        }
    }

    /// Work with the running node, or with an own one that settles and seals before this returns.
    ///
    /// # Errors
    /// What `work` returns, else what kept the own node from sealing.
    pub fn with_node<T>(&self, work: impl FnOnce(&Client) -> Result<T>) -> Result<T> {
        let config = self.config()?;
        let client = Client::open(&config)?;
        if client.is_own() {
            self.warn_of_owner(&config);
        }
        let result = work(&client);
        let closed = client.close();
        let value = result?;
        closed?;
        Ok(value)
    }
}

/// How a node in the foreground ended. A signal is its usual end, and no failure; the exit code tells of it.
fn ended(context: &Context, signal: Option<u8>) -> Result<u8> {
    let Some(signal) = signal else { return Ok(0) };
    context.out.done(&format!("ended by signal {signal}"));
    Ok(Kind::Signal(signal).exit())
}

/// Run a command; the exit code is 0 or 26 (damage was found and shown).
///
/// # Errors
/// Whatever failed; its kind has the exit code.
pub fn run(context: &Context, command: &Command) -> Result<u8> {
    match run_once(context, command) {
        // The node that was asked is about to end: wait for that, and start over as a process without threads, which may
        // become the node itself.
        Err(e) if e.kind == Kind::Stopping && !command.reads_once() => {
            let root = Root::new(&context.config()?.root);
            // Another command may be quicker, and be the next node.
            let is_next = || matches!(socket::connect(&root), Ok(Some(_)));
            if RootLock::wait_until_free(&root, is_next)? {
                let mut again = std::process::Command::new("/proc/self/exe");
                let mut given = std::env::args_os();
                // The name decides, too: `mount.wizefs` takes other arguments.
                again.arg0(given.next().unwrap_or("wizefs".into())).args(given);
                return Err(Error::io(Kind::Failed, "cannot start over", &again.exec()));
            }
            Err(e)
        }
        result => result,
    }
}

fn run_once(context: &Context, command: &Command) -> Result<u8> {
    match command {
        Command::Create(args) => create::run(context, args).map(|()| 0),
        Command::Delete(args) => delete::run(context, args).map(|()| 0),
        Command::Mount(args) => mount::run(context, args),
        Command::Unmount(args) => unmount::run(context, args).map(|()| 0),
        Command::Put(args) => put::run(context, args).map(|()| 0),
        Command::Get(args) => get::run(context, args).map(|()| 0),
        Command::Remove(args) => remove::run(context, args).map(|()| 0),
        Command::List(args) => list::run(context, args).map(|()| 0),
        Command::Search(args) => search::run(context, args).map(|()| 0),
        Command::Export(args) => export::run(context, args).map(|()| 0),
        Command::Bucket(args) => bucket::run(context, args).map(|()| 0),
        Command::Check(args) => check::run(context, args),
        Command::Log(args) => log::run(context, args).map(|()| 0),
        Command::Verify(args) => verify::run(context, args),
        Command::Accept(args) => accept::run(context, args).map(|()| 0),
        Command::Compact(args) => compact::run(context, args).map(|()| 0),
        Command::Sync(args) => sync::run(context, args).map(|()| 0),
        Command::Wallet(args) => wallet::run(context, args).map(|()| 0),
        Command::Send(args) => send::run(context, args).map(|()| 0),
        Command::Block(args) => block::run(context, args).map(|()| 0),
        Command::Mine(args) => block::mine(context, args).map(|()| 0),
        Command::Forget(args) => forget::run(context, args).map(|()| 0),
        Command::Proof(args) => proof::run(context, args).map(|()| 0),
        Command::Witness(args) => witness::run(context, args).map(|()| 0),
        Command::Integrity(args) => integrity::run(context, args),
        Command::Status(args) => status::run(context, args).map(|()| 0),
        Command::Node(args) => node::run(context, args),
        Command::Stop(args) => stop::run(context, args).map(|()| 0),
        Command::Doctor(args) => doctor::run(context, args),
        Command::Completions(args) => completions::run(context, args).map(|()| 0),
        Command::Man(args) => man::run(context, args).map(|()| 0),
    }
}

/// A path of a file system from a path that may be relative to where the user stands.
fn absolute(path: &std::path::Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(Kind::Usage, format!("cannot resolve {}", path.display()), &e))
}

/// `final in block 7`, or `pending`.
fn standing(block: Option<u64>) -> String {
    match block {
        Some(height) => format!("block {height}"),
        None => "pending".to_owned(),
    }
}
