//! The extra field 0x7A57: what we say of a member (docs/ARCHIVES.md).

use super::MemberId;
use super::format::{EXTRA_MAX, Steps, field, u16_at, u32_at};
use rawzip::extra_fields::{ExtraFieldId, ExtraFields};

const OURS: ExtraFieldId = ExtraFieldId::new(0x7A57);
const OURS_VERSION: u8 = 1;
const TAG_BLAKE3: u8 = 1;
const TAG_HEADER: u8 = 2;
const TAG_STEPS: u8 = 3;
const TAG_MTIME: u8 = 4;
const TAG_ID: u8 = 7;
const TAG_PATH: u8 = 8;
const TAG_OF: u8 = 9;
/// Bytes of those of ours whose length does not vary, and then some.
const FIXED_MAX: usize = 256;

/// What the field 0x7A57 says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ours {
    pub(super) id: Option<MemberId>,
    pub(super) blake3: Option<[u8; 32]>,
    /// Bytes of the local header.
    pub(super) header: Option<u32>,
    pub(super) mtime_ns: Option<i64>,
    pub(super) steps: Option<Steps>,
    /// The path, when its bytes cannot be the name of a member.
    pub(super) path: Option<Vec<u8>>,
    /// Of which content the rest speaks.
    pub(super) of: Option<Of>,
}

/// A content, as it is packed. Programs that write a member anew often keep the extra fields that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Of {
    pub(super) crc: u32,
    /// Bytes in the archive.
    pub(super) packed: u64,
}

impl Of {
    fn read(value: &[u8]) -> Option<Self> {
        let (crc, packed) = value.split_first_chunk()?;
        Some(Self { crc: u32::from_le_bytes(*crc), packed: u64::from_le_bytes(packed.try_into().ok()?) })
    }
}

impl Ours {
    /// Read the field among `extra`; nothing of a later version.
    pub(super) fn read(extra: &[u8]) -> Self {
        let mut ours = Self::default();
        let Some((_, data)) = ExtraFields::new(extra).find(|(id, _)| *id == OURS) else { return ours };
        let Some((&OURS_VERSION, mut rest)) = data.split_first() else { return ours };
        while let Some((head, more)) = rest.split_at_checked(3) {
            let Some((value, more)) = more.split_at_checked(usize::from(u16_at(head, 1))) else { break };
            match head[0] {
                TAG_BLAKE3 => ours.blake3 = value.try_into().ok(),
                TAG_HEADER => ours.header = value.try_into().ok().map(u32::from_le_bytes),
                TAG_STEPS => ours.steps = read_steps(value),
                TAG_MTIME => ours.mtime_ns = value.try_into().ok().map(i64::from_le_bytes),
                TAG_ID => ours.id = value.try_into().ok().map(|id| MemberId(u64::from_le_bytes(id))),
                TAG_PATH => ours.path = Some(value.to_vec()),
                TAG_OF => ours.of = Of::read(value),
                _ => {}
            }
            rest = more;
        }
        ours
    }

    /// Without what is not true of a content with this checksum and so many bytes in the archive. Steps need to be known
    /// to be of it: reading begins at them.
    pub(super) fn of(mut self, crc: u32, packed: u64) -> Self {
        self.steps = self.steps.filter(|_| self.of == Some(Of { crc, packed }));
        self.blake3 = self.blake3.filter(|_| self.of.is_none_or(|of| of.crc == crc));
        self
    }

    /// The field. Steps only make reading quicker: where there is no room for them it is without.
    pub(super) fn write(&self, central: bool, out: &mut Vec<u8>) {
        let mut data = vec![OURS_VERSION];
        let data_len = self.path.as_ref().map_or(0, Vec::len);
        let mut put = |tag: u8, value: &[u8]| {
            data.push(tag);
            data.extend_from_slice(&(value.len() as u16).to_le_bytes());
            data.extend_from_slice(value);
        };
        if let Some(id) = self.id {
            put(TAG_ID, &id.0.to_le_bytes());
        }
        if let Some(hash) = &self.blake3 {
            put(TAG_BLAKE3, hash);
        }
        if let Some(mtime_ns) = self.mtime_ns {
            put(TAG_MTIME, &mtime_ns.to_le_bytes());
        }
        if let Some(path) = &self.path {
            put(TAG_PATH, path);
        }
        if central {
            if let Some(header) = self.header {
                put(TAG_HEADER, &header.to_le_bytes());
            }
            if let Some(Of { crc, packed }) = self.of.filter(|_| self.blake3.is_some() || self.steps.is_some()) {
                put(TAG_OF, &[&crc.to_le_bytes()[..], &packed.to_le_bytes()].concat());
            }
            let steps = self.steps.as_ref().map(write_steps);
            if let Some(steps) = steps.filter(|steps| data_len + steps.len() <= EXTRA_MAX - FIXED_MAX) {
                put(TAG_STEPS, &steps);
            }
        }
        field(OURS, &data, out);
    }
}

/// Lengths of the pieces, 4 bytes each.
fn read_steps(value: &[u8]) -> Option<Steps> {
    let (&log2, lengths) = value.split_first()?;
    let mut at = 0_u64;
    let lengths = lengths.chunks_exact(4);
    let offsets = lengths.map(|length| {
        at += u64::from(u32_at(length, 0));
        at
    });
    (10..40).contains(&log2).then(|| Steps { log2, offsets: offsets.collect() })
}

fn write_steps(steps: &Steps) -> Vec<u8> {
    let mut value = vec![steps.log2];
    let mut before = 0;
    for &offset in &steps.offsets {
        // A piece is at most 16 GiB of content, and those of more than 4 GiB of bytes are none of ours.
        value.extend_from_slice(&u32::try_from(offset - before).unwrap_or(u32::MAX).to_le_bytes());
        before = offset;
    }
    value
}
