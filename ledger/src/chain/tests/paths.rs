//! What statements do to a tree, compared with a model that knows only paths.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Paths to what is there: none for a directory.
type Model = BTreeMap<String, Option<u8>>;

fn parents(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
}

fn drop_below(model: &mut Model, path: &str) {
    model.retain(|other, _| other != path && !other.starts_with(&format!("{path}/")));
}

/// Everything at and below `path`, taken out, with paths relative to it.
fn take(model: &mut Model, path: &str) -> Vec<(String, Option<u8>)> {
    let taken = model.iter().filter(|(other, _)| *other == path || other.starts_with(&format!("{path}/")));
    let taken = taken.map(|(other, what)| (other[path.len()..].to_owned(), *what)).collect();
    drop_below(model, path);
    taken
}

fn imply(model: &mut Model, path: &str) {
    for parent in parents(path) {
        if model.get(&parent) != Some(&None) {
            drop_below(model, &parent);
            model.insert(parent, None);
        }
    }
}

fn place(model: &mut Model, path: &str, tree: Vec<(String, Option<u8>)>) {
    imply(model, path);
    drop_below(model, path);
    model.extend(tree.into_iter().map(|(rest, what)| (format!("{path}{rest}"), what)));
}

/// Applies an operation to the model; false when it cannot be true.
fn applies(model: &mut Model, op: &FileOp) -> bool {
    match op {
        FileOp::Put(put) | FileOp::Accept(put) => {
            let Content::File { size, .. } = put.content else { return false };
            place(model, &put.path.to_string(), vec![(String::new(), Some(size as u8))]);
        }
        FileOp::Remove { path } | FileOp::Rmdir { path } => drop_below(model, &path.to_string()),
        FileOp::Mkdir { path, .. } if path.is_root() => {}
        FileOp::Mkdir { path, .. } => {
            let path = path.to_string();
            if model.get(&path) != Some(&None) {
                place(model, &path, vec![(String::new(), None)]);
            }
        }
        FileOp::Rename { from, to } => {
            let (from, to) = (from.to_string(), to.to_string());
            if !model.contains_key(&from) {
                return false;
            }
            let tree = take(model, &from);
            place(model, &to, tree);
        }
        FileOp::Exchange { a, b } => {
            let (a, b) = (a.to_string(), b.to_string());
            let (at_a, at_b) = (take(model, &a), take(model, &b));
            if at_a.is_empty() && at_b.is_empty() {
                return false;
            }
            for (path, tree) in [(b, at_a), (a, at_b)] {
                if !tree.is_empty() {
                    place(model, &path, tree);
                }
            }
        }
    }
    true
}

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

pub(super) fn some_op() -> impl Strategy<Value = FileOp> {
    let two = (some_path(), some_path());
    prop_oneof![
        4 => (some_path(), 1u8..100).prop_map(|(path, content)| put(&path, content)),
        2 => some_path().prop_map(|path| remove(&path)),
        3 => two.prop_map(|(from, to)| rename(&from, &to)),
        1 => (some_path(), some_path()).prop_map(|(a, b)| FileOp::Exchange { a: path(&a), b: path(&b) }),
        2 => (some_path(), 0u32..0o1000).prop_map(|(path, mode)| mkdir(&path, mode)),
        1 => some_path().prop_map(|text| FileOp::Rmdir { path: path(&text) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_statements_in_any_batches_follow_the_model(
        batches in prop::collection::vec((prop::collection::vec(some_op(), 1..24), any::<bool>()), 1..6),
    ) {
        let (mut fixture, mut model) = (Fixture::new(), Model::new());
        for (ops, seal) in batches {
            let mut next = model.clone();
            let mut kept = Vec::new();
            for op in ops.into_iter().filter(|op| op.check_shape().is_ok()) {
                let mut tried = next.clone();
                if applies(&mut tried, &op) {
                    next = tried;
                    kept.push(op);
                } else {
                    // One that cannot be true is refused, with all its batch.
                    let drafts = [kept.clone(), vec![op]].concat();
                    let drafts = drafts.into_iter().map(|op| drafted(fixture.bucket, 0, op)).collect();
                    let refused = fixture.ledger.submit(&options().wallet, drafts, &[]);
                    prop_assert!(matches!(refused, Err(LedgerError::Refused(_))));
                }
            }
            fixture.submit(kept);
            model = next;
            if seal {
                fixture.seal();
            }
            let expected: Vec<String> = model.iter()
                .map(|(path, what)| if what.is_none() { format!("{path}/") } else { path.clone() }).collect();
            let mut tree = fixture.tree();
            tree.sort_unstable_by_key(|path| path.trim_end_matches('/').to_owned());
            prop_assert_eq!(tree, expected);
            let counts = fixture.ledger.bucket(&fixture.bucket).unwrap().unwrap().counts;
            let bytes: u64 = model.values().flatten().map(|size| u64::from(*size)).sum();
            let files = model.values().flatten().count() as u64;
            prop_assert_eq!((counts.files, counts.bytes), (files, bytes));
            prop_assert_eq!(counts.directories, model.len() as u64 - files);
        }
        fixture.seal();
        assert_clean(&fixture.ledger);
    }
}

#[test]
fn a_directory_keeps_its_identity_and_a_moved_file_its_put() {
    let mut fixture = Fixture::new();
    let txids = fixture.submit(vec![put("a/f", 1), mkdir("a", 0o700), rename("a", "b"), rename("b/f", "g")]);
    let directory = fixture.ledger.entry(&fixture.bucket, &path("b")).unwrap().unwrap();
    let id = crate::state::directory_id(&txids[0], 1);
    assert_eq!(directory.node, crate::state::EntryNode::Directory { id, mode: Some(0o700) });
    assert_eq!(directory.txid, txids[2]);
    let file = fixture.ledger.entry(&fixture.bucket, &path("g")).unwrap().unwrap();
    assert_eq!((file.txid, file.content_txid()), (txids[3], txids[0]));
    fixture.submit(vec![mkdir("", 0o711)]);
    assert_eq!(fixture.ledger.bucket(&fixture.bucket).unwrap().unwrap().record.mode, Some(0o711));
    let delete = Draft { time_us: 9, statement: Statement::DeleteBucket { bucket: fixture.bucket } };
    fixture.ledger.submit(&options().wallet, vec![delete], &[]).unwrap();
    assert!(fixture.ledger.buckets().unwrap().is_empty());
    assert!(fixture.ledger.bucket(&fixture.bucket).unwrap().unwrap().record.closed);
    let drafts = fixture.drafts(vec![put("late", 1)]);
    assert!(matches!(fixture.ledger.submit(&options().wallet, drafts, &[]), Err(LedgerError::Refused(_))));
    let again = create(&fixture.ledger, "docs").unwrap();
    assert_ne!(again, fixture.bucket);
    fixture.seal();
    assert_clean(&fixture.ledger);
}

#[test]
fn a_walk_reads_large_directories_in_pages() {
    let mut fixture = Fixture::new();
    let names: Vec<String> = (0..2_500).map(|number| format!("d/{number:05}")).collect();
    fixture.submit(names[..2_000].iter().map(|name| put(name, 1)).collect());
    fixture.seal();
    fixture.submit(names[2_000..].iter().map(|name| put(name, 1)).collect());
    fixture.submit(vec![remove("d/01023"), remove("d/01024")]);
    let kept = names.into_iter().filter(|name| name != "d/01023" && name != "d/01024");
    assert_eq!(fixture.tree(), ["d/".to_owned()].into_iter().chain(kept).collect::<Vec<_>>());
}
