//! The program: parse, set up tracing and colours, run the command, turn its result into an exit code.

mod allocator;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use wizefs::cli::{Cli, Command};
use wizefs::cmd::completions::VARIABLE;
use wizefs::cmd::{self, Context, mount};
use wizefs::error::{Error, Kind};
use wizefs::fstab;
use wizefs::interrupt;
use wizefs::terminal::{Terminal, talk};

fn main() -> ExitCode {
    interrupt::survive_questions();
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
    let program = std::env::args_os().next();
    if fstab::is_helper(program.as_deref()) {
        return mount_helper();
    }
    match Cli::try_parse() {
        Ok(cli) => ExitCode::from(run(cli)),
        Err(error) => usage(&error),
    }
}

/// As mount(8) wants it: its arguments, and its exit codes.
fn mount_helper() -> ExitCode {
    let parsed = fstab::arguments(std::env::args_os().skip(1)).and_then(|arguments| {
        let program = OsString::from("wizefs");
        Cli::try_parse_from(std::iter::once(program).chain(arguments)).map_err(|e| e.to_string())
    });
    match parsed {
        Ok(Cli { global, command: Command::Mount(args) })
            if mount::is_there(&Context { global: global.clone(), out: Terminal::new(false, true) }, &args) =>
        {
            ExitCode::SUCCESS
        }
        Ok(cli) => ExitCode::from(if run(cli) == 0 { 0 } else { fstab::EXIT_FAILED }),
        Err(text) => {
            talk(&format!("mount.wizefs: {}", text.trim_end()));
            ExitCode::from(fstab::EXIT_USAGE)
        }
    }
}

/// Run a command line and return its exit code.
fn run(cli: Cli) -> u8 {
    match cli.global.color {
        clap::ColorChoice::Auto => {}
        clap::ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        clap::ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    trace(&cli);
    let out = Terminal::new(cli.global.json, cli.global.quiet);
    let variable = std::env::var_os("WIZEFS_ROOT").map(PathBuf::from);
    let out = match &cli.global.root {
        Some(root) if variable.as_ref() != Some(root) => out.in_root(root),
        _ => out,
    };
    let context = Context { global: cli.global, out };
    match cmd::run(&context, &cli.command) {
        Ok(code) => code,
        Err(error) => {
            // A reader that has seen enough (`| head`) is no failure to talk about.
            if error.kind != Kind::Signal(13) {
                out.error(&error);
            }
            error.kind.exit()
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
        Terminal::new(true, false).error(&Error::new(Kind::Usage, message(&error.to_string())));
    } else if error.print().is_err() && !error.use_stderr() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(if error.use_stderr() { Kind::Usage.exit() } else { 0 })
}

/// The sentence in what clap prints: its first line, and where that ends with a colon what it announces.
fn message(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ");
    if !first.ends_with(':') {
        return first.to_owned();
    }
    let told: Vec<&str> = lines.map(str::trim).take_while(|line| !line.is_empty()).collect();
    format!("{first} {}", told.join(", "))
}

/// Commands are silent unless asked; the background node tells what an operator should know. `WIZEFS_TRACE` takes a filter.
fn trace(cli: &Cli) {
    let default = match (cli.global.debug, cli.command.may_go_to_the_background()) {
        (true, _) => "debug,hyper_util=info,hyper=info,h2=info",
        (false, true) => "info",
        (false, false) if matches!(cli.command, Command::Mount(_) | Command::Node(_)) => "warn",
        // Of a command that is its own node, the failed request is the failure that it prints.
        (false, false) => "warn,wizefs::rest=error",
    };
    wizefs::trace::start(default);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_in_one_line() {
        fn check(given: &[&str], expect: &str) {
            let error = Cli::try_parse_from(["wizefs"].iter().chain(given)).err().unwrap();
            assert_eq!(message(&error.to_string()), expect, "{given:?}");
        }
        check(&["create"], "the following required arguments were not provided: <ORIGIN>");
        check(&["get"], "the following required arguments were not provided: <FILE>, <ORIGIN>");
        check(&["nosuch"], "unrecognized subcommand 'nosuch'");
    }
}
