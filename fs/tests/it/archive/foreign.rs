//! Archives that other programs made, and odd ones: changed without loss, or refused and left as they are.

use super::{IN_PLACE, TIME, WHOLE, assert_sound, in_memory, path, put, tools_accept};
use crate::zip::data;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use wizefs_fs::lz::archive::Step;
use wizefs_fs::lz::{Archive, Edit, Edits, NewMember, Source, Strategy as Way};
use wizefs_fs::{BucketPath, FsError};
use zip::write::SimpleFileOptions;

/// Contents by path, or why they cannot be read.
fn contents(archive: &Archive) -> BTreeMap<Vec<u8>, Result<Vec<u8>, String>> {
    let mut found = BTreeMap::new();
    let mut infos = Vec::new();
    archive
        .members(&mut |info| {
            infos.push(info);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    for info in infos {
        let mut content = Vec::new();
        let read = archive.read_whole(info.id, &mut |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        });
        found.insert(info.path.as_bytes().to_vec(), read.map(|()| content).map_err(|e| format!("{:?}", e.errno())));
    }
    found
}

#[test]
fn archives_of_others_are_changed_without_loss_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut changed = 0;
    for entry in std::fs::read_dir(data("")).unwrap() {
        let source = entry.unwrap().path();
        if source.extension().is_none_or(|extension| extension != "zip") {
            continue;
        }
        for policy in [IN_PLACE, WHOLE] {
            let place = dir.path().join("a.zip");
            std::fs::copy(&source, &place).unwrap();
            let name = source.display();
            let Ok(archive) = Archive::open_with(&place, policy, None) else { continue };
            let mut before = contents(&archive);
            let Ok(_) = archive.commit(&Edits(vec![put("added", b"here")])) else {
                assert_eq!(std::fs::read(&source).unwrap(), std::fs::read(&place).unwrap(), "{name}");
                continue;
            };
            changed += 1;
            before.insert(b"added".to_vec(), Ok(b"here".to_vec()));
            assert_eq!(contents(&archive), before, "{name}");
            drop(archive);
            let archive = Archive::open_with(&place, policy, None).unwrap();
            assert_eq!(contents(&archive), before, "{name}");
            let ours: Vec<_> = archive.check().unwrap().into_iter().filter(|p| p.path == Some(path("added"))).collect();
            assert_eq!(ours, [], "{name}");
        }
    }
    assert!(changed >= 30, "only {changed} archives could be changed");
}

/// An archive as programs write it that cannot go back: with sizes behind the members.
fn streamed(place: &Path) {
    let mut writer = zip::ZipWriter::new_stream(std::fs::File::create(place).unwrap());
    for number in 0..20 {
        writer.start_file(format!("dir/{number}"), SimpleFileOptions::default()).unwrap();
        writer.write_all(&super::text(number * 1000)).unwrap();
    }
    writer.set_comment("a comment that stays").unwrap();
    writer.finish().unwrap();
}

#[test]
fn members_with_sizes_behind_them_are_moved_without() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a.zip");
    streamed(&place);
    let archive = Archive::open_with(&place, IN_PLACE, None).unwrap();
    let before = contents(&archive);
    let id = archive.find(&path("dir/3")).unwrap().id;
    let rename = Edit::Rename { from: path("dir/3"), to: path("moved") };
    let committed = archive.commit(&Edits(vec![rename, Edit::Remove(path("dir/7"))])).unwrap();
    assert_eq!(committed.strategy, Way::Extend);
    assert_eq!(archive.find(&path("moved")).unwrap().id, id);
    tools_accept(&place);
    let bytes = std::fs::read(&place).unwrap();
    assert!(bytes.ends_with(b"a comment that stays"));
    archive.compact().unwrap();
    assert_sound(&archive);
    tools_accept(&place);
    let after = contents(&archive);
    assert_eq!(after.len(), before.len() - 1);
    assert_eq!(after[b"moved".as_slice()], before[b"dir/3".as_slice()]);
    assert!(std::fs::read(&place).unwrap().ends_with(b"a comment that stays"));
}

#[test]
fn a_field_that_leaves_no_room_for_ours_goes() {
    let dir = tempfile::tempdir().unwrap();
    let script = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1], 'w'); i = zipfile.ZipInfo('f')
