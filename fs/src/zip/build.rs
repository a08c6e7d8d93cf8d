//! The index from one pass over the central directory, which is the authority on what is in an archive.

use super::entry::{self, Facts};
use super::index::{Index, Marks, ROOT, Row, RowKind};
use super::name::{self, Guess};
use crate::error::{FsError, FsResult};
use rawzip::{FileReader, ZipArchive, ZipLocator};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Directories that members imply, at most, beside four for each member: long runs of `a/a/a/` are hostile.
const IMPLIED_MAX: u64 = 1 << 20;
/// Deflate cannot hold more than this many bytes of content in one byte.
const DEFLATE_RATIO_MAX: u64 = 1032;
/// Content of tiny members that the ratio does not speak of.
const RATIO_SLACK: u64 = 64 * 1024;
/// A local header without name.
const LOCAL_HEADER_BYTES: u64 = 30;
/// Bytes of the central directory read at once; a record may have 196,653.
const BUFFER_BYTES: usize = 1024 * 1024;

/// What is wrong with an archive, in a sentence.
pub(crate) fn broken(problem: impl std::fmt::Display) -> FsError {
    FsError::Archive(problem.to_string())
}

/// Whether `packed` bytes cannot hold `size` bytes of content.
pub(crate) fn claims_too_much(method: u16, encrypted: bool, packed: u64, size: u64) -> bool {
    let deflate_bound = packed.saturating_mul(DEFLATE_RATIO_MAX).saturating_add(RATIO_SLACK);
    (method == 8 && size > deflate_bound) || (method == 0 && !encrypted && size != packed)
}

/// Find the directory of `file`.
///
/// # Errors
/// [`FsError::Archive`] when there is none.
pub(crate) fn open(file: &File, buffer: &mut [u8]) -> FsResult<ZipArchive<FileReader>> {
    let located = ZipLocator::new().locate_in_file(file.try_clone()?, buffer);
    let archive = located.map_err(|(_, error)| broken(format!("not a zip archive: {error}")))?;
    let mut disks = [0; 4];
    file.read_exact_at(&mut disks, archive.eocd_offset() + 4)?;
    // With zip64 the other record may tell.
    if disks != [0; 4] && disks != [0xFF; 4] {
        return Err(broken("a part of a split archive"));
    }
    Ok(archive)
}

/// Read the index of the archive `file`.
///
/// # Errors
/// [`FsError::Archive`] says what is wrong with it.
pub(crate) fn index(file: &File) -> FsResult<Index> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let archive = open(file, &mut buffer)?;
    let length = file.metadata()?.len();
    let mut guess = Guess::new();
    let mut members: u64 = 0;
    let mut entries = archive.entries(&mut buffer);
    while let Some(record) = entries.next_entry().map_err(broken)? {
        guess.see(record.file_path().as_bytes(), record.flags().is_utf8());
        members += 1;
    }
    // Archives of more than 65,535 members without zip64 have the number's low bits.
    if members != archive.entries_hint() && (members & 0xFFFF) != archive.entries_hint() {
        let told = archive.entries_hint();
        return Err(broken(format!("the central directory has {members} members and says it has {told}")));
    }
    let end_of_content = archive.directory_offset();
    if end_of_content > length {
        return Err(broken("the central directory lies outside the file"));
    }
    let expected = usize::try_from(members).map_err(broken)?;
    let mut build = Build::new(expected, members, guess, end_of_content);
    let mut entries = archive.entries(&mut buffer);
    while let Some(record) = entries.next_entry().map_err(broken)? {
        build.member(&record)?;
    }
    Ok(build.finish())
}

struct Build {
    index: Index,
    /// Directories by parent and name.
    dirs: HashMap<(u32, Box<[u8]>), u32>,
    /// The directory of the last member, as most members are in the same as the one before.
    last: (Vec<u8>, u32),
    implied_left: u64,
}

impl Build {
    fn new(expected: usize, members: u64, guess: Guess, end_of_content: u64) -> Self {
        let mut index = Index { end_of_content, charset: guess.charset(), ..Index::default() };
        index.rows.reserve_exact(expected.saturating_add(1));
        let root = Row {
            place: 0,
            packed: 0,
            size: 0,
            mtime_ns: 0,
            crc: 0,
            parent: ROOT,
            name_at: 0,
            name_len: 0,
            marks: Marks::default(),
            method: 0,
            mode: 0o755,
            kind: RowKind::Directory,
        };
        index.rows.push(root);
        let implied_left = IMPLIED_MAX.saturating_add(members.saturating_mul(4));
        Self { index, dirs: HashMap::new(), last: (Vec::new(), ROOT), implied_left }
    }

