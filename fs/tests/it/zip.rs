//! Zip archives as buckets: what is shown of each, what is read, and what is reported. `fs/tests/data/make.sh` says how
//! the archives there were made.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wizefs_fs::stat::Kind;
use wizefs_fs::vfs::{Attr, Caller, Ino, ReadFs};
use wizefs_fs::{ArchiveCheck, BucketPath, Cause, Content, FsError, MemorySink, Op, ZipBucket, ZipFs, ZipOptions};

const ME: Caller = Caller { uid: 0, gid: 0, pid: 0 };

pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn open(name: &str, passphrase: Option<&str>) -> ZipFs {
    ZipFs::open(File::open(data(name)).unwrap(), passphrase.map(Into::into)).unwrap()
}

/// Names in a directory without `.` and `..`.
fn names(fs: &ZipFs, dir: Ino) -> Vec<Vec<u8>> {
    let fh = fs.opendir(dir).unwrap();
    let mut names = Vec::new();
    let mut from = 0;
    // In parts, as the kernel asks.
    loop {
        let mut left = 2;
        fs.readdir(fh, from, &mut |entry| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            (left, from) = (left - 1, entry.next);
            names.push(entry.name.as_bytes().to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        if left == 2 {
            break;
        }
    }
    fs.releasedir(fh);
    names.retain(|name| name != b"." && name != b"..");
    names
}

pub(crate) fn content(fs: &ZipFs, attr: &Attr) -> Result<Vec<u8>, FsError> {
    if attr.stat.kind == Kind::Symlink {
        return fs.readlink(attr.ino);
    }
    let opened = fs.open(attr.ino, 0, ME)?;
    let mut content = Vec::new();
    let mut part = vec![0; 70_000];
    let read_all = loop {
        match fs.read(opened.fh, content.len() as u64, &mut part) {
            Ok(0) => break Ok(()),
            Ok(read) => content.extend_from_slice(&part[..read]),
            Err(error) => break Err(error),
        }
    };
    fs.release(opened.fh);
    read_all.map(|()| content)
}

/// Everything in an archive by path: attributes.
pub(crate) fn walk(fs: &ZipFs) -> BTreeMap<String, Attr> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![(String::new(), Ino::ROOT)];
    while let Some((path, ino)) = dirs.pop() {
        for name in names(fs, ino) {
            let attr = fs.lookup(ino, OsStr::from_bytes(&name)).unwrap();
            let path = format!("{path}{}", String::from_utf8_lossy(&name));
            if attr.stat.kind == Kind::Directory {
                dirs.push((format!("{path}/"), attr.ino));
            }
            assert!(found.insert(path, attr).is_none(), "two of one name");
        }
    }
    found
}

fn text() -> Vec<u8> {
    (0..2000).flat_map(|i| format!("{i} squared is {}\n", i * i).into_bytes()).collect()
}

/// Path, permission bits and content of what is shown: `None` for directories, the error for what cannot be read.
fn check(name: &str, expect: &[(&str, u32, Option<&str>)]) {
    let fs = open(name, None);
    let shown = walk(&fs);
    let found: Vec<(&str, u32, Option<String>)> = shown
        .iter()
        .map(|(path, attr)| {
            let text = match content(&fs, attr) {
                _ if attr.stat.kind == Kind::Directory => None,
                Ok(bytes) => Some(String::from_utf8(bytes).unwrap()),
                Err(error) => Some(format!("{:?}", error.errno())),
            };
            (path.as_str(), attr.stat.mode, text)
        })
        .collect();
    let expect: Vec<_> = expect.iter().map(|(path, mode, text)| (*path, *mode, text.map(str::to_owned))).collect();
    assert_eq!(found, expect, "{name}");
}

#[test]
fn members_have_the_names_modes_and_contents_they_were_packed_with() {
    let tree = [
        ("dir", 0o755, None),
        ("dir/deep", 0o700, None),
        ("dir/deep/file", 0o644, Some("deep\n")),
        ("dir/run.sh", 0o751, Some("#!/bin/sh\necho run\n")),
        ("empty", 0o755, None),
        ("hello.txt", 0o644, Some("hello\n")),
        ("link", 0o777, Some("dir/run.sh")),
    ];
    check("infozip.zip", &tree);
    check("infozip-extra.zip", &tree);
    check("zip64.zip", &[("tree", 0o755, None), ("tree/hello.txt", 0o644, Some("hello\n"))]);
    // Sizes in a data descriptor.
    check("stream.zip", &[("-", 0o600, Some("hello\n"))]);
    check("empty.zip", &[]);
    check("prefix.zip", &[("file", 0o644, Some("x"))]);
    check("comment.zip", &[("file", 0o644, Some("x"))]);
    check("special.zip", &[("dosdir", 0o755, None), ("file", 0o640, Some("x")), ("readonly", 0o444, Some("x"))]);
}

#[test]
fn times_come_from_the_best_field_there_is() {
    for name in ["infozip.zip", "infozip-extra.zip"] {
        let shown = walk(&open(name, None));
        // 2020-02-29T12:34:56Z, in DOS time as well as in seconds since 1970.
        assert_eq!(shown["hello.txt"].stat.mtime_ns, 1_582_979_696_000_000_000, "{name}");
    }
}

#[test]
fn names_are_read_in_the_encoding_they_were_written_in() {
    let x = Some("x");
    check(
        "cp437.zip",
        &[("back", 0o755, None), ("back/slash", 0o644, x), ("back\\slash", 0o644, x), ("café", 0o644, x)],
    );
    check("cp866.zip", &[("Документы и фотографии.txt", 0o644, x), ("Прошлогодний отчёт о работе.txt", 0o644, x)]);
    check("unicode-path.zip", &[("ü", 0o644, x)]);
}

#[test]
fn every_method_gives_the_same_content() {
    for name in ["seven-Deflate.zip", "seven-Deflate64.zip", "seven-BZip2.zip"] {
        let fs = open(name, None);
        assert_eq!(content(&fs, &walk(&fs)["text"]).unwrap(), text(), "{name}");
    }
    let fs = open("lzma.zip", None);
    let error = content(&fs, &walk(&fs)["text"]).unwrap_err();
    assert_eq!(error.errno(), rustix::io::Errno::OPNOTSUPP);
    assert!(error.to_string().contains("method 14"), "{error}");
}

#[test]
fn encrypted_members_need_the_right_passphrase() {
    for (archive, member) in [
        ("aes256.zip", "text"),
        ("aes128.zip", "tree/hello.txt"),
        ("zipcrypto.zip", "text"),
        ("zipcrypto-stream.zip", "-"),
    ] {
        let fs = open(archive, Some("secret"));
        fs.check_passphrase().unwrap();
        let expect = if member == "text" { text() } else { b"hello\n".to_vec() };
        assert_eq!(content(&fs, &walk(&fs)[member]).unwrap(), expect, "{archive}");
        for wrong in [None, Some("Secret")] {
            let fs = open(archive, wrong);
            assert!(matches!(fs.check_passphrase(), Err(FsError::Passphrase(_))), "{archive} {wrong:?}");
            let error = content(&fs, &walk(&fs)[member]).unwrap_err();
            assert_eq!(error.errno(), rustix::io::Errno::ACCESS, "{archive} {wrong:?}");
        }
    }
}

/// Text that deflates to about a third, `bytes` long.
fn prose(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        write!(text, "{} ", state >> 40).unwrap();
    }
    text.truncate(bytes);
    text
}

