//! One table: error kind -> exit code, name in JSON, HTTP status, gRPC code, default hint.
//!
//! Every failure a user or a program sees is an [`Error`]: a [`Kind`], one sentence, and a hint with something to do.
//! The exit codes are promised to scripts; HTTP and gRPC codes stand beside them so that no service invents its own.

use std::fmt::Display;

/// What went wrong, grouped by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Failed for a reason without a number of its own.
    Failed,
    /// The disk is full.
    NoSpace,
    /// The command line or request makes no sense.
    Usage,
    /// There is no such block, transaction or route.
    NotFound,
    /// The ledger refuses it, or what is read-only does.
    Refused,
    /// What is there is not what the request expects.
    Precondition,
    /// Another transfer was faster to spend these coins.
    Spent,
    /// More bytes than are taken.
    TooLarge,
    /// A client that takes too long to say what it wants.
    TooSlow,
    /// More at once than are served.
    Overloaded,
    /// No bucket of that name.
    BucketUnknown,
    /// The bucket exists already.
    BucketExists,
    /// Not a bucket name.
    BucketName,
    /// The bucket is not wholly imported yet.
    BucketImporting,
    /// The bucket is not mounted.
    NotMounted,
    /// The bucket is mounted already, or mounted where it must not be.
    AlreadyMounted,
    /// The mountpoint is missing or in a forbidden place.
    Mountpoint,
    /// The mountpoint has entries of its own.
    MountpointNotEmpty,
    /// A listening address cannot be used.
    PortTaken,
    /// Another node holds the root.
    RootLocked,
    /// The root folder cannot be used.
    Root,
    /// The kind of bucket does not support it.
    Unsupported,
    /// The archive is damaged or odd.
    Archive,
    /// No such file.
    FileMissing,
    /// The destination exists.
    FileExists,
    /// There is something, but not a regular file.
    NotAFile,
    /// Not a path in a bucket.
    BadPath,
    /// Missing or wrong passphrase.
    Passphrase,
    /// In use; try again later.
    Busy,
    /// A configuration file cannot be opened.
    ConfigOpen,
    /// A configuration file cannot be understood.
    ConfigParse,
    /// A configuration file cannot be saved.
    ConfigSave,
    /// A configuration cannot be changed that way.
    ConfigChange,
    /// Bytes differ from the ledger.
    Damaged,
    /// The ledger itself is damaged.
    LedgerDamaged,
    /// Valid, but nobody vouches for the signer.
    Untrusted,
    /// The background node ended without saying why.
    Background,
    /// FUSE refused.
    Fuse,
    /// A defect of wizefs.
    Internal,
    /// No node answers.
    Unreachable,
    /// The node is shutting down; the next one can be asked.
    Stopping,
    /// The caller may not do this.
    Unauthorised,
    /// Interrupted by this signal.
    Signal(u8),
}

/// One row of the table.
struct Row {
    kind: Kind,
    name: &'static str,
    exit: u8,
    http: u16,
    grpc: u8,
    hint: &'static str,
}

const fn row(kind: Kind, name: &'static str, exit: u8, http: u16, grpc: u8, hint: &'static str) -> Row {
    Row { kind, name, exit, http, grpc, hint }
}

