//! Ports for servers that tests and benchmarks start on this machine.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
/// Linux deals out ports from 32,768 to clients: below them, a server that restarts finds its own free again.
const END: u16 = 32_000;

/// The first of `count` ports in a row that nobody listens on at 127.0.0.1. No two callers in this process get the same, as
/// long as fewer than 22,000 are asked for.
///
/// # Panics
/// If no such row is free.
pub fn free(count: u16) -> u16 {
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new(rand::random_range(FIRST..END)));
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for _ in FIRST..END {
        let after = |base: u16| {
            if base + 2 * count > END {
                FIRST
            } else {
                base + count
            }
        };
        let base = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |base| {
            Some(after(base))
        });
        let base = base.unwrap_or(FIRST);
        if (base..base + count).all(is_free) {
            return base;
        }
    }
    panic!("no {count} ports in a row are free on 127.0.0.1 from {FIRST} to {END}");
}