i.extra = b'\\x42\\x42' + (65490).to_bytes(2, 'little') + bytes(65490); z.writestr(i, 'text'); z.close()";
    for policy in [IN_PLACE, WHOLE] {
        let place = dir.path().join("a.zip");
        assert!(Command::new("python3").args(["-c", script]).arg(&place).status().unwrap().success());
        let archive = Archive::open_with(&place, policy, None).unwrap();
        let before = contents(&archive);
        let edit = Edit::Attributes { path: path("f"), mode: 0o600, mtime_ns: TIME };
        archive.commit(&Edits(vec![edit, put("g", b"more")])).unwrap();
        drop(archive);
        let archive = Archive::open_with(&place, policy, None).unwrap();
        assert_sound(&archive);
        tools_accept(&place);
        assert_eq!(contents(&archive)[b"f".as_slice()], before[b"f".as_slice()]);
        assert_eq!(archive.find(&path("f")).unwrap().mode, 0o600);
    }
}

#[test]
fn a_time_that_is_set_is_the_one_that_others_see() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a.zip");
    // NTFS, as 7-Zip writes it, and what Info-ZIP wrote once.
    let script = "import struct, sys, zipfile; z = zipfile.ZipFile(sys.argv[1], 'w')
for name in 'small', 'large':
    i = zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6)); ntfs = 126256395060000000
    i.extra = struct.pack('<HHIHHQQQ', 10, 32, 0, 1, 24, ntfs, ntfs, ntfs) + struct.pack('<HHII', 0x5855, 8, 981173106, 981173106)
    z.writestr(i, 'text' * (20000 if name == 'large' else 1))
z.close()";
    for policy in [IN_PLACE, WHOLE] {
        assert!(Command::new("python3").args(["-c", script]).arg(&place).status().unwrap().success());
        let archive = Archive::open_with(&place, policy, None).unwrap();
        let dated = |name| Edit::Attributes { path: path(name), mode: 0o600, mtime_ns: TIME };
        archive.commit(&Edits(vec![dated("small"), dated("large")])).unwrap();
        drop(archive);
        let archive = Archive::open_with(&place, policy, None).unwrap();
        assert_eq!(archive.find(&path("small")).unwrap().mtime_ns, TIME);
        tools_accept(&place);
        let listed = Command::new("7z").args(["l", "-slt"]).arg(&place).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout);
        assert_eq!(listed.matches("Modified = 2020-02-29 12:34:56").count(), 2, "{listed}");
    }
}

#[test]
fn what_others_write_with_our_fields_is_what_they_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("a.zip");
    let script = "import copy, os, sys, zipfile
old = zipfile.ZipFile(sys.argv[1]); new = zipfile.ZipFile(sys.argv[1] + '.new', 'w')
first, big, odd = [(member, old.read(member)) for member in old.infolist()]
copies = [(copy.copy(first[0]), 'second', 'another'), (copy.copy(first[0]), 'same', first[1]), (copy.copy(odd[0]), 'plain', odd[1])]
new.writestr(*first); new.writestr(big[0], big[1][::-1]); new.writestr(*odd)
for member, member.filename, content in copies: new.writestr(member, content)
new.close(); os.replace(sys.argv[1] + '.new', sys.argv[1])";
    for policy in [IN_PLACE, WHOLE] {
        Archive::create(&place).unwrap();
        let archive = Archive::open_with(&place, policy, None).unwrap();
        let big = super::text(3_000_000);
        let odd = BucketPath::new(b"odd\xff".to_vec()).unwrap();
        let odd =
            NewMember { path: odd, source: Source::Bytes(b"odd".into()), mode: 0o644, mtime_ns: TIME, blake3: None };
        archive.commit(&Edits(vec![put("first", b"1"), put("big", &big), Edit::Put(odd)])).unwrap();
        drop(archive);
        assert!(Command::new("python3").args(["-c", script]).arg(&place).status().unwrap().success());

        let archive = Archive::open_with(&place, policy, None).unwrap();
        let reversed: Vec<u8> = big.iter().rev().copied().collect();
        let expect: [(&[u8], &[u8]); 6] = [
            (b"first", b"1"),
            (b"second", b"another"),
            (b"same", b"1"),
            (b"odd\xff", b"odd"),
            (b"plain", b"odd"),
            (b"big", &reversed),
        ];
        let expect: BTreeMap<_, _> = expect.iter().map(|(path, text)| (path.to_vec(), Ok(text.to_vec()))).collect();
        assert!(contents(&archive) == expect);
        let found = archive.find(&path("big")).unwrap();
        assert_eq!(found.blake3, None, "that of what was there before");
        for at in [2_500_000, 1_000_000, 2_000_000] {
            let mut part = [0; 5000];
            assert_eq!(archive.read(found.id, at as u64, &mut part).unwrap(), part.len());
            assert!(part[..] == reversed[at..at + part.len()], "from {at}");
        }
        archive.commit(&Edits(vec![put("first", b"changed"), Edit::Remove(path("same"))])).unwrap();
        drop(archive);
        let archive = Archive::open_with(&place, policy, None).unwrap();
        assert_eq!(contents(&archive)[&b"second"[..]], Ok(b"another".to_vec()));
        assert_eq!(contents(&archive)[&b"first"[..]], Ok(b"changed".to_vec()));
        drop(archive);
        std::fs::remove_file(&place).unwrap();
    }
}

