//! What this machine's disk and loopback can do: the bounds for parallel files.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::action::{Action, Outcome};
use crate::record::Row;

const CHUNK: usize = 1 << 20;

/// Sequential writes of 1 MiB to a new file, made durable at the end, MiB/s.
pub fn disk(x: f64, duration: Duration) -> Action {
    Box::new(move |systems| {
        let chunks_in = |folder: &Path| -> std::io::Result<(u64, Duration)> {
            let path = folder.join("probe");
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            let (start, data) = (Instant::now(), vec![7; CHUNK]);
            let mut chunks = 0;
            while start.elapsed() < duration {
                file.write_all(&data)?;
                // In steps, so that the last one is not the whole of it.
                if chunks % 16 == 15 {
                    file.sync_data()?;
                }
                chunks += 1;
            }
            file.sync_data()?;
            let elapsed = start.elapsed();
            std::fs::remove_file(path)?;
            Ok((chunks, elapsed))
        };
        let (chunks, elapsed) = chunks_in(systems.folder())?;
        Ok(outcome(
            x,
            chunks,
            elapsed,
            "written and fdatasync every 16 MiB",
        ))
    })
}

/// One TCP connection over loopback, 1 MiB at a time, MiB/s.
pub fn loopback(x: f64, duration: Duration) -> Action {
    Box::new(move |_| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut sender = TcpStream::connect(listener.local_addr()?)?;
        let (mut receiver, _) = listener.accept()?;
        let reader = std::thread::spawn(move || -> std::io::Result<u64> {
            let (mut total, mut data) = (0, vec![0; CHUNK]);
            loop {
                match receiver.read(&mut data)? {
                    0 => return Ok(total),
                    n => total += n as u64,
                }
            }
        });
        let (start, data) = (Instant::now(), vec![7; CHUNK]);
        while start.elapsed() < duration {
            sender.write_all(&data)?;
        }
        drop(sender);
        let received = reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        Ok(outcome(
            x,
            received / CHUNK as u64,
            start.elapsed(),
            "one TCP connection",
        ))
    })
}

fn outcome(x: f64, chunks: u64, elapsed: Duration, version: &str) -> Outcome {
    Outcome {
        rows: vec![Row {
            x,
            count: chunks,
            value: chunks as f64 / elapsed.as_secs_f64(),
            ..Row::default()
        }],
        version: version.into(),
        latency: None,
        errors: Vec::new(),
    }
}
