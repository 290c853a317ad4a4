//! The line protocol of MogileFS trackers: lines, arguments, requests, replies, and a small client.
//!
//! # What a line is
//!
//! Client and tracker exchange lines that end with LF; one CR before it belongs to the end. All
//! else is content, NUL and bytes beyond ASCII included. A client sends requests, the tracker
//! answers each, in their order, with one line: `OK <fields>` or `ERR <code> <text>`. A request that
//! begins with `!` is answered by many lines and then a single `.`. To an empty line there is no
//! answer.
//!
//! ```
//! use bytes::BytesMut;
//! use mogilefs_protocol::line::{Next, next_line};
//! use mogilefs_protocol::request::{Kind, parse};
//!
//! let mut received = BytesMut::from("Create_Open domain=photos&key=a+b%21\r\nnoop\r\nget_pa");
//! let Next::Line(line) = next_line(&mut received, 64 << 10) else { panic!("there is one") };
//! let Kind::Command(command) = parse(line.text()) else { panic!("it has a command") };
//! assert!(command.is("create_open"));
//! assert_eq!(command.args().get("key").as_deref(), Some(&b"a b!"[..]));
//! assert_eq!(line.raw(), &b"Create_Open domain=photos&key=a+b%21\r\n"[..]); // to be passed on
//!
//! let reply = mogilefs_protocol::reply::ok([("fid", &b"12"[..]), ("devid", b"1")]);
//! assert_eq!(reply, &b"OK fid=12&devid=1\r\n"[..]);
//! ```
//!
//! # What survives a round trip
//!
//! * A [`line::Line`] keeps every byte, its end included, and is never encoded again.
//! * [`args::Args`] keep order, repeats and the way in which a value was escaped.
//! * `unescape(escape(x)) == x` for any bytes; what a tracker escaped is escaped here in the same way.
//! * Written anew, a request or reply means the same, but need not be the same bytes: there are many
//!   ways to escape one value.
//!
//! # What is refused
//!
//! Almost nothing, as by the tracker: any line is a request of some [`request::Kind`]. A line
//! over the limit is [`line::Next::TooLong`]; a line that is neither OK nor ERR is
//! [`reply::NotAReply`]. Nothing that can be received causes a panic, and whatever is given to the
//! builders, they write one line.
//!
//! # What is here
//!
//! | module | bytes in, out |
//! | --- | --- |
//! | [`line`](mod@line) | a stream to lines |
//! | [`request`] | a line to a command and its arguments, and back |
//! | [`reply`] | a line to OK or ERR, lines to the answer of a `!` command, and back |
//! | [`args`] | `name=value&...` to arguments, with the tracker's rule for repeats |
//! | [`escape`] | any bytes to ASCII, and back |
//! | `codec` | feature `codec`: lines for `tokio_util::codec` |
//! | `client` | feature `client`: a typed asynchronous client of one tracker |
//!
//! Without features there are no sockets here, no clock, and no logging ever. Nothing here knows
//! what a command does.

pub mod args;
pub mod escape;
pub mod line;
pub mod reply;
pub mod request;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "codec")]
pub mod codec;

/// Runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
