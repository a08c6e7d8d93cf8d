//! `src/grpc/generated.rs` and `src/grpc/descriptors.bin` from `wizefs.proto`. With `--check` it only says whether they are
//! current.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEADER: &str = "//! Made from proto/wizefs.proto: cargo run --manifest-path proto/Cargo.toml\n\n";

fn main() -> Result<(), Box<dyn Error>> {
    // Of the checkout that runs it: clones that share a target folder share this program too.
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").ok_or("run it with cargo")?);
    let here = here.as_path();
    let room = here.join("../src/grpc");
    let made = [("generated.rs", code(here)?), ("descriptors.bin", descriptors(here)?)];
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    for (name, bytes) in made {
        let path = room.join(name);
        if !check {
            fs::write(&path, bytes)?;
        } else if fs::read(&path)? != bytes {
            let how = "cargo run --manifest-path proto/Cargo.toml";
            return Err(format!("src/grpc/{name} is not what proto/wizefs.proto says: {how}").into());
        }
    }
    Ok(())
}

/// Messages, client and server, as rustfmt writes them.
fn code(here: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let files =
        protox::Compiler::new([here])?.include_source_info(true).open_file("wizefs.proto")?.file_descriptor_set();
    let scratch = std::env::temp_dir().join(format!("wizefs-proto-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let build = tonic_prost_build::configure().bytes(".").out_dir(&scratch);
    build.compile_fds(files)?;
    let path = scratch.join("wizefsservice.rs");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{HEADER}{text}"))?;
    let config = here.join("..");
    let formatted =
        Command::new("rustfmt").args(["--edition", "2024", "--config-path"]).arg(config).arg(&path).status()?;
    if !formatted.success() {
        return Err("rustfmt failed".into());
    }
    let code = fs::read(&path)?;
    fs::remove_dir_all(&scratch)?;
    Ok(code)
}

/// What reflection tells: the shapes, without the comments.
fn descriptors(here: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(protox::Compiler::new([here])?.open_file("wizefs.proto")?.encode_file_descriptor_set())
}
