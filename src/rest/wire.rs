//! The shapes in which things are told: what `--json` prints is what `/v1` answers.
//!
//! Times are RFC 3339 UTC, sizes bytes, hashes whole lower-case hex. A path that is not UTF-8 is shown with U+FFFD and then
//! carries its bytes in base64 beside it.

mod coins;
mod create;
mod events;
mod history;
mod proofs;
mod search;
mod status;

pub use coins::*;
pub use create::*;
pub use events::*;
pub use history::*;
pub use proofs::*;
pub use search::*;
pub use status::*;

use crate::error::{Error, Kind};
use crate::name::{BucketKind, BucketName};
use base64::Engine;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use wizefs_fs::BucketPath;

/// The version in every document.
pub const V: u32 = 1;

/// A failure: `{"error":{"exit":6,"kind":"bucket-unknown","message":"…","hint":"…"}}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The failure.
    pub error: ErrorFields,
}

/// The fields of a failure.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorFields {
    /// Exit code of the command.
    pub exit: u8,
    /// Name of the error kind.
    pub kind: String,
    /// One sentence.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> ErrorBody {
        ErrorBody {
            error: ErrorFields {
                exit: error.kind.exit(),
                kind: error.kind.name().to_owned(),
                message: error.message.clone(),
                hint: error.hint.clone(),
            },
        }
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Error {
        let ErrorFields { kind, message, hint, .. } = body.error;
        Error { kind: Kind::named(&kind), message, hint }
    }
}

/// A path for people, and its bytes when they are not UTF-8. Flattened into the shapes below.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WirePath {
    /// The path; invalid bytes are U+FFFD.
    pub path: Option<String>,
    /// The bytes, then and only then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path_b64: Option<String>,
}

impl From<&BucketPath> for WirePath {
    fn from(path: &BucketPath) -> WirePath {
        path_of(path.as_bytes())
    }
}

/// A path's bytes as they are told.
pub fn path_of(bytes: &[u8]) -> WirePath {
    let (path, path_b64) = text_and_bytes(bytes);
    WirePath { path: Some(path), path_b64 }
}

impl WirePath {
    /// The path for people; empty when there is none.
    pub fn text(&self) -> &str {
        self.path.as_deref().unwrap_or_default()
    }
}

/// Text for people, and base64 of the bytes when they are not UTF-8.
pub fn text_and_bytes(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
            (String::from_utf8_lossy(bytes).into_owned(), Some(encoded))
        }
    }
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }));
        }
        text
    })
}

/// The 32 bytes of 64 hex digits.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Microseconds since 1970 as RFC 3339 UTC.
pub fn time(micros: i64) -> String {
    let nearest = if micros < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    jiff::Timestamp::from_microsecond(micros).unwrap_or(nearest).to_string()
}

/// Whether a bucket is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountState {
    /// By this node.
    Mounted,
    /// Not at all.
    Unmounted,
    /// By a node that was killed; nobody answers there.
    Stale,
}

/// A bucket in [`Status`] and [`Buckets`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BucketStatus {
    /// Its name.
    pub origin: BucketName,
    /// Its kind.
    pub kind: BucketKind,
    /// Whether it is mounted.
    pub state: MountState,
    /// Where.
    #[schema(value_type = Option<String>)]
    pub mountpoint: Option<PathBuf>,
    /// Files on the ledger.
    pub files: u64,
    /// Their sizes, summed.
    pub bytes: u64,
    /// Why its `wizefs.conf` cannot be used, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `wizefs list`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Buckets {
    /// [`V`].
    pub v: u32,
    /// All of them, by name.
    pub buckets: Vec<BucketStatus>,
}

/// How strong a bucket's promises are; docs/SEMANTICS.md.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// close(2) returns after the intent.
    #[default]
    Relaxed,
    /// close(2) waits for the transaction.
    Close,
    /// fsync(2) does too.
    Strict,
}

/// `wizefs mount`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct MountRequest {
    /// Absolute; the default is `<root>/mnt/ORIGIN`.
    #[schema(value_type = Option<String>)]
    pub mountpoint: Option<PathBuf>,
    /// Refuse all writes.
    pub read_only: bool,
    /// Promises of close and fsync.
    pub durability: Durability,
    /// Nobody touches the backing while mounted: longer caches.
    pub exclusive: bool,
    /// Other users may enter.
    pub allow_other: bool,
    /// No program in it can be run.
    pub noexec: bool,
    /// File with the passphrase of encrypted members, absolute; remembered.
    #[schema(value_type = Option<String>)]
    pub passfile: Option<PathBuf>,
}

/// The reply to [`MountRequest`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Mounted {
    /// [`V`].
    pub v: u32,
    /// The bucket.
    pub bucket: BucketName,
    /// Where.
    #[schema(value_type = String)]
    pub mountpoint: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The node.
    pub pid: u32,
    /// A dead mount of a killed node was detached first.
    pub cleared_stale: bool,
    /// Names looked at after a crash because they may have changed, and changes by others.
    pub recovered: u64,
    /// Where REST listens.
    pub rest: Option<String>,
}

