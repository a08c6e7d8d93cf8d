//! Members on their way to their places: into holes of the archive, behind its end, or into a copy.

use super::disk::{BLOCK_BYTES, Disk, Output};
use super::format::{DESCRIPTOR, ENCRYPTED, Head, Ours, UTF_8, local_extra};
use super::order::MIMETYPE;
use super::pack::{self, Packed};
use super::plan::{Fresh, Made};
use super::table::{Entry, Table};
use super::{Archive, MemberId, Source, source};
use crate::error::{FsError, FsResult};
use crate::path::NAME_MAX_BYTES;
use crate::stat::Kind;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// What is behind the end of the archive is written at once, at most so much beside the directory; so much waits in memory
/// to be written; and members up to this size are packed in memory.
pub(super) const MEMORY_MAX: u64 = 8 * 1024 * 1024;
/// Bytes copied at once.
pub(super) const COPY_BYTES: u64 = 1024 * 1024;
/// Headers of a new member beside its name.
const HEADERS_MAX: u64 = 512;
/// Method 99: AES, whose key does not depend on where the sizes are.
const AES: u16 = 99;

/// A member at its new place.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) entry: Entry,
    pub(super) path: Vec<u8>,
    /// For the directory.
    pub(super) record: Vec<u8>,
    /// Of the edit that made it.
    pub(super) number: Option<usize>,
}

/// Before the first byte is written.
pub(super) type Begin<'a> = &'a dyn Fn() -> FsResult<()>;

/// Puts members where there is room.
pub(super) struct Writer<'a> {
    pub(super) archive: &'a Archive,
    pub(super) disk: &'a Disk,
    pub(super) output: Output,
    /// Where members may be put: begin and end, ascending.
    pub(super) free: Vec<(u64, u64)>,
    /// Where bytes are put that fit nowhere, and those bytes.
    pub(super) tail: Option<(u64, Vec<u8>)>,
    /// Written when they are many.
    pending: Vec<(u64, Vec<u8>)>,
    pending_bytes: u64,
    begin: Option<Begin<'a>>,
    /// Reach of what was put into holes: begin and end of each.
    pub(super) filled: Vec<(u64, u64)>,
    pub(super) placed: Vec<Placed>,
    owner: (u32, u32),
}

/// The name in the headers of a member that is shown at `path`.
fn stored_name(path: &[u8], kind: Kind, ours: &mut Ours) -> Vec<u8> {
    let mut name = match std::str::from_utf8(path) {
        Ok(_) => path.to_vec(),
        Err(_) => {
            ours.path = Some(path.to_vec());
            likeness(path)
        }
    };
    if kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

/// Whether `name` is what this program writes for `path`: others may have renamed the member since.
pub(super) fn is_likeness(name: &[u8], path: &[u8]) -> bool {
    name.strip_suffix(b"/").unwrap_or(name) == likeness(path)
}

/// A name that others can show for a path that is no UTF-8, with components that others can make.
fn likeness(path: &[u8]) -> Vec<u8> {
    let mark = format!("~{:08x}", crc32fast::hash(path));
    let last = path.split(|&byte| byte == b'/').count() - 1;
    let components = path.split(|&byte| byte == b'/').enumerate().map(|(number, component)| {
        let mark = if number == last { &mark[..] } else { "" };
        let mut shown = String::from_utf8_lossy(component).into_owned();
        shown.truncate(shown.floor_char_boundary(NAME_MAX_BYTES - mark.len()));
        shown + mark
    });
    components.collect::<Vec<_>>().join("/").into_bytes()
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        _ => libc::S_IFREG,
    }
}

/// Most bytes that a new member takes.
pub(super) fn made_bound(made: &Made<'_>) -> FsResult<u64> {
    let content = match made.content {
        Fresh::File(new) => pack::bound(source::size(&new.source)?),
        Fresh::Directory => 0,
        Fresh::Symlink(target) => target.len() as u64,
    };
    Ok(content + HEADERS_MAX + 4 * made.path.len() as u64)
}

/// Most bytes that a member takes that is moved.
pub(super) fn moved_bound(entry: &Entry, path: usize) -> u64 {
    entry.packed + u64::from(entry.record_len) + u64::from(entry.header) + HEADERS_MAX + 4 * path as u64
}

