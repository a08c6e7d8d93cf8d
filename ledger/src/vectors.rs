//! The committed vectors: values fixed here have the bytes in `testdata/vectors.txt`, and `docs/FORMAT.md` shows them.
//! `WIZEFS_BLESS=1` writes the file anew, for a new format; the old ones must stay.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use crate::address::AddressHash;
use crate::block::{Block, CertificateKind, Genesis, GenesisVersion, Header, HeaderVersion};
use crate::checkpoint::{Checkpoint, LogKey, Vkey, origin};
use crate::codec::{Label, MAX_TRANSACTION, TreePath, decode, encode};
use crate::hash::{Hash, decode_hex, encode_hex};
use crate::log::root_of;
use crate::mine::stamp;
use crate::state::{Entry, EntryNode, EntryVersion, Leaf, directory_id, row};
use crate::transaction::*;
use crate::wallet::{PublicKey, Signature, Wallet};

fn wallet() -> Wallet {
    Wallet::from_secret(&[1; 32]).unwrap()
}

fn genesis() -> Genesis {
    Genesis {
        version: GenesisVersion::V1,
        random: [3; 32],
        wallet: *wallet().public(),
        log_key: LogKey::from_seed(&[2; 32]).public(),
        time_us: 1_700_000_000_000_000,
        emission: 1_000_000,
        reward: 10,
        stamp_bits: 16,
    }
}

fn authored(sequence: u64, body: Body) -> Transaction {
    let authored = Authored {
        author: *wallet().public(),
        sequence,
        time_us: 1_700_000_000_000_001 + sequence,
        salt: [4; 16],
        body,
        signature: Signature::UNSIGNED,
    };
    let envelope = Envelope::Authored(authored);
    signed(Transaction { version: Version::V1, chain: genesis().chain_id(), envelope })
}

fn signed(mut transaction: Transaction) -> Transaction {
    transaction.sign(&wallet());
    transaction
}

/// `earlier` is the entry moved, or for other operations the one replaced.
fn file(sequence: u64, earlier: Option<Hash>, op: FileOp) -> Transaction {
    let bucket = Transaction::id(&create().to_bytes());
    let moves = matches!(op, FileOp::Rename { .. } | FileOp::Exchange { .. });
    let (prior, source) = if moves { (None, earlier) } else { (earlier, None) };
    authored(sequence, Body::File(FileBody { bucket, change: sequence, cause: Cause::Mount, prior, source, op }))
}

