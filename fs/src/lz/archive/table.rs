//! What is in the archive, in memory: about 150 bytes and its path for each member.

use super::format::{self, DESCRIPTOR, ENCRYPTED, LOCAL_BYTES, Ours, Steps, local_extra};
use super::writer::is_likeness;
use super::{MemberId, MemberInfo};
use crate::error::{FsError, FsResult};
use crate::path::BucketPath;
use crate::stat::Kind;
use crate::zip::{build, entry, name};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// Bytes of the directory read at once; a record may have 196,653.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Bits that tell members apart which would have one id.
const APART: [u64; 4] = [1 << 62, 1 << 61, 1 << 60, 1 << 59];
/// A gap between members that is smaller is not looked into.
const GAP_MIN: u64 = 4096;
/// Bytes of a data descriptor, at most.
const DESCRIPTOR_BYTES: u64 = 24;

/// A member.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: MemberId,
    /// Where its local header is.
    pub(super) place: u64,
    /// Bytes of its local header; 0 when only the header itself tells.
    pub(super) header: u32,
    pub(super) packed: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    /// Where its record in the directory is.
    pub(super) record: u64,
    pub(super) record_len: u32,
    pub(super) crc: u32,
    pub(super) path: (u32, u16),
    /// Bytes of the name in its headers.
    pub(super) name_len: u16,
    pub(super) method: u16,
    pub(super) flags: u16,
    pub(super) mode: u16,
    /// None of what is kept and not shown.
    pub(super) kind: Option<Kind>,
    pub(super) blake3: Option<[u8; 32]>,
    pub(super) steps: Option<Arc<Steps>>,
}

impl Entry {
    /// As it is shown at `path`; none of what is not shown.
    pub(super) fn info(&self, path: &[u8]) -> Option<MemberInfo> {
        Some(MemberInfo {
            id: self.id,
            path: BucketPath::new(path).ok()?,
            kind: self.kind?,
            size: self.size,
            packed: self.packed,
            crc: self.crc,
            mode: u32::from(self.mode),
            mtime_ns: self.mtime_ns,
            blake3: self.blake3,
        })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    /// Bytes of its local header, at least, as the directory tells.
    fn least_header(&self) -> u64 {
        if self.header > 0 { u64::from(self.header) } else { LOCAL_BYTES as u64 + u64::from(self.name_len) }
    }

    /// Where its bytes end, at least.
    fn least_end(&self) -> u64 {
        let descriptor = if self.flags & DESCRIPTOR != 0 { DESCRIPTOR_BYTES } else { 0 };
        let bytes = self.least_header().saturating_add(self.packed).saturating_add(descriptor);
        self.place.saturating_add(bytes)
    }

    /// Bytes of its local header, as that says itself: another program may have written it since. Where there is none, the
    /// member cannot be read, and has as many as the directory tells.
    ///
    /// # Errors
    /// What reading answers.
    pub(super) fn header_len(&self, file: &File) -> std::io::Result<u64> {
        match local_extra(file, self.place) {
            Ok((_, len)) => Ok(len as u64),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(self.least_header()),
            Err(error) => Err(error),
        }
    }

    /// Where its bytes begin and end, with sizes that may stand behind it.
    ///
    /// # Errors
    /// What reading answers.
    pub(super) fn extent(&self, file: &File) -> std::io::Result<(u64, u64)> {
        let end = self.place + self.header_len(file)? + self.packed;
        if self.flags & DESCRIPTOR == 0 {
            return Ok((self.place, end));
        }
        let mut signature = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut signature, end)?;
        let is_wide = self.size >= u64::from(u32::MAX) || self.packed >= u64::from(u32::MAX);
        let sizes = if is_wide { 20 } else { 12 };
        Ok((self.place, end + sizes + if signature == *b"PK\x07\x08" { 4 } else { 0 }))
    }
}

/// How an archive can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fit {
    /// Where it lies.
    InPlace,
    /// As a whole, for this reason.
    Rewrite(&'static str),
    /// Not without loss, for this reason.
    Never(&'static str),
}

/// All members.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// In the order of the directory.
    pub(super) entries: Vec<Entry>,
    pub(super) names: Vec<u8>,
    /// Entries that are shown, by path.
    pub(super) order: Vec<u32>,
    /// Entries by id.
    pub(super) by_id: Vec<u32>,
    /// Where the directory begins and ends.
    pub(super) dir: (u64, u64),
    /// Bytes of the file.
    pub(super) length: u64,
    /// Of the archive, as it stands at its end.
    pub(super) comment: Vec<u8>,
    pub(super) fit: Fit,
}

