//! Downloads: whole, in parts, not at all, and never a wrong byte.

use crate::rest::Service;
use crate::root::TestRoot;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// A node with the bucket `docs`.
fn with_bucket() -> Service {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    rest
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

impl Service {
    pub(crate) fn store(&self, path: &str, bytes: &[u8]) {
        let (status, _, reply) = self.exchange("PUT", &format!("/v1/buckets/docs/files/{path}"), "", bytes);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&reply));
    }

    fn fetch(&self, path: &str, head: &str) -> (u16, String, Vec<u8>) {
        self.exchange("GET", &format!("/v1/buckets/docs/files/{path}"), head, b"")
    }
}

#[test]
fn what_was_done_in_the_mount_is_told_at_once() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    rest.root.run("create docs --mount").expect(0);
    let mode_of = |head: &str| head.lines().find_map(|line| line.strip_prefix("wizefs-mode: ").map(str::to_owned));
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let rest = &rest;
            scope.spawn(move || {
                let (name, tag) = (format!("f{writer}"), |content: &str| blake3::hash(content.as_bytes()).to_hex());
                let (place, new) = (rest.root.mnt("docs", &name), rest.root.mnt("docs", &format!("new{writer}")));
                let mut before = tag("nothing");
                for version in 0..60 {
                    let content = format!("version {version} of {writer}");
                    if version % 2 == 0 {
                        fs::write(&new, &content).unwrap();
                        fs::rename(&new, &place).unwrap();
                    } else {
                        fs::write(&place, &content).unwrap();
                    }
                    let mut got = rest.fetch(&name, &format!("If-None-Match: \"{before}\"\r\n"));
                    // A child that another test has just forked has all that was open, until it becomes a program.
                    rest.root.wait_for("children to let go of it", || {
                        if got.0 == 423 {
                            got = rest.fetch(&name, &format!("If-None-Match: \"{before}\"\r\n"));
                        }
                        got.0 != 423
                    });
                    assert_eq!((got.0, String::from_utf8_lossy(&got.2).as_ref()), (200, content.as_str()));
                    before = tag(&content);
                    assert_eq!(rest.fetch(&name, &format!("If-None-Match: \"{before}\"\r\n")).0, 304);
                    let mode = if version % 3 == 0 { 0o600 } else { 0o644 };
                    fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
                    assert_eq!(mode_of(&rest.fetch(&name, "").1), Some(mode.to_string()));
                }
            });
        }
    });
    rest.root.run("unmount docs").expect(0);
}

#[test]
fn content_comes_with_its_tag_type_name_and_block() {
    let rest = with_bucket();
    rest.store("a/report.html", b"<script>alert(1)</script>");
    let (status, head, body) = rest.fetch("a/report.html", "");
    assert_eq!((status, body.as_slice()), (200, b"<script>alert(1)</script>".as_slice()));
    let tag = blake3::hash(&body).to_hex();
    for line in [
        format!("etag: \"{tag}\""),
        "content-type: text/html; charset=utf-8".to_owned(),
        "content-disposition: attachment; filename=\"report.html\"".to_owned(),
        "content-length: 25".to_owned(),
        "x-content-type-options: nosniff".to_owned(),
        "content-security-policy: sandbox; default-src 'none'".to_owned(),
        "accept-ranges: bytes".to_owned(),
    ] {
        assert!(head.lines().any(|there| there == line), "{line} in {head}");
    }
    let block = head.lines().find_map(|line| line.strip_prefix("wizefs-verified: block=")).expect(&head);
    assert!(block.parse::<u64>().unwrap() > 0);
    let (status, head, body) = rest.exchange("HEAD", "/v1/buckets/docs/files/a/report.html", "", b"");
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 25"), "{head}");
    let (status, head, body) = rest.fetch("a/report.html", &format!("If-None-Match: \"{tag}\"\r\n"));
    assert_eq!((status, body.len()), (304, 0));
    assert!(head.contains(&format!("etag: \"{tag}\"")), "{head}");
    assert_eq!(rest.fetch("a/report.html", "If-None-Match: \"other\"\r\n").0, 200);
}