fn create() -> Transaction {
    authored(0, Body::CreateBucket { name: Label::new("docs").unwrap(), kind: BucketKind::Loopback })
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn hashes() -> Hashes {
    Hashes { blake3: [0xb3; 32], sha256: [0x52; 32] }
}

fn put() -> Put {
    Put {
        path: path("a/b.txt"),
        content: Content::File { size: 5, hashes: Some(hashes()) },
        mode: 0o640,
        uid: 1000,
        gid: 100,
        mtime_ns: 1_600_000_000_000_000_007,
        evidence: Evidence::Lease,
    }
}

fn transactions() -> Vec<(&'static str, Transaction)> {
    let link = Content::Symlink { target: b"b.txt".to_vec() };
    let link = Put { path: path("a/link"), content: link, mode: 0o777, evidence: Evidence::Stat, ..put() };
    let open = Content::File { size: 9, hashes: None };
    let open = Put { content: open, evidence: Evidence::OpenWriters, ..put() };
    let moved = Some(Transaction::id(&file(1, None, FileOp::Put(put())).to_bytes()));
    let transfer = Transfer {
        author: *wallet().public(),
        time_us: 1_700_000_000_000_100,
        salt: [4; 16],
        inputs: vec![OutputRef { txid: Hash([6; 32]), index: 0 }],
        outputs: vec![
            Output { amount: 7, address: AddressHash([8; 20]) },
            Output { amount: 3, address: wallet().address() },
        ],
        signature: Signature::UNSIGNED,
    };
    let coinbase = Coinbase {
        height: 1,
        previous_block: Hash([9; 32]),
        previous_state: Hash([10; 32]),
        address: wallet().address(),
        reward: 10,
    };
    let chain = genesis().chain_id();
    let unsigned = |envelope| Transaction { version: Version::V1, chain, envelope };
    vec![
        ("create", create()),
        ("put", file(1, None, FileOp::Put(put()))),
        ("put-symlink", file(2, None, FileOp::Put(link))),
        ("put-open-writers", file(3, moved, FileOp::Put(open))),
        ("remove", file(4, None, FileOp::Remove { path: path("x") })),
        ("rename", file(5, moved, FileOp::Rename { from: path("a/b.txt"), to: path("c") })),
        ("exchange", file(6, moved, FileOp::Exchange { a: path("c"), b: path("d") })),
        ("mkdir", file(7, None, FileOp::Mkdir { path: path("dir"), mode: 0o755 })),
        ("rmdir", file(8, None, FileOp::Rmdir { path: path("dir") })),
        ("accept", file(9, None, FileOp::Accept(put()))),
        ("delete", authored(10, Body::DeleteBucket { bucket: Hash([5; 32]) })),
        ("transfer", signed(unsigned(Envelope::Transfer(transfer)))),
        ("coinbase", unsigned(Envelope::Coinbase(coinbase))),
    ]
}

fn header() -> Header {
    stamp(Header {
        version: HeaderVersion::V1,
        chain: genesis().chain_id(),
        height: 1,
        previous: Hash([9; 32]),
        time_us: 1_700_000_000_000_200,
        sealer: *wallet().public(),
        first_index: 1,
        count: 2,
        log_size: 3,
        log_root: Hash([11; 32]),
        state_root: Hash([12; 32]),
        stamp_bits: 16,
        certificate: CertificateKind::Solo,
        nonce: 0,
    })
}

/// Name and hex, one a line.
fn vectors() -> String {
    let (genesis, log_key) = (genesis(), LogKey::from_seed(&[2; 32]));
    let chain = genesis.chain_id();
    let mut lines = vec![
        ("wallet.secret".to_owned(), encode_hex(&wallet().secret())),
        ("wallet.public".into(), wallet().public().to_string()),
        ("wallet.address".into(), encode_hex(wallet().address().to_string().as_bytes())),
        ("genesis".into(), encode_hex(&encode(&genesis))),
        ("chain-id".into(), chain.to_string()),
        ("log-key.seed".into(), encode_hex(&[2; 32])),
        (
            "log-key.vkey".into(),
            encode_hex(Vkey { name: origin(&chain), key: log_key.public() }.to_string().as_bytes()),
        ),
    ];
    for (name, transaction) in transactions() {
        let bytes = transaction.to_bytes();
        lines.push((format!("{name}.bytes"), encode_hex(&bytes)));
        lines.push((format!("{name}.txid"), Transaction::id(&bytes).to_string()));
    }
    let create = Transaction::id(&create().to_bytes());
    let stub = Erased {
        version: ErasedVersion::V0,
        author: *wallet().public(),
        sequence: 1,
        time_us: 1_700_000_000_000_002,
        kind: [3, 1],
        updates: vec![
            StateUpdate { key: Hash([13; 32]), value: Some(Hash([14; 32])) },
            StateUpdate { key: Hash([15; 32]), value: None },
        ],
    };
    let put_id = Transaction::id(&file(1, None, FileOp::Put(put())).to_bytes());
    let leaf = Leaf {
        put: None,
        cause: Cause::Mount,
        content: put().content,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        mtime_ns: put().mtime_ns,
        evidence: Evidence::Lease,
    };
    let entry = Entry { version: EntryVersion::V1, txid: put_id, node: EntryNode::Leaf(leaf) };
    let directory = directory_id(&put_id, 1);
    let entry_row = row::entry(&create, &directory, b"b.txt");
    let block = Block::sign(header(), &wallet());
    let leaves: Vec<Hash> = (0..3u8).map(|number| Hash::leaf(&[number])).collect();
    let log = Checkpoint { origin: origin(&chain), size: 3, root: root_of(&leaves) };
    lines.extend([
        ("erased.bytes".into(), encode_hex(&encode(&stub))),
        ("directory.id".into(), directory.to_string()),
        ("entry.row".into(), encode_hex(&entry_row)),
        ("entry.key".into(), row::map_key(&entry_row).unwrap().to_string()),
        ("entry.value".into(), encode_hex(&encode(&entry))),
        ("block.bytes".into(), encode_hex(&block.to_bytes())),
        ("block.hash".into(), block.hash().to_string()),
        ("log.root-of-3".into(), log.root.to_string()),
        ("checkpoint".into(), encode_hex(log.sign(&log_key).as_bytes())),
    ]);
    lines.into_iter().map(|(name, hex)| format!("{name} {hex}\n")).collect()
}

#[test]
fn committed_vectors_hold_and_the_documentation_shows_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("testdata/vectors.txt");
    let vectors = vectors();
    if std::env::var_os("WIZEFS_BLESS").is_some() {
        fs::write(&file, &vectors).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap();
    for (ours, theirs) in vectors.lines().zip(committed.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(vectors.lines().count(), committed.lines().count());
    let documentation = fs::read_to_string(root.join("../docs/FORMAT.md")).unwrap();
    for line in committed.lines() {
        assert!(documentation.contains(line), "FORMAT.md does not show {}", line.split(' ').next().unwrap());
    }
}

#[test]
fn every_vector_decodes_to_itself_and_no_altered_one_to_the_same() {
    for (name, transaction) in transactions() {
        let bytes = transaction.to_bytes();
        assert_eq!(Transaction::from_bytes(&bytes).as_ref(), Ok(&transaction), "{name}");
        assert!(transaction.signature_holds(&bytes), "{name}");
        for at in 0..bytes.len() {
            assert!(Transaction::from_bytes(&bytes[..at]).is_err(), "{name} cut at {at}");
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            if let Ok(other) = Transaction::from_bytes(&altered) {
                assert_ne!(other, transaction);
                let is_coinbase = matches!(other.envelope, Envelope::Coinbase(_));
                assert!(is_coinbase || !other.signature_holds(&altered), "{name} altered at {at}");
            }
        }
        assert!(Transaction::from_bytes(&[&bytes[..], &[0]].concat()).is_err(), "{name} with a trailing byte");
    }
    assert!(Transaction::from_bytes(&vec![1; MAX_TRANSACTION + 1]).is_err());
    let block = Block::sign(header(), &wallet());
    assert_eq!(Block::from_bytes(&block.to_bytes()), Ok(block.clone()));
    assert_eq!(block.header.to_bytes().len(), 239);
    assert!(block.hash().leading_zero_bits() >= 16 && block.signature_holds());
}

#[test]
fn broken_rules_are_refused() {
    let broken = |op| Transaction::from_bytes(&file(1, None, op).to_bytes()).unwrap_err().to_string();
    let put_with = |change: &dyn Fn(&mut Put)| {
        let mut put = put();
        change(&mut put);
        FileOp::Put(put)
    };
    let cases = [
        (broken(put_with(&|put| put.mode = 0o10644)), "mode"),
        (broken(put_with(&|put| put.path = TreePath::root())), "root"),
        (broken(put_with(&|put| put.evidence = Evidence::OpenWriters)), "null"),
        (broken(put_with(&|put| put.content = Content::Symlink { target: vec![] })), "empty"),
        (broken(put_with(&|put| put.content = Content::Symlink { target: vec![b'x'; 4096] })), "longer"),
        (broken(FileOp::Rename { from: path("a"), to: path("a/b") }), "below"),
        (broken(FileOp::Exchange { a: path("a"), b: path("a") }), "below"),
        (broken(FileOp::Remove { path: TreePath::root() }), "root"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error}");
    }
    let mut sourced = file(1, None, FileOp::Remove { path: path("x") });
    if let Envelope::Authored(Authored { body: Body::File(body), .. }) = &mut sourced.envelope {
        body.source = Some(Hash::ZERO);
    }
    assert!(Transaction::from_bytes(&sourced.to_bytes()).is_err());
    // A path inside the bytes that breaks the rules: its `b.txt` made `..txt`, then `a/../`.
    let bytes = encode_hex(&file(1, None, FileOp::Put(Put { path: path("a/xx"), ..put() })).to_bytes());
    let altered = bytes.replace(&encode_hex(b"a/xx"), &encode_hex(b"a/.."));
    let mut raw = vec![0; altered.len() / 2];
    decode_hex(&altered, &mut raw).unwrap();
    assert!(Transaction::from_bytes(&raw).is_err());
}

prop_compose! {
    fn some_path()(names in prop::collection::vec("[^/\u{0}]{1,40}", 1..5)) -> TreePath {
        TreePath::new(names.join("/")).unwrap_or_else(|_| path("dots"))
    }
}

prop_compose! {
    fn some_put()(
        path in some_path(), size in any::<u64>(), hashes in prop::option::of(any::<([u8; 32], [u8; 32])>()),
        target in prop::collection::vec(any::<u8>(), 1..100), is_file in any::<bool>(), mode in 0u32..0o10000,
        numbers in any::<(u32, u32, i64)>(),
    ) -> Put {
        let hashes = hashes.map(|(blake3, sha256)| Hashes { blake3, sha256 });
        let evidence = if hashes.is_none() { Evidence::OpenWriters } else { Evidence::Stat };
        let content = if is_file { Content::File { size, hashes } } else { Content::Symlink { target } };
        Put { path, content, mode, uid: numbers.0, gid: numbers.1, mtime_ns: numbers.2, evidence }
    }
}

fn some_op() -> impl Strategy<Value = FileOp> {
    prop_oneof![
        some_put().prop_map(FileOp::Put),
        some_put().prop_map(FileOp::Accept),
        some_path().prop_map(|path| FileOp::Remove { path }),
        some_path().prop_map(|path| FileOp::Rmdir { path }),
        (some_path(), 0u32..0o10000).prop_map(|(path, mode)| FileOp::Mkdir { path, mode }),
        (some_path(), some_path()).prop_map(|(from, to)| FileOp::Rename { from, to }),
        (some_path(), some_path()).prop_map(|(a, b)| FileOp::Exchange { a, b }),
    ]
}

proptest! {
    #[test]
    fn transactions_round_trip(
        op in some_op(), prior in prop::option::of(any::<[u8; 32]>()), numbers in any::<(u64, u64, u64)>(),
        keys in any::<([u8; 32], [u8; 16])>(),
    ) {
        prop_assume!(op.check_shape().is_ok());
        let body = FileBody {
            bucket: Hash(keys.0), change: numbers.0, cause: Cause::Import, prior: prior.map(Hash), source: None, op,
        };
        let authored = Authored {
            author: PublicKey([7; 64]), sequence: numbers.1, time_us: numbers.2, salt: keys.1, body: Body::File(body),
            signature: Signature([8; 64]),
        };
        let envelope = Envelope::Authored(authored);
        let transaction = Transaction { version: Version::V1, chain: Hash(keys.0), envelope };
        prop_assert_eq!(Transaction::from_bytes(&transaction.to_bytes()), Ok(transaction));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..700), tag in 0u8..3) {
        // Mostly past the first checks: a version, a chain, an envelope.
        let guided = [&[1][..], &[0; 32], &[tag], &bytes].concat();
        for bytes in [&bytes, &guided] {
            if let Ok(transaction) = Transaction::from_bytes(bytes) {
                prop_assert_eq!(&transaction.to_bytes(), bytes);
            }
            // What matters is that they return.
            prop_assert!(Block::from_bytes(bytes).is_err() || bytes.len() == 303);
            prop_assert!(decode::<Erased>(bytes).is_err() || bytes[0] == 0);
        }
    }
}
