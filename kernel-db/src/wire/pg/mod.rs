//! PostgreSQL's wire protocol, towards clients.

pub mod backend;

pub use backend::{Backend, Bound, Column, ConnInfo, Lane, Notice, Outcome, Running, Statement};
