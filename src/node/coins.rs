//! Coins and blocks: balances, transfers that are signed elsewhere, mining.

use super::{Node, trouble};
use crate::error::{Error, Kind, Result};
use crate::rest::wire;
use crate::wallets::{self, Kept};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use wizefs_ledger::{AddressHash, Hash, PublicKey, Signature, Transaction, TxId, WalletFile};

/// How long a prepared transfer waits for its signature.
const PATIENCE: Duration = Duration::from_secs(600);
/// Prepared transfers kept; the oldest gives way.
const MOST_PREPARED: usize = 1024;

/// Transfers made for clients that sign them themselves.
#[derive(Default)]
pub(super) struct Prepared(Mutex<HashMap<Hash, Draft>>);

/// One of them.
struct Draft {
    since: Instant,
    transaction: Transaction,
    /// Its bytes, once it is signed: whoever did not hear the answer signs again, and is told of the same transfer.
    signed: Option<Vec<u8>>,
}

impl Prepared {
    fn keep(&self, transaction: Transaction) -> Hash {
        let handle = transaction.signing_hash();
        let mut kept = self.0.lock();
        kept.retain(|_, draft| draft.since.elapsed() < PATIENCE);
        if kept.len() >= MOST_PREPARED
            && let Some(oldest) = kept.iter().min_by_key(|(_, draft)| draft.since).map(|(handle, _)| *handle)
        {
            kept.remove(&oldest);
        }
        kept.insert(handle, Draft { since: Instant::now(), transaction, signed: None });
        handle
    }

    /// The transfer's bytes with its signature. A wrong one leaves it where it is.
    fn sign(&self, handle: &Hash, signature: Signature) -> Result<Option<Vec<u8>>> {
        let mut kept = self.0.lock();
        let Some(draft) = kept.get_mut(handle).filter(|draft| draft.since.elapsed() < PATIENCE) else {
            return Ok(None);
        };
        let bytes = draft.transaction.clone().signed_with(signature);
        if !Transaction::from_bytes(&bytes).is_ok_and(|signed| signed.signature_holds(&bytes)) {
            return Err(Error::new(Kind::Refused, "the transfer is not signed by its author"));
        }
        Ok(Some(draft.signed.get_or_insert(bytes).clone()))
    }
}

fn line(kept: &Kept, balance: u64) -> wire::Wallet {
    wire::Wallet {
        v: wire::V,
        name: kept.name.clone(),
        address: kept.address.to_string(),
        public_key: kept.file.public().to_string(),
        balance,
        sealed: kept.is_sealed(),
    }
}

