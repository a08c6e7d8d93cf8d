//! A record of the central directory in the words of a file system.
//!
//! Source: APPNOTE 4.4 (attributes, creators) and 4.6.9 (Unicode path).

use super::index::RowKind;
use rawzip::ZipFileHeaderRecord;
use rawzip::extra_fields::ExtraFieldId;
use rawzip::time::{UtcDateTime, ZipDateTimeKind};

/// 1980-01-01 in seconds since 1970.
const DOS_EPOCH_SECONDS: i64 = 315_532_800;

/// Creators that keep Unix modes in the external attributes: Unix and Darwin.
const UNIX_HOSTS: [u8; 2] = [3, 19];
/// Creators whose names may have backslashes between components: FAT, OS/2, NTFS, VFAT.
const WINDOWS_HOSTS: [u8; 5] = [0, 6, 10, 11, 14];

/// Bits of the external attributes that every creator sets as DOS did.
const DOS_READ_ONLY: u32 = 0x01;
const DOS_DIRECTORY: u32 = 0x10;

/// What a record says, apart from sizes.
#[derive(Debug, PartialEq)]
pub(crate) struct Facts<'a> {
    /// `None` for what is not shown: devices, pipes, sockets.
    pub(crate) kind: Option<RowKind>,
    /// Permission bits.
    pub(crate) mode: u16,
    /// Nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    /// Backslashes separate.
    pub(crate) windows: bool,
    /// Content of an extra field 0x7075.
    pub(crate) unicode_path: Option<&'a [u8]>,
}

pub(crate) fn facts<'a>(record: &'a ZipFileHeaderRecord<'_>) -> Facts<'a> {
    let mut found = Facts {
        kind: Some(RowKind::File),
        mode: 0o644,
        mtime_ns: modified(record),
        windows: false,
        unicode_path: None,
    };
    let host = record.version_made_by().creator_system().as_u8();
    let name = record.file_path();
    let raw = name.as_bytes();
    found.windows = WINDOWS_HOSTS.contains(&host) && !raw.contains(&b'/');
    let attributes = record.external_attributes();
    let unix = attributes >> 16;
    let is_unix = UNIX_HOSTS.contains(&host) && unix != 0;
    if is_unix {
        found.mode = (unix & 0o7777) as u16;
        found.kind = match unix & libc::S_IFMT {
            libc::S_IFREG | 0 => Some(RowKind::File),
            libc::S_IFLNK => Some(RowKind::Symlink),
            libc::S_IFDIR => Some(RowKind::Directory),
            // What was packed from a pipe has the pipe's mode and a file's content.
            _ if record.uncompressed_size_hint() > 0 => Some(RowKind::File),
            _ => None,
        };
    } else if attributes & DOS_READ_ONLY != 0 {
        found.mode = 0o444;
    }
    let named_as_dir = raw.ends_with(b"/") || (found.windows && raw.ends_with(b"\\"));
    if named_as_dir || (!is_unix && attributes & DOS_DIRECTORY != 0) {
        found.kind = Some(RowKind::Directory);
        found.mode = if is_unix { found.mode } else { 0o755 };
    }
    for (id, data) in record.extra_fields() {
        if id == ExtraFieldId::INFO_ZIP_UNICODE_PATH {
            found.unicode_path = Some(data);
        }
    }
    found
}

/// The best time there is, in nanoseconds since 1970. One without a zone is taken as UTC, so that every machine records
/// the same; one that is no date at all is 1980, where the format begins.
fn modified(record: &ZipFileHeaderRecord<'_>) -> i64 {
    let (seconds, nanos) = match record.last_modified() {
        ZipDateTimeKind::Utc(at) => (at.to_unix(), at.nanosecond()),
        ZipDateTimeKind::Local(at) => {
            let at = UtcDateTime::from_components(
                at.year(),
                at.month(),
                at.day(),
                at.hour(),
                at.minute(),
                at.second().min(59),
                0,
            );
            (at.map_or(DOS_EPOCH_SECONDS, |at| at.to_unix()), 0)
        }
    };
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanos))
}
