//! The OpenAPI document: it names every route, and a stranger's program (schemathesis) that asks everything in it finds no
//! failure of the server's own.

use crate::rest::Service;
use crate::root::{TestRoot, finish_within};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn every_route_is_in_the_document_and_every_operation_is_served() {
    let rest = Service::start(TestRoot::new());
    let (status, text) = rest.ask("GET", "/openapi.json", "", "");
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 40, "{} paths", paths.len());
    let mut ids = std::collections::BTreeSet::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 3), "{method} {path}");
            if path == "/v1/stop" || path == "/v1/events" {
                continue;
            }
            let asked: String = path.replace("{bucket}", "nobody").replace(['{', '}'], "");
            let (status, body) = rest.ask(&method.to_uppercase(), &asked, "", "");
            assert!(status != 405 && !body.contains("there is nothing at"), "{method} {path}: {status} {body}");
        }
    }
    let unresolved = unresolved(&document, &document);
    assert!(unresolved.is_empty(), "references to nothing: {unresolved:?}");
}

/// Programs are made of the document that take what it does not tell for a failure.
#[test]
fn the_document_tells_what_programs_made_of_it_must_know() {
    let rest = Service::start(TestRoot::new());
    let (_, text) = rest.ask("GET", "/openapi.json", "", "");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    for path in ["/v1/buckets/{bucket}/files/{path}", "/buckets/{bucket}/files/{path}"] {
        let get = &document["paths"][path]["get"];
        for status in ["200", "206", "304", "416", "default"] {
            assert!(get["responses"][status].is_object(), "{path} {status}");
        }
        for (status, media) in [("200", "application/octet-stream"), ("206", "*/*"), ("206", "multipart/byteranges")] {
            assert_eq!(get["responses"][status]["content"][media]["schema"]["format"], "binary", "{path} {media}");
        }
        let bucket = get["parameters"].as_array().unwrap().iter().find(|field| field["name"] == "bucket").unwrap();
        assert!(bucket["schema"]["pattern"].is_string(), "{path}");
    }
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert_eq!(document["security"], serde_json::json!([{}, {"token": []}]));
    assert!(!text.contains("\"items\":false"), "a schema that is only true or false is newer than many programs");
}

/// References into the document that lead nowhere.
fn unresolved(document: &serde_json::Value, at: &serde_json::Value) -> Vec<String> {
    match at {
        serde_json::Value::Object(fields) => {
            let own = fields.get("$ref").and_then(|to| to.as_str()).filter(|to| {
                let pointer = to.strip_prefix('#').unwrap_or_default();
                document.pointer(pointer).is_none()
            });
            own.map(str::to_owned)
                .into_iter()
                .chain(fields.values().flat_map(|value| unresolved(document, value)))
                .collect()
        }
        serde_json::Value::Array(items) => items.iter().flat_map(|item| unresolved(document, item)).collect(),
        _ => Vec::new(),
    }
}

/// Routes are declared in one way, which puts them into the document.
#[test]
fn no_route_is_declared_past_the_document() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![folder.join("rest.rs")];
    files.extend(std::fs::read_dir(folder.join("rest")).unwrap().map(|entry| entry.unwrap().path()));
    let declared: Vec<PathBuf> = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| std::fs::read_to_string(path).unwrap().contains(".route("))
        .collect();
    assert_eq!(declared, [folder.join("rest/described.rs")]);
}

/// `start.sh test` installs it there.
fn schemathesis() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_wizefs")).parent()?.parent()?;
    let program = target.join("tools/schemathesis/bin/schemathesis");
    if !program.exists() {
        eprintln!("SKIPPED, this test needs schemathesis: python3 -m venv and pip, see start.sh");
        return None;
    }
    Some(program)
}

/// Examples for each operation: 15 take less than a minute; `start.sh soak` asks for more.
const EXAMPLES: &str = "15";

#[test]
fn schemathesis_finds_no_failure_of_the_server() {
    let Some(program) = schemathesis() else { return };
    let Some(root) = TestRoot::with_fuse() else { return };
    let rest = Service::start(root);
    for bucket in ["docs", "work"] {
        rest.root.run(&format!("create {bucket}")).expect(0);
        rest.ask("PUT", &format!("/v1/buckets/{bucket}/files/a/b.txt"), "", "content");
    }
    let work = rest.root.outside().join("schemathesis");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("hooks.py"), include_str!("openapi_hooks.py")).unwrap();
    let examples = std::env::var("WIZEFS_TEST_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    let run = Command::new(program)
        .current_dir(&work)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", &work)
        .args(["run", &format!("http://{}/openapi.json", rest.address), "--checks", "not_a_server_error"])
        .args(["--exclude-path", "/v1/stop", "--exclude-path", "/v1/events", "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", &examples, "--request-timeout", "20", "--seed", "1", "--no-color"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ran = finish_within(Duration::from_secs(900), run);
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    println!("{}", ran.stdout);
    assert_eq!(rest.ask("GET", "/readyz", "", "").0, 200);
    rest.root.run_long("integrity").expect(0);
}
