//! Phylactery.
fn main() {}
