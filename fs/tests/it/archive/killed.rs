//! A program killed while it commits, again and again: the archive is whole at every moment.

use super::{IN_PLACE, assert_sound, dir, noise, path, put, seen_by_zip, tools_accept};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use wizefs_fs::lz::{Archive, Edit, Edits};

const ARCHIVE: &str = "WIZEFS_TEST_ARCHIVE";
const KILLS: u64 = 20;
const FILES: u64 = 8;
/// File systems in memory, where what is written behind the end can be torn by a kill until the archive is opened again.
const TMPFS: i64 = 0x0102_1994;

fn content(number: u64) -> Vec<u8> {
    [&number.to_le_bytes()[..], &noise(number, (number * 7919 % 60_000) as usize)].concat()
}

/// Put one file after the other, and say so.
fn commit_for_ever(place: &Path) {
    let archive = Archive::open_with(place, IN_PLACE, None).unwrap();
    let first = archive.find(&path("last")).map_or(0, |info| {
        let mut number = [0; 8];
        archive.read(info.id, 0, &mut number).unwrap();
        u64::from_le_bytes(number) + 1
    });
    let mut out = std::io::stdout();
    for number in first.. {
        let name = format!("d/{}", number % FILES);
        let mut edits = vec![put(&name, &content(number)), put("last", &number.to_le_bytes())];
        if number % 5 == 4 {
            edits.push(Edit::Remove(path(&format!("d/{}", (number + 3) % FILES))));
        }
        archive.commit(&Edits(edits)).unwrap();
        writeln!(out, "committed {number}").unwrap();
        out.flush().unwrap();
    }
}

/// The number of the last commit that is in the archive, which is all of it and nothing else.
fn last_commit(bytes: &[u8]) -> Option<u64> {
    let seen = seen_by_zip(bytes).unwrap();
    let last = u64::from_le_bytes(seen.get(b"last".as_slice())?[..].try_into().unwrap());
    let mut expected = std::collections::BTreeMap::new();
    for number in 0..=last {
        expected.insert(format!("d/{}", number % FILES).into_bytes(), content(number));
        if number % 5 == 4 {
            expected.remove(format!("d/{}", (number + 3) % FILES).as_bytes());
        }
    }
    expected.insert(b"d/".to_vec(), Vec::new());
    expected.insert(b"last".to_vec(), last.to_le_bytes().to_vec());
    assert!(seen == expected, "not the content of commit {last}");
    Some(last)
}

#[test]
fn a_kill_leaves_a_whole_archive_with_every_commit_that_returned() {
    if let Ok(place) = std::env::var(ARCHIVE) {
        return commit_for_ever(Path::new(&place));
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a.zip");
    Archive::create(&place).unwrap();
    Archive::open(&place).unwrap().commit(&Edits(vec![dir("d")])).unwrap();
    let is_tmpfs = rustix::fs::statfs(folder.path()).unwrap().f_type == TMPFS;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "archive::killed::a_kill_leaves_a_whole_archive_with_every_commit_that_returned",
                "--nocapture",
            ])
            .env(ARCHIVE, &place)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = None;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let numbers =
            lines.map_while(Result::ok).filter_map(|line| line.split_once("committed ")?.1.parse::<u64>().ok());
        for (count, number) in numbers.enumerate() {
            said = Some(number);
            if count as u64 == round % 4 {
                // Somewhere in the next commit.
                (0..round * 40_000).for_each(|n| {
                    std::hint::black_box(n);
                });
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        if is_tmpfs {
            drop(Archive::open_with(&place, IN_PLACE, None).unwrap());
        }
        let last = last_commit(&std::fs::read(&place).unwrap());
        assert!(said.is_some() && last >= said, "told {said:?}, there is {last:?}");
        if round % 5 == 0 {
            tools_accept(&place);
        }
        assert_sound(&Archive::open_with(&place, IN_PLACE, None).unwrap());
    }
}
