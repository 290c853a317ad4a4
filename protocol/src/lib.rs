//! The line protocol of MogileFS trackers: lines, arguments, requests, replies, and a small client.

pub mod args;
pub mod escape;
pub mod line;
pub mod reply;
pub mod request;