#[test]
fn any_part_of_a_small_and_of_a_large_file_can_be_had() {
    let rest = with_bucket();
    for size in [0, 1000, 131_072, 131_073, 5_000_000] {
        let bytes = content(size);
        rest.store("f.bin", &bytes);
        let (status, _, whole) = rest.fetch("f.bin", "");
        assert!(status == 200 && whole == bytes, "{size}");
        let (status, head, _) = rest.fetch("f.bin", &format!("Range: bytes={size}-\r\n"));
        assert!(status == 416 && head.contains(&format!("content-range: bytes */{size}")), "{size}: {head}");
        if size == 0 {
            continue;
        }
        let (first, last) = (size / 3, size / 3 * 2);
        let (status, head, part) = rest.fetch("f.bin", &format!("Range: bytes={first}-{last}\r\n"));
        assert!(status == 206 && part == bytes[first..=last], "{size}");
        assert!(head.contains(&format!("content-range: bytes {first}-{last}/{size}")), "{head}");
        assert_eq!(rest.fetch("f.bin", "Range: bytes=-7\r\n").2, bytes[size - 7..]);
        let other = "If-Range: \"other\"\r\n";
        assert_eq!(rest.fetch("f.bin", &format!("{other}Range: bytes=0-1\r\n")).0, 200);
        let (status, head, body) = rest.fetch("f.bin", &format!("Range: bytes=0-9,{first}-{last}\r\n"));
        let boundary = head.lines().find_map(|line| line.strip_prefix("content-type: multipart/byteranges; boundary="));
        let part = |first: usize, last: usize| {
            let head = format!("Content-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/{size}");
            [format!("\r\n--{}\r\n{head}\r\n\r\n", boundary.unwrap()).as_bytes(), &bytes[first..=last]].concat()
        };
        let tail = format!("\r\n--{}--\r\n", boundary.unwrap());
        assert!(status == 206 && body == [part(0, 9), part(first, last), tail.into_bytes()].concat(), "{size}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    }
}

#[test]
fn a_damaged_file_is_answered_with_a_failure_or_a_broken_connection_and_never_with_wrong_bytes() {
    let rest = with_bucket();
    for (size, at) in [(1000, 0), (131_072, 131_071), (5_000_000, 0), (5_000_000, 2_500_000), (5_000_000, 4_999_999)] {
        let bytes = content(size);
        rest.store("f", &bytes);
        let backing = rest.root.path("buckets/docs/data/f");
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        std::fs::write(&backing, &wrong).unwrap();
        let (status, head, body) = rest.fetch("f", "");
        if at < 131_072 {
            assert_eq!(status, 500, "{size} at {at}");
            assert!(String::from_utf8(body).unwrap().contains("\"kind\":\"damaged\""));
        } else {
            assert!(status == 200 && head.contains(&format!("content-length: {size}")), "{size} at {at}: {head}");
            assert!(body.len() <= at && bytes.starts_with(&body), "{size} at {at}: {} bytes", body.len());
        }
        let (status, _, body) = rest.exchange("GET", "/v1/buckets/docs/files/f?check_first=true", "", b"");
        assert!(status == 500 && body.len() < 500, "{size} at {at}");
        rest.root.run("get f docs -").expect(26);
        let (status, _, body) = rest.exchange("GET", "/buckets/docs/files/f", "Range: bytes=0-99\r\n", b"");
        let whole = if at < 131_072 { status == 500 } else { status == 206 && body == bytes[..100] };
        assert!(whole, "{size} at {at}: {status}");
        let (status, _, _) = rest.fetch("f", &format!("If-None-Match: \"{}\"\r\n", blake3::hash(&bytes).to_hex()));
        assert_eq!(status, 304, "who has the recorded content keeps it");
    }
    std::fs::write(rest.root.path("buckets/docs/data/stranger"), "x").unwrap();
    assert_eq!(rest.fetch("stranger", "").0, 500);
}

#[test]
fn a_file_that_is_replaced_all_the_time_is_read_whole_every_time() {
    let rest = with_bucket();
    // Small ones are read by the thread that answers, once they have been served.
    for size in [300, 300_000] {
        rest.store("f", &content(size));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..15 {
                    rest.store("f", &content(size + round * 7));
                }
            });
            while !writer.is_finished() {
                let (status, head, body) = rest.fetch("f", "");
                assert_eq!(status, 200, "{head} {}", String::from_utf8_lossy(&body));
                assert!(body == content(body.len()) && body.len() >= size);
            }
        });
    }
}

#[test]
fn a_file_that_comes_and_goes_is_there_or_not_and_never_damaged() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    rest.root.run("create docs --mount").expect(0);
    let (stop, program) = (AtomicBool::new(false), rest.root.mnt("docs", "f"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                assert!(matches!(rest.ask("PUT", "/v1/buckets/docs/files/f", "", "put").0, 200 | 423));
                assert!(matches!(rest.ask("DELETE", "/v1/buckets/docs/files/f", "", "").0, 200 | 404 | 423));
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                drop(std::fs::write(&program, "written"));
                drop(std::fs::remove_file(&program));
            }
        });
        let seen: Vec<_> = (0..1000).map(|_| rest.ask("GET", "/v1/buckets/docs/files/f", "", "")).collect();
        stop.store(true, Ordering::Release);
        let odd = seen.iter().find(|(status, _)| !matches!(status, 200 | 404 | 423));
        assert_eq!(odd, None);
    });
    rest.root.run("unmount docs").expect(0);
}
