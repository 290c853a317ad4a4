//! Loopback addresses of a cluster's own, so that any number of test runs go on side by side, all with the same ports.
//!
//! Always true: whoever holds [`Addresses`] is the only one of this harness that uses them, on the whole machine: the claim is a
//! bound socket, which the kernel gives back when its process ends in whatever way.

use std::net::{Ipv4Addr, TcpListener};

/// The port for clients, of every node.
pub const NATIVE_PORT: u16 = 9042;
/// The port between nodes, of every node.
const STORAGE_PORT: u16 = 7000;
/// Nodes have the addresses 1, 2, 3 … of a block; the claim is the last one.
const CLAIM: u8 = 254;

/// A block of addresses, `127.77.B.*`.
#[derive(Debug)]
pub struct Addresses {
    block: u8,
    _claim: TcpListener,
}

impl Addresses {
    /// Claims a block in which nobody listens on the first `nodes` addresses.
    pub fn claim(nodes: usize) -> Result<Addresses, String> {
        // Two runs that start together begin at different places.
        let first = std::process::id();
        for step in 0..254 {
            let block = ((first + step) % 254 + 1) as u8;
            let Ok(claim) = TcpListener::bind((address(block, CLAIM), NATIVE_PORT)) else {
                continue;
            };
            let free = (0..nodes).all(|node| {
                [NATIVE_PORT, STORAGE_PORT]
                    .iter()
                    .all(|port| TcpListener::bind((address(block, host(node)), *port)).is_ok())
            });
            if free {
                return Ok(Addresses {
                    block,
                    _claim: claim,
                });
            }
        }
        Err(format!(
            "no block 127.77.*.1-{nodes} where ports {NATIVE_PORT} and {STORAGE_PORT} are free"
        ))
    }

    /// The address of a node.
    pub fn of(&self, node: usize) -> Ipv4Addr {
        address(self.block, host(node))
    }
}

fn host(node: usize) -> u8 {
    u8::try_from(node + 1).expect("a handful of nodes")
}

fn address(block: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, block, host)
}
