//! `wizefs completions`.

use super::Context;
use crate::error::{Error, Kind, Result};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use std::path::PathBuf;

/// When this variable names a shell, the program answers Tab instead of running a command.
pub const VARIABLE: &str = "WIZEFS_COMPLETE";

/// Shell completion, with the names of buckets and files.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(wizefs completions bash)       in ~/.bashrc
  source <(wizefs completions zsh)        in ~/.zshrc, after compinit
  wizefs completions fish | source        in ~/.config/fish/config.fish")]
pub struct Args {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    shell: Shell,
}

/// The shells.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Print the script that asks this program for candidates.
///
/// # Errors
/// stdout cannot be written.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "wizefs", "wizefs", &program(), &mut script)
        .map_err(|e| Error::io(Kind::Internal, "cannot write the script", &e))?;
    if context.out.json {
        let script = String::from_utf8_lossy(&script).into_owned();
        return context.out.document(&serde_json::json!({"v": crate::rest::wire::V, "script": script}));
    }
    context.out.raw(&script)
}

/// This program as the shell finds it: by name when that is how it was called.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() == 1 {
        return called.display().to_string();
    }
    std::env::current_exe().unwrap_or(called).display().to_string()
}
