//! WebDAV with a client of others: cadaver, from Debian. What it does is recorded, mounted or not, and what it reads is checked.

use crate::rest::Service;
use crate::root::{TestRoot, finish};
use std::io::Write;
use std::process::{Command, Stdio};

/// What cadaver says to these commands; none, loudly, where it is missing.
fn cadaver(rest: &Service, folder: &str, commands: &str) -> Option<String> {
    let run = Command::new("cadaver")
        .arg(format!("http://{}/dav/{folder}", rest.address))
        .current_dir(rest.root.outside())
        .env("HOME", rest.root.outside())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut run = match run {
        Ok(run) => run,
        Err(e) => {
            eprintln!("SKIPPED, this test needs cadaver: {e}");
            return None;
        }
    };
    run.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let ran = finish(run).expect(0);
    Some(ran.stdout + &ran.stderr)
}

fn ops(rest: &Service) -> Vec<String> {
    let lines = rest.root.run("log docs --json").expect(0).json_lines();
    let told = lines
        .iter()
        .rev()
        .map(|line| format!("{} {}", line["op"].as_str().unwrap(), line["path"].as_str().unwrap_or("-")));
    told.collect()
}

#[test]
fn a_stock_client_works_in_an_unmounted_and_in_a_mounted_bucket() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    rest.root.run("create docs").expect(0);
    let content: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(rest.root.outside().join("big"), &content).unwrap();
    std::fs::write(rest.root.outside().join("small"), "small").unwrap();
    let script = "mkcol a\nput big a/big\nput small\ncopy small a/copy\nmove small a/moved\nls a\nget a/big back\ndelete a/copy\nmkcol b\nrmcol b\nquit\n";
    let Some(said) = cadaver(&rest, "docs/", script) else { return };
    assert!(!said.contains("failed"), "{said}");
    assert!(said.contains("moved") && said.contains("700000"), "{said}");
    assert!(std::fs::read(rest.root.outside().join("back")).unwrap() == content);
    assert!(std::fs::read(rest.root.path("buckets/docs/data/a/big")).unwrap() == content);
    let expect = [
        "create -",
        "mkdir a",
        "put a/big",
        "put small",
        "put a/copy",
        "rename a/moved",
        "remove a/copy",
        "mkdir b",
        "rmdir b",
    ];
    assert_eq!(ops(&rest), expect);

    rest.root.run("mount docs").expect(0);
    assert_eq!(std::fs::read_to_string(rest.root.mnt("docs", "a/moved")).unwrap(), "small");
    let said = cadaver(&rest, "docs/a/", "mkcol deep\nput small deep/new\nmove moved deep/last\nls\nquit\n").unwrap();
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(std::fs::read_to_string(rest.root.mnt("docs", "a/deep/new")).unwrap(), "small");
    assert_eq!(std::fs::read_to_string(rest.root.mnt("docs", "a/deep/last")).unwrap(), "small");
    assert!(std::fs::metadata(rest.root.mnt("docs", "a/moved")).is_err());
    rest.root.run("sync").expect(0);
    rest.root.run("verify docs").expect(0);

    std::fs::write(rest.root.path("buckets/docs/data/a/deep/new"), "SMALL").unwrap();
    let said = cadaver(&rest, "docs/a/deep/", "get new wrong\nquit\n").unwrap();
    assert!(said.contains("failed"), "{said}");
    assert_ne!(std::fs::read_to_string(rest.root.outside().join("wrong")).unwrap_or_default(), "SMALL");
}

