//! Changes with `If-Match` and `If-None-Match`: two clients that know of each other lose nothing.

use crate::rest::Service;
use crate::root::TestRoot;
use std::sync::Barrier;

/// Clients that do the same at the same time.
const CLIENTS: usize = 16;

const FILE: &str = "/v1/buckets/docs/files/d/file";

fn tag(content: &str) -> String {
    format!("\"{}\"", blake3::hash(content.as_bytes()).to_hex())
}

impl Service {
    #[track_caller]
    fn change(&self, method: &str, condition: &str, body: &str, expect: u16) {
        let (status, reply) = self.ask(method, FILE, &format!("{condition}\r\n"), body);
        assert_eq!(status, expect, "{method} {condition}: {reply}");
        assert_eq!(reply.contains("\"kind\":\"precondition\""), expect == 412, "{reply}");
    }

    /// The same change by all at once: how many were made, when the others were refused.
    fn race(&self, round: u32, condition: &str) -> usize {
        let together = Barrier::new(CLIENTS);
        let made = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let together = &together;
                    scope.spawn(move || {
                        together.wait();
                        self.ask("PUT", FILE, &format!("{condition}\r\n"), &format!("{round} by {client}")).0
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(made.iter().all(|status| matches!(status, 200 | 412)), "{made:?}");
        made.iter().filter(|status| **status == 200).count()
    }
}

#[test]
fn a_change_is_made_only_while_its_conditions_hold() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let rest = Service::start(root);
    rest.change("PUT", "If-Match: *", "1", 412);
    rest.change("DELETE", "If-Match: *", "", 412);
    assert!(!rest.root.path("buckets/docs/data/d").exists(), "a refused change makes no folder");
    rest.change("PUT", "If-None-Match: *", "1", 200);
    rest.change("PUT", "If-None-Match: *", "2", 412);
    rest.change("PUT", &format!("If-Match: {}", tag("2")), "2", 412);
    rest.change("PUT", &format!("If-Match: {}, {}", tag("0"), tag("1")), "2", 200);
    rest.change("PUT", &format!("If-None-Match: {}\r\nIf-None-Match: {}", tag("1"), tag("2")), "3", 412);
    rest.change("GET", &format!("If-Match: {}", tag("1")), "", 412);
    rest.change("GET", &format!("If-Match: {}", tag("2")), "", 200);
    rest.change("DELETE", &format!("If-Match: {}", tag("1")), "", 412);
    rest.change("DELETE", &format!("If-Match: {}", tag("2")), "", 200);
    assert_eq!(rest.root.run("log docs --json").expect(0).json_lines().iter().filter(|l| l["op"] == "put").count(), 2);
    rest.root.run("stop").expect(0);
}

#[test]
fn of_clients_that_expect_the_same_one_makes_its_change() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let rest = Service::start(root);
    assert_eq!(rest.race(0, "If-None-Match: *"), 1);
    for round in 1..4 {
        let now = rest.ask("GET", FILE, "", "").1;
        assert_eq!(rest.race(round, &format!("If-Match: {}", tag(&now))), 1);
    }
    rest.root.run("stop").expect(0);
    rest.root.run("verify docs").expect(0);
}
