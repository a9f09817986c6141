//! The papers' opponent of the aggregate query: a walk over a tree of files.

use std::fs;
use std::path::Path;

use crate::files::AGGREGATE_MIN;

/// Adds the sizes of files of at least [`AGGREGATE_MIN`] bytes.
pub(crate) fn aggregate(folder: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            sum += aggregate(&entry.path())?;
        } else if metadata.len() >= AGGREGATE_MIN {
            sum += metadata.len();
        }
    }
    Ok(sum)
}