    fn member(&mut self, record: &rawzip::ZipFileHeaderRecord<'_>) -> FsResult<()> {
        let facts = entry::facts(record);
        let raw = record.file_path().as_bytes();
        let decoded = self.index.charset.decode(raw, record.flags().is_utf8(), facts.unicode_path);
        let (Some(kind), Some(path)) = (facts.kind, name::inside(decoded, facts.windows)) else {
            self.index.hidden += 1;
            return Ok(());
        };
        let cut = path.iter().rposition(|&b| b == b'/');
        let (dir, base) = cut.map_or((&[][..], &path[..]), |at| (&path[..at], &path[at + 1..]));
        let parent = self.directory(dir)?;
        if kind == RowKind::Directory {
            let number = self.child_directory(parent, base)?;
            let row = &mut self.index.rows[number as usize];
            row.marks.add(Marks::EXPLICIT);
            (row.mode, row.mtime_ns) = (facts.mode, facts.mtime_ns);
            return Ok(());
        }
        self.file(kind, parent, base, record, &facts)
    }

    fn file(
        &mut self,
        kind: RowKind,
        parent: u32,
        base: &[u8],
        record: &rawzip::ZipFileHeaderRecord<'_>,
        facts: &Facts<'_>,
    ) -> FsResult<()> {
        let (size, packed) = (record.uncompressed_size_hint(), record.compressed_size_hint());
        let method = record.compression_method().as_u16();
        let mut marks = Marks::default();
        if record.flags().is_encrypted() {
            marks.add(Marks::ENCRYPTED);
        }
        if claims_too_much(method, record.flags().is_encrypted(), packed, size) {
            marks.add(Marks::BOMB);
        }
        self.index.bytes = self.index.bytes.saturating_add(size);
        let named = self.named(base)?;
        self.push(Row {
            place: record.local_header_offset(),
            packed,
            size,
            mtime_ns: facts.mtime_ns,
            crc: record.crc32(),
            parent,
            marks,
            method,
            mode: facts.mode,
            kind,
            ..named
        })?;
        Ok(())
    }

    /// A row with this name and nothing else.
    fn named(&mut self, name: &[u8]) -> FsResult<Row> {
        let name_at = u32::try_from(self.index.names.len()).map_err(|_| broken("more than 4 GiB of names"))?;
        let name_len = u8::try_from(name.len()).map_err(broken)?;
        self.index.names.extend_from_slice(name);
        Ok(Row { name_at, name_len, marks: Marks::default(), place: 0, packed: 0, size: 0, ..self.index.rows[0] })
    }

    fn push(&mut self, row: Row) -> FsResult<u32> {
        let number = u32::try_from(self.index.rows.len()).map_err(|_| broken("more than 4 G members"))?;
        self.index.rows.push(row);
        Ok(number)
    }

