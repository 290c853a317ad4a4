//! Phylactery: every datacenter its own MogileFS, one ledger of all files that should exist, and a repair
//! loop that fetches what is missing. `ARCHITECTURE.md` is the map; `file` and `version` hold the words.

pub mod api;
pub mod cli;
pub mod config;
pub mod demo;
pub mod events;
pub mod failpoint;
pub mod file;
pub mod found;
pub mod journal;
pub mod ledger;
pub mod locks;
pub mod machine;
pub mod node;
pub mod placement;
pub mod proxy;
pub mod reach;
pub mod registration;
pub mod repair;
pub mod simulate;
pub mod split;
pub mod tracker;
pub mod trackers;
pub mod trust;
pub mod version;
