//! wizefs: folders whose history you can prove. This package is the node: the command line, the services, and the one
//! place where file systems (`wizefs-fs`) and the ledger (`wizefs-ledger`) meet.
//!
//! ```text
//! cli -> cmd -> client -> rest -> node -> { registry, notary -> ledger } , { buckets of wizefs-fs }
//! ```
//!
//! A command is always a client of the same routes, over the socket of the running node or inside its own process.

pub mod background;
pub mod cli;
pub mod client;
pub mod cmd;
pub mod config;
mod connections;
pub mod error;
pub mod fstab;
pub mod grpc;
pub mod interrupt;
pub mod metrics;
pub mod name;
pub mod node;
pub mod notary;
pub mod offline;
pub mod passphrase;
pub mod registry;
pub mod rest;
pub mod root;
pub mod server;
pub mod slice;
pub mod socket;
pub mod supervisor;
pub mod terminal;
pub mod tls;
pub mod trace;
pub mod verify;
pub mod wallets;
