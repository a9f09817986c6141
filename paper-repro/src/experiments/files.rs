//! What the experiments on files share.

use bench::Kind;
use bench::files::Shape;

use crate::action::Load;
use crate::scale::Scale;
use crate::systems::Durability::{Fsync, Memory};
use crate::systems::System;

const CONNECTIONS: u32 = 4;

/// Compared in every experiment on files.
pub fn systems() -> [System; 4] {
    [
        System::one(Fsync),
        System::Ext4 { fsync: true },
        System::one(Memory),
        System::Ext4 { fsync: false },
    ]
}

/// Operations on blocks of `size` bytes, or of the shape's own.
pub fn load(
    scale: Scale,
    system: System,
    shape: Shape,
    size: Option<usize>,
    in_flight: u32,
) -> Load {
    Load {
        system,
        kind: Kind::Fs {
            shape,
            size,
            cache_bytes: 0,
        },
        connections: CONNECTIONS,
        in_flight,
        rate: None,
        duration: scale.duration(),
    }
}

/// Bytes of the clients' read cache, where there is one: more than all files have.
const CACHE_BYTES: usize = 256 << 20;

/// As the report names a cluster's clients that cache.
pub fn cached_name(system: &System) -> String {
    format!("{}, client cache", system.name())
}

/// The same through a read cache.
pub fn cached(load: Load) -> Load {
    let kind = match load.kind {
        Kind::Fs { shape, size, .. } => Kind::Fs {
            shape,
            size,
            cache_bytes: CACHE_BYTES,
        },
        other => other,
    };
    Load { kind, ..load }
}
