//! Phylactery.
pub mod tracker;
