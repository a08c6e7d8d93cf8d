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
pub(super) struct Prepared(Mutex<HashMap<Hash, (Instant, Transaction)>>);

impl Prepared {
    fn keep(&self, transaction: Transaction) -> Hash {
        let handle = transaction.signing_hash();
        let mut kept = self.0.lock();
        kept.retain(|_, (since, _)| since.elapsed() < PATIENCE);
        if kept.len() >= MOST_PREPARED
            && let Some(oldest) = kept.iter().min_by_key(|(_, (since, _))| *since).map(|(handle, _)| *handle)
        {
            kept.remove(&oldest);
        }
        kept.insert(handle, (Instant::now(), transaction));
        handle
    }

    /// The transfer's bytes with its signature. A wrong one leaves it where it is.
    fn sign(&self, handle: &Hash, signature: Signature) -> Result<Option<Vec<u8>>> {
        let mut kept = self.0.lock();
        let Some((_, transaction)) = kept.get(handle).filter(|(since, _)| since.elapsed() < PATIENCE) else {
            return Ok(None);
        };
        let bytes = transaction.clone().signed_with(signature);
        if !Transaction::from_bytes(&bytes).is_ok_and(|signed| signed.signature_holds(&bytes)) {
            return Err(Error::new(Kind::Refused, "the transfer is not signed by its author"));
        }
        kept.remove(handle);
        Ok(Some(bytes))
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
        wallets::list(&self.root)?.iter().map(|kept| self.wallet_line(kept)).collect()
    }

    fn wallet_line(&self, kept: &Kept) -> Result<wire::Wallet> {
        Ok(wire::Wallet {
            v: wire::V,
            name: kept.name.clone(),
            address: kept.address.to_string(),
            public_key: kept.file.public().to_string(),
            balance: self.balance(&kept.address)?,
            sealed: kept.is_sealed(),
        })
    }

    /// One wallet kept here, by name or address.
    ///
    /// # Errors
    /// [`Kind::Failed`] when there is none.
    pub fn wallet_named(&self, name: &str) -> Result<wire::Wallet> {
        self.wallet_line(&wallets::find(&self.root, name)?)
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
    fn prepared_transfers_are_bounded_and_good_once() {
        let prepared = Prepared::default();
        let handles: Vec<Hash> = (0..MOST_PREPARED as u64 + 10).map(|number| prepared.keep(transfer(number))).collect();
        assert_eq!(prepared.0.lock().len(), MOST_PREPARED);
        assert!(handles[..10].iter().all(|handle| sign(&prepared, handle).is_none()), "the oldest gave way");
        let newest = handles.last().unwrap();
        // A wrong signature does not use it up.
        let wrong = prepared.sign(newest, wallet().sign_hash(&handles[0]));
        assert_eq!(wrong.map_err(|error| error.kind), Err(Kind::Refused));
        let signed = transfer(MOST_PREPARED as u64 + 9).signed_by(&wallet());
        assert_eq!(sign(&prepared, newest), Some(signed));
        assert_eq!(sign(&prepared, newest), None);
    }

    #[test]
    fn a_handle_is_taken_by_one_of_many() {
        let prepared = Prepared::default();
        let handle = prepared.keep(transfer(1));
        let taken = std::thread::scope(|scope| {
            let running: Vec<_> = (0..8).map(|_| scope.spawn(|| sign(&prepared, &handle).is_some())).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).filter(|taken| *taken).count()
        });
        assert_eq!(taken, 1);
    }
}
