//! The program: parse, set up tracing and colours, run the command, turn its result into an exit code.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use std::process::ExitCode;
use wizefs::cli::{Cli, Command};
use wizefs::cmd::completions::VARIABLE;
use wizefs::cmd::{self, Context};
use wizefs::error::{Error, Kind};
use wizefs::terminal::Terminal;

/// The C library gives each thread a heap of its own and seldom gives any of it back; a node has a dozen threads. Measured:
/// 142 MB instead of 212 after 40,000 small files.
#[cfg(target_env = "gnu")]
fn share_heaps() {
    // SAFETY: sets a number, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

fn main() -> ExitCode {
    #[cfg(target_env = "gnu")]
    share_heaps();
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.global.color {
        clap::ColorChoice::Auto => {}
        clap::ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        clap::ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    trace(&cli);
    let out = Terminal::new(cli.global.json, cli.global.quiet);
    let context = Context { global: cli.global, out };
    match cmd::run(&context, &cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // A reader that has seen enough (`| head`) is no failure to talk about.
            if error.kind != Kind::Signal(13) {
                out.error(&error);
            }
            ExitCode::from(error.kind.exit())
        }
    }
}

/// What clap takes for no in a variable.
const FALSE: [&str; 7] = ["", "n", "no", "f", "false", "off", "0"];

/// What `wizefs` alone says: a variable such as WIZEFS_ROOT keeps clap from showing the help by itself.
fn show_help() -> ExitCode {
    match Cli::command().print_help() {
        Ok(()) => ExitCode::from(Kind::Usage.exit()),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Help and version as clap prints them; a mistake as one JSON line when that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
        && std::env::args_os().len() <= 1
    {
        return show_help();
    }
    let variable = std::env::var("WIZEFS_JSON").is_ok_and(|value| !FALSE.contains(&value.to_lowercase().as_str()));
    let json = variable || std::env::args_os().any(|arg| arg == "--json");
    if json && error.use_stderr() {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Terminal::new(true, false).error(&Error::new(Kind::Usage, message));
    } else if error.print().is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(if error.use_stderr() { Kind::Usage.exit() } else { 0 })
}

/// Commands are silent unless asked; the background node tells what an operator should know. `WIZEFS_TRACE` takes a filter.
fn trace(cli: &Cli) {
    let default = match (cli.global.debug, cli.command.may_go_to_the_background()) {
        (true, _) => "debug,hyper_util=info,hyper=info",
        (false, true) => "info",
        (false, false) if matches!(cli.command, Command::Mount(_) | Command::Node(_)) => "warn",
        // Of a command that is its own node, the failed request is the failure that it prints.
        (false, false) => "warn,wizefs::rest=error",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("WIZEFS_TRACE")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
