//! The client of the original description over gRPC: create, mount, put, get, unmount and delete on the bucket GRPC1.
//!
//! `wizefs node`, then `cargo run --release --example grpc_client [http://127.0.0.1:10000]`

use std::error::Error;

use tonic::transport::Channel;
use wizefs::grpc::generated::wize_fs_service_client::WizeFsServiceClient;
use wizefs::grpc::generated::{FilesystemRequest, GetRequest, PutRequest};

const ORIGIN: &str = "GRPC1";
const FILE: &str = "test.txt";

/// Bytes of the file that is streamed: more than one message may hold.
const LARGE: usize = 9 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("http://127.0.0.1:10000".to_owned());
    let mut client = WizeFsServiceClient::new(Channel::from_shared(address)?.connect().await?);
    let origin = || FilesystemRequest { origin: ORIGIN.to_owned() };

    println!("Create  {:?}", client.create(origin()).await?.into_inner());
    println!("Mount   {:?}", client.mount(origin()).await?.into_inner());

    let content = "Hello from a gRPC client\n";
    let put = PutRequest { filename: FILE.to_owned(), content: content.into(), origin: ORIGIN.to_owned() };
    println!("Put     {:?}", client.put(put).await?.into_inner());

    let wanted = || GetRequest { filename: FILE.to_owned(), origin: ORIGIN.to_owned() };
    let got = client.get(wanted()).await?.into_inner();
    println!("Get     {:?}", String::from_utf8_lossy(&got.content));
    if got.content != content {
        return Err("what was fetched is not what was stored".into());
    }

    large_files(&mut client).await?;

    println!("Unmount {:?}", client.unmount(origin()).await?.into_inner());
    println!("Delete  {:?}", client.delete(origin()).await?.into_inner());
    match client.get(wanted()).await {
        Err(status) => println!("Get     {:?}: {}", status.code(), status.message()),
        Ok(_) => return Err("a deleted bucket still has files".into()),
    }
    Ok(())
}

/// Files of any size go in parts: the first message names the file, each holds a piece of the content.
async fn large_files(client: &mut WizeFsServiceClient<Channel>) -> Result<(), Box<dyn Error>> {
    let content: Vec<u8> = (0..LARGE).map(|at| (at / 7 % 251) as u8).collect();
    let parts: Vec<PutRequest> = content
        .chunks(1 << 20)
        .map(|piece| PutRequest {
            filename: "large.bin".to_owned(),
            content: piece.to_vec().into(),
            origin: ORIGIN.to_owned(),
        })
        .collect();
    let stored = client.put_stream(futures_util::stream::iter(parts)).await?.into_inner();
    println!("PutStream {LARGE} bytes, transaction {}", stored.txid);

    let wanted = GetRequest { filename: "large.bin".to_owned(), origin: ORIGIN.to_owned() };
    let mut parts = client.get_stream(wanted).await?.into_inner();
    let mut fetched = Vec::new();
    while let Some(part) = parts.message().await? {
        fetched.extend_from_slice(&part.content);
    }
    println!("GetStream {} bytes", fetched.len());
    if fetched == content { Ok(()) } else { Err("what was fetched is not what was stored".into()) }
}
