//! The predecessor's chain routes, with its bodies, and the routes of the commands for coins and blocks.
//!
//! Keys of JSON bodies may be in any letter case, as its decoder took them. Its failures were plain text.

use crate::error::{Error, Kind, Result};
use crate::node::{Node, trouble};
use crate::rest::body::Sent;
use crate::rest::described::{Routes, about};
use crate::rest::{answer, blocking, json, segment, stream, wire};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json as value};
use std::io::Write;
use std::sync::Arc;
use wizefs_ledger::{AddressHash, Block, Envelope, Hash, Logged, PublicKey, Signature, Transaction, Wallet};

pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/wallet/{address}", balance, about("Coins of an address").reply::<Value>())
        .post("/wallet/new", new_wallet, about("A new key, which is not kept").reply::<Value>())
        .get("/wallets/list", list_wallets, about("Addresses of the node's wallets").reply::<Value>())
        .post("/send", send, about("Send coins of the node's wallet").body::<SendRequest>().reply::<Value>())
        .post("/prepare", prepare, about("Draft a transfer to be signed elsewhere").body::<Prepare>().reply::<Value>())
        .post("/sign", sign, about("Submit the signature of a draft").body::<Sign>().reply::<Value>())
        .get("/blockchain/print", print, about("Every block, newest first").reply::<Value>())
        .get("/block/{*hash}", block, about("One block").reply::<Value>())
        .get("/v1/wallets", wallets, about("The node's wallets").reply::<wire::Wallets>())
        .get("/v1/wallets/{name}", wallet, about("One wallet").reply::<wire::Wallet>())
        .post(
            "/v1/transfers/draft",
            draft,
            about("A transfer to be signed").body::<wire::TransferRequest>().reply::<wire::TransferBytes>(),
        )
        .post(
            "/v1/transfers",
            transfer,
            about("Submit a signed transfer").body::<wire::TransferBytes>().reply::<wire::Sent>(),
        )
        .get("/v1/blocks", tip, about("The newest block").reply::<wire::Block>())
        .get("/v1/blocks/{which}", one_block, about("One block, by height or hash").reply::<wire::Block>())
        .post("/v1/mine", mine, about("Seal now").reply::<wire::Block>())
}

/// A failure as the predecessor told it: a status and a sentence.
struct Plain(StatusCode, String);

