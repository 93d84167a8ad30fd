//! Bytes to packets and back: verbs, fragments, cipher suites, identities, worlds, dictionaries.
//!
//! Everything here is pure. Time and randomness are arguments; nothing here knows a socket, a thread or a clock.
//! Each file is one part of the ZeroTier V1 wire format and cites the section of docs/ZEROTIER_STACK.md it honours.

pub mod address;
pub mod read;
pub mod time;

pub use address::{Address, Mac, MulticastGroup, NetworkId};
pub use read::{Malformed, Reader};
pub use time::Now;
