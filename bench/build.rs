//! Compiles the peers' protocols without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/echo.proto", "proto/etcd.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