/// An archive of members: name, method, bytes of content, CRC-32, packed bytes. Method 99 has a field of its own.
fn archive_of(members: &[(&str, u16, &[u8], Vec<u8>)]) -> tempfile::NamedTempFile {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, method, content, packed) in members {
        let aes = *method == 99;
        // AE-1 with 32 bytes of key, deflate below.
        let extra: &[u8] = if aes { &[1, 0x99, 7, 0, 1, 0, b'A', b'E', 3, 8, 0] } else { &[] };
        let mut head = Vec::new();
        for field in [20, u16::from(aes), *method, 0, 0x5A21] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        for field in [crc32fast::hash(content), packed.len() as u32, content.len() as u32] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        head.extend_from_slice(&(name.len() as u16).to_le_bytes());
        head.extend_from_slice(&(extra.len() as u16).to_le_bytes());
        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend_from_slice(&head);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&(archive.len() as u32).to_le_bytes());
        directory.extend_from_slice(&[name.as_bytes(), extra].concat());
        archive.extend_from_slice(b"PK\x03\x04");
        archive.extend_from_slice(&[&head, name.as_bytes(), extra, packed].concat());
    }
    let (count, at) = ((members.len() as u16).to_le_bytes(), (archive.len() as u32).to_le_bytes());
    archive.extend_from_slice(&directory);
    archive.extend_from_slice(&[&b"PK\x05\x06\0\0\0\0"[..], &count, &count].concat());
    archive.extend_from_slice(&[&(directory.len() as u32).to_le_bytes()[..], &at, &[0, 0]].concat());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&archive).unwrap();
    file
}