fn broken(problem: impl std::fmt::Display) -> FsError {
    FsError::Archive(problem.to_string())
}

impl Table {
    /// Read the directory of `file`.
    ///
    /// # Errors
    /// [`FsError::Archive`] when it is no archive.
    pub(super) fn load(file: &File) -> FsResult<Self> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let archive = build::open(file, &mut buffer)?;
        let mut guess = name::Guess::new();
        let mut count = 0_u64;
        let mut records = archive.entries(&mut buffer);
        while let Some(record) = records.next_entry().map_err(broken)? {
            guess.see(record.file_path().as_bytes(), record.flags().is_utf8());
            count += 1;
        }
        if count & 0xFFFF != archive.entries_hint() & 0xFFFF {
            return Err(broken("the central directory has another number of members than it says"));
        }
        let charset = guess.charset();
        let mut table = Self {
            entries: Vec::with_capacity(usize::try_from(count).map_err(broken)?),
            names: Vec::new(),
            order: Vec::new(),
            by_id: Vec::new(),
            dir: (archive.directory_offset(), archive.directory_offset()),
            length: file.metadata()?.len(),
            comment: Vec::new(),
            fit: Fit::InPlace,
        };
        archive.comment().take(u64::from(u16::MAX)).read_to_end(&mut table.comment)?;
        let mut records = archive.entries(&mut buffer);
        while let Some(record) = records.next_entry().map_err(broken)? {
            table.take(&record, charset)?;
        }
        table.sort();
        if table.has_clashes() {
            table.name_as_shown(file)?;
        }
        table.fit = table.fitness(file, archive.eocd_offset(), archive.end_offset())?;
        Ok(table)
    }

    fn take(&mut self, record: &rawzip::ZipFileHeaderRecord<'_>, charset: name::Charset) -> FsResult<()> {
        let facts = entry::facts(record);
        let raw = record.file_path().as_bytes();
        let extra = record.extra_fields().remaining_bytes();
        let ours = Ours::read(extra).of(record.crc32(), record.compressed_size_hint());
        let decoded = charset.decode(raw, record.flags().is_utf8(), facts.unicode_path);
        let own = ours.path.and_then(|path| BucketPath::new(path).ok()).filter(|path| !path.is_root());
        let own = own.filter(|path| is_likeness(raw, path.as_bytes()));
        let shown = match own {
            Some(path) => Some(path.as_bytes().to_vec()),
            None => name::inside(decoded, facts.windows).map(std::borrow::Cow::into_owned),
        };
        let kind = facts.kind.map(Kind::from).filter(|_| shown.is_some());
        let path = shown.unwrap_or_else(|| raw.to_vec());
        let place = record.local_header_offset();
        let at = record.central_directory_offset();
        let len = format::CENTRAL_BYTES + raw.len() + extra.len() + record.comment().as_bytes().len();
        self.dir.0 = if self.entries.is_empty() { at } else { self.dir.0 };
        self.dir.1 = at + len as u64;
        // The fine time is true only while the coarse one says the same: another program may have set that.
        let fine = ours.mtime_ns.filter(|ns| match format::stamp(extra) {
            Some(seconds) => ns.div_euclid(1_000_000_000) == i64::from(seconds),
            None => format::dos_time(*ns) == format::dos_time(facts.mtime_ns),
        });
        let entry = Entry {
            id: ours.id.unwrap_or(MemberId(place)),
            place,
            header: ours.header.unwrap_or(0),
            packed: record.compressed_size_hint(),
            size: record.uncompressed_size_hint(),
            mtime_ns: fine.unwrap_or(facts.mtime_ns),
            record: at,
            record_len: len as u32,
            crc: record.crc32(),
            path: self.name(&path)?,
            name_len: raw.len() as u16,
            method: record.compression_method().as_u16(),
            flags: record.flags().bits(),
            mode: facts.mode,
            kind,
            blake3: ours.blake3,
            steps: ours.steps.map(Arc::new),
        };
        self.entries.push(entry);
        Ok(())
    }

    /// Keep the bytes of a path.
    ///
    /// # Errors
    /// There are 4 GiB of them.
    pub(super) fn name(&mut self, path: &[u8]) -> FsResult<(u32, u16)> {
        let at = u32::try_from(self.names.len()).map_err(|_| broken("more than 4 GiB of names"))?;
        self.names.extend_from_slice(path);
        Ok((at, u16::try_from(path.len()).map_err(broken)?))
    }

    pub(super) fn path(&self, number: u32) -> &[u8] {
        let (at, len) = self.entries[number as usize].path;
        &self.names[at as usize..at as usize + usize::from(len)]
    }

    pub(super) fn sort(&mut self) {
        let shown = |&number: &u32| self.entries[number as usize].kind.is_some();
        let mut order: Vec<u32> = (0..self.entries.len() as u32).filter(shown).collect();
        order.sort_by(|&a, &b| self.path(a).cmp(self.path(b)));
        self.order = order;
        self.by_id = (0..self.entries.len() as u32).collect();
        self.sort_by_id();
        for apart in APART {
            let same = |pair: &&[u32]| self.entries[pair[0] as usize].id == self.entries[pair[1] as usize].id;
            let clash: Vec<u32> = self.by_id.windows(2).filter(same).map(|pair| pair[1]).collect();
            if clash.is_empty() {
                break;
            }
            // Another program has put a member where one that was moved had lain, or has copied one with its extra fields:
            // an id that names two contents would give the one for the other.
            for number in clash {
                let entry = &mut self.entries[number as usize];
                entry.id = MemberId(entry.place | apart);
            }
            self.sort_by_id();
        }
    }

    /// Of several with one id, those that tell theirs come first.
    fn sort_by_id(&mut self) {
        let entries = &self.entries;
        self.by_id.sort_by_key(|&number| {
            let entry = &entries[number as usize];
            (entry.id, entry.header == 0, number)
        });
    }

    /// Whether two members have one path, or one is a file where others are below it.
    fn has_clashes(&self) -> bool {
        if self.order.windows(2).any(|pair| self.path(pair[0]) == self.path(pair[1])) {
            return true;
        }
        let mut last: &[u8] = b"";
        self.order.iter().any(|&number| {
            let path = self.path(number);
            let Some(cut) = path.iter().rposition(|&b| b == b'/') else { return false };
            let dir = &path[..cut];
            if std::mem::replace(&mut last, dir) == dir {
                return false;
            }
            let ends = (0..=dir.len()).filter(|&end| end == dir.len() || dir[end] == b'/');
            ends.into_iter().any(|end| {
                self.find(&dir[..end]).is_some_and(|number| {
                    self.entries[number as usize].kind.is_some_and(|kind| kind != Kind::Directory)
                })
            })
        })
    }

    /// Give members the paths that a read-only bucket shows them with, all different.
    fn name_as_shown(&mut self, file: &File) -> FsResult<()> {
        let index = build::index(file)?;
        let rows = index.rows.iter().enumerate();
        let shown: HashMap<u64, u32> = rows
            .filter(|(_, row)| Kind::from(row.kind) != Kind::Directory)
            .map(|(number, row)| (row.place, number as u32))
            .collect();
        let mut seen = std::collections::HashSet::new();
        for number in 0..self.entries.len() {
            let place = self.entries[number].place;
            match self.entries[number].kind {
                // Several members may make one directory.
                Some(Kind::Directory) if !seen.insert(self.path(number as u32).to_vec()) => {
                    self.entries[number].kind = None;
                }
                Some(Kind::Directory) | None => {}
                Some(_) => match shown.get(&place) {
                    Some(&row) => self.entries[number].path = self.name(&index.path(row))?,
                    None => self.entries[number].kind = None,
                },
            }
        }
        self.sort();
        self.fit = Fit::Rewrite("members have names that are shown otherwise");
        Ok(())
    }

    fn fitness(&self, file: &File, end_record: u64, end: u64) -> FsResult<Fit> {
        let mut by_place: Vec<&Entry> = self.entries.iter().collect();
        by_place.sort_by_key(|entry| entry.place);
        let ends = |entry: &Entry| entry.place.saturating_add(LOCAL_BYTES as u64).saturating_add(entry.packed);
        let beyond = by_place.last().is_some_and(|last| ends(last) > self.dir.0);
        if beyond || by_place.windows(2).any(|pair| ends(pair[0]) > pair[1].place) {
            return Ok(Fit::Never("members share their bytes"));
        }
        if self.fit != Fit::InPlace {
            return Ok(self.fit.clone());
        }
        let wide = format::END64_BYTES as u64;
        let abuts = self.dir.1 == end_record || self.dir.1 + wide == end_record;
        // Offsets that count from elsewhere than the beginning of the file.
        let mut declared = [0; 4];
        if let Some(first) = self.entries.first() {
            std::os::unix::fs::FileExt::read_exact_at(file, &mut declared, first.record + 42)?;
            let declared = u32::from_le_bytes(declared);
            if declared != u32::MAX && u64::from(declared) != first.place {
                return Ok(Fit::Rewrite("something is before the archive"));
            }
        } else if self.dir.0 != 0 {
            return Ok(Fit::Rewrite("something is before the archive"));
        }
        if by_place.first().is_some_and(|first| first.place != 0) {
            return Ok(Fit::Rewrite("the file does not begin with a member"));
        }
        if !abuts || end != self.length {
            return Ok(Fit::Rewrite("the directory is not at the end"));
        }
        Ok(Fit::InPlace)
    }

    /// Where its first member is, or else its directory.
    pub(super) fn begin(&self) -> u64 {
        self.entries.iter().map(|entry| entry.place).min().unwrap_or(self.dir.0)
    }

    /// The table of an archive that can be changed.
    ///
    /// # Errors
    /// [`FsError::Archive`] says why it cannot be.
    pub(super) fn writable(self) -> FsResult<Self> {
        match self.fit {
            Fit::Never(why) => Err(broken(why)),
            Fit::InPlace | Fit::Rewrite(_) => Ok(self),
        }
    }

    /// The entry at `path`.
    pub(super) fn find(&self, path: &[u8]) -> Option<u32> {
        let found = self.order.binary_search_by(|&number| self.path(number).cmp(path));
        found.ok().map(|at| self.order[at])
    }

    /// The entries whose paths begin with `prefix`.
    pub(super) fn below(&self, prefix: &[u8]) -> &[u32] {
        let begin = self.order.partition_point(|&number| self.path(number) < prefix);
        let count = self.order[begin..].partition_point(|&number| self.path(number).starts_with(prefix));
        &self.order[begin..begin + count]
    }

    pub(super) fn find_id(&self, id: MemberId) -> Option<u32> {
        let found = self.by_id.binary_search_by_key(&id, |&number| self.entries[number as usize].id);
        found.ok().map(|at| self.by_id[at])
    }

    pub(super) fn info(&self, number: u32) -> Option<MemberInfo> {
        self.entries[number as usize].info(self.path(number))
    }

    /// As [`live`], of all members.
    ///
    /// # Errors
    /// As there.
    pub(super) fn live(&self, file: &File, also: &[(u64, u64)]) -> std::io::Result<Vec<(u64, u64)>> {
        live(self.entries.iter().collect(), self.dir.0, file, also)
    }
}

/// The bytes of the file before `end` that belong to `entries` or to `also`, ascending and not touching. A gap that is too
/// small to be used counts as its neighbour's.
///
/// # Errors
/// What reading local headers answers.
pub(super) fn live(
    mut entries: Vec<&Entry>,
    end: u64,
    file: &File,
    also: &[(u64, u64)],
) -> std::io::Result<Vec<(u64, u64)>> {
    entries.sort_by_key(|entry| entry.place);
    let mut live: Vec<(u64, u64)> = Vec::with_capacity(also.len() + 8);
    let mut put = |from: u64, to: u64| match live.last_mut() {
        Some(last) if from <= last.1 => last.1 = last.1.max(to),
        _ => live.push((from, to)),
    };
    for (at, entry) in entries.iter().enumerate() {
        let next = entries.get(at + 1).map_or(end, |next| next.place);
        let mut to = entry.least_end();
        if to < next {
            let is_small = entry.header == 0 && next - to < GAP_MIN;
            to = if is_small { next } else { to - entry.least_header() + entry.header_len(file)? };
        }
        put(entry.place, to);
    }
    if also.is_empty() {
        return Ok(live);
    }
    live.extend_from_slice(also);
    live.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in live {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    Ok(merged)
}
