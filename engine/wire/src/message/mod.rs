//! Payloads, one file a family of verbs: what comes after the verb byte of a packet, decrypted and decompressed.
//!
//! Every message has `parse(payload)` and `write(&self, out)`. Parsing is total: bytes that do not fit are
//! [`Malformed`], never a panic. Offsets in the diagrams are payload offsets; integers are big-endian unless a file says
//! otherwise. Nothing here knows who may send what.

pub mod config;
pub mod credentials;
pub mod echo;
pub mod error;
pub mod frame;
pub mod hello;
pub mod multicast;
pub mod ok;
pub mod pact;
pub mod push_paths;
pub mod qos;
pub mod rendezvous;
pub mod user;
pub mod whois;

pub use config::ConfigRequest;
pub use credentials::Credentials;
pub use echo::Echo;
pub use error::{ErrorCode, ErrorMessage};
pub use frame::{ExtFrame, Frame, FrameCopy};
pub use hello::{Hello, HelloTail, Version, WorldRevision};
pub use multicast::{Gather, Gathered, Like, LikeRecords, MulticastFrame};
pub use ok::{OkExtFrame, OkGather, OkHello, OkMessage, OkMulticastFrame, OkNetworkConfig, OkWhois};
pub use pact::{Features, OrderMark, PACT_KIND, PactMessage, ReceiveReport};
pub use push_paths::{PathRecord, PathRecords, SpreadNat, SpreadOffer};
pub use qos::{Ack, PathNegotiation, QosMeasurement, QosRecord};
pub use rendezvous::Rendezvous;
pub use user::{RemoteTrace, UserMessage};
pub use whois::Whois;

use crate::address::Address;
use crate::read::{Malformed, Reader};
use crate::verb::Verb;

/// The first 9 bytes of every OK and ERROR: what they answer.
///
/// ```text
/// 0      1            9
/// +------+------------+
/// | verb | packet id  |
/// +------+------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InRe {
    /// Number of the request's verb, without flag bits.
    pub verb: u8,
    /// ID that the request had on the wire, after armouring.
    pub packet_id: u64,
}

impl InRe {
    /// Bytes on the wire.
    pub const LEN: usize = 9;

    /// What a reply to this request begins with.
    pub const fn new(verb: Verb, packet_id: u64) -> InRe {
        InRe { verb: verb as u8, packet_id }
    }

    /// The request's verb, if there is one of that number.
    pub const fn verb(&self) -> Option<Verb> {
        Verb::from_u8(self.verb)
    }

    fn read(r: &mut Reader<'_>) -> Result<InRe, Malformed> {
        Ok(InRe { verb: r.u8("in-re verb")?, packet_id: r.u64("in-re packet id")? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.verb);
        out.extend_from_slice(&self.packet_id.to_be_bytes());
    }
}

fn write_addresses(addresses: &[Address], out: &mut Vec<u8>) {
    addresses.iter().for_each(|a| out.extend_from_slice(&a.to_bytes()));
}