/// A new member's bytes in memory.
struct Ready {
    head: Head,
    body: Vec<u8>,
    packed: Packed,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        archive: &'a Archive,
        output: Output,
        free: Vec<(u64, u64)>,
        begin: Option<Begin<'a>>,
    ) -> FsResult<Self> {
        let found = archive.state.read().output.file.metadata()?;
        Ok(Self {
            archive,
            disk: &archive.disk,
            output,
            free,
            tail: None,
            pending: Vec::new(),
            pending_bytes: 0,
            begin,
            filled: Vec::new(),
            placed: Vec::new(),
            owner: (found.uid(), found.gid()),
        })
    }

    /// Room for `len` bytes among the holes.
    fn take_room(&mut self, len: u64) -> Option<u64> {
        let hole = self.free.iter_mut().find(|(from, to)| to - from >= len)?;
        let at = hole.0;
        hole.0 += len;
        self.filled.push((at, at + len));
        Some(at)
    }

    /// Give back the end of what was taken last.
    fn give_back(&mut self, from: u64) {
        if let Some(last) = self.filled.last_mut() {
            let taken_to = last.1;
            last.1 = from;
            if let Some(hole) = self.free.iter_mut().find(|hole| hole.0 == taken_to) {
                hole.0 = from;
            }
        }
    }

    /// Put bytes somewhere; answers where.
    fn put(&mut self, header: Vec<u8>, body: &[u8]) -> FsResult<u64> {
        let len = (header.len() + body.len()) as u64;
        let Some(at) = self.take_room(len) else {
            let Some((base, tail)) = &mut self.tail else {
                return Err(FsError::os("room for a member", Errno::NOSPC));
            };
            let at = *base + tail.len() as u64;
            tail.extend_from_slice(&header);
            tail.extend_from_slice(body);
            return Ok(at);
        };
        let mut bytes = header;
        bytes.extend_from_slice(body);
        self.pending_bytes += bytes.len() as u64;
        match self.pending.last_mut() {
            Some((from, last)) if *from + last.len() as u64 == at => last.extend_from_slice(&bytes),
            _ => self.pending.push((at, bytes)),
        }
        if self.pending_bytes > MEMORY_MAX {
            self.flush()?;
        }
        Ok(at)
    }

    /// Write what waits.
    ///
    /// # Errors
    /// What writing answers.
    pub(super) fn flush(&mut self) -> FsResult<()> {
        self.begin()?;
        for (at, bytes) in std::mem::take(&mut self.pending) {
            self.disk.write(&self.output, at, &bytes)?;
        }
        self.pending_bytes = 0;
        Ok(())
    }

    fn begin(&mut self) -> FsResult<()> {
        self.begin.take().map_or(Ok(()), |begin| begin())
    }

    /// Nothing needs to be said any more before writing.
    pub(super) fn begun(&mut self) {
        self.begin = None;
    }

    /// Whether anything waits to be written.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Put all new members, small ones packed side by side.
    ///
    /// # Errors
    /// What reading the sources, packing and writing answer.
    pub(super) fn put_all(&mut self, made: &[&Made<'_>]) -> FsResult<()> {
        let mut batch: Vec<&Made<'_>> = Vec::new();
        let mut bytes = 0;
        for &one in made {
            let bound = made_bound(one)?;
            if bound > MEMORY_MAX {
                self.put_batch(&std::mem::take(&mut batch))?;
                bytes = 0;
                self.put_streaming(one)?;
                continue;
            }
            batch.push(one);
            bytes += bound;
            if bytes > MEMORY_MAX {
                self.put_batch(&std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.put_batch(&batch)
    }

    fn put_batch(&mut self, batch: &[&Made<'_>]) -> FsResult<()> {
        let (archive, owner) = (self.archive, self.owner);
        let ready = pack::on_all_cores(batch.len(), &|number| ready(archive, batch[number], owner))?;
        for (made, ready) in batch.iter().zip(ready) {
            let Ready { mut head, body, packed } = ready;
            let header = head.local();
            let header_len = header.len();
            let at = self.put(header, &body)?;
            self.place(made, &mut head, &packed, at, header_len);
        }
        Ok(())
    }

    /// A member that is too big for memory.
    fn put_streaming(&mut self, made: &Made<'_>) -> FsResult<()> {
        let Fresh::File(new) = made.content else { return Err(FsError::os("a long target", Errno::NAMETOOLONG)) };
        let size = source::size(&new.source)?;
        let mut head = new_head(made, size, self.owner)?;
        let header_len = head.local().len() as u64;
        let at = self
            .take_room(header_len + pack::bound(size))
            .ok_or_else(|| FsError::os("room for a member", Errno::NOSPC))?;
        self.flush()?;
        let mut to = at + header_len;
        let (disk, output) = (self.disk, self.output.clone());
        let mut buffer = Vec::with_capacity(2 * COPY_BYTES as usize);
        let packed = source::pack(self.archive, new, size, &mut |bytes| {
            buffer.extend_from_slice(bytes);
            if buffer.len() as u64 >= COPY_BYTES {
                disk.write(&output, to, &buffer)?;
                to += buffer.len() as u64;
                buffer.clear();
            }
            Ok(())
        })?;
        disk.write(&output, to, &buffer)?;
        self.give_back(to + buffer.len() as u64);
        seal(&mut head, &packed, size, new.blake3, &new.source)?;
        let header = head.local();
        if header.len() as u64 != header_len {
            return Err(FsError::os("a header of another length", Errno::IO));
        }
        disk.write(&output, at, &header)?;
        self.place(made, &mut head, &packed, at, header.len());
        Ok(())
    }

    fn place(&mut self, made: &Made<'_>, head: &mut Head, packed: &Packed, at: u64, header: usize) {
        head.ours.steps = packed.steps.clone().filter(|steps| !steps.offsets.is_empty());
        let record = head.central(at, header);
        let entry = entry_of(head, kind_of(made.content), at, header, &record);
        self.placed.push(Placed { entry, path: made.path.clone(), record, number: Some(made.number) });
    }

    /// Put a member of `table`, whose bytes are in `from`, under another header.
    ///
    /// # Errors
    /// What reading and writing answer; `EOPNOTSUPP` for one that cannot be moved.
    pub(super) fn put_moved(
        &mut self,
        table: &Table,
        from: &File,
        number: u32,
        path: &[u8],
        attributes: Option<(u32, i64)>,
    ) -> FsResult<()> {
        let entry = &table.entries[number as usize];
        if entry.flags & DESCRIPTOR != 0 && entry.is_encrypted() && entry.method != AES {
            let what = format!("{}: encrypted as a stream", String::from_utf8_lossy(path));
            return Err(FsError::os(what, Errno::OPNOTSUPP));
        }
        let mut head = head_of(from, entry, path, attributes, true)?;
        let header = head.local();
        let header_len = header.len();
        let body_at = entry.place + entry.header_len(from)?;
        let at = if entry.packed <= MEMORY_MAX {
            let mut body = vec![0; usize::try_from(entry.packed).unwrap_or(usize::MAX)];
            from.read_exact_at(&mut body, body_at)?;
            self.put(header, &body)?
        } else {
            let room = self.take_room(header_len as u64 + entry.packed);
            let at = room.ok_or_else(|| FsError::os("room for a member", Errno::NOSPC))?;
            self.flush()?;
            self.disk.write(&self.output, at, &header)?;
            self.copy(from, body_at, at + header_len as u64, entry.packed)?;
            at
        };
        let record = head.central(at, header_len);
        let mut moved = Entry {
            place: at,
            header: header_len as u32,
            record: 0,
            record_len: record.len() as u32,
            name_len: head.name.len() as u16,
            flags: head.flags,
            ..entry.clone()
        };
        if let Some((mode, mtime_ns)) = attributes {
            (moved.mode, moved.mtime_ns) = (mode as u16, mtime_ns);
        }
        self.placed.push(Placed { entry: moved, path: path.to_vec(), record, number: None });
        Ok(())
    }

    /// Copy bytes of another file as they are.
    ///
    /// # Errors
    /// What reading and writing answer.
    pub(super) fn copy(&self, from: &File, mut at: u64, mut to: u64, len: u64) -> FsResult<()> {
        let end = at + len;
        let mut buffer = vec![0; COPY_BYTES as usize];
        while at < end {
            let count = (end - at).min(COPY_BYTES) as usize;
            from.read_exact_at(&mut buffer[..count], at)?;
            self.disk.write(&self.output, to, &buffer[..count])?;
            at += count as u64;
            to += count as u64;
        }
        Ok(())
    }
}

/// The next place that direct writes can begin at.
pub(super) fn aligned(at: u64) -> u64 {
    at.next_multiple_of(BLOCK_BYTES)
}

fn kind_of(content: Fresh<'_>) -> Kind {
    match content {
        Fresh::File(_) => Kind::File,
        Fresh::Directory => Kind::Directory,
        Fresh::Symlink(_) => Kind::Symlink,
    }
}

/// The headers of a member that is there, with another path and other attributes. `renamed` when its local header is
/// written anew.
pub(super) fn head_of(
    file: &File,
    entry: &Entry,
    path: &[u8],
    attributes: Option<(u32, i64)>,
    renamed: bool,
) -> FsResult<Head> {
    let mut bytes = vec![0; entry.record_len as usize];
    file.read_exact_at(&mut bytes, entry.record)?;
    let record = super::format::Central::read(&bytes);
    let record = record.ok_or_else(|| FsError::Archive("the directory was changed".into()))?;
    let extra = if renamed { local_extra(file, entry.place)?.0 } else { Vec::new() };
    let mut ours = Ours::read(record.extra).of(record.crc, record.packed);
    ours.id = Some(entry.id);
    ours.path = ours.path.filter(|_| !renamed);
    let mut head = Head::of(&record, &extra, ours);
    if let Some(kind) = entry.kind {
        if renamed {
            head.name = stored_name(path, kind, &mut head.ours);
            head.flags = head.flags & !UTF_8 | if head.name.is_ascii() { 0 } else { UTF_8 };
        } else {
            head.flags = entry.flags;
        }
        if let Some((mode, mtime_ns)) = attributes {
            let dos = head.dos;
            head.set_mode(mode | type_bits(kind));
            head.set_time(mtime_ns);
            if mtime_ns != entry.mtime_ns {
                head.forget_times();
            }
            // The local header stays, and has the time of DOS too.
            head.dos = if renamed { head.dos } else { dos };
        }
    }
    Ok(head)
}

/// The entry that headers make.
fn entry_of(head: &Head, kind: Kind, place: u64, header: usize, record: &[u8]) -> Entry {
    Entry {
        id: head.ours.id.unwrap_or(MemberId(place)),
        place,
        header: header as u32,
        packed: head.packed,
        size: head.size,
        mtime_ns: head.ours.mtime_ns.unwrap_or(0),
        record: 0,
        record_len: record.len() as u32,
        crc: head.crc,
        path: (0, 0),
        name_len: head.name.len() as u16,
        method: head.method,
        flags: head.flags & !ENCRYPTED,
        mode: (head.external >> 16 & 0o7777) as u16,
        kind: Some(kind),
        blake3: head.ours.blake3,
        steps: head.ours.steps.clone().map(Arc::new),
    }
}

fn new_head(made: &Made<'_>, size: u64, owner: (u32, u32)) -> FsResult<Head> {
    let mut ours = Ours { id: Some(MemberId::draw()?), ..Ours::default() };
    let name = stored_name(&made.path, kind_of(made.content), &mut ours);
    let has_hash = matches!(made.content, Fresh::File(_));
    ours.blake3 = has_hash.then_some([0; 32]);
    let mut head = Head::new(name, made.mode, made.mtime_ns, owner, ours);
    (head.size, head.packed) = (size, size);
    Ok(head)
}

/// Complete the headers of packed content.
fn seal(head: &mut Head, packed: &Packed, size: u64, expected: Option<[u8; 32]>, source: &Source) -> FsResult<()> {
    if source::size(source)? != size {
        return Err(FsError::os("the source has another size", Errno::STALE));
    }
    if expected.is_some_and(|expected| expected != packed.blake3) {
        return Err(FsError::os("the source has another hash", Errno::STALE));
    }
    (head.method, head.crc, head.packed, head.size) = (packed.method, packed.crc, packed.packed, size);
    head.ours.blake3 = Some(packed.blake3);
    Ok(())
}

/// A small member, packed.
fn ready(archive: &Archive, made: &Made<'_>, owner: (u32, u32)) -> FsResult<Ready> {
    let Fresh::File(new) = made.content else {
        let content = if let Fresh::Symlink(target) = made.content { target } else { b"" };
        let mut head = new_head(made, content.len() as u64, owner)?;
        head.crc = crc32fast::hash(content);
        let packed =
            Packed { method: head.method, crc: head.crc, blake3: [0; 32], packed: content.len() as u64, steps: None };
        return Ok(Ready { head, body: content.to_vec(), packed });
    };
    let size = source::size(&new.source)?;
    let mut head = new_head(made, size, owner)?;
    let mut body = Vec::new();
    let packed = if size <= pack::WHOLE_MAX {
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        source::input(archive, &new.source)?.fill(0, &mut content)?;
        let (packed, bytes) =
            if made.path == MIMETYPE { (pack::stored(&content), None) } else { pack::whole(&content)? };
        body = bytes.unwrap_or(content);
        packed
    } else {
        source::pack(archive, new, size, &mut |bytes| {
            body.extend_from_slice(bytes);
            Ok(())
        })?
    };
    seal(&mut head, &packed, size, new.blake3, &new.source)?;
    Ok(Ready { head, body, packed })
}