/// As WinZip encrypts: salt, check, AES-256 in counter mode, authentication code.
fn encrypted(packed: &[u8], passphrase: &str) -> Vec<u8> {
    use ctr::cipher::{KeyIvInit, StreamCipher};
    use hmac::{KeyInit, Mac};
    let salt = [7; 16];
    let mut keys = [0; 66];
    pbkdf2::pbkdf2_hmac::<sha1::Sha1>(passphrase.as_bytes(), &salt, 1000, &mut keys);
    let mut bytes = packed.to_vec();
    let counter = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ctr::Ctr128LE::<aes::Aes256>::new_from_slices(&keys[..32], &counter).unwrap().apply_keystream(&mut bytes);
    let mut code = hmac::Hmac::<sha1::Sha1>::new_from_slice(&keys[32..64]).unwrap();
    code.update(&bytes);
    [&salt[..], &keys[64..], &bytes, &code.finalize().into_bytes()[..10]].concat()
}

/// Read `member` at many places, in no order, from two handles.
fn check_places(file: &Path, passphrase: Option<&str>, member: &str, expect: &[u8]) {
    let fs = ZipFs::open(File::open(file).unwrap(), passphrase.map(Into::into)).unwrap();
    let ino = fs.lookup(Ino::ROOT, OsStr::new(member)).unwrap().ino;
    let handles = [fs.open(ino, 0, ME).unwrap().fh, fs.open(ino, 0, ME).unwrap().fh];
    let mut state = 7_u64;
    for round in 0..60 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state >> 33) as usize % (expect.len() + 10);
        let mut part = vec![0; 1 + (state >> 20) as usize % 300_000];
        let read = fs.read(handles[round % 2], at as u64, &mut part).unwrap();
        let end = expect.len().min(at + part.len());
        assert_eq!(part[..read], expect[at.min(end)..end], "{member} at {at}");
    }
    let whole = content(&fs, &fs.getattr(ino).unwrap()).unwrap();
    assert!(whole == expect, "{member} in order");
}

#[test]
fn a_member_is_read_from_any_place() {
    let text = prose(9_000_000);
    let deflated = miniz_oxide::deflate::compress_to_vec(&text, 4);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&text).unwrap();
    let members = [
        ("aes", 99, &text[..], encrypted(&deflated, "secret")),
        ("stored", 0, &text, text.clone()),
        ("zstd", 93, &text, zstd::encode_all(&text[..], 1).unwrap()),
        ("bzip2", 12, &text, bzip2.finish().unwrap()),
        ("deflated", 8, &text, deflated),
    ];
    let archive = archive_of(&members);
    for (name, ..) in members {
        check_places(archive.path(), Some("secret"), name, &text);
    }
}