    /// The directory at `path`, made with its parents where no member has made it yet.
    fn directory(&mut self, path: &[u8]) -> FsResult<u32> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        if self.last.0 == path {
            return Ok(self.last.1);
        }
        let mut at = ROOT;
        for part in path.split(|&b| b == b'/') {
            at = self.child_directory(at, part)?;
        }
        self.last.0.clear();
        self.last.0.extend_from_slice(path);
        self.last.1 = at;
        Ok(at)
    }

    fn child_directory(&mut self, parent: u32, name: &[u8]) -> FsResult<u32> {
        let key = (parent, Box::from(name));
        if let Some(&known) = self.dirs.get(&key) {
            return Ok(known);
        }
        self.implied_left =
            self.implied_left.checked_sub(1).ok_or_else(|| broken("more directories than members explain"))?;
        let row = Row { parent, mode: 0o755, mtime_ns: 0, kind: RowKind::Directory, ..self.named(name)? };
        let number = self.push(row)?;
        self.dirs.insert(key, number);
        Ok(number)
    }

    fn finish(mut self) -> Index {
        drop(std::mem::take(&mut self.dirs));
        self.group();
        let shared: Vec<u32> = overlapping(&self.index);
        for number in shared {
            self.index.rows[number as usize].marks.add(Marks::BOMB);
        }
        self.index.rows.shrink_to_fit();
        self.index.names.shrink_to_fit();
        self.index
    }

    /// Put the children of each directory beside each other, sorted by name.
    fn group(&mut self) {
        let Index { rows, order, names, .. } = &mut self.index;
        for number in 1..rows.len() {
            let parent = rows[number].parent as usize;
            rows[parent].packed += 1;
        }
        let mut at = 0;
        for row in rows.iter_mut().filter(|row| row.kind == RowKind::Directory) {
            row.place = at;
            at += row.packed;
            row.packed = 0;
        }
        order.resize(rows.len() - 1, 0);
        for number in 1..rows.len() {
            let parent = rows[number].parent as usize;
            let parent = &mut rows[parent];
            order[(parent.place + parent.packed) as usize] = number as u32;
            parent.packed += 1;
        }
        let mut renamed = Vec::new();
        for dir in 0..rows.len() {
            if rows[dir].kind != RowKind::Directory {
                continue;
            }
            let range = rows[dir].place as usize..(rows[dir].place + rows[dir].packed) as usize;
            let children = &mut order[range];
            let text = |row: &Row| &names[row.name_at as usize..row.name_at as usize + usize::from(row.name_len)];
            let by_name = |a: &u32, b: &u32| text(&rows[*a as usize]).cmp(text(&rows[*b as usize]));
            // Stable: of equal names, the first member comes first.
            children.sort_by(by_name);
            if children.windows(2).any(|pair| by_name(&pair[0], &pair[1]).is_eq()) {
                renamed.push(dir);
            }
        }
        for dir in renamed {
            self.rename_duplicates(dir);
        }
    }

    /// Of several members with one name, a directory keeps it, else the first; the others are numbered as copies are.
    fn rename_duplicates(&mut self, dir: usize) {
        let range = self.index.children(&self.index.rows[dir]);
        let children = self.index.order[range.clone()].to_vec();
        let name_of = |index: &Index, child: u32| index.name(&index.rows[child as usize]).to_vec();
        let mut taken: HashSet<Vec<u8>> = children.iter().map(|&child| name_of(&self.index, child)).collect();
        let same_name = |a: &u32, b: &u32| name_of(&self.index, *a) == name_of(&self.index, *b);
        // Long names that differ in their ends alone are the same when they are cut: they count on from one another.
        let mut last: HashMap<Vec<u8>, u32> = HashMap::new();
        let groups: Vec<Vec<u32>> = children.chunk_by(same_name).map(<[u32]>::to_vec).collect();
        for group in groups.iter().filter(|group| group.len() > 1) {
            let is_dir = |&child: &u32| self.index.rows[child as usize].kind == RowKind::Directory;
            let keeps = group.iter().position(is_dir).unwrap_or(0);
            let name = name_of(&self.index, group[0]);
            let others = group.iter().enumerate().filter(|(at, _)| *at != keeps).map(|(_, child)| *child);
            let number = last.entry(name::stem_of_copies(&name)).or_default();
            for child in others {
                let new = loop {
                    *number += 1;
                    let new = name::numbered(&name, *number);
                    if taken.insert(new.clone()) {
                        break new;
                    }
                };
                // No room for names: it keeps the old one and is found by nobody.
                let Ok(Row { name_at, name_len, .. }) = self.named(&new) else { continue };
                let row = &mut self.index.rows[child as usize];
                (row.name_at, row.name_len) = (name_at, name_len);
                row.marks.add(Marks::RENAMED);
            }
        }
        let mut sorted = children;
        sorted.sort_by(|&a, &b| {
            self.index.name(&self.index.rows[a as usize]).cmp(self.index.name(&self.index.rows[b as usize]))
        });
        self.index.order[range].copy_from_slice(&sorted);
    }
}

/// Files whose bytes reach into another's, or beyond the content.
fn overlapping(index: &Index) -> Vec<u32> {
    let mut files: Vec<u32> = (1..index.rows.len() as u32).collect();
    files.retain(|&number| index.rows[number as usize].kind != RowKind::Directory);
    let place = |number: u32| index.rows[number as usize].place;
    // Almost always sorted already.
    files.sort_by_key(|&number| place(number));
    let mut found = Vec::new();
    let mut reach = (0, None);
    for number in files {
        let row = &index.rows[number as usize];
        let end = row.place.saturating_add(LOCAL_HEADER_BYTES).saturating_add(row.packed);
        if let (until, Some(other)) = reach
            && row.place < until
        {
            found.extend([other, number]);
        }
        if end > index.end_of_content {
            found.push(number);
        }
        if end > reach.0 {
            reach = (end, Some(number));
        }
    }
    found
}
