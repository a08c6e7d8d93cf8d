//! Archives that are changed: what is in them after edits, for us and for the tools people have.

mod disk;
mod foreign;
mod killed;
mod model;
mod order;
pub(crate) mod reflink;

use model::{Model, Node};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use wizefs_fs::BucketPath;
use wizefs_fs::lz::{Archive, Edit, Edits, MemberId, NewMember, Policy, Source, Strategy as Way};
use wizefs_fs::stat::Kind;

pub(crate) const IN_PLACE: Policy = Policy { rewrite_below: 0, reflink: false };
pub(crate) const WHOLE: Policy = Policy { rewrite_below: u64::MAX, reflink: false };
/// 2020-02-29 12:34:56.789 UTC.
pub(crate) const TIME: i64 = 1_582_979_696_789_000_000;

/// A folder in memory where there is one: many small archives are synced, and nothing is about the disk.
pub(crate) fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn path(text: &str) -> BucketPath {
    BucketPath::new(text).unwrap()
}

pub(crate) fn put(at: &str, bytes: &[u8]) -> Edit {
    let source = Source::Bytes(bytes.to_vec());
    Edit::Put(NewMember { path: path(at), source, mode: 0o640, mtime_ns: TIME, blake3: None })
}

pub(crate) fn dir(at: &str) -> Edit {
    Edit::Directory { path: path(at), mode: 0o750, mtime_ns: TIME }
}