#[test]
fn an_archive_that_comes_in_our_place_while_we_write_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (place, theirs) = (dir.path().join("a.zip"), dir.path().join("theirs"));
    Archive::create(&place).unwrap();
    streamed(&theirs);
    let before = std::fs::read(&theirs).unwrap();
    let (from, to) = (theirs.clone(), place.clone());
    let observer = move |step: &Step<'_>| {
        if matches!(step, Step::Sync(file) if file.ends_with("rewrite")) {
            std::fs::rename(&from, &to).unwrap();
        }
    };
    let archive = Archive::open_with(&place, WHOLE, Some(Arc::new(observer))).unwrap();
    assert!(matches!(archive.compact(), Err(FsError::Archive(_))));
    assert!(std::fs::read(&place).unwrap() == before);
    assert!(!dir.path().join("a.zip.lzfs/rewrite").exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_archives_lose_nothing_more(
        which in prop::sample::select(vec!["infozip.zip", "zip64.zip", "stream.zip", "comment.zip", "names.zip", "unicode-path.zip"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        whole: bool,
    ) {
        let dir = in_memory();
        let place = dir.path().join("a.zip");
        let mut bytes = std::fs::read(data(which)).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        std::fs::write(&place, &bytes).unwrap();
        let Ok(archive) = Archive::open_with(&place, if whole { WHOLE } else { IN_PLACE }, None) else { return Ok(()) };
        let mut before = contents(&archive);
        match archive.commit(&Edits(vec![put("added by a test", b"here")])) {
            Ok(_) => {
                before.insert(b"added by a test".to_vec(), Ok(b"here".to_vec()));
                let after = contents(&archive);
                for (path, content) in &before {
                    // What could be read before can be read afterwards.
                    prop_assert!(content.is_err() || after.get(path) == Some(content), "{path:?}");
                }
            }
            Err(_) => prop_assert_eq!(std::fs::read(&place).unwrap(), bytes),
        }
    }
}

#[test]
fn no_damaged_byte_makes_a_change_lose_more() {
    let dir = in_memory();
    let place = dir.path().join("a.zip");
    let good = std::fs::read(data("names.zip")).unwrap();
    let mut wrong = Vec::new();
    let damage = [0, 1, 0x41, 212, 255].into_iter().flat_map(|byte| (0..good.len()).map(move |at| (at, byte)));
    for (at, byte) in damage {
        let mut bytes = good.clone();
        bytes[at] = byte;
        std::fs::write(&place, &bytes).unwrap();
        let Ok(archive) = Archive::open_with(&place, IN_PLACE, None) else { continue };
        let before = contents(&archive);
        if archive.commit(&Edits(vec![put("added", b"here")])).is_ok() {
            let after = contents(&archive);
            let lost = before.iter().filter(|(path, content)| content.is_ok() && after.get(*path) != Some(content));
            wrong.extend(lost.map(|(path, _)| format!("byte {at} is {byte}: {}", String::from_utf8_lossy(path))));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
