//! Coins, and that the predecessor's mistakes with them are absent.

use super::*;
use crate::address::AddressHash;
use crate::transaction::{Envelope, Output, OutputRef, Transfer};
use crate::wallet::Signature;

fn stranger() -> Wallet {
    Wallet::from_secret(&[3; 32]).unwrap()
}

fn to(number: u8) -> AddressHash {
    AddressHash([number; 20])
}

fn send(ledger: &Ledger, from: &Wallet, to: AddressHash, amount: u64) -> Result<TxId> {
    ledger.submit_transfer(ledger.draft_transfer(from.public(), to, amount)?.signed_by(from))
}

/// A draft whose fields were changed, signed by `wallet`.
fn altered(ledger: &Ledger, wallet: &Wallet, change: impl FnOnce(&mut Transfer)) -> Result<TxId> {
    let mut transaction = ledger.draft_transfer(options().wallet.public(), to(9), 5)?;
    let Envelope::Transfer(transfer) = &mut transaction.envelope else { panic!("a transfer") };
    change(transfer);
    ledger.submit_transfer(transaction.signed_by(wallet))
}

#[track_caller]
fn refused(result: Result<TxId>, why: &str) {
    match result {
        Err(LedgerError::Refused(text)) => assert!(text.contains(why), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn coins_move_with_change_and_can_be_moved_on_while_pending() {
    let fixture = Fixture::new();
    let (ledger, own) = (&fixture.ledger, options().wallet);
    send(ledger, &own, stranger().address(), 300).unwrap();
    assert_eq!(ledger.balance(&stranger().address()).unwrap(), 300);
    assert_eq!(ledger.balance(&own.address()).unwrap(), 999_700);
    send(ledger, &stranger(), to(9), 120).unwrap();
    send(ledger, &stranger(), own.address(), 180).unwrap();
    assert_eq!(ledger.balance(&stranger().address()).unwrap(), 0);
    fixture.seal().unwrap();
    assert_eq!(ledger.balance(&to(9)).unwrap(), 120);
    assert_eq!(ledger.balance(&own.address()).unwrap(), 999_880 + 10, "and the reward");
    assert_clean(ledger);
    refused(send(ledger, &stranger(), to(9), 1), "has 0 coins");
    refused(send(ledger, &own, to(9), 0), "nothing is sent");
    refused(send(ledger, &own, to(9), u64::MAX), "coins, not");
}

#[test]
fn only_the_owner_spends() {
    let fixture = Fixture::new();
    let ledger = &fixture.ledger;
    // Another key, stated as the author, signing for an output that is not its own.
    refused(altered(ledger, &stranger(), |transfer| transfer.author = *stranger().public()), "another wallet");
    // The owner stated, another key signing.
    refused(altered(ledger, &stranger(), |_| {}), "not signed by its author");
    let unsigned = ledger.draft_transfer(options().wallet.public(), to(9), 5).unwrap();
    refused(ledger.submit_transfer(unsigned.signed_with(Signature([0; 64]))), "not signed");
    assert_eq!(ledger.pending().count(), 1, "the bucket's creation alone");
}

fn spent(result: Result<TxId>) {
    match result {
        Err(LedgerError::Spent(text)) => assert!(text.contains("spent or never was"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_coin_is_made_or_spent_twice() {
    let fixture = Fixture::new();
    let (ledger, own) = (&fixture.ledger, options().wallet);
    refused(altered(ledger, &own, |transfer| transfer.outputs[0].amount += 1), "inputs hold");
    refused(altered(ledger, &own, |transfer| transfer.outputs[0].amount -= 1), "inputs hold");
    refused(altered(ledger, &own, |transfer| transfer.outputs.push(Output { amount: u64::MAX, address: to(1) })), "");
    refused(
        altered(ledger, &own, |transfer| {
            transfer.outputs =
                vec![Output { amount: u64::MAX, address: to(1) }, Output { amount: 1_000_001, address: to(1) }];
        }),
        "inputs hold 1000000 coins, outputs 18446744073710551616",
    );
    refused(altered(ledger, &own, |transfer| transfer.inputs.push(transfer.inputs[0])), "");
    refused(altered(ledger, &own, |transfer| transfer.outputs[1].amount = 0), "");
    refused(altered(ledger, &own, |transfer| transfer.inputs.clear()), "");
    spent(altered(ledger, &own, |transfer| transfer.inputs[0].index = 7));
    let bytes = ledger.draft_transfer(own.public(), to(9), 5).unwrap().signed_by(&own);
    let rival = ledger.draft_transfer(own.public(), to(8), 5).unwrap().signed_by(&own);
    ledger.submit_transfer(bytes.clone()).unwrap();
    spent(ledger.submit_transfer(rival.clone()));
    fixture.seal().unwrap();
    spent(ledger.submit_transfer(rival));
    assert_clean(ledger);
}

#[test]
fn a_transfer_that_is_handed_in_again_is_the_same_one() {
    let fixture = Fixture::new();
    let (ledger, own) = (&fixture.ledger, options().wallet);
    let bytes = ledger.draft_transfer(own.public(), to(9), 5).unwrap().signed_by(&own);
    let txid = ledger.submit_transfer(bytes.clone()).unwrap();
    assert_eq!(ledger.submit_transfer(bytes.clone()).unwrap(), txid);
    assert_eq!(ledger.pending().count(), 2, "the bucket's creation and one transfer");
    fixture.seal().unwrap();
    assert_eq!(ledger.submit_transfer(bytes).unwrap(), txid);
    assert_eq!((ledger.pending().count(), ledger.balance(&to(9)).unwrap()), (0, 5));
    assert_clean(ledger);
}

#[test]
fn an_output_keeps_its_place_when_its_sibling_is_spent() {
    let fixture = Fixture::new();
    let (ledger, own) = (&fixture.ledger, options().wallet);
    let txid = send(ledger, &own, stranger().address(), 300).unwrap();
    fixture.seal().unwrap();
    // Output 0 is the stranger's, output 1 the change; spending the first leaves the second where it is.
    send(ledger, &stranger(), to(9), 300).unwrap();
    fixture.seal().unwrap();
    let coins = ledger.coins(&own.address()).unwrap();
    assert!(coins.contains(&(OutputRef { txid, index: 1 }, 999_700)), "{coins:?}");
    send(ledger, &own, to(9), 999_700).unwrap();
    fixture.seal().unwrap();
    assert_clean(ledger);
}

#[test]
fn keys_and_signatures_have_one_length() {
    // Short r, s, x or y come up once in 128: the predecessor wrote them without their leading zeros.
    for number in 1..=600u16 {
        let mut secret = [0; 32];
        secret[30..].copy_from_slice(&number.to_be_bytes());
        let wallet = Wallet::from_secret(&secret).unwrap();
        let signature = wallet.sign(&[b"message"]);
        assert!(wallet.public().verify(&[b"message"], &signature), "{number}");
        assert_eq!(wallet.public().to_string().len(), 128);
        assert_eq!(wallet.public().to_string().parse(), Ok(*wallet.public()));
    }
}

#[test]
fn another_chains_transfer_is_refused() {
    let (here, there) = (Fixture::new(), Fixture::new());
    let own = options().wallet;
    let bytes = there.ledger.draft_transfer(own.public(), to(9), 5).unwrap().signed_by(&own);
    refused(here.ledger.submit_transfer(bytes), "another chain");
    for junk in [&b""[..], b"\x01", &[0; 300]] {
        refused(here.ledger.submit_transfer(junk.to_vec()), "");
    }
    let coinbase = here.ledger.transaction_at(0).unwrap().unwrap().transaction.unwrap();
    refused(here.ledger.submit_transfer(coinbase.to_bytes()), "only transfers");
}

#[test]
fn many_small_outputs_are_gathered_up_to_the_limit() {
    let fixture = Fixture::new();
    let (ledger, own) = (&fixture.ledger, options().wallet);
    send(ledger, &own, to(9), 1_000_000).unwrap();
    for _ in 0..300 {
        ledger.seal_always(u64::MAX).unwrap();
    }
    assert_eq!(ledger.balance(&own.address()).unwrap(), 3000);
    refused(send(ledger, &own, to(9), 2570), "send less");
    send(ledger, &own, to(9), 2560).unwrap();
    fixture.seal().unwrap();
    assert_eq!(ledger.balance(&to(9)).unwrap(), 1_002_560);
    assert_clean(ledger);
}

#[test]
fn transfers_outlive_a_dropped_tail_of_changes() {
    let mut fixture = Fixture::new();
    fixture.seal().unwrap();
    let first = fixture.ledger.pending().next;
    fixture.submit(vec![put("lost", 1)]);
    let txid = send(&fixture.ledger, &options().wallet, to(9), 5).unwrap();
    fixture.ledger.truncate_pending(first, &[]).unwrap();
    assert_eq!(fixture.ledger.pending_from(0).iter().map(|(_, txid, _)| *txid).collect::<Vec<_>>(), [txid]);
    fixture.seal().unwrap();
    assert_eq!(fixture.ledger.balance(&to(9)).unwrap(), 5);
    assert_clean(&fixture.ledger);
}

#[test]
fn a_crash_takes_no_transfer_along_with_a_dropped_tail() {
    let mut fixture = Fixture::new();
    fixture.seal().unwrap();
    let first = fixture.ledger.pending().next;
    fixture.submit(vec![put("lost", 1)]);
    send(&fixture.ledger, &options().wallet, to(9), 5).unwrap();
    fixture.submit(vec![put("lost too", 1)]);
    send(&fixture.ledger, &options().wallet, to(9), 6).unwrap();
    for (writes, unsynced) in (0..4).flat_map(|writes| [(writes, Unsynced::Kept), (writes, Unsynced::Lost)]) {
        let store = Arc::new(CrashStore::new(fixture.store.rows(), writes));
        let ledger = Ledger::open_store(store.clone(), options()).unwrap();
        let dropped = ledger.truncate_pending(first, &[]);
        let ledger = Ledger::open_store(Arc::new(MemoryStore::new(store.restart(unsynced))), options()).unwrap();
        assert_eq!(ledger.balance(&to(9)).unwrap(), 11, "{writes} {unsynced:?}");
        assert_eq!(ledger.pending().count(), if dropped.is_ok() { 2 } else { 4 }, "{writes} {unsynced:?}");
        assert_clean(&ledger);
    }
}

#[test]
fn two_spenders_at_once_never_both_succeed() {
    let fixture = Fixture::new();
    let own = options().wallet;
    let bytes: Vec<Vec<u8>> = (0..8)
        .map(|number| fixture.ledger.draft_transfer(own.public(), to(number), 5).unwrap().signed_by(&own))
        .collect();
    let taken = std::thread::scope(|scope| {
        let ledger = &fixture.ledger;
        let running: Vec<_> = bytes.iter().map(|bytes| scope.spawn(|| ledger.submit_transfer(bytes.clone()))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).filter(Result::is_ok).count()
    });
    assert_eq!(taken, 1);
    fixture.seal().unwrap();
    assert_clean(&fixture.ledger);
}