pub(crate) fn text(len: usize) -> Vec<u8> {
    (0_u64..).flat_map(|i| format!("{} ", i * i).into_bytes()).take(len).collect()
}

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(crate) fn read(archive: &Archive, id: MemberId) -> Vec<u8> {
    let mut out = Vec::new();
    archive
        .read_whole(id, &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    out
}

/// Everything in the archive.
pub(crate) fn shown(archive: &Archive) -> BTreeMap<Vec<u8>, (Node, u32, i64)> {
    let mut found = BTreeMap::new();
    let mut members = Vec::new();
    archive
        .members(&mut |info| {
            members.push(info);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    for info in members {
        let node = match info.kind {
            Kind::Directory => Node::Directory,
            Kind::Symlink => Node::Symlink(read(archive, info.id)),
            _ => Node::File(read(archive, info.id)),
        };
        // Who unpacks in this order gives every directory its mode.
        let inside = [info.path.as_bytes(), b"/"].concat();
        let is_late = info.kind == Kind::Directory && found.keys().any(|path: &Vec<u8>| path.starts_with(&inside));
        assert!(!is_late, "{} comes after what is in it", info.path);
        let before = found.insert(info.path.as_bytes().to_vec(), (node, info.mode, info.mtime_ns));
        assert!(before.is_none(), "two of one name");
    }
    found
}

/// What the `zip` crate sees: content by name.
pub(crate) fn seen_by_zip(bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let mut found = BTreeMap::new();
    for number in 0..archive.len() {
        let mut member = archive.by_index(number).map_err(|e| e.to_string())?;
        let mut content = Vec::new();
        member.read_to_end(&mut content).map_err(|e| e.to_string())?;
        if found.insert(member.name_raw().to_vec(), content).is_some() {
            return Err("two of one name".into());
        }
    }
    Ok(found)
}

/// That the tools people have open `archive` without a word of warning.
pub(crate) fn tools_accept(archive: &Path) {
    let commands: [(&str, &[&str]); 4] =
        [("unzip", &["-tqq"]), ("python3", &["-m", "zipfile", "-t"]), ("7z", &["t", "-bd"]), ("bsdtar", &["-tf"])];
    for (program, args) in commands {
        let output = Command::new(program).args(args).arg(archive).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).to_lowercase();
        let warned = ["warning", "error", "bad", "headers"].iter().any(|word| told.contains(word));
        assert!(output.status.success() && !warned, "{program}: {told}");
    }
}

#[track_caller]
pub(crate) fn assert_sound(archive: &Archive) {
    assert_eq!(archive.check().unwrap(), []);
}

fn edit() -> impl Strategy<Value = Edit> {
    let folder = prop::sample::select(vec!["", "d0/", "d1/", "d1/d2/", "d3\u{e4}/"]);
    let file = (folder.clone(), 0..4_u8).prop_map(|(folder, n)| path(&format!("{folder}f{n}")));
    let folder = folder.prop_filter_map("the root", |f| f.strip_suffix('/').map(path));
    let content = prop_oneof![
        4 => (any::<u8>(), 0..400_usize).prop_map(|(byte, len)| vec![byte; len]),
        2 => (any::<u64>(), 0..3000_usize).prop_map(|(seed, len)| noise(seed, len)),
        1 => (250_000..700_000_usize).prop_map(text),
    ];
    let time = 0..2_000_000_000_000_000_000_i64;
    prop_oneof![
        6 => (file.clone(), content, 0..0o1000_u32, time.clone()).prop_map(|(path, bytes, mode, mtime_ns)| {
            Edit::Put(NewMember { path, source: Source::Bytes(bytes), mode, mtime_ns, blake3: None })
        }),
        2 => (folder.clone(), 0..0o1000_u32, time.clone())
            .prop_map(|(path, mode, mtime_ns)| Edit::Directory { path, mode, mtime_ns }),
        1 => (file.clone(), time.clone())
            .prop_map(|(path, mtime_ns)| Edit::Symlink { path, target: b"to/somewhere".to_vec(), mtime_ns }),
        3 => prop_oneof![file.clone(), folder.clone()].prop_map(Edit::Remove),
        2 => (file.clone(), file.clone()).prop_map(|(from, to)| Edit::Rename { from, to }),
        2 => (folder.clone(), folder).prop_map(|(from, to)| Edit::Rename { from, to }),
        1 => (file, 0..0o1000_u32, time).prop_map(|(path, mode, mtime_ns)| Edit::Attributes { path, mode, mtime_ns }),
    ]
}

/// Lists of edits that make sense one after the other.
pub(crate) fn sequences(lists: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Edits>> {
    prop::collection::vec(prop::collection::vec(edit(), 1..6), lists).prop_map(|lists| {
        let mut model = Model::default();
        let sensible = lists.into_iter().map(|list| Edits(list.into_iter().filter(|edit| model.apply(edit)).collect()));
        sensible.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_do_what_a_model_says(lists in sequences(1..10), whole: bool) {
        let dir = in_memory();
        let place = dir.path().join("a.zip");
        Archive::create(&place).unwrap();
        let policy = if whole { WHOLE } else { IN_PLACE };
        let mut archive = Archive::open_with(&place, policy, None).unwrap();
        let mut model = Model::default();
        for (number, edits) in lists.iter().enumerate() {
            let before = ids(&archive);
            edits.0.iter().for_each(|edit| assert!(model.apply(edit)));
            archive.commit(edits).unwrap();
            prop_assert_eq!(&shown(&archive), &model.nodes);
            assert_sound(&archive);
            for (path, id) in ids(&archive) {
                // Another content has another id.
                let known = before.iter().find(|(_, known)| **known == id);
                let may_move = edits.0.iter().any(|edit| matches!(edit, Edit::Rename { .. }));
                prop_assert!(may_move || known.is_none_or(|(old, _)| *old == path));
            }
            prop_assert_eq!(seen_by_zip(&std::fs::read(&place).unwrap()).unwrap(), model.as_zip());
            if number % 3 == 2 {
                let ids_before = ids(&archive);
                drop(archive);
                archive = Archive::open_with(&place, policy, None).unwrap();
                prop_assert_eq!(&shown(&archive), &model.nodes);
                prop_assert_eq!(ids(&archive), ids_before);
            }
        }
        if !model.nodes.is_empty() {
            tools_accept(&place);
        }
        archive.compact().unwrap();
        prop_assert_eq!(&shown(&archive), &model.nodes);
        assert_sound(&archive);
        drop(archive);
        prop_assert!(!dir.path().join("a.zip.lzfs").exists());
    }
}

fn ids(archive: &Archive) -> BTreeMap<Vec<u8>, MemberId> {
    let mut ids = BTreeMap::new();
    archive
        .members(&mut |info| {
            ids.insert(info.path.as_bytes().to_vec(), info.id);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    ids
}

#[test]
fn a_small_file_in_a_large_archive_costs_the_directory_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a.zip");
    Archive::create(&place).unwrap();
    let archive = Archive::open(&place).unwrap();
    let big = dir.path().join("big");
    std::fs::write(&big, noise(1, 64 << 20)).unwrap();
    let mut edits = Edits::default();
    for number in 0..2000 {
        edits.0.push(put(&format!("small/{number}"), &text(number)));
    }
    edits.0.push(Edit::Put(NewMember {
        path: path("big"),
        source: Source::File(big),
        mode: 0o600,
        mtime_ns: TIME,
        blake3: None,
    }));
    archive.commit(&edits).unwrap();
    assert_sound(&archive);
    let directory = 2000 * 200;
    let mut ways = Vec::new();
    for number in 0..6 {
        let committed = archive.commit(&Edits(vec![put(&format!("new-{number}"), &noise(number, 1024))])).unwrap();
        assert!(committed.bytes_written < 1024 + directory + 64 * 1024, "{committed:?}");
        ways.push(committed.strategy);
        assert!(committed.length < (65 << 20) + 5 * directory, "{committed:?}");
    }
    assert!(ways.contains(&Way::Extend) && ways.contains(&Way::Shrink), "{ways:?}");
    assert_sound(&archive);
    tools_accept(&place);
    archive.compact().unwrap();
    assert_sound(&archive);
    assert_eq!(seen_by_zip(&std::fs::read(&place).unwrap()).unwrap().len(), 2007);
}

#[test]
fn what_is_too_big_for_memory_finds_room_and_can_be_read_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a.zip");
    Archive::create(&place).unwrap();
    let archive = Archive::open_with(&place, IN_PLACE, None).unwrap();
    archive.commit(&Edits(vec![self::dir("first"), put("keep", b"kept")])).unwrap();
    let content = text(30 << 20);
    let source = dir.path().join("source");
    std::fs::write(&source, &content).unwrap();
    let new = |name: &str| NewMember {
        path: path(name),
        source: Source::File(source.clone()),
        mode: 0o600,
        mtime_ns: TIME,
        blake3: Some(blake3::hash(&content).into()),
    };
    let committed = archive.commit(&Edits(vec![Edit::Put(new("text"))])).unwrap();
    assert!(matches!(committed.strategy, Way::Shrink | Way::Extend), "{committed:?}");
    assert_sound(&archive);
    let id = committed.ids[0].unwrap();
    let mut part = vec![0; 4096];
    for at in [29 << 20, 0, 128 * 1024 - 7, 17 << 20, (30 << 20) - 4096] {
        assert_eq!(archive.read(id, at as u64, &mut part).unwrap(), 4096);
        assert_eq!(part, content[at..at + 4096]);
    }
    // Parts replaced, and more at the end than there was.
    let mut changed = content.clone();
    changed.resize(content.len() + 100_000, 0);
    let dirty =
        [5_000_u64..5_100, (20 << 20)..(20 << 20) + 70_000, content.len() as u64 + 10..content.len() as u64 + 20];
    let patch = dir.path().join("patch");
    let patched = File::create(&patch).unwrap();
    for range in &dirty {
        let bytes = noise(range.start, (range.end - range.start) as usize);
        std::os::unix::fs::FileExt::write_all_at(&patched, &bytes, range.start).unwrap();
        changed[range.start as usize..range.end as usize].copy_from_slice(&bytes);
    }
    let size = changed.len() as u64;
    let whole = dir.path().join("whole");
    std::fs::write(&whole, &changed).unwrap();
    let hash = Some(blake3::hash(&changed).into());
    let source = |file: &Path, dirty: &[Range<u64>]| Source::Patched {
        base: id,
        file: file.to_owned(),
        dirty: dirty.to_vec(),
        size,
    };
    let edit =
        |source, blake3| Edit::Put(NewMember { path: path("text"), source, mode: 0o600, mtime_ns: TIME, blake3 });
    // What is not noted as replaced is found out.
    let refused = archive.commit(&Edits(vec![edit(source(&whole, &dirty[1..]), hash)])).unwrap_err();
    assert_eq!(refused.errno(), rustix::io::Errno::STALE);
    assert_sound(&archive);
    for (source, blake3) in [(source(&patch, &dirty), None), (source(&whole, &dirty), hash)] {
        let pin = archive.pin(id).unwrap();
        let committed = archive.commit(&Edits(vec![edit(source, blake3)])).unwrap();
        assert!(read(&archive, committed.ids[0].unwrap()) == changed, "{}", blake3.is_some());
        assert_sound(&archive);
        drop(pin);
    }
    assert_sound(&archive);
    tools_accept(&place);
    // One that is not what it was said to be changes nothing.
    let mut wrong = new("wrong");
    wrong.blake3 = Some([7; 32]);
    assert!(archive.commit(&Edits(vec![put("other", b"x"), Edit::Put(wrong)])).is_err());
    assert!(archive.find(&path("other")).is_none());
    assert_sound(&archive);
}

#[test]
fn what_is_pinned_stays_readable_and_is_zeroed_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    for policy in [IN_PLACE, WHOLE] {
        let place = dir.path().join("a.zip");
        Archive::create(&place).unwrap();
        let archive = Archive::open_with(&place, policy, None).unwrap();
        let secret = noise(3, 200_000);
        archive.commit(&Edits(vec![self::dir("d"), put("d/secret", &secret)])).unwrap();
        archive.commit(&Edits(vec![put("other", &noise(4, 100))])).unwrap();
        let id = archive.find(&path("d/secret")).unwrap().id;
        let pin = archive.pin(id).unwrap();
        archive.commit(&Edits(vec![Edit::Remove(path("d/secret"))])).unwrap();
        archive.commit(&Edits(vec![put("more", &noise(5, 300_000))])).unwrap();
        assert!(read(&archive, id) == secret);
        assert!(archive.find(&path("d/secret")).is_none());
        drop(pin);
        archive.commit(&Edits(vec![put("yet", b"more")])).unwrap();
        assert!(archive.member(id).is_none());
        assert_sound(&archive);
        let bytes = std::fs::read(&place).unwrap();
        assert!(!bytes.windows(64).any(|part| part == &secret[1000..1064]), "what was removed is still there");
        drop(archive);
        assert!(!dir.path().join("a.zip.lzfs").exists());
        std::fs::remove_file(&place).unwrap();
    }
}

#[test]
fn names_of_any_bytes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a.zip");
    Archive::create(&place).unwrap();
    let archive = Archive::open(&place).unwrap();
    let names: [&[u8]; 6] = [b"back\\slash", b"caf\x82", b"\xff\xfe", "\u{1F600}/x".as_bytes(), b"C:", b"nl\nname"];
    for name in names {
        let path = BucketPath::new(name).unwrap();
        let source = Source::Bytes(name.to_vec());
        archive
            .commit(&Edits(vec![Edit::Put(NewMember { path, source, mode: 0, mtime_ns: -1, blake3: None })]))
            .unwrap();
    }
    drop(archive);
    let archive = Archive::open(&place).unwrap();
    let found = shown(&archive);
    assert_eq!(found.keys().map(Vec::as_slice).collect::<Vec<_>>(), {
        let mut names = names;
        names.sort_unstable();
        names
    });
    assert!(found.values().all(|(_, mode, mtime_ns)| (*mode, *mtime_ns) == (0, -1)));
    assert_sound(&archive);
}

#[test]
fn edits_that_make_no_sense_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.zip");
    Archive::create(&place).unwrap();
    assert!(Archive::create(&place).is_err());
    let archive = Archive::open(&place).unwrap();
    archive.commit(&Edits(vec![dir("d"), put("d/f", b"1")])).unwrap();
    let rename = |from: &str, to: &str| Edit::Rename { from: path(from), to: path(to) };
    let before = shown(&archive);
    let deep = "x/".repeat(256) + "y";
    for wrong in [rename("d", "d/e"), put("d/f/g", b"2"), put("d", b"2"), rename("d", "d/f/x"), put(&deep, b"3")] {
        assert!(archive.commit(&Edits(vec![put("also", b"x"), wrong.clone()])).is_err(), "{wrong:?}");
    }
    assert_eq!(shown(&archive), before);
    assert_eq!(archive.commit(&Edits::default()).unwrap().strategy, Way::Nothing);
    // Somebody else wrote it.
    let mut bytes = std::fs::read(&place).unwrap();
    bytes.push(0);
    std::fs::write(&place, bytes).unwrap();
    assert!(archive.commit(&Edits(vec![put("also", b"x")])).is_err());
}