struct Opened {
    bucket: Arc<ZipBucket>,
    sink: Arc<MemorySink>,
    _state: tempfile::TempDir,
}

fn bucket(archive: &Path, sink: Arc<MemorySink>) -> Opened {
    let state = tempfile::tempdir().unwrap();
    let options = ZipOptions { archive: archive.to_owned(), state: state.path().to_owned(), passphrase: None };
    Opened { bucket: ZipBucket::open(options, sink.clone()).unwrap(), sink, _state: state }
}

fn path(text: &str) -> BucketPath {
    BucketPath::new(text).unwrap()
}

#[test]
fn an_import_reports_every_member_once() {
    let opened = bucket(&data("infozip.zip"), Arc::default());
    let mut go_on = 3;
    let stopped = opened.bucket.import(&mut |_| {
        go_on -= 1;
        if go_on == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(FsError::Interrupted)));
    opened.bucket.close().unwrap();
    // The same archive again goes on where it was.
    let opened = bucket(&data("infozip.zip"), opened.sink);
    let (progress, unread) = opened.bucket.import(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((unread, progress.files + progress.known), (Vec::new(), 4));
    let changes = opened.sink.changes();
    assert!(changes.iter().zip(1..).all(|(change, number)| change.number == number && change.cause == Cause::Import));
    let mut told: Vec<String> = changes
        .iter()
        .map(|change| match &change.op {
            Op::Mkdir { path, mode } => format!("{path}/ {mode:o}"),
            Op::Put(put) => match &put.content {
                Content::File { size, hashes } => {
                    format!("{} {size} {}", put.path, blake3::Hash::from(hashes.unwrap().blake3))
                }
                Content::Symlink { target } => format!("{} -> {}", put.path, String::from_utf8_lossy(target)),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    told.sort();
    let hash = |text: &str| blake3::hash(text.as_bytes());
    let expect = [
        "dir/ 755".to_owned(),
        "dir/deep/ 700".to_owned(),
        format!("dir/deep/file 5 {}", hash("deep\n")),
        format!("dir/run.sh 19 {}", hash("#!/bin/sh\necho run\n")),
        "empty/ 755".to_owned(),
        format!("hello.txt 6 {}", hash("hello\n")),
        "link -> dir/run.sh".to_owned(),
    ];
    assert_eq!(told, expect);
    assert_eq!(opened.bucket.check_archive().unwrap(), Some(ArchiveCheck::Same));
    let mut file = opened.bucket.open_file(&path("dir/run.sh")).unwrap();
    assert_eq!(std::io::read_to_string(&mut file).unwrap(), "#!/bin/sh\necho run\n");
    opened.bucket.close().unwrap();
}

#[test]
fn an_import_goes_on_only_with_the_archive_it_began_with() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.zip");
    std::fs::copy(data("infozip.zip"), &archive).unwrap();
    let opened = bucket(&archive, Arc::default());
    assert!(opened.bucket.import(&mut |_| ControlFlow::Break(())).is_err());
    opened.bucket.close().unwrap();
    std::fs::copy(data("names.zip"), &archive).unwrap();
    let opened = bucket(&archive, opened.sink);
    let changed = opened.bucket.import(&mut |_| ControlFlow::Continue(()));
    assert!(matches!(changed, Err(FsError::Archive(_))), "{changed:?}");
    assert!(matches!(opened.bucket.check_archive().unwrap(), Some(ArchiveCheck::Differs { .. })));
    opened.bucket.close().unwrap();
}

#[test]
fn an_import_is_broken_off_within_a_member() {
    let text = prose(5_000_000);
    let archive = archive_of(&[("large", 0, &text, text.clone())]);
    let opened = bucket(archive.path(), Arc::default());
    let mut heard = Vec::new();
    let broken_off = opened.bucket.import(&mut |progress| {
        heard.push((progress.files, progress.bytes));
        if heard.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken_off, Err(FsError::Interrupted)), "{broken_off:?}");
    assert!(heard == [(0, 1 << 20), (0, 2 << 20)], "{heard:?}");
    let (progress, unread) = opened.bucket.import(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((progress.files, progress.bytes, unread.len()), (1, 5_000_000, 0));
    opened.bucket.close().unwrap();
}

#[test]
fn a_pipe_in_the_place_of_an_archive_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.zip");
    std::fs::copy(data("infozip.zip"), &archive).unwrap();
    let opened = bucket(&archive, Arc::default());
    opened.bucket.import(&mut |_| ControlFlow::Continue(())).unwrap();
    std::fs::remove_file(&archive).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &archive, rustix::fs::Mode::RUSR).unwrap();
    assert!(opened.bucket.is_outdated() && opened.bucket.trouble().is_some());
    assert!(matches!(opened.bucket.check_archive(), Err(FsError::Archive(_))));
    opened.bucket.close().unwrap();
    let options = ZipOptions { archive, state: dir.path().join("state"), passphrase: None };
    assert!(matches!(ZipBucket::open(options, Arc::<MemorySink>::default()), Err(FsError::Archive(_))));
}

#[test]
fn members_that_cannot_be_read_are_named_and_not_recorded() {
    let opened = bucket(&data("mismatch.zip"), Arc::default());
    let (progress, unread) = opened.bucket.import(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((progress.files, unread.len()), (1, 1));
    assert_eq!(unread[0].path, path("shown"));
    assert!(unread[0].problem.contains("disagree"), "{unread:?}");
    opened.bucket.close().unwrap();
    let opened = bucket(&data("aes256.zip"), Arc::default());
    assert!(matches!(opened.bucket.import(&mut |_| ControlFlow::Continue(())), Err(FsError::Passphrase(_))));
    opened.bucket.close().unwrap();
}

#[test]
fn an_archive_written_while_it_is_open_is_not_read_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.zip");
    std::fs::copy(data("infozip.zip"), &archive).unwrap();
    let fs = ZipFs::open(File::open(&archive).unwrap(), None).unwrap();
    let hello = walk(&fs)["hello.txt"];
    let opened = fs.open(hello.ino, 0, ME).unwrap();
    File::options().append(true).open(&archive).unwrap().write_all(b"more").unwrap();
    assert_eq!(content(&fs, &hello).unwrap_err().errno(), rustix::io::Errno::IO);
    assert_eq!(fs.read(opened.fh, 0, &mut [0; 3]).unwrap_err().errno(), rustix::io::Errno::IO);
}

#[test]
fn a_damaged_byte_of_a_member_that_is_not_packed_is_an_error() {
    for size in [1000, 300_000, 2_000_000] {
        let text = prose(size);
        let mut damaged = text.clone();
        damaged[size / 3] ^= 1;
        let archive = archive_of(&[("good", 0, &text, text.clone()), ("bad", 0, &text, damaged)]);
        let fs = ZipFs::open(File::open(archive.path()).unwrap(), None).unwrap();
        let shown = walk(&fs);
        assert!(content(&fs, &shown["good"]).unwrap() == text, "{size}");
        check_places(archive.path(), None, "good", &text);
        assert_eq!(content(&fs, &shown["bad"]).unwrap_err().errno(), rustix::io::Errno::IO, "{size}");
        // The kernel reads ahead, with several hands.
        let fs = ZipFs::open(File::open(archive.path()).unwrap(), None).unwrap();
        let opened = fs.open(shown["bad"].ino, 0, ME).unwrap();
        let last = size / 2 / 1000 * 1000;
        let parts = (0..size).step_by(1000).rev().filter(|at| *at != last);
        let mut part = [0; 1000];
        let told = parts.filter(|at| fs.read(opened.fh, *at as u64, &mut part).is_err()).count();
        assert!(told == 0 || size < 200_000, "{size}: a part is as good as another until all were read");
        assert!(fs.read(opened.fh, last as u64, &mut part).is_err(), "{size}");
        assert!(fs.read(opened.fh, 0, &mut part).is_err(), "{size}");
    }
}
