//! Archives by people who mean no good, and damaged ones: a listing or an error, never a way out, a panic or endless work.

use crate::zip::{content, data, walk};
use proptest::prelude::*;
use std::fs::File;
use std::io::{Read, Write};
use wizefs_fs::stat::Kind;
use wizefs_fs::{FsError, ZipFs};

fn open(bytes: &[u8]) -> Result<ZipFs, FsError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    ZipFs::open(file, Some(b"secret".to_vec()))
}

fn bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(data(name)).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn shown(name: &str) -> Vec<String> {
    walk(&open(&bytes(name)).unwrap()).into_keys().collect()
}

#[test]
fn names_cannot_leave_the_bucket() {
    let long = format!("{}~{:08x}", "x".repeat(246), crc32fast::hash(&[b'x'; 300]));
    let expect = [
        "C:",
        "C:/drive",
        "a",
        "a/b",
        "a/double",
        "absolute",
        "both",
        "both (1)",
        "both/inside",
        "dot",
        "dup",
        "dup (1)",
        "dup (1).txt",
        "dup.txt",
        "escape",
        "nul",
        "ok",
        &long,
        "é.txt",
    ];
    assert_eq!(shown("names.zip"), expect);
}

#[test]
fn bytes_that_belong_to_two_members_are_given_to_none() {
    let fs = open(&bytes("overlap.zip")).unwrap();
    let shown = walk(&fs);
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["one", "two"]);
    for attr in shown.values() {
        assert_eq!(content(&fs, attr).unwrap_err().errno(), rustix::io::Errno::IO);
    }
}

#[test]
fn a_member_that_claims_more_than_it_can_hold_is_not_unpacked() {
    let fs = open(&bytes("claims.zip")).unwrap();
    let shown = walk(&fs);
    assert_eq!(shown["bomb"].stat.size, 0xFFFF_FFF0);
    assert_eq!(content(&fs, &shown["bomb"]).unwrap_err().errno(), rustix::io::Errno::IO);
    assert_eq!(content(&fs, &shown["good"]).unwrap(), b"x");
}

#[test]
fn a_link_that_points_nowhere_is_shown_and_cannot_be_followed() {
    let mut writer = zip::ZipWriter::new(tempfile::tempfile().unwrap());
    let options = zip::write::SimpleFileOptions::default();
    writer.add_symlink("nowhere", "", options).unwrap();
    writer.add_symlink("somewhere", "there", options).unwrap();
    let fs = ZipFs::open(writer.finish().unwrap(), None).unwrap();
    let shown = walk(&fs);
    assert_eq!(content(&fs, &shown["nowhere"]).unwrap_err().errno(), rustix::io::Errno::IO);
    assert_eq!(content(&fs, &shown["somewhere"]).unwrap(), b"there");
}

#[test]
fn damage_is_an_error_where_it_is() {
    let fs = open(&bytes("damaged.zip")).unwrap();
    assert_eq!(content(&fs, &walk(&fs)["text"]).unwrap_err().errno(), rustix::io::Errno::IO);
    let fs = open(&bytes("mismatch.zip")).unwrap();
    let shown = walk(&fs);
    assert_eq!(content(&fs, &shown["shown"]).unwrap_err().errno(), rustix::io::Errno::IO);
    assert_eq!(content(&fs, &shown["good"]).unwrap(), b"x");
}