#[test]
fn folders_of_buckets_are_told_and_foreign_requests_refused() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    rest.store("a/b.txt", b"x");
    let (status, body) = rest.ask("PROPFIND", "/dav/", "Depth: 1\r\n", "");
    assert_eq!((status, body.contains("<D:href>/dav/docs/</D:href>")), (207, true), "{body}");
    let (status, body) = rest.ask("PROPFIND", "/dav/docs/a/", "Depth: 1\r\n", "");
    let tag = blake3::hash(b"x").to_hex();
    let quoted = format!("<D:getetag>\"{tag}\"</D:getetag>");
    assert_eq!((status, body.replace("&quot;", "\"").contains(&quoted)), (207, true), "{body}");
    let (_, head, _) = rest.exchange("HEAD", "/dav/docs/a/b.txt", "", b"");
    assert!(head.contains(&format!("etag: \"{tag}\"")), "{head}");
    let same = format!("If: ([\"{tag}\"])\r\n");
    assert_eq!(rest.ask("MKCOL", "/dav/docs/a/b.txt", &same, "").0, 405, "the tag is the same where it is a condition");
    assert_eq!(rest.ask("MKCOL", "/dav/new", "", "").0, 403, "a bucket is not made by the way");
    rest.root.run("create other").expect(0);
    for method in ["DELETE", "MOVE"] {
        assert_eq!(rest.ask(method, "/dav/docs/", "Destination: /dav/other/x\r\n", "").0, 403, "{method}");
    }
    let onto = format!("Destination: http://{}/dav/docs/\r\n", rest.address);
    assert_eq!(rest.ask("COPY", "/dav/other/x", &onto, "").0, 403);
    assert_eq!(rest.bytes("/dav/docs/a/b.txt").2, b"x");
    assert_eq!(rest.ask("PUT", "/dav/docs/none/f", "", "x").0, 409);
    assert_eq!(rest.ask("PROPFIND", "/dav/docs/%2e%2e/%2e%2e/", "", "").0 / 100, 4);
    assert_eq!(rest.ask("PROPFIND", "/dav/", "Origin: http://evil.example\r\n", "").0, 403);
}

#[test]
fn xml_of_any_depth_is_answered() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    let nested = |begin: &str| begin.repeat(65_000 / begin.len());
    let entities = "<!DOCTYPE a [<!ENTITY b \"<c><c><c><c><c><c><c><c><c><c>\">]><a>".to_owned() + &nested("&b;");
    let wide: String = nested("<\0a\0>\0");
    for method in ["PROPFIND", "PROPPATCH", "LOCK"] {
        for xml in [nested("<a>"), nested("<a></a>"), entities.clone(), wide.clone()] {
            let (status, said) = rest.ask(method, "/dav/docs/f", "Depth: 0\r\n", &xml);
            assert_eq!(status / 100, 4, "{method} {}: {said}", &xml[..20]);
        }
    }
    // What clients really send.
    let asked = r#"<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/><getetag/><quota-used-bytes/></prop></propfind>"#;
    assert_eq!(rest.ask("PROPFIND", "/dav/docs/", "Depth: 0\r\n", asked).0, 207);
    assert_eq!(rest.ask("GET", "/healthz", "", "").0, 200);
}

/// In a real WebDAV client's words: a lock for all that is there, with these fields.
fn lock(rest: &Service, path: &str, head: &str) -> (u16, String) {
    let info = "<lockinfo xmlns=\"DAV:\"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>";
    let (status, head, _) = rest.exchange("LOCK", path, head, info.as_bytes());
    let token = head.split("lock-token: ").nth(1).and_then(|rest| rest.lines().next());
    (status, token.unwrap_or_default().to_owned())
}

#[test]
fn a_lock_keeps_others_away_until_it_ends() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    rest.store("a", b"x");
    let put = |head: &str| rest.ask("PUT", "/dav/docs/a", head, "y").0;
    let (status, token) = lock(&rest, "/dav/docs/a", "Timeout: Second-600\r\n");
    assert_eq!((status, put("")), (200, 423));
    assert_eq!(put(&format!("If: ({token})\r\n")), 204);
    assert_eq!(put(&format!("If: </dav/docs/a> ({token})\r\n")), 204, "without the host");
    assert_eq!(lock(&rest, "/dav/docs/a", "").0, 423);
    assert_eq!(rest.ask("UNLOCK", "/dav/docs/a", &format!("Lock-Token: {token}\r\n"), "").0, 204);
    assert_eq!(put(&format!("If: ({token})\r\n")), 412, "it is locked by that no more");
    let (status, _) = lock(&rest, "/dav/docs/a", "Timeout: Second-0\r\n");
    assert_eq!((status, put("")), (200, 204), "its client went away");
}