impl From<Error> for Plain {
    fn from(error: Error) -> Plain {
        let status = match error.kind {
            // What the ledger refuses is the request's fault.
            Kind::Failed | Kind::Refused | Kind::Spent | Kind::NotFound => StatusCode::BAD_REQUEST,
            kind => StatusCode::from_u16(kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        Plain(status, error.message)
    }
}

impl IntoResponse for Plain {
    fn into_response(self) -> Response {
        let head = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        (self.0, head, self.1 + "\n").into_response()
    }
}

fn bad(text: &str) -> Plain {
    Plain(StatusCode::BAD_REQUEST, text.to_owned())
}

/// Runs blocking work and answers in the predecessor's way.
async fn reply(work: impl FnOnce() -> std::result::Result<Value, Plain> + Send + 'static) -> Response {
    match blocking(move || Ok(work())).await {
        Ok(Ok(value)) => json(&value),
        Ok(Err(plain)) => plain.into_response(),
        Err(error) => error.into_response(),
    }
}

/// A JSON object whose keys may be in any letter case.
fn body<T: DeserializeOwned>(sent: &Sent, complaint: &str) -> std::result::Result<T, Plain> {
    let object: Map<String, Value> = sent.json().map_err(|error| match error.kind {
        Kind::Usage => bad("Could not decode the request body as JSON"),
        _ => Plain::from(error),
    })?;
    let lower = object.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect();
    serde_json::from_value(Value::Object(lower)).map_err(|_| bad(complaint))
}

pub(super) async fn home(State(node): State<Arc<Node>>) -> Response {
    json(&format!("Hello wizefs {}", node.ledger().chain_id()))
}

async fn balance(State(node): State<Arc<Node>>, Path(address): Path<String>) -> Response {
    reply(move || {
        let address: AddressHash = address.parse().map_err(|_| bad("Address is not valid"))?;
        Ok(value!({"credit": node.balance(&address)?, "success": true}))
    })
    .await
}

/// A new key, told to whoever asked and kept by nobody else.
async fn new_wallet() -> Response {
    reply(|| {
        let wallet = Wallet::generate().map_err(|e| Plain(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        let (address, public) = (wallet.address().to_string(), wallet.public().to_string());
        Ok(value!({"success": true, "address": address, "privkey": wire::hex(&wallet.secret()), "pubkey": public}))
    })
    .await
}

async fn list_wallets(State(node): State<Arc<Node>>) -> Response {
    reply(move || {
        let addresses: Vec<String> = node.wallet_addresses()?.iter().map(ToString::to_string).collect();
        Ok(value!({"success": true, "listWallets": addresses}))
    })
    .await
}

/// Sender and receiver, checked as the predecessor did and in its words. One address may have two spellings.
fn parties(from: &str, to: &str) -> std::result::Result<(AddressHash, AddressHash), Plain> {
    let equal = || bad("Sender address is equal to Recipient address");
    if from == to {
        return Err(equal());
    }
    let from: AddressHash = from.parse().map_err(|_| bad("Sender address is not valid"))?;
    let to: AddressHash = to.parse().map_err(|_| bad("Recipient address is not valid"))?;
    if from == to { Err(equal()) } else { Ok((from, to)) }
}

#[derive(Deserialize, utoipa::ToSchema)]
struct SendRequest {
    from: String,
    to: String,
    amount: u64,
    #[serde(default)]
    minenow: bool,
}

async fn send(State(node): State<Arc<Node>>, sent: Sent) -> Response {
    reply(move || {
        let SendRequest { from, to, amount, minenow } = body(&sent, "Please check your send request")?;
        let (_, to) = parties(&from, &to)?;
        node.send(&from, to, amount, minenow)?;
        Ok(value!({"success": true}))
    })
    .await
}

#[derive(Deserialize, utoipa::ToSchema)]
struct Prepare {
    from: String,
    to: String,
    amount: u64,
    pubkey: String,
}

async fn prepare(State(node): State<Arc<Node>>, sent: Sent) -> Response {
    reply(move || {
        let Prepare { from, to, amount, pubkey } = body(&sent, "Please check your prepare request")?;
        let (sender, to) = parties(&from, &to)?;
        let key: PublicKey = pubkey.parse().map_err(|_| bad("Please check your prepare request"))?;
        if key.address() != sender {
            return Err(bad("Sender address is not the public key's"));
        }
        let handle = node.prepare_transfer(&key, to, amount)?;
        // One signature covers all inputs, which are all the sender's.
        Ok(value!({"success": true, "txid": handle.to_string(), "hashes": [handle.to_string()]}))
    })
    .await
}

#[derive(Deserialize, utoipa::ToSchema)]
struct Sign {
    txid: String,
    signatures: Vec<String>,
    #[serde(default)]
    minenow: bool,
}

async fn sign(State(node): State<Arc<Node>>, sent: Sent) -> Response {
    reply(move || {
        let Sign { txid, signatures, minenow } = body(&sent, "Please check your sign request")?;
        let [signature] = signatures.as_slice() else { return Err(bad("Please check your sign request")) };
        let signature: Signature = signature.parse().map_err(|_| bad("Please check your sign request"))?;
        let handle: Hash = txid.parse().map_err(|_| bad("Could not get transaction by txid"))?;
        match node.sign_transfer(&handle, signature, minenow)? {
            Some(_) => Ok(value!({"success": true})),
            None => Err(bad("Could not get transaction by txid")),
        }
    })
    .await
}

/// The whole chain, newest block first.
async fn print(State(node): State<Arc<Node>>) -> Response {
    stream::document(move |lines| {
        let block = |height| {
            let block = node.ledger().block(height).map_err(trouble::ledger)?;
            let block = block.ok_or_else(|| Error::new(Kind::LedgerDamaged, format!("block {height} is missing")))?;
            Ok(OldBlock { node: &node, block })
        };
        let chain = List(|| (0..=node.ledger().tip().header.height).rev().map(block));
        serde_json::to_writer(&mut *lines, &Chain { chainlist: chain, success: true })?;
        lines.write_all(b"\n").map_err(serde_json::Error::io)
    })
}

#[derive(Serialize)]
struct Chain<T> {
    chainlist: T,
    success: bool,
}

async fn block(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    reply(move || {
        let text = String::from_utf8_lossy(&super::rest_of(&uri, 1)).into_owned();
        let found = match hash_of(&text) {
            Some(hash) => node.ledger().block_by_hash(&hash).map_err(trouble::ledger)?,
            None => None,
        };
        let block = found.map(|block| serde_json::to_value(OldBlock { node: &node, block })).transpose();
        let block = block.map_err(|e| Error::new(Kind::LedgerDamaged, e.to_string()))?;
        Ok(value!({"credit": block, "success": true}))
    })
    .await
}

/// A block's hash in hex, or in base64 of either alphabet.
fn hash_of(text: &str) -> Option<Hash> {
    let decoded = || STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()?.try_into().ok().map(Hash);
    text.parse().ok().or_else(decoded)
}

/// A list whose elements are made while it is written: none of them waits for another in memory.
struct List<F>(F);

impl<F: Fn() -> I, I: Iterator<Item = Result<T>>, T: Serialize> Serialize for List<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for element in (self.0)() {
            list.serialize_element(&element.map_err(S::Error::custom)?)?;
        }
        list.end()
    }
}

/// A block in the predecessor's shape: its field names, bytes in base64, empty lists null.
struct OldBlock<'a> {
    node: &'a Node,
    block: Block,
}

impl Serialize for OldBlock<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let header = &self.block.header;
        let transaction = |index| self.node.ledger().transaction_at(index).map_err(trouble::ledger);
        let transactions = || (header.first_index..header.log_size).filter_map(|index| transaction(index).transpose());
        let mut fields = serializer.serialize_map(Some(6))?;
        fields.serialize_entry("Hash", &STANDARD.encode(self.block.hash().0))?;
        fields.serialize_entry("Height", &header.height)?;
        fields.serialize_entry("Nonce", &header.nonce)?;
        fields.serialize_entry("PrevBlockHash", &STANDARD.encode(header.previous.0))?;
        fields.serialize_entry("Timestamp", &(header.time_us / 1_000_000))?;
        fields.serialize_entry("Transactions", &List(|| transactions().map(|logged| Ok(old_transaction(&logged?)))))?;
        fields.end()
    }
}

