//! Generates the protobuf types from `proto/` with a compiler written in Rust, so that no `protoc`
//! binary is needed.

use std::error::Error;

const FILES: [&str; 6] = [
    "authpb.proto",
    "etcdserverpb.proto",
    "health.proto",
    "mvccpb.proto",
    "v3electionpb.proto",
    "v3lockpb.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new()
        // Keys and values stay slices of the receive buffer.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
