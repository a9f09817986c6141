//! How long this file system takes to make 4 KiB durable: the number that every durable benchmark leans on.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

const SAMPLES: usize = 200;

/// Microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub p50: u64,
    pub p99: u64,
}

/// Of fdatasyncs one after another, each after appending 4 KiB to a file in `folder`.
pub fn times(folder: &Path) -> std::io::Result<Times> {
    let mut file: File = tempfile::tempfile_in(folder)?;
    let block = [0x5a; 4096];
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        file.write_all(&block)?;
        let start = Instant::now();
        file.sync_data()?;
        samples.push(start.elapsed().as_micros() as u64);
    }
    samples.sort_unstable();
    Ok(Times {
        p50: samples[SAMPLES / 2],
        p99: samples[SAMPLES * 99 / 100],
    })
}
