//! `wizefs create`.

use super::{Context, absolute, standing};
use crate::client::Client;
use crate::config::ListenArgs;
use crate::error::{Error, Kind, Result};
use crate::name::{BucketKind, BucketName};
use crate::rest::wire::{self, Create, CreateLine, Created, Progress};
use crate::terminal::{self, Measure, count, size};
use axum::http::Method;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Make a bucket, or adopt a folder or archive as one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wizefs create docs                      an empty bucket
  wizefs create work --from ~/work        adopt a folder where it is, and record every file in it
  wizefs create photos --kind zip --from ~/photos.zip
                                          the same with an archive, read-only
Ctrl-C interrupts an adoption; the same command goes on with it. SIGUSR1 asks it for a line of progress.")]
pub struct Args {
    /// Name of the bucket: A-Z a-z 0-9 . _ -
    #[arg(value_name = "ORIGIN")]
    origin: String,
    /// What stands behind it; without, the name decides: NAME.zip is lz, _NAME.zip is zip, else loopback
    #[arg(long, value_name = "KIND")]
    kind: Option<BucketKind>,
    /// Adopt this folder or archive in place and record every file in it
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// File with the passphrase of an archive's encrypted members; its path is remembered
    #[arg(long, value_name = "FILE", requires = "from")]
    passfile: Option<PathBuf>,
    /// Encrypt what is stored; not in this version
    #[arg(long)]
    encrypt: bool,
    /// Mount it as well
    #[arg(long)]
    mount: bool,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Create, tell, and mount when asked to.
///
/// # Errors
/// As `Node::create` and `Node::mount`.
pub fn run(context: &Context, args: &Args) -> Result<()> {
    if args.encrypt {
        let text = format!("{} cannot be encrypted: this version has no encrypted buckets", args.origin);
        return Err(Error::new(Kind::Unsupported, text)
            .hint("leave --encrypt out, or adopt a folder of an encrypted file system"));
    }
    let request = Create {
        origin: BucketName::new(&args.origin)?,
        kind: args.kind,
        from: args.from.as_deref().map(absolute).transpose()?,
        passfile: args.passfile.as_deref().map(absolute).transpose()?,
    };
    context.serving_config(&args.listen)?;
    let created = context.with_node(|client| create(context, client, &request))?;
    tell(context, &created);
    if args.mount {
        return Err(mount_in_a_fresh_process(context, args));
    }
    if context.out.json {
        return context.out.document(&created);
    }
    context.out.hint(&format!("wizefs mount {}", created.bucket));
    Ok(())
}

fn create(context: &Context, client: &Client, request: &Create) -> Result<Created> {
    let what =
        request.from.as_ref().map_or_else(|| "creating".to_owned(), |from| format!("adopting {}", from.display()));
    let bar = terminal::Progress::start(&context.out, what, Measure::Bytes, None);
    let mut created = None;
    let result = client.lines(Method::POST, "/v1/buckets", Some(request), |line: CreateLine, _| {
        match line {
            CreateLine::Progress { progress } => bar.set(progress.bytes, progress.files),
            CreateLine::Created(bucket) => created = Some(bucket),
            CreateLine::Failed(body) => return Err(body.into()),
        }
        Ok(())
    });
    drop(bar);
    match result {
        Err(e) if matches!(e.kind, Kind::Signal(_)) && request.from.is_some() => {
            Err(e.hint("the same command goes on where this one stopped"))
        }
        Err(e) => Err(e),
        Ok(()) => created.ok_or_else(|| Error::new(Kind::Internal, "the node did not say what it created")),
    }
}

/// Becoming the background node takes a process without threads, and this one has had a node of its own. Does not return
/// when it succeeds.
fn mount_in_a_fresh_process(context: &Context, args: &Args) -> Error {
    let mut command = Command::new("/proc/self/exe");
    command.args(["mount", &args.origin]).args(context.global.to_args()).args(args.listen.to_args());
    Error::io(Kind::Background, "cannot start wizefs mount", &command.exec())
}

fn tell(context: &Context, created: &Created) {
    let (name, place) = (&created.bucket, standing(created.block));
    context.out.done(&match created.imported {
        None => format!("bucket {name} created ({}), {place}", created.kind.as_str()),
        Some(Progress { files, bytes }) => {
            let folder = created.backing.display();
            format!("bucket {name} adopted {folder}: {}, {} recorded", count(files, "file"), size(bytes))
        }
    });
    /// Of many unreadable members, the first are named.
    const NAMED: usize = 10;
    for wire::Unread { path, problem } in created.unread.iter().take(NAMED) {
        let path = path.path.as_deref().unwrap_or_default();
        context.out.warn(&format!("{path} is not recorded: {problem}"));
    }
    if created.unread.len() > NAMED {
        context.out.warn(&format!("{} in all are not recorded", count(created.unread.len() as u64, "member")));
    }
}
