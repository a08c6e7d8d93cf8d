//! What a bucket's ledger says, read by a program: through the running node of a root, or without one.
//!
//! `cargo run --release --example read_the_log ROOT BUCKET`

use std::error::Error;
use std::path::Path;

use axum::http::Method;
use wizefs::client::{Client, segment};
use wizefs::config::{Config, ListenArgs};
use wizefs::rest::wire::{LogLine, Status};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, bucket] = args.as_slice() else { return Err("usage: read_the_log ROOT BUCKET".into()) };

    let client = Client::open(&Config::load(Some(Path::new(root)), &ListenArgs::default())?)?;
    let status: Status = client.get("/v1/status")?;
    println!(
        "chain {}, block {}, {} transactions",
        status.ledger.chain, status.ledger.height, status.ledger.transactions
    );

    // The same route answers on the REST address; each line is one transaction as JSON, newest first.
    let route = format!("/v1/buckets/{}/log", segment(bucket.as_bytes()));
    let (mut files, mut bytes) = (0, 0);
    client.lines(Method::GET, &route, None::<&()>, |line: LogLine, _json| {
        let place = line.block.map_or("pending".to_owned(), |block| format!("block {block}"));
        let path = line.path.text();
        let content = line.blake3.as_deref().unwrap_or("-");
        println!("{place:>10}  {}  {:<8} {path}  {content}", line.time, line.op);
        files += 1;
        bytes += line.size.unwrap_or(0);
        Ok(())
    })?;
    println!("{files} transactions, {bytes} bytes put");
    Ok(client.close()?)
}