impl Node {
    /// Coins an address can spend.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn balance(&self, address: &AddressHash) -> Result<u64> {
        self.ledger.balance(address).map_err(trouble::ledger)
    }

    /// The wallets kept here, and their coins.
    ///
    /// # Errors
    /// The folder or the ledger cannot be read.
    pub fn wallets(&self) -> Result<Vec<wire::Wallet>> {
        let kept = wallets::list(&self.root)?;
        let balances = self.ledger.balances(kept.iter().map(|kept| kept.address)).map_err(trouble::ledger)?;
        let balance_of = |kept: &Kept| balances.get(&kept.address).copied().unwrap_or_default();
        Ok(kept.iter().map(|kept| line(kept, balance_of(kept))).collect())
    }

    /// Addresses of the wallets kept here, sorted by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn wallet_addresses(&self) -> Result<Vec<AddressHash>> {
        Ok(wallets::list(&self.root)?.into_iter().map(|kept| kept.address).collect())
    }

    /// One wallet kept here, by name or address.
    ///
    /// # Errors
    /// [`Kind::Failed`] when there is none.
    pub fn wallet_named(&self, name: &str) -> Result<wire::Wallet> {
        let kept = wallets::find(&self.root, name)?;
        Ok(line(&kept, self.balance(&kept.address)?))
    }

    /// A transfer to be signed by the owner of `from`.
    ///
    /// # Errors
    /// [`Kind::Failed`] when there are not enough coins.
    pub fn draft_transfer(&self, from: &PublicKey, to: AddressHash, amount: u64) -> Result<Transaction> {
        self.ledger.draft_transfer(from, to, amount).map_err(trouble::ledger)
    }

    /// The same, kept here until its signature comes; the handle is the hash to sign.
    ///
    /// # Errors
    /// As [`Node::draft_transfer`].
    pub fn prepare_transfer(&self, from: &PublicKey, to: AddressHash, amount: u64) -> Result<Hash> {
        Ok(self.prepared.keep(self.draft_transfer(from, to, amount)?))
    }

    /// Accept a prepared transfer with its signature. None when the handle is unknown or was prepared too long ago.
    ///
    /// # Errors
    /// [`Kind::Refused`] for a wrong signature: the right one may still come; as [`Node::transfer`].
    pub fn sign_transfer(&self, handle: &Hash, signature: Signature, mine_now: bool) -> Result<Option<wire::Sent>> {
        let signed = self.prepared.sign(handle, signature)?;
        signed.map(|bytes| self.transfer(bytes, mine_now)).transpose()
    }

    /// Accept a signed transfer. With `mine_now` it is final when this returns, else it is durable and in the next block.
    ///
    /// # Errors
    /// [`Kind::Failed`] when it is refused.
    pub fn transfer(&self, bytes: Vec<u8>, mine_now: bool) -> Result<wire::Sent> {
        let txid = self.ledger.submit_transfer(bytes).map_err(trouble::ledger)?;
        if mine_now {
            self.seal()?;
        } else {
            self.ledger.sync().map_err(trouble::ledger)?;
            self.sealer.notice();
        }
        self.sent(&txid)
    }

    fn sent(&self, txid: &TxId) -> Result<wire::Sent> {
        let block = self.ledger.transaction(txid).map_err(trouble::ledger)?.and_then(|logged| logged.block);
        let status = if block.is_some() { wire::TxStatus::Final } else { wire::TxStatus::Pending };
        Ok(wire::Sent { v: wire::V, txid: txid.to_string(), status, block })
    }

    /// Send coins of a wallet kept here without a passphrase.
    ///
    /// # Errors
    /// [`Kind::Passphrase`] for one that has a passphrase; as [`Node::transfer`].
    pub fn send(&self, from: &str, to: AddressHash, amount: u64, mine_now: bool) -> Result<wire::Sent> {
        let kept = wallets::find(&self.root, from)?;
        let WalletFile::Plain(wallet) = &kept.file else {
            return Err(Error::new(Kind::Passphrase, format!("wallet {} has a passphrase", kept.name)));
        };
        wallets::until_unspent(|| {
            let transaction = self.draft_transfer(wallet.public(), to, amount)?;
            self.transfer(transaction.signed_by(wallet), mine_now)
        })
    }

    /// Seal a block now, also when nothing is pending: it makes the reward.
    ///
    /// # Errors
    /// As [`Node::seal`].
    pub fn mine(&self) -> Result<wire::Block> {
        let before = self.ledger.tip().header.height;
        self.seal()?;
        if self.ledger.tip().header.height == before {
            self.ledger.seal_always(0).map_err(trouble::ledger)?;
            self.sealer.announce(self);
        }
        self.block(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wizefs_ledger::{Envelope, Output, OutputRef, Transfer, Wallet};

    fn wallet() -> Wallet {
        Wallet::from_secret(&[7; 32]).unwrap()
    }

    fn transfer(number: u64) -> Transaction {
        let wallet = wallet();
        let transfer = Transfer {
            author: *wallet.public(),
            time_us: number,
            salt: [0; 16],
            inputs: vec![OutputRef { txid: Hash::ZERO, index: 0 }],
            outputs: vec![Output { amount: 1, address: wallet.address() }],
            signature: wallet.sign(&[b"not yet"]),
        };
        let version = wizefs_ledger::transaction::Version::V1;
        Transaction { version, chain: Hash::ZERO, envelope: Envelope::Transfer(transfer) }
    }

    fn sign(prepared: &Prepared, handle: &Hash) -> Option<Vec<u8>> {
        prepared.sign(handle, wallet().sign_hash(handle)).unwrap()
    }

    #[test]
    fn prepared_transfers_are_bounded_and_may_be_signed_again() {
        let prepared = Prepared::default();
        let handles: Vec<Hash> = (0..MOST_PREPARED as u64 + 10).map(|number| prepared.keep(transfer(number))).collect();
        assert_eq!(prepared.0.lock().len(), MOST_PREPARED);
        assert!(handles[..10].iter().all(|handle| sign(&prepared, handle).is_none()), "the oldest gave way");
        let newest = handles.last().unwrap();
        // A wrong signature does not use it up.
        let wrong = prepared.sign(newest, wallet().sign_hash(&handles[0]));
        assert_eq!(wrong.map_err(|error| error.kind), Err(Kind::Refused));
        let signed = transfer(MOST_PREPARED as u64 + 9).signed_by(&wallet());
        assert_eq!(sign(&prepared, newest), Some(signed.clone()));
        assert_eq!(sign(&prepared, newest), Some(signed), "who did not hear the answer asks again");
    }

    #[test]
    fn many_signers_of_a_handle_make_one_transfer() {
        let prepared = Prepared::default();
        let handle = prepared.keep(transfer(1));
        let mut made: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..8).map(|_| scope.spawn(|| sign(&prepared, &handle).unwrap())).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        made.dedup();
        assert_eq!(made.len(), 1);
    }
}
