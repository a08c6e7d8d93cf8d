//! `wizefs doctor`: what is wrong with this machine and this root, each with what to do about it.
//!
//! It looks without changing anything, also where nothing was made yet; `--fix` does what can be done without a question.

mod machine;
mod places;

use super::Context;
use crate::config::{Config, ListenArgs};
use crate::error::{Kind, Result};
use crate::rest::wire::V;
use crate::root::Root;
use crate::terminal::{Terminal, count};
use serde::Serialize;

/// What is wrong with this machine, and what to do about it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at the FUSE device and its helper, the folders and their permissions, free space, dead mounts, ports, the clock, the node, \
the ledger and every bucket. Exit code 1 means that something keeps wizefs from working; warnings do not.

With --fix it closes permissions of keys, detaches dead mounts and loads the FUSE module, where it may; the rest is for you.

Examples:
  wizefs doctor
  wizefs doctor --fix")]
pub struct Args {
    /// Repair what can be repaired without a question
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    listen: ListenArgs,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    Ok,
    Fixed,
    Warning,
    Error,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: Standing,
    message: String,
    hint: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, status: Standing::Ok, message: message.into(), hint: None }
    }

    fn fixed(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, status: Standing::Fixed, message: message.into(), hint: None }
    }

    fn warning(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { check, status: Standing::Warning, message: message.into(), hint: Some(hint.into()) }
    }

    fn error(check: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { check, status: Standing::Error, message: message.into(), hint: Some(hint.into()) }
    }

    fn failed(check: &'static str, error: &crate::error::Error) -> Finding {
        Finding { check, status: Standing::Error, message: error.message.clone(), hint: error.hint.clone() }
    }
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Report<'a> {
    v: u32,
    ok: bool,
    checks: &'a [Finding],
    exit: u8,
}

/// Look at everything; 1 when something keeps wizefs from working.
///
/// # Errors
/// The result cannot be written.
pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let mut found = machine::check(args.fix);
    match context.serving_config(&args.listen) {
        Ok(config) => found.extend(root(context, &config, args.fix)),
        Err(error) => found.push(Finding::failed("config", &error)),
    }
    let bad = found.iter().any(|finding| finding.status == Standing::Error);
    let exit = if bad { Kind::Failed.exit() } else { 0 };
    if context.out.json {
        context.out.document(&Report { v: V, ok: !bad, checks: &found, exit })?;
    } else {
        show(&context.out, &found)?;
    }
    Ok(exit)
}

fn root(context: &Context, config: &Config, fix: bool) -> Vec<Finding> {
    let root = Root::new(&config.root);
    let mut found = places::folders(&root);
    found.extend(places::permissions(&root, fix));
    found.extend(places::node_and_ledger(context, config, &root, fix));
    found
}

fn show(out: &Terminal, found: &[Finding]) -> Result<()> {
    let width = found.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for Finding { check, status, message, hint } in found {
        if out.quiet && matches!(status, Standing::Ok | Standing::Fixed) {
            continue;
        }
        let (mark, word) = match status {
            Standing::Ok => (out.mark(true), ""),
            Standing::Fixed => (out.mark(true), "fixed: "),
            Standing::Warning => ("!", ""),
            Standing::Error => (out.mark(false), ""),
        };
        out.line(&format!("{mark} {check:width$}  {word}{}", crate::name::escape(message)))?;
        if let Some(hint) = hint {
            out.hint(hint);
        }
    }
    if out.quiet {
        return Ok(());
    }
    let of = |wanted: Standing| found.iter().filter(|finding| finding.status == wanted).count() as u64;
    let mut sums = vec![format!("{} ok", of(Standing::Ok))];
    if of(Standing::Fixed) > 0 {
        sums.push(format!("{} fixed", of(Standing::Fixed)));
    }
    for (wanted, word) in [(Standing::Warning, "warning"), (Standing::Error, "problem")] {
        if of(wanted) > 0 {
            sums.push(count(of(wanted), word));
        }
    }
    out.line(&sums.join(", "))
}
