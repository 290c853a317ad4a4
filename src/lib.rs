//! Phylactery.