/// gRPC numbers: 2 unknown, 3 invalid argument, 5 not found, 6 already exists, 7 permission denied, 8 resource exhausted,
/// 9 failed precondition, 12 unimplemented, 13 internal, 14 unavailable, 15 data loss, 16 unauthenticated, 1 cancelled.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(Kind::Failed, "failed", 1, 500, 2, ""),
    row(Kind::NoSpace, "no-space", 1, 507, 8, "free some space (removing files from a bucket works on a full disk) and try again"),
    row(Kind::Usage, "usage", 2, 400, 3, "wizefs --help"),
    row(Kind::NotFound, "not-found", 1, 404, 5, ""),
    row(Kind::Refused, "refused", 1, 409, 9, ""),
    row(Kind::Precondition, "precondition", 1, 412, 9, "read it again, and decide anew"),
    row(Kind::Spent, "spent", 1, 409, 9, "try again: another transfer was faster to spend these coins"),
    row(Kind::TooLarge, "too-large", 1, 413, 8, "send it as a stream: PUT /v1/buckets/ORIGIN/files/PATH"),
    row(Kind::TooSlow, "too-slow", 1, 408, 4, "try again"),
    row(Kind::Overloaded, "overloaded", 13, 503, 8, "try again in a moment"),
    row(Kind::BucketUnknown, "bucket-unknown", 6, 404, 5, "wizefs list shows the buckets there are"),
    row(Kind::BucketExists, "bucket-exists", 6, 409, 6, "choose another name, or delete it first: wizefs delete ORIGIN"),
    row(Kind::BucketName, "bucket-name", 6, 400, 3, "a name is 1 to 255 of A-Z a-z 0-9 . _ - and starts with none of . and -"),
    row(Kind::BucketImporting, "bucket-importing", 6, 409, 9, "finish it with the same command: wizefs create ORIGIN --from PATH"),
    row(Kind::NotMounted, "not-mounted", 7, 409, 9, "wizefs mount ORIGIN"),
    row(Kind::AlreadyMounted, "already-mounted", 7, 409, 9, "wizefs unmount ORIGIN"),
    row(Kind::Mountpoint, "mountpoint", 7, 400, 3, "choose an empty folder outside the root, or leave MOUNTPOINT out"),
    row(Kind::MountpointNotEmpty, "mountpoint-not-empty", 7, 409, 9, "choose an empty folder, or leave MOUNTPOINT out"),
    row(Kind::PortTaken, "port-taken", 8, 500, 14, "choose another address with --listen ADDR:PORT, or --listen off"),
    row(Kind::RootLocked, "root-locked", 8, 409, 14, "wizefs stop ends the running node, --root DIR chooses another root"),
    row(Kind::Root, "root", 8, 500, 14, "choose another root with --root DIR"),
    row(Kind::Unsupported, "unsupported", 9, 400, 12, ""),
    row(Kind::Archive, "archive", 10, 500, 15, ""),
    row(Kind::FileMissing, "file-missing", 11, 404, 5, "wizefs list ORIGIN shows the files there are"),
    row(Kind::FileExists, "file-exists", 11, 409, 6, "--force overwrites it"),
    row(Kind::NotAFile, "not-a-file", 11, 409, 9, ""),
    row(Kind::BadPath, "bad-path", 11, 400, 3, "a path is relative, its parts are 1 to 255 bytes and none is . or .."),
    row(Kind::Passphrase, "passphrase", 12, 401, 16, ""),
    row(Kind::Busy, "busy", 13, 423, 9, "close the programs using it and try again"),
    row(Kind::ConfigOpen, "config-open", 20, 500, 13, "check who owns the file and its permissions"),
    row(Kind::ConfigParse, "config-parse", 21, 500, 13, "repair the file or restore a copy; wizefs will not overwrite it"),
    row(Kind::ConfigSave, "config-save", 22, 500, 13, "check free space and permissions of the folder"),
    row(Kind::ConfigChange, "config-change", 23, 500, 13, ""),
    row(Kind::Damaged, "damaged", 26, 500, 15, "wizefs verify ORIGIN names what differs"),
    row(Kind::LedgerDamaged, "ledger-damaged", 26, 500, 15, "wizefs integrity names the place"),
    row(Kind::Untrusted, "untrusted", 27, 500, 9, ""),
    row(Kind::Background, "background", 31, 500, 13, "wizefs mount ORIGIN --fg shows what happens"),
    row(Kind::Fuse, "fuse", 40, 500, 13, "check that /dev/fuse is there and that you may use it"),
    row(Kind::Internal, "internal", 50, 500, 13, "this is a defect of wizefs; please report it with the text above"),
    row(Kind::Unreachable, "unreachable", 60, 503, 14, "wizefs node starts one"),
    row(Kind::Stopping, "stopping", 60, 503, 14, "try again"),
    row(Kind::Unauthorised, "unauthorised", 61, 403, 7, ""),
];

/// What each exit code of the program means. Scripts rely on them; the help, the manual pages and docs/CLI.md say the same.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (0, "ok"),
    (1, "failed"),
    (2, "usage"),
    (6, "bucket: unknown, exists, bad name, not wholly imported"),
    (7, "mountpoint: not mounted, already mounted, not empty, not usable"),
    (8, "start-up: port taken, root locked or not usable"),
    (9, "the kind of bucket, or this version, does not support it"),
    (10, "archive damaged or odd"),
    (11, "file: missing, exists, not a file, bad path"),
    (12, "passphrase missing or wrong"),
    (13, "busy"),
    (20, "configuration cannot be opened"),
    (21, "configuration cannot be understood"),
    (22, "configuration cannot be saved"),
    (23, "configuration cannot be changed that way"),
    (26, "damage found"),
    (27, "valid, signer not trusted"),
    (31, "the background node did not start"),
    (40, "FUSE refused"),
    (50, "internal: a defect of wizefs"),
    (60, "node unreachable"),
    (61, "not authorised"),
];

