//! Files: one operation is one file created, or one block of 4 KiB written or read at random.

use std::rc::Rc;

use anyhow::bail;
use dbfs::{FileKind, Fs};
use dbos_client::Client;

use crate::run::{Operation, Prepared, expect_equal};

const USERS: i64 = 16;
const FILES_PER_USER: i64 = 16;
const BLOCKS_PER_FILE: u64 = 64;
const BLOCK: usize = 4096;
