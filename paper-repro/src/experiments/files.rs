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
        kind: Kind::Fs { shape, size },
        connections: CONNECTIONS,
        in_flight,
        rate: None,
        duration: scale.duration(),
    }
}
