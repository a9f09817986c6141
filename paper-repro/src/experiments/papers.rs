//! Numbers that the papers publish: P1 = PVLDB 15(1), P2 = CIDR 2022. Other hardware, no replication, no durability.

use super::{Published, PublishedShape};

/// C1: FIFO throughput with a sub-millisecond tail, per second.
pub const FIFO_PER_S: f64 = 750_000.0;
/// C1: median at a million tasks offered, µs.
pub const FIFO_P50_US: f64 = 200.0;
/// C2: with a sub-millisecond tail after tuning, per second; 40 partitions on 2 servers.
pub const FIFO_TUNED_PER_S: f64 = 1_000_000.0;
/// C5: share of gRPC's ping-pong throughput: 24 to 49 % lower.
pub const PING_PONG_OF_GRPC: (f64, f64) = (0.51, 0.76);
/// C5: median latency against gRPC's.
pub const PING_PONG_P50_OF_GRPC: (f64, f64) = (1.3, 2.5);
/// C6: ping20-pong20 against gRPC, up to.
pub const BATCH_OF_GRPC: f64 = 2.7;
/// C7: fan-out to 40 against gRPC.
pub const FAN_OUT_OF_GRPC: f64 = 2.3;
/// C7: its median latency against gRPC's: 64 % lower.
pub const FAN_OUT_P50_OF_GRPC: f64 = 0.36;
/// C9: µs of a create, DBOS and ext4 (`touch`, so with a process started).
pub const CREATE_US: (f64, f64) = (67.48, 656.78);
/// C10: ms of the aggregate, SQL and C++.
pub const AGGREGATE_US: (f64, f64) = (650.0, 9_900.0);
/// C10: lines of the aggregate, SQL and C++.
pub const AGGREGATE_LINES: (f64, f64) = (2.0, 98.0);
/// C11: 25 Gbit/s, which four clients filled, MiB/s.
pub const NETWORK_MIB_S: f64 = 25e9 / 8.0 / (1 << 20) as f64;
/// C12: share of transactions over several partitions that halves throughput.
pub const HALVED_AT: f64 = 0.001;

pub fn level(label: &'static str, value: f64) -> Published {
    Published {
        label,
        shape: PublishedShape::Level(value),
    }
}

pub fn at(label: &'static str, x: f64, y: f64) -> Published {
    Published {
        label,
        shape: PublishedShape::At(x, y),
    }
}

pub fn times(label: &'static str, series: String, (from, to): (f64, f64)) -> Published {
    Published {
        label,
        shape: PublishedShape::TimesOf(series, from, to),
    }
}
