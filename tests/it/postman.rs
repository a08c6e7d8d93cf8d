//! Every request of the Postman collection, in its order, against a real node.

use crate::rest::Service;
use crate::root::TestRoot;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use wizefs_ledger::{Hash, Wallet};

/// The variables of a collection, as its scripts set them.
#[derive(Default)]
struct Variables(BTreeMap<String, String>);

impl Variables {
    fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// The value at a path of a script: `hashes[0]`.
fn at<'a>(json: &'a Value, path: &str) -> &'a Value {
    let parts = path.split(['.', '[', ']']).filter(|part| !part.is_empty());
    parts.fold(json, |json, part| match part.parse::<usize>() {
        Ok(number) => &json[number],
        Err(_) => &json[part],
    })
}

/// The arguments of each call of `function` in the lines of a script, without quotes.
fn calls<'a>(script: &'a [Value], function: &str) -> Vec<&'a str> {
    let lines = script.iter().filter_map(Value::as_str);
    lines
        .filter_map(|line| line.split_once(&format!("{function}("))?.1.rsplit_once(");").map(|(inside, _)| inside))
        .collect()
}

/// Head and body of what Postman would send.
fn body(request: &Value, variables: &Variables) -> (String, String) {
    let body = &request["body"];
    match body["mode"].as_str() {
        Some("raw") => {
            let head = "Content-Type: application/json\r\n".to_owned();
            (head, variables.fill(body["raw"].as_str().unwrap()))
        }
        Some("formdata") => {
            let field = &body["formdata"][0];
            let file = variables.fill(field["src"].as_str().unwrap());
            let name = Path::new(&file).file_name().unwrap().to_str().unwrap();
            let text = fs::read_to_string(&file).unwrap();
            let disposition = format!("form-data; name=\"{}\"; filename=\"{name}\"", field["key"].as_str().unwrap());
            let form = format!("--EDGE\r\nContent-Disposition: {disposition}\r\n\r\n{text}\r\n--EDGE--\r\n");
            ("Content-Type: multipart/form-data; boundary=EDGE\r\n".to_owned(), form)
        }
        _ => (String::new(), String::new()),
    }
}

#[test]
fn every_request_of_the_collection_works() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/wizefs.postman_collection.json");
    let collection: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let upload = root.outside().join("upload.txt");
    fs::write(&upload, "uploaded").unwrap();
    let rest = Service::start(root);
    let mut variables = Variables::default();
    for variable in collection["variable"].as_array().unwrap() {
        let text = |name: &str| variable[name].as_str().unwrap().to_owned();
        variables.0.insert(text("key"), text("value"));
    }
    variables.0.insert("upload".to_owned(), upload.to_str().unwrap().to_owned());
    let folders = collection["item"].as_array().unwrap();
    let items: Vec<&Value> = folders.iter().flat_map(|folder| folder["item"].as_array().unwrap()).collect();
    assert!(items.len() > 25, "{} requests", items.len());
    for item in items {
        let request = &item["request"];
        let raw = request["url"]["raw"].as_str().unwrap();
        let path = variables.fill(raw.strip_prefix("{{url}}").unwrap());
        let (head, body) = body(request, &variables);
        let (status, reply) = rest.ask(request["method"].as_str().unwrap(), &path, &head, &body);
        let script = item["event"][0]["script"]["exec"].as_array().unwrap();
        let [expected] = calls(script, "have.status")[..] else { panic!("{} expects no status", item["name"]) };
        assert_eq!(status.to_string(), expected.trim_end_matches(')'), "{} {path}: {reply}", item["name"]);
        for set in calls(script, "collectionVariables.set") {
            let (name, place) = set.split_once(", pm.response.json().").unwrap();
            let reply: Value = serde_json::from_str(&reply).unwrap();
            let value = at(&reply, place).as_str().unwrap().to_owned();
            variables.0.insert(name.trim_matches('\'').to_owned(), value);
        }
        sign(&mut variables);
    }
    rest.root.run("stop").expect(0);
    rest.root.expect_no_node();
}

/// What the user of the collection does with the key that the node told.
fn sign(variables: &mut Variables) {
    let unhex = |text: &str| -> Option<[u8; 32]> { text.parse::<Hash>().ok().map(|hash| hash.0) };
    let (Some(secret), Some(hash)) = (unhex(variables.get("privkey")), unhex(variables.get("hash"))) else { return };
    let signature = Wallet::from_secret(&secret).unwrap().sign_hash(&Hash(hash));
    variables.0.insert("signature".to_owned(), format!("{signature:?}"));
}
