//! Bytes to packets and back: verbs, fragments, cipher suites, identities, worlds, dictionaries.
//!
//! Everything here is pure. Time and randomness are arguments; nothing here knows a socket, a thread or a clock.
//! Each file is one part of the ZeroTier V1 wire format and cites the section of docs/ZEROTIER_STACK.md it honours.

// The poly1305 crate built without AVX2 pays a microsecond for every packet.
#[cfg(all(target_arch = "x86_64", not(target_feature = "avx2"), not(poly1305_backend = "soft"), not(doc)))]
compile_error!(
    "build with `-C target-cpu=x86-64-v3` (see .cargo/config.toml; RUSTFLAGS overrides it), \
     or for older processors with `--cfg poly1305_backend=\"soft\"`"
);

pub mod address;
pub mod chunk;
pub mod compress;
pub mod credential;
pub mod dictionary;
pub mod endpoint;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod identity;
pub mod keys;
pub mod message;
pub mod packet;
pub mod raw;
pub mod read;
pub mod recent;
pub mod rule;
pub mod simd;
pub mod time;
pub mod verb;
pub mod world;

pub use address::{Address, Mac, MulticastGroup, NetworkId};
pub use chunk::ConfigChunk;
pub use credential::{Capability, Com, Ownership, Revocation, Tag};
pub use dictionary::{Dictionary, DictionaryWriter};
pub use endpoint::{Prefix, Scope};
pub use identity::{Identity, IdentityError, SecretIdentity, Signature};
pub use keys::{Keys, OpenError, SharedKey};
pub use packet::{Datagram, Fragment, Packet, Suite, classify};
pub use read::{Malformed, Reader};
pub use rule::{Rule, RuleKind, RuleTable};
pub use simd::Backend;
pub use time::Now;
pub use verb::Verb;
pub use world::{DEFAULT_PLANET, Root, World, WorldKind};
