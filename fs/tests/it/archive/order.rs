//! Where members are: what programs expect at the beginning of an archive and before others stays there.

use super::{IN_PLACE, WHOLE, assert_sound, dir, noise, put, tools_accept};
use std::path::Path;
use std::process::Command;
use wizefs_fs::BucketPath;
use wizefs_fs::lz::{Archive, Edit, Edits, NewMember, Source};

/// Have Python make an archive: `z`.
fn made(place: &Path, script: &str) {
    let script = format!("import sys, zipfile; z = zipfile.ZipFile(sys.argv[1], 'w')\n{script}\nz.close()");
    assert!(Command::new("python3").args(["-c", &script]).arg(place).status().unwrap().success());
}

/// Paths in the order of the directory.
fn listed(archive: &Archive) -> Vec<String> {
    let mut found = Vec::new();
    archive
        .members(&mut |info| {
            found.push(info.path.to_string());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// Names in the order of the file, of an archive without holes.
fn in_file(place: &Path) -> Vec<String> {
    let script = "import sys, zipfile
print('\\n'.join(i.filename for i in sorted(zipfile.ZipFile(sys.argv[1]).infolist(), key=lambda i: i.header_offset)))";
    let ran = Command::new("python3").args(["-c", script]).arg(place).output().unwrap();
    String::from_utf8(ran.stdout).unwrap().lines().map(|name| name.trim_end_matches('/').to_owned()).collect()
}

/// Programs that ask what kind of archive it is look at these places.
#[track_caller]
fn expect_mimetype(place: &Path, text: &[u8]) {
    let bytes = std::fs::read(place).unwrap();
    assert_eq!((&bytes[..4], &bytes[8..10], &bytes[28..38]), (&b"PK\x03\x04"[..], &[0, 0][..], &b"\0\0mimetype"[..]));
    assert_eq!(&bytes[38..38 + text.len()], text);
}

const EPUB: &[u8] = b"application/epub+zip";

#[test]
fn the_mimetype_of_a_document_is_first_stored_and_bare() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("book.epub");
    let parts = "z.writestr('META-INF/container.xml', 'x' * 500); z.writestr('OEBPS/text', 'y' * 5000, 8)";
    for policy in [IN_PLACE, WHOLE] {
        made(&place, &format!("z.writestr('mimetype', 'application/epub+zip')\n{parts}"));
        let archive = Archive::open_with(&place, policy, None).unwrap();
        let after = |edits: Vec<Edit>, text: &[u8]| {
            archive.commit(&Edits(edits)).unwrap();
            expect_mimetype(&place, text);
            assert_sound(&archive);
            tools_accept(&place);
        };
        after(vec![put("OEBPS/new", b"1"), dir("OEBPS")], EPUB);
        after(vec![Edit::Remove(BucketPath::new("META-INF/container.xml").unwrap())], EPUB);
        let odt = b"application/vnd.oasis.opendocument.text ".repeat(20);
        after(vec![put("mimetype", &odt), dir("a")], &odt);
        archive.compact().unwrap();
        expect_mimetype(&place, &odt);
        assert_eq!(listed(&archive)[0], "mimetype");
    }
    // One that comes later comes to the front.
    for policy in [IN_PLACE, WHOLE] {
        std::fs::remove_file(&place).unwrap();
        Archive::create(&place).unwrap();
        let archive = Archive::open_with(&place, policy, None).unwrap();
        archive.commit(&Edits(vec![dir("META-INF"), put("META-INF/container.xml", b"x")])).unwrap();
        archive.commit(&Edits(vec![put("OEBPS/text", &noise(1, 5000)), put("mimetype", EPUB)])).unwrap();
        expect_mimetype(&place, EPUB);
        assert_eq!(listed(&archive), ["mimetype", "META-INF", "META-INF/container.xml", "OEBPS/text"]);
        assert_sound(&archive);
        tools_accept(&place);
    }
}

#[test]
fn what_replaces_a_member_has_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.jar");
    let names = ["META-INF", "META-INF/MANIFEST.MF", "z.class", "a.class"];
    for policy in [IN_PLACE, WHOLE] {
        made(
            &place,
            "z.writestr('META-INF/', ''); [z.writestr(n, 'old') for n in ['META-INF/MANIFEST.MF', 'z.class', 'a.class']]",
        );
        let archive = Archive::open_with(&place, policy, None).unwrap();
        archive.commit(&Edits(vec![put("META-INF/MANIFEST.MF", b"new"), put("more", b"1")])).unwrap();
        assert_eq!(listed(&archive), [&names[..], &["more"]].concat());
        if policy == WHOLE {
            assert_eq!(in_file(&place), [&names[..], &["more"]].concat());
        }
        assert_sound(&archive);
        tools_accept(&place);
    }
    // Nothing but the first that leaves brings another one to the front.
    made(&place, "[z.writestr(n, 'old') for n in ['first', 'd/', 'd/a']]");
    let archive = Archive::open_with(&place, WHOLE, None).unwrap();
    archive.commit(&Edits(vec![put("d/a", b"new")])).unwrap();
    assert_eq!(in_file(&place), ["first", "d", "d/a"]);
    archive.commit(&Edits(vec![Edit::Remove(BucketPath::new("first").unwrap())])).unwrap();
    assert_eq!(in_file(&place), ["d", "d/a"]);
}

#[test]
fn what_is_in_front_of_an_archive_stays_there() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.sh");
    let stub = b"#!/bin/sh\nexec unzip -qq \"$0\"\n".repeat(100);
    for policy in [IN_PLACE, WHOLE] {
        made(&place, "z.writestr('f', 'text'); z.comment = b'a comment'");
        std::fs::write(&place, [&stub[..], &std::fs::read(&place).unwrap()].concat()).unwrap();
        let archive = Archive::open_with(&place, policy, None).unwrap();
        assert_sound(&archive);
        for number in 0..3 {
            archive.commit(&Edits(vec![put(&format!("new-{number}"), b"1")])).unwrap();
            let bytes = std::fs::read(&place).unwrap();
            assert!(bytes.starts_with(&stub) && bytes[stub.len()..].starts_with(b"PK\x03\x04"));
            assert_sound(&archive);
            tools_accept(&place);
        }
        assert_eq!(listed(&archive), ["f", "new-0", "new-1", "new-2"]);
    }
}

#[test]
fn names_that_are_no_text_can_be_made_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.zip");
    Archive::create(&place).unwrap();
    let archive = Archive::open(&place).unwrap();
    let name = [&[0xFF; 255][..], b"/", &[0xFE; 255]].concat();
    let path = BucketPath::new(name.as_slice()).unwrap();
    let member = NewMember { path, source: Source::Bytes(Vec::new()), mode: 0o644, mtime_ns: 0, blake3: None };
    archive.commit(&Edits(vec![Edit::Put(member)])).unwrap();
    drop(archive);
    assert!(Archive::open(&place).unwrap().find(&BucketPath::new(name.as_slice()).unwrap()).is_some());
    let likeness = in_file(&place).remove(0);
    assert!(likeness.split('/').all(|component| component.len() <= 255), "{likeness}");
}
