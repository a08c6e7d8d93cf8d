//! The command line: global flags, the list of commands, and a help that teaches.
//!
//! A new command is one file under `cmd/` with its arguments and its run function, one variant here and one line in
//! `GROUPS`; a test fails when the line is missing.

use crate::cmd;
use crate::error::{EXIT_BY_SIGNAL, EXIT_CODES};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, ColorChoice, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// What the predecessor's users know, and what came since, in the order of a first visit.
const GROUPS: &str = "\
Buckets:  create (c)   delete (d)   mount (m)   unmount (u)   list (ls)   check
          bucket       compact
Files:    put (p)      get (g)      remove (r)  search        export
Ledger:   log          verify       accept      sync          integrity
          proof        witness      block       mine          forget
Coins:    wallet       send
Node:     node         stop         status      doctor
Help:     completions  man";

/// What a first visit looks like, and where to go on.
pub(crate) const EXAMPLES: &str = "\
Examples:
  wizefs create docs && wizefs mount docs     a bucket as an ordinary folder
  wizefs create work --from ~/work            adopt a folder where it is
  wizefs put report.pdf docs                  store a file, mounted or not
  wizefs log docs                             who changed what, and when
  wizefs sync && wizefs verify docs           every byte against the ledger
  wizefs proof docs/a.txt -o a.proof          for others: wizefs verify a.txt --proof a.proof

The global options and those of the node have variables: --root is WIZEFS_ROOT, --listen WIZEFS_LISTEN, and so on.
More about a command: wizefs COMMAND --help. What is wrong here: wizefs doctor.";

/// Files and folders, for the manual.
pub(crate) const FILES: [(&str, &str); 6] = [
    ("~/.local/share/wize/fs", "The root: buckets, ledger and wallets. --root or WIZEFS_ROOT name another one."),
    (
        "ROOT/node.conf",
        "Optional JSON: where the node listens, and the stamp of a new chain. Flags and variables beat it.",
    ),
    ("ROOT/wizedb.conf, ROOT/buckets/ORIGIN/wizefs.conf", "Which buckets there are, and what each is."),
    ("ROOT/mnt/ORIGIN", "Where a bucket is mounted unless told otherwise. It is there only while mounted."),
    ("ROOT/wallets", "Keys, readable by their owner alone. Who has them can sign in your name."),
    ("ROOT/node.log", "What a node in the background has to say."),
];

/// Below the short help.
fn after_help() -> String {
    format!("{EXAMPLES}\nExit codes: wizefs --help lists them.")
}

/// Below the long help: the table of exit codes, from the one there is.
fn after_long_help() -> String {
    let mut text = format!("{EXAMPLES}\n\nExit codes:\n");
    for (code, meaning) in EXIT_CODES {
        text += &format!("  {code:>5}  {meaning}\n");
    }
    text + &format!("  128+n  {EXIT_BY_SIGNAL}")
}

/// Folders whose history you can prove: every change in a mounted bucket, by any program, is hashed, signed and recorded.
#[derive(Debug, Parser)]
#[command(
    name = "wizefs",
    version,
    help_template = "{about}\n\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}",
    before_help = GROUPS,
    after_help = after_help(),
    after_long_help = after_long_help(),
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The same text, each command in it with this flag.
    pub(crate) fn with_flag(text: &str, flag: &str) -> String {
        let program = Cli::command();
        let mut words = text.split(' ').peekable();
        let mut told = Vec::new();
        while let Some(word) = words.next() {
            told.push(word);
            // Many a sentence is about wizefs.
            if word == "wizefs" && words.peek().is_some_and(|next| program.find_subcommand(next).is_some()) {
                told.push(flag);
            }
        }
        told.join(" ")
    }
}

/// Flags that stand before or after the command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Folder of buckets, ledger and wallets [default: ~/.local/share/wize/fs]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "WIZEFS_ROOT",
        hide_env = true,
        help_heading = "Global options"
    )]
    pub root: Option<PathBuf>,
    /// Machine-readable result on stdout, failures as one JSON line on stderr
    #[arg(long, global = true, env = "WIZEFS_JSON", hide_env = true, action = ArgAction::SetTrue,
          value_parser = FalseyValueParser::new(), help_heading = "Global options")]
    pub json: bool,
    /// Errors only
    #[arg(short, long, global = true, env = "WIZEFS_QUIET", hide_env = true, action = ArgAction::SetTrue,
          value_parser = FalseyValueParser::new(), help_heading = "Global options")]
    pub quiet: bool,
    /// Tell on stderr what happens inside
    #[arg(long, global = true, env = "WIZEFS_DEBUG", hide_env = true, action = ArgAction::SetTrue,
          value_parser = FalseyValueParser::new(), help_heading = "Global options")]
    pub debug: bool,
    /// Colours: auto, always or never (NO_COLOR is honoured)
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        env = "WIZEFS_COLOR",
        hide_env = true,
        default_value = "auto",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub color: ColorChoice,
}

impl Global {
    /// The flags that say the same.
    pub fn to_args(&self) -> Vec<OsString> {
        let flags = [("--json", self.json), ("--quiet", self.quiet), ("--debug", self.debug)];
        let mut args: Vec<OsString> = flags.iter().filter(|(_, on)| *on).map(|(flag, _)| flag.into()).collect();
        args.push(format!("--color={}", self.color).into());
        if let Some(root) = &self.root {
            args.extend(["--root".into(), root.clone().into_os_string()]);
        }
        args
    }
}

