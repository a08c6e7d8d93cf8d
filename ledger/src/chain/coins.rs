//! Coins: what an address can spend, and moving it.

use std::collections::HashMap;

use super::*;
use crate::address::AddressHash;
use crate::state::stored;
use crate::store::{Batch, Durability};
use crate::transaction::{Envelope, MAX_COINS, Output, OutputRef, Transfer, Version};
use crate::wallet::{PublicKey, Signature};

impl Ledger {
    /// The outputs an address can spend, pending transfers included.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn coins(&self, address: &AddressHash) -> Result<Vec<(OutputRef, u64)>> {
        let mut coins = Vec::new();
        self.outputs(&mut |place, output| {
            if output.address == *address {
                coins.push((place, output.amount));
            }
        })?;
        Ok(coins)
    }

    /// Visits every output that is not spent, pending transfers included.
    fn outputs(&self, visit: &mut dyn FnMut(OutputRef, Output)) -> Result<()> {
        let mut damage = None;
        let scanned = Current(self).scan(b"o", b"o", &mut |row, value| {
            let place = row.get(1..).and_then(|rest| rest.split_at_checked(32));
            let place = place.and_then(|(txid, index)| Some((txid.try_into().ok()?, index.try_into().ok()?)));
            match (place, stored::<Output>(value)) {
                (Some((txid, index)), Ok(output)) => {
                    visit(OutputRef { txid: Hash(txid), index: u32::from_be_bytes(index) }, output);
                    ControlFlow::Continue(())
                }
                (_, Err(error)) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
                (None, _) => {
                    damage = Some(StoreError::Corrupt("the row of an output has no place".into()));
                    ControlFlow::Break(())
                }
            }
        });
        self.read(scanned.and_then(|()| damage.map_or(Ok(()), Err)))
    }

    /// Coins an address can spend, pending transfers included.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn balance(&self, address: &AddressHash) -> Result<u64> {
        Ok(self.balances([*address])?.remove(address).unwrap_or_default())
    }

    /// As [`Ledger::balance`], of many addresses for the price of one.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn balances(&self, addresses: impl IntoIterator<Item = AddressHash>) -> Result<HashMap<AddressHash, u64>> {
        let mut balances: HashMap<AddressHash, u64> = addresses.into_iter().map(|address| (address, 0)).collect();
        self.outputs(&mut |_, output| {
            if let Some(balance) = balances.get_mut(&output.address) {
                *balance = balance.saturating_add(output.amount);
            }
        })?;
        Ok(balances)
    }

    /// A transfer of `amount` coins from a key's address, unsigned: the largest outputs first, the change back to it.
    ///
    /// # Errors
    /// Nothing to send, or not enough coins; or see [`LedgerError`].
    pub fn draft_transfer(&self, author: &PublicKey, to: AddressHash, amount: u64) -> Result<Transaction> {
        let refuse = |why: String| Err(LedgerError::Refused(why));
        if amount == 0 {
            return refuse("nothing is sent".into());
        }
        let mut coins = self.coins(&author.address())?;
        let balance = coins.iter().fold(0u64, |sum, (_, amount)| sum.saturating_add(*amount));
        if balance < amount {
            return refuse(format!("{} has {balance} coins, not {amount}", author.address()));
        }
        coins.sort_by_key(|(place, amount)| (std::cmp::Reverse(*amount), *place));
        let (mut inputs, mut spent) = (Vec::new(), 0u128);
        for (place, amount_in) in coins.into_iter().take(MAX_COINS) {
            if spent >= u128::from(amount) {
                break;
            }
            inputs.push(place);
            spent += u128::from(amount_in);
        }
        let Some(change) = spent.checked_sub(u128::from(amount)) else {
            return refuse(format!(
                "the largest {MAX_COINS} outputs of {} hold {spent} coins: send less",
                author.address()
            ));
        };
        let change = u64::try_from(change).map_err(|_| LedgerError::Refused("more change than coins".into()))?;
        let mut outputs = vec![Output { amount, address: to }];
        if change > 0 {
            outputs.push(Output { amount: change, address: author.address() });
        }
        let salt = random().map_err(|error| LedgerError::Store(StoreError::Io(error.to_string())))?;
        let transfer =
            Transfer { author: *author, time_us: now_us(), salt, inputs, outputs, signature: Signature::UNSIGNED };
        Ok(Transaction { version: Version::V1, chain: self.chain, envelope: Envelope::Transfer(transfer) })
    }

    /// Accepts a signed transfer, given as canonical bytes, in a write that is not synced. Waits while the mempool is full. One
    /// that was accepted before is named again: whoever did not hear the answer may hand it in once more.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] for one that is malformed, not its author's, or makes coins; [`LedgerError::Spent`];
    /// [`LedgerError::Full`] already when there is no more space than what is kept for freeing the disk.
    pub fn submit_transfer(&self, bytes: Vec<u8>) -> Result<TxId> {
        let transaction = Transaction::from_bytes(&bytes).map_err(|error| LedgerError::Refused(error.to_string()))?;
        let refuse = |why: &str| Err(LedgerError::Refused(why.into()));
        if !matches!(transaction.envelope, Envelope::Transfer(_)) {
            return refuse("only transfers come from outside");
        }
        if transaction.chain != self.chain {
            return refuse("the transfer is of another chain");
        }
        if !transaction.signature_holds(&bytes) {
            return refuse("the transfer is not signed by its author");
        }
        self.revive()?;
        let _writer = self.wait_for_room()?;
        let txid = Transaction::id(&bytes);
        if self.transaction(&txid)?.is_some() {
            return Ok(txid);
        }
        self.check_health()?;
        if self.space() != Space::Ample {
            // The reserve is for what frees the disk.
            return Err(LedgerError::Full);
        }
        self.make_room()?;
        let effects = match apply(&Current(self), txid, &transaction) {
            Ok(effects) => effects,
            Err(ApplyError::Store(error)) => return Err(self.unread(error)),
            Err(error @ ApplyError::Spent(_)) => return Err(LedgerError::Spent(error.to_string())),
            Err(other) => return Err(LedgerError::Refused(other.to_string())),
        };
        let mut batch = Batch::default();
        let number = self.live.lock().mempool.span().next;
        batch.put(Column::Mempool, number.to_be_bytes(), bytes.clone());
        self.store.write(batch, Durability::Buffered).map_err(|error| self.failed(error))?;
        self.live.lock().mempool.push(Waiting::new(txid, &transaction, bytes, effects));
        self.revised();
        self.arrived.notify_all();
        Ok(txid)
    }
}
