//! Where a member's bytes are, and that its local header agrees with the central directory.

use super::crypt::{Encryption, Input, Locked, Section};
use super::decoder::{self, method};
use super::index::{Index, Marks};
use crate::error::{FsError, FsResult};
use rawzip::extra_fields::{ExtraFieldId, ExtraFields};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a local header before the name, and the signature it begins with.
const HEADER_BYTES: usize = 30;
const SIGNATURE: [u8; 4] = *b"PK\x03\x04";
/// Bits of the flags: encrypted, sizes in a data descriptor, strong encryption, UTF-8.
const ENCRYPTED: u16 = 1;
const DESCRIPTOR: u16 = 1 << 3;
const STRONG: u16 = 1 << 6;
const UTF_8: u16 = 1 << 11;

/// A member whose content can be read.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its row, or its id in an archive that changes.
    pub(crate) key: u64,
    /// Bytes of content.
    pub(crate) size: u64,
    /// Compression method, never [`method::AES`].
    pub(crate) method: u16,
    /// Of the content; none under AE-2.
    pub(crate) crc: Option<u32>,
    encryption: Option<Encryption>,
    section: Section,
    /// Places in it, where the archive has them.
    pub(crate) steps: Option<Arc<Steps>>,
}

/// Places in a member's bytes at which nothing refers back: every `2^log2` bytes of content but the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) log2: u8,
    /// Bytes of the member before each.
    pub(crate) offsets: Vec<u64>,
}

/// What the directory says of a member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) place: u64,
    pub(crate) packed: u64,
    pub(crate) size: u64,
    pub(crate) crc: u32,
    pub(crate) method: u16,
    pub(crate) encrypted: bool,
    /// Where the directory begins: no content reaches beyond.
    pub(crate) end_of_content: u64,
}

/// Why a member cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Unsupported(String),
}

impl Member {
    /// The bytes as they are in the archive, when they are the content.
    pub(crate) fn verbatim(&self) -> Option<&Section> {
        (self.method == method::STORED && self.encryption.is_none()).then_some(&self.section)
    }

    /// The archive.
    pub(crate) fn file(&self) -> &File {
        &self.section.file
    }

    /// Where the bytes begin and end in the archive.
    pub(crate) fn extent(&self) -> (u64, u64) {
        (self.section.at, self.section.end)
    }

    /// The bytes as their compression left them, from the beginning.
    ///
    /// # Errors
    /// [`Locked`].
    pub(crate) fn input(&self, passphrase: Option<&[u8]>) -> Result<Input, Locked> {
        Input::open(self.section.clone(), self.encryption, passphrase)
    }

    /// The bytes from `skip` on of a member that is not encrypted.
    pub(crate) fn input_at(&self, skip: u64) -> Option<Input> {
        let at = self.section.at.checked_add(skip).filter(|at| *at <= self.section.end)?;
        self.encryption.is_none().then(|| Input::Plain(Section { at, ..self.section.clone() }))
    }
}

/// A local header.
#[derive(Debug)]
pub(crate) struct Local {
    flags: u16,
    method: u16,
    time: u16,
    crc: u32,
    sizes: (u32, u32),
    name: Vec<u8>,
    extra: Vec<u8>,
    /// Where the bytes begin.
    end: u64,
}

impl Local {
    fn read(file: &File, place: u64) -> std::io::Result<Option<Self>> {
        let mut fixed = [0; HEADER_BYTES];
        file.read_exact_at(&mut fixed, place)?;
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        if fixed[..4] != SIGNATURE {
            return Ok(None);
        }
        let (name_len, extra_len) = (usize::from(u16_at(26)), usize::from(u16_at(28)));
        let mut rest = vec![0; name_len + extra_len];
        file.read_exact_at(&mut rest, place + HEADER_BYTES as u64)?;
        let extra = rest.split_off(name_len);
        let end = place + (HEADER_BYTES + name_len + extra_len) as u64;
        Ok(Some(Self {
            flags: u16_at(6),
            method: u16_at(8),
            time: u16_at(10),
            crc: u32_at(14),
            sizes: (u32_at(18), u32_at(22)),
            name: rest,
            extra,
            end,
        }))
    }

    /// Key bytes, real method, and whether the CRC counts, from the extra field 0x9901.
    fn aes(&self) -> Option<(usize, u16, bool)> {
        let (_, data) = ExtraFields::new(&self.extra).find(|(id, _)| *id == ExtraFieldId::AES)?;
        let &[version, version_high, b'A', b'E', strength, low, high] = data.first_chunk::<7>()? else { return None };
        let key = match strength {
            1 => 16,
            2 => 24,
            3 => 32,
            _ => return None,
        };
        Some((key, u16::from_le_bytes([low, high]), u16::from_le_bytes([version, version_high]) == 1))
    }
}