/// What an exit code above [`EXIT_CODES`] means.
pub const EXIT_BY_SIGNAL: &str = "ended by signal n";

impl Kind {
    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.kind == self).unwrap_or(&TABLE[0])
    }

    /// The process exit code.
    pub fn exit(self) -> u8 {
        match self {
            Kind::Signal(number) => 128_u8.saturating_add(number),
            other => other.row().exit,
        }
    }

    /// The name in `--json` and REST errors.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Signal(_) => "interrupted",
            other => other.row().name,
        }
    }

    /// The HTTP status of a reply that reports this.
    pub fn http(self) -> u16 {
        self.row().http
    }

    /// The gRPC status code of a reply that reports this.
    pub fn grpc(self) -> u8 {
        match self {
            Kind::Signal(_) => 1,
            other => other.row().grpc,
        }
    }

    /// The kind called `name` in a reply of another process; unknown names are [`Kind::Failed`].
    pub fn named(name: &str) -> Kind {
        TABLE.iter().find(|row| row.name == name).map_or(Kind::Failed, |row| row.kind)
    }
}

/// A failure as the user sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do about it, and every code.
    pub kind: Kind,
    /// One sentence, lower case, no full stop; names the bucket, file or address it is about.
    pub message: String,
    /// What to try next, where there is something.
    pub hint: Option<String>,
}

/// The result of everything a user can ask for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure with the hint of its row.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        let hint = kind.row().hint;
        Error { kind, message: message.into(), hint: (!hint.is_empty()).then(|| hint.to_owned()) }
    }

    /// The same failure with a hint that knows more than the row.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure where the row's hint is of no use.
    #[must_use]
    pub fn without_hint(mut self) -> Error {
        self.hint = None;
        self
    }

    /// A system call that failed: a full disk and a lack of descriptors keep their own kinds, everything else is `kind`.
    pub fn io(kind: Kind, what: impl Display, error: &std::io::Error) -> Error {
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
            Some(libc::EMFILE | libc::ENFILE) => Kind::Overloaded,
            _ => kind,
        };
        Error::new(kind, format!("{what}: {}", plain(error)))
    }
}

/// `No such file or directory (os error 2)` without the number: it says nothing to the reader.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((sentence, _)) => sentence.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_exit_code_of_the_contract() {
        fn check(kind: Kind, exit: u8, http: u16) {
            assert_eq!((kind.exit(), kind.http()), (exit, http), "{kind:?}");
        }
        check(Kind::Failed, 1, 500);
        check(Kind::NoSpace, 1, 507);
        check(Kind::Usage, 2, 400);
        check(Kind::BucketUnknown, 6, 404);
        check(Kind::BucketExists, 6, 409);
        check(Kind::NotMounted, 7, 409);
        check(Kind::PortTaken, 8, 500);
        check(Kind::Unsupported, 9, 400);
        check(Kind::FileMissing, 11, 404);
        check(Kind::Busy, 13, 423);
        check(Kind::ConfigParse, 21, 500);
        check(Kind::Damaged, 26, 500);
        check(Kind::Background, 31, 500);
        check(Kind::Unreachable, 60, 503);
        check(Kind::Signal(2), 130, 500);
        check(Kind::Signal(15), 143, 500);
    }

    #[test]
    fn every_kind_has_a_documented_exit_code_and_every_code_a_kind() {
        for row in TABLE {
            assert!(EXIT_CODES.iter().any(|(code, _)| *code == row.exit), "{:?} exits with {}", row.kind, row.exit);
        }
        for (code, meaning) in EXIT_CODES.iter().skip(1) {
            assert!(TABLE.iter().any(|row| row.exit == *code), "nothing exits with {code}: {meaning}");
        }
        assert!(EXIT_CODES.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn names_are_unique_and_lead_back_to_the_kind() {
        for row in TABLE {
            assert_eq!(Kind::named(row.name), row.kind);
        }
        assert_eq!(Kind::named("nonsense"), Kind::Failed);
    }

    #[test]
    fn a_full_disk_keeps_its_own_kind() {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let error = Error::io(Kind::ConfigSave, "cannot write wizedb.conf", &full);
        assert_eq!(error.kind, Kind::NoSpace);
        assert_eq!(error.message, "cannot write wizedb.conf: no space left on device");
    }
}