fn old_transaction(logged: &Logged) -> Value {
    let (inputs, outputs) = logged.transaction.as_ref().map_or((Value::Null, Value::Null), coins_of);
    let time = logged.time_us.saturating_mul(1000);
    value!({"Timestamp": time, "ID": STANDARD.encode(logged.txid.0), "Vin": inputs, "Vout": outputs})
}

fn coins_of(transaction: &Transaction) -> (Value, Value) {
    let output = |amount: u64, address: &AddressHash| value!({"Value": amount, "PubKeyHash": STANDARD.encode(address.0), "Address": address.to_string()});
    match &transaction.envelope {
        Envelope::Authored(_) => (Value::Null, Value::Null),
        Envelope::Coinbase(coinbase) => {
            let input = value!([{"Txid": null, "Vout": -1, "Signature": null, "PubKey": null}]);
            (input, value!([output(coinbase.reward, &coinbase.address)]))
        }
        Envelope::Transfer(transfer) => {
            let signature = STANDARD.encode(transfer.signature.0);
            let key = STANDARD.encode(transfer.author.0);
            let inputs = transfer.inputs.iter().map(|input| {
                let txid = STANDARD.encode(input.txid.0);
                value!({"Txid": txid, "Vout": input.index, "Signature": signature, "PubKey": key})
            });
            let outputs = transfer.outputs.iter().map(|made| output(made.amount, &made.address));
            (Value::Array(inputs.collect()), Value::Array(outputs.collect()))
        }
    }
}

async fn wallets(State(node): State<Arc<Node>>) -> Response {
    answer(move || Ok(wire::Wallets { v: wire::V, wallets: node.wallets()? })).await
}

async fn wallet(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    let name = String::from_utf8_lossy(&segment(&uri, 2)).into_owned();
    answer(move || node.wallet_named(&name)).await
}

async fn draft(State(node): State<Arc<Node>>, sent: Sent) -> Response {
    answer(move || {
        let wire::TransferRequest { from, to, amount } = sent.json()?;
        let usage = |what: &str| Error::new(Kind::Usage, format!("{what} is not valid"));
        let from: PublicKey = from.parse().map_err(|_| usage("the public key"))?;
        let to: AddressHash = to.parse().map_err(|_| usage("the address"))?;
        let transaction = node.draft_transfer(&from, to, amount)?;
        Ok(wire::TransferBytes { bytes: STANDARD.encode(transaction.to_bytes()), minenow: false })
    })
    .await
}

async fn transfer(State(node): State<Arc<Node>>, sent: Sent) -> Response {
    answer(move || {
        let wire::TransferBytes { bytes, minenow } = sent.json()?;
        let bytes = STANDARD.decode(bytes).map_err(|_| Error::new(Kind::Usage, "the transfer is not base64"))?;
        node.transfer(bytes, minenow)
    })
    .await
}

async fn tip(State(node): State<Arc<Node>>) -> Response {
    answer(move || node.block(None)).await
}

async fn one_block(State(node): State<Arc<Node>>, uri: Uri) -> Response {
    let which = String::from_utf8_lossy(&segment(&uri, 2)).into_owned();
    answer(move || node.block(Some(&which))).await
}

async fn mine(State(node): State<Arc<Node>>) -> Response {
    answer(move || node.mine()).await
}