/// The reply to an unmount.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unmounted {
    /// [`V`].
    pub v: u32,
    /// The bucket.
    pub bucket: BucketName,
    /// Where it was.
    #[schema(value_type = String)]
    pub mountpoint: PathBuf,
    /// It was only detached: programs or other mounts still hold it, and it ends with the last of them.
    pub detached: bool,
    /// The node ends now, because this was its last mount.
    pub node_ends: bool,
}

/// `put`, and `get` with `verified`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Stored {
    /// [`V`].
    pub v: u32,
    /// The transaction.
    pub txid: Option<String>,
    /// `pending` or `final`.
    pub status: TxStatus,
    /// The block, when final.
    pub block: Option<u64>,
    /// The bucket.
    pub bucket: BucketName,
    /// The path.
    #[serde(flatten)]
    pub path: WirePath,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content.
    pub blake3: String,
    /// SHA-256 of the content.
    pub sha256: String,
    /// Content and ledger were compared; only for `get`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verified: Option<bool>,
}

/// Whether a transaction can still be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TxStatus {
    /// In the mempool.
    Pending,
    /// In a sealed block.
    Final,
}

/// A change of one path without content: `remove`, `accept`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Changed {
    /// [`V`].
    pub v: u32,
    /// The transaction; none for what is not recorded: pipes, sockets, devices.
    pub txid: Option<String>,
    /// `pending` or `final`.
    pub status: TxStatus,
    /// The block, when final.
    pub block: Option<u64>,
    /// The bucket.
    pub bucket: BucketName,
    /// The path.
    #[serde(flatten)]
    pub path: WirePath,
}

/// The reply to a delete.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Deleted {
    /// [`V`].
    pub v: u32,
    /// The bucket.
    pub bucket: BucketName,
    /// The transaction.
    pub txid: String,
    /// The adopted directory that was left alone.
    #[schema(value_type = Option<String>)]
    pub released: Option<PathBuf>,
    /// The node ends now, because this was its last mount.
    pub node_ends: bool,
}

/// `wizefs list ORIGIN`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entries {
    /// [`V`].
    pub v: u32,
    /// By name.
    pub entries: Vec<Entry>,
}

/// What is at a path.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Entry {
    /// The path, from the bucket's root.
    #[serde(flatten)]
    pub path: WirePath,
    /// `file`, `symlink`, `directory`, or `special` (not recorded).
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time.
    pub modified: String,
    /// BLAKE3 on the ledger.
    pub blake3: Option<String>,
    /// The block of that entry.
    pub block: Option<u64>,
    /// Where a symbolic link points.
    pub target: Option<String>,
}

/// `wizefs sync`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Synced {
    /// [`V`].
    pub v: u32,
    /// Height after it.
    pub height: u64,
    /// Transactions in blocks after it.
    pub transactions: u64,
    /// Files that are still being written, as `ORIGIN/PATH`.
    pub open_writers: Vec<String>,
}

/// `wizefs compact ORIGIN`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Compacted {
    /// [`V`].
    pub v: u32,
    /// Which bucket.
    pub bucket: BucketName,
    /// Its archive.
    #[schema(value_type = String)]
    pub archive: PathBuf,
    /// Bytes of the archive before.
    pub bytes_before: u64,
    /// Bytes of the archive now.
    pub bytes: u64,
}

/// `wizefs check ORIGIN`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Checked {
    /// [`V`].
    pub v: u32,
    /// Everything is in order.
    pub ok: bool,
    /// The bucket.
    pub bucket: BucketStatus,
    /// Where its files are.
    #[schema(value_type = String)]
    pub backing: PathBuf,
    /// What is not in order, one sentence each.
    pub problems: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_hex() {
        let bytes: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("00"), None);
        assert_eq!(unhex(&"zz".repeat(32)), None);
        assert_eq!(unhex(&"+1".repeat(32)), None);
    }

    #[test]
    fn paths_carry_their_bytes_only_when_they_must() {
        fn check(bytes: &[u8], expect: &str) {
            let path = WirePath::from(&BucketPath::new(bytes).unwrap());
            assert_eq!(serde_json::to_string(&path).unwrap(), expect);
        }
        check(b"a/b", r#"{"path":"a/b"}"#);
        check(b"a\xff", r#"{"path":"a�","path_b64":"Yf8="}"#);
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_700_000_000_123_456), "2023-11-14T22:13:20.123456Z");
        assert!(time(i64::MAX).starts_with("9999-12-30T"), "{}", time(i64::MAX));
    }

    #[test]
    fn errors_survive_the_wire() {
        let error = Error::new(Kind::Busy, "docs is busy");
        let text = serde_json::to_string(&ErrorBody::from(&error)).unwrap();
        assert!(text.starts_with(r#"{"error":{"exit":13,"kind":"busy","message":"docs is busy","hint":"#), "{text}");
        assert_eq!(Error::from(serde_json::from_str::<ErrorBody>(&text).unwrap()), error);
    }
}