/// Every command, with its alias.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a bucket, or adopt a folder as one
    #[command(visible_alias = "c")]
    Create(cmd::create::Args),
    /// Delete a bucket; an adopted folder is released, not erased
    #[command(visible_alias = "d")]
    Delete(cmd::delete::Args),
    /// Show a bucket as an ordinary folder
    #[command(visible_alias = "m")]
    Mount(cmd::mount::Args),
    /// Take the folder away and wait until everything is recorded
    #[command(visible_alias = "u")]
    Unmount(cmd::unmount::Args),
    /// Store a file
    #[command(visible_alias = "p")]
    Put(cmd::put::Args),
    /// Fetch a file, checked against the ledger
    #[command(visible_alias = "g")]
    Get(cmd::get::Args),
    /// Remove a file
    #[command(visible_alias = "r")]
    Remove(cmd::remove::Args),
    /// Buckets, or the files of one
    #[command(visible_alias = "ls")]
    List(cmd::list::Args),
    /// Files by name, content hash or transaction
    Search(cmd::search::Args),
    /// Write a bucket into an encrypted archive
    Export(cmd::export::Args),
    /// The passphrase of an encrypted bucket
    Bucket(cmd::bucket::Args),
    /// Structure and mount state of a bucket, quickly
    Check(cmd::check::Args),
    /// Rewrite the archive of an lz bucket without holes
    Compact(cmd::compact::Args),
    /// The transactions, newest first
    Log(cmd::log::Args),
    /// Bytes against the ledger
    Verify(cmd::verify::Args),
    /// Sign a foreign state as your own
    Accept(cmd::accept::Args),
    /// Wait until everything done so far is final
    Sync(cmd::sync::Args),
    /// Prove to anybody, without a node, what is in a file and since when
    Proof(cmd::proof::Args),
    /// Erase what a transaction says
    Forget(cmd::forget::Args),
    /// Take away a checkpoint, by which a rewritten history is found out
    Witness(cmd::witness::Args),
    /// The chain itself, from genesis
    Integrity(cmd::integrity::Args),
    /// Keys, addresses and coins
    Wallet(cmd::wallet::Args),
    /// Send coins
    Send(cmd::send::Args),
    /// One block and its transactions
    Block(cmd::block::Args),
    /// Seal a block now
    Mine(cmd::block::MineArgs),
    /// The node, the ledger and the buckets at a glance
    Status(cmd::status::Args),
    /// What is wrong with this machine, and what to do about it
    Doctor(cmd::doctor::Args),
    /// Run the node without a mount
    Node(cmd::node::Args),
    /// End the running node
    Stop(cmd::stop::Args),
    /// Shell completion, with the names of buckets and files
    Completions(cmd::completions::Args),
    /// Write the manual pages
    Man(cmd::man::Args),
}

impl Command {
    /// Whether the command reads what can be read once only (standard input, a pipe), so that it cannot be started over.
    pub fn reads_once(&self) -> bool {
        matches!(self, Command::Put(args) if args.reads_once())
    }

    /// Whether the command may become the background node, whose tracing goes to `node.log`.
    pub fn may_go_to_the_background(&self) -> bool {
        match self {
            Command::Mount(args) => !args.is_foreground(),
            Command::Node(args) => !args.is_foreground(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_a_text_are_given_a_flag() {
        fn check(text: &str, expect: &str) {
            assert_eq!(Cli::with_flag(text, "--root /r"), expect);
        }
        check("wizefs mount docs", "wizefs --root /r mount docs");
        check("x: wizefs d a, or wizefs ls", "x: wizefs --root /r d a, or wizefs --root /r ls");
        check("wizefs adopts archives", "wizefs adopts archives");
        check("wizefs --help", "wizefs --help");
        check("wizefs", "wizefs");
    }

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_has_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for (code, meaning) in EXIT_CODES {
            assert!(help.contains(&format!("{code:>5}  {meaning}\n")), "{code} {meaning}");
        }
        assert!(help.contains("128+n"));
    }

    #[test]
    fn every_command_teaches_with_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{}", command.get_name()));
            let name = command.get_name();
            assert!(examples.contains(&format!("wizefs {name}")), "the examples of {name} do not use it");
        }
    }

    #[test]
    fn every_command_is_in_the_help() {
        for command in Cli::command().get_subcommands() {
            let mut words = GROUPS.split_whitespace();
            assert!(words.any(|word| word == command.get_name()), "{} is not in GROUPS", command.get_name());
            for alias in command.get_visible_aliases() {
                assert!(GROUPS.contains(&format!("{} ({alias})", command.get_name())), "{alias}");
            }
        }
    }

    #[test]
    fn global_flags_work_before_and_after_the_command() {
        fn check(line: &str, expect: (bool, bool, &str)) {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Global { json, quiet, root, .. } = cli.global;
            let root = root.as_deref().and_then(|root| root.to_str());
            assert_eq!((json, quiet, root), (expect.0, expect.1, Some(expect.2)), "{line}");
        }
        check("wizefs --json --root /r list", (true, false, "/r"));
        check("wizefs list --json -q --root /r", (true, true, "/r"));
        check("wizefs c docs --root=/r", (false, false, "/r"));
        check("wizefs --root /r m docs -f --notifypid 7", (false, false, "/r"));
    }
}