/// The member of row `number`.
///
/// # Errors
/// `EIO` when its headers do not agree or its bytes are another's; `EOPNOTSUPP` for an unknown method.
pub(crate) fn locate(file: &Arc<File>, index: &Index, number: u32) -> FsResult<Member> {
    let row = index.row(number).ok_or(Errno::NOENT)?;
    let claim = Claim {
        place: row.place,
        packed: row.packed,
        size: row.size,
        crc: row.crc,
        method: row.method,
        encrypted: row.marks.has(Marks::ENCRYPTED),
        end_of_content: index.end_of_content,
    };
    let found = if row.marks.has(Marks::BOMB) { Err(impossible()) } else { find(file, &claim, u64::from(number)) };
    let found = found.and_then(|(member, local)| match names_agree(index, number, &local) {
        true => Ok(member),
        false => Err(disagree()),
    });
    found.map_err(|flaw| flaw.of(&index.path(number)))
}

impl Flaw {
    /// The error of the member shown at `path`.
    pub(crate) fn of(&self, path: &[u8]) -> FsError {
        let path = String::from_utf8_lossy(path);
        let errno = match self {
            Self::Damaged(what) => {
                tracing::warn!(member = %path, what, "a member cannot be read");
                Errno::IO
            }
            Self::Unsupported(_) => Errno::OPNOTSUPP,
        };
        FsError::os(format!("{path}: {self}"), errno)
    }
}

/// A member whose bytes are not its own, or too few.
pub(crate) fn impossible() -> Flaw {
    Flaw::Damaged("its size or place in the archive cannot be true".into())
}

fn disagree() -> Flaw {
    Flaw::Damaged("its local header and the central directory disagree".into())
}

/// The member that the directory says is there, for everybody who names it `key`.
///
/// # Errors
/// [`Flaw`].
pub(crate) fn find(file: &Arc<File>, claim: &Claim, key: u64) -> Result<(Member, Local), Flaw> {
    let damaged = |what: &str| Flaw::Damaged(what.into());
    let local = Local::read(file, claim.place).map_err(|error| damaged(&error.to_string()))?;
    let local = local.ok_or_else(|| damaged("it has no local header"))?;
    let known_sizes = local.flags & DESCRIPTOR == 0;
    let fits = |small: u32, real: u64| small == u32::MAX || u64::from(small) == real;
    let sizes_fit = fits(local.sizes.0, claim.packed) && fits(local.sizes.1, claim.size);
    let agrees = local.method == claim.method
        && (local.flags & ENCRYPTED != 0) == claim.encrypted
        && (!known_sizes || (local.crc == claim.crc && sizes_fit));
    if !agrees {
        return Err(disagree());
    }
    // Some programs set the bit of what is not encrypted at all.
    if claim.encrypted && local.flags & STRONG != 0 {
        return Err(Flaw::Unsupported("strong encryption is not supported".into()));
    }
    let end = local.end.saturating_add(claim.packed);
    if end > claim.end_of_content {
        return Err(damaged("its bytes reach into the central directory"));
    }
    let mut member = Member {
        key,
        size: claim.size,
        method: claim.method,
        crc: Some(claim.crc),
        encryption: None,
        section: Section { file: file.clone(), at: local.end, end },
        steps: None,
    };
    if claim.method == method::AES {
        let aes = local.aes().ok_or_else(|| damaged("its AES field is damaged"))?;
        member.encryption = Some(Encryption::Aes { key: aes.0 });
        member.method = aes.1;
        member.crc = aes.2.then_some(claim.crc);
    } else if claim.encrypted {
        // The check byte is of the time where the CRC was not known yet.
        let check = if known_sizes { (claim.crc >> 24) as u8 } else { (local.time >> 8) as u8 };
        member.encryption = Some(Encryption::ZipCrypto { check });
    }
    if !decoder::is_known(member.method) {
        return Err(Flaw::Unsupported(format!("compression method {} is not supported", member.method)));
    }
    Ok((member, local))
}

/// Whether the local header has the name the member is shown with; one that was numbered is shown with another.
fn names_agree(index: &Index, number: u32, local: &Local) -> bool {
    let row = index.row(number);
    if row.is_some_and(|row| row.marks.has(Marks::RENAMED)) {
        return true;
    }
    let unicode = ExtraFields::new(&local.extra).find(|(id, _)| *id == ExtraFieldId::INFO_ZIP_UNICODE_PATH);
    let decoded = index.charset.decode(&local.name, local.flags & UTF_8 != 0, unicode.map(|(_, data)| data));
    let shown = index.path(number);
    [false, true]
        .into_iter()
        .any(|windows| super::name::inside(decoded.clone(), windows).is_some_and(|path| *path == *shown))
}