#[test]
fn conditions_are_kept_or_refused_and_never_passed_over() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    rest.store("a", b"x");
    let check = |method: &str, head: &str, expect: u16| {
        let body = if matches!(method, "DELETE" | "MKCOL") { "" } else { "y" };
        assert_eq!(rest.ask(method, "/dav/docs/a", &format!("{head}\r\n"), body).0, expect, "{method} {head}");
    };
    for odd in ["<", "(<a:b", "([\"", "([W/\"])", "(", "()", "x", "(<a:b>)\r\nIf: (<a:b>)"] {
        for method in ["PUT", "DELETE", "MKCOL", "LOCK", "PROPPATCH"] {
            check(method, &format!("If: {odd}"), 400);
        }
    }
    for odd in ["\"", "W/\"", "a", "\"\u{e4}\""] {
        for method in ["PUT", "DELETE", "MKCOL", "LOCK", "PROPPATCH"] {
            check(method, &format!("If-Match: {odd}"), 412);
        }
    }
    let tag = blake3::hash(b"x").to_hex();
    check("PUT", "If: (<urn:uuid:00000000-0000-4000-8000-000000000000>)", 412);
    check("PUT", "If: </dav/docs/other> ([\"x\"]) ([\"y\"])", 412);
    check("PUT", &format!("If-None-Match: W/\"{tag}\""), 412);
    assert_eq!(rest.bytes("/dav/docs/a").2, b"x");
    check("PUT", &format!("If: </dav/docs/a> ([\"{tag}\"])"), 204);
}

#[test]
fn folders_in_folders_do_not_take_the_stack() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    let deep = |top: &str, levels: usize| format!("{top}{}", "/a".repeat(levels));
    assert_eq!(rest.ask("PUT", &deep("/v1/buckets/docs/files/d", 3000), "", "x").0, 200);
    assert_eq!(rest.ask("PROPFIND", "/dav/docs/d", "Depth: infinity\r\nX-Litmus: 1\r\n", "").0, 403);
    assert_eq!(rest.ask("COPY", "/dav/docs/d", "Destination: /dav/docs/e\r\n", "").0, 207);
    assert_eq!(rest.ask("DELETE", "/dav/docs/d", "", "").0, 207);
    assert_eq!(rest.ask("PROPFIND", &deep("/dav/docs/d", 200), "Depth: 1\r\n", "").0, 207, "as far down as one names");
    // What is locked is looked for in what was named before, whether it is there or not.
    assert_eq!(lock(&rest, &deep("/dav/docs/f", 8000), "").0, 409);
    assert_eq!(lock(&rest, "/dav/docs/d", "Depth: infinity\r\n").0, 200);
    assert_eq!(rest.ask("DELETE", "/dav/docs/e", "", "").0 / 100, 2);
    assert_eq!(rest.ask("GET", "/healthz", "", "").0, 200);
}

#[test]
fn a_property_that_cannot_be_changed_is_refused_by_name() {
    let rest = Service::start(TestRoot::new());
    rest.root.run("create docs").expect(0);
    rest.store("a", b"x");
    let update = |prop: &str| {
        let xml = format!("<propertyupdate xmlns=\"DAV:\"><set><prop>{prop}</prop></set></propertyupdate>");
        rest.ask("PROPPATCH", "/dav/docs/a", "", &xml)
    };
    let (status, said) = update("<x xmlns=\"urn:y\">1</x>");
    assert_eq!((status, said.contains("403 Forbidden")), (207, true), "{said}");
    // What Windows sets after each copy.
    let (status, said) =
        update("<Win32FileAttributes xmlns=\"urn:schemas-microsoft-com:\">00000020</Win32FileAttributes>");
    assert_eq!((status, said.contains("200 OK")), (207, true), "{said}");
}