#[test]
fn what_is_no_archive_is_refused_with_a_reason() {
    for (name, bytes) in [
        ("torn", bytes("torn.zip")),
        ("count", bytes("count.zip")),
        ("an end record in the comment", bytes("two-ends.zip")),
        ("nothing", Vec::new()),
        ("text", b"this is not a zip archive\n".repeat(5000)),
        ("only an end", b"PK\x05\x06".to_vec()),
    ] {
        match open(&bytes) {
            Err(FsError::Archive(problem)) => assert!(!problem.is_empty()),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn many_members_of_one_name_are_told_apart_in_time() {
    let name = b"same";
    let count = 20_000_u32;
    let mut archive = b"PK\x03\x04\x14\0\0\0\0\0\0\0\x21\x5a\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0same".to_vec();
    let at = archive.len() as u32;
    for _ in 0..count {
        archive.extend_from_slice(b"PK\x01\x02\x14\x03\x14\0\0\0\0\0\0\0\x21\x5a");
        archive.extend_from_slice(&[0; 12]);
        archive.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        archive.extend_from_slice(name);
    }
    let size = archive.len() as u32 - at;
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    let low = (count & 0xFFFF) as u16;
    archive.extend_from_slice(&[low.to_le_bytes(), low.to_le_bytes()].concat());
    archive.extend_from_slice(&[size.to_le_bytes(), at.to_le_bytes()].concat());
    archive.extend_from_slice(&[0, 0]);
    let begun = std::time::Instant::now();
    let shown = walk(&open(&archive).unwrap());
    assert_eq!(shown.len(), count as usize);
    assert!(shown.contains_key("same (19999)"));
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn many_long_names_that_are_the_same_when_cut_are_told_apart_in_time() {
    let (count, local) = (20_000, b"PK\x03\x04\x14\0\0\0\0\0\0\0\x21\x5a");
    let mut archive = [&local[..], &[0; 16]].concat();
    let at = archive.len() as u32;
    for number in 0..count * 2 {
        archive.extend_from_slice(b"PK\x01\x02\x14\x03\x14\0\0\0\0\0\0\0\x21\x5a");
        archive.extend_from_slice(&[0; 12]);
        archive.extend_from_slice(&[255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        archive.extend_from_slice(format!("{:x<249}{:06}", "", number / 2).as_bytes());
    }
    let size = archive.len() as u32 - at;
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    archive.extend_from_slice(&[(count as u16 * 2).to_le_bytes(), (count as u16 * 2).to_le_bytes()].concat());
    archive.extend_from_slice(&[size.to_le_bytes(), at.to_le_bytes()].concat());
    archive.extend_from_slice(&[0, 0]);
    let begun = std::time::Instant::now();
    let shown = walk(&open(&archive).unwrap());
    assert_eq!(shown.len(), count * 2);
    assert!(shown.contains_key(&format!("{:x<247} (20000)", "")));
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

/// Read everything there is; only that it ends matters, and that nothing claims more than it gives.
fn exhaust(bytes: &[u8]) {
    let Ok(fs) = open(bytes) else { return };
    for (path, attr) in walk(&fs) {
        assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")), "{path}");
        if attr.stat.kind == Kind::File
            && attr.stat.size < 1 << 22
            && let Ok(content) = content(&fs, &attr)
        {
            assert_eq!(content.len() as u64, attr.stat.size, "{path}");
        }
    }
}

const ARCHIVES: [&str; 12] = [
    "infozip-extra.zip",
    "zip64.zip",
    "stream.zip",
    "names.zip",
    "aes128.zip",
    "zipcrypto.zip",
    "seven-Deflate64.zip",
    "seven-BZip2.zip",
    "cp437.zip",
    "unicode-path.zip",
    "special.zip",
    "seven-Deflate.zip",
];

fn cases() -> u32 {
    std::env::var("WIZEFS_TEST_CASES").map_or(300, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_ends_in_a_listing_or_an_error(
        which in 0..ARCHIVES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        near_the_end: bool,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut archive = bytes(ARCHIVES[which]);
        // The directory is small: half of the time all edits go there.
        let from = if near_the_end { archive.len().saturating_sub(400) } else { 0 };
        for (at, value) in edits {
            let at = from + at.index(archive.len() - from);
            archive[at] = value;
        }
        if let Some(cut) = cut.filter(|_| which % 3 == 0) {
            archive.truncate(cut.index(archive.len()));
        }
        exhaust(&archive);
    }

    #[test]
    fn any_bytes_behind_an_end_record_end_in_a_listing_or_an_error(
        directory in prop::collection::vec(any::<u8>(), 0..300),
        count in 0..4_u16,
        at in 0..400_u32,
    ) {
        let mut archive = [&b"PK\x01\x02"[..], &directory].concat();
        let size = archive.len() as u32;
        archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        archive.extend_from_slice(&[count.to_le_bytes(), count.to_le_bytes()].concat());
        archive.extend_from_slice(&[size.to_le_bytes(), (at % (size + 1)).to_le_bytes()].concat());
        archive.extend_from_slice(&[0, 0]);
        exhaust(&archive);
    }
}

#[test]
fn a_part_of_a_split_archive_is_called_so() {
    let mut part = bytes("infozip.zip");
    let at = part.windows(4).rposition(|four| four == b"PK\x05\x06").unwrap();
    part[at + 4] = 1;
    let error = open(&part).unwrap_err();
    assert!(matches!(&error, FsError::Archive(why) if why.contains("split")), "{error}");
}
