//! Who listens to a network: members by their last request, and the revocations they have to be told. It outlives the
//! network's record, because those who were members must still be told that it is gone. Decides nothing about admission.
// spec: controller, "Unsolicited updates"

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use foldhash::fast::RandomState;
use wire::credential::{CredentialKind, Revocation};
use wire::message::Credentials;
use wire::{Address, NetworkId, Now, SecretIdentity};

use crate::constants::{MULTICAST_AUTHORISATION_MS, ONLINE_MS, REVOCATIONS_MAX, REVOCATIONS_PER_PACKET};

/// What is remembered of a member between its requests, in memory only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listener {
    /// Its last genuine request.
    pub seen: Now,
    /// Where that came from; none if it was relayed.
    pub physical: Option<SocketAddr>,
    /// Metadata of that request, for unsolicited configurations.
    pub metadata: Vec<u8>,
    /// The last genuine request that was granted, monotonic ms.
    pub granted_ms: Option<u64>,
    /// The last configuration sent, monotonic ms.
    pub configured_ms: Option<u64>,
    /// Revocations up to this one were told.
    told: u64,
}

impl Listener {
    pub fn is_online(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen.ms()) < ONLINE_MS
    }

    /// It may hold a certificate, and listens.
    fn is_member(&self, now_ms: u64) -> bool {
        self.granted_ms.is_some_and(|at| now_ms.saturating_sub(at) < ONLINE_MS)
    }

    pub fn may_use_registry(&self, now_ms: u64) -> bool {
        self.configured_ms.is_some_and(|at| now_ms.saturating_sub(at) < MULTICAST_AUTHORISATION_MS)
    }
}

#[derive(Clone, Debug)]
struct Revoked {
    number: u64,
    at_ms: u64,
    /// Signed when it is told for the first time.
    revocation: Revocation,
}

/// All listeners of one network.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    listeners: HashMap<Address, Listener, RandomState>,
    revoked: VecDeque<Revoked>,
    /// Revocations so far.
    count: u64,
}

impl Audience {
    pub fn get(&self, member: Address) -> Option<&Listener> {
        self.listeners.get(&member)
    }

    pub fn get_mut(&mut self, member: Address) -> Option<&mut Listener> {
        self.listeners.get_mut(&member)
    }

    pub fn entry(&mut self, member: Address) -> &mut Listener {
        self.listeners.entry(member).or_default()
    }

    /// Members that are online and may hold certificates.
    pub fn members(&self, now_ms: u64) -> impl Iterator<Item = Address> + '_ {
        self.listeners.iter().filter(move |(_, l)| l.is_member(now_ms)).map(|(&address, _)| address)
    }

    /// Notes that `target` lost its membership. True if an older revocation had to be forgotten for it.
    // spec: controller, "Revocation"
    pub fn revoke(&mut self, network: NetworkId, target: Address, threshold_ms: u64, id: u32, now_ms: u64) -> bool {
        let revocation = Revocation {
            id,
            network,
            credential_id: 0,
            threshold: threshold_ms as i64,
            flags: Revocation::FAST_PROPAGATE,
            target,
            signer: network.controller(),
            kind: CredentialKind::Com as u8,
            signature: None,
        };
        self.count += 1;
        self.revoked.push_back(Revoked { number: self.count, at_ms: now_ms, revocation });
        let is_full = self.revoked.len() > REVOCATIONS_MAX;
        if is_full {
            self.revoked.pop_front();
        }
        is_full
    }

    /// `target` is a member again: its new certificates are above any threshold, nobody needs to be told any more.
    pub fn reinstate(&mut self, target: Address) {
        self.revoked.retain(|r| r.revocation.target != target);
    }

    /// There is a revocation that `member` was not told of.
    pub fn has_news_for(&self, member: Address) -> bool {
        let newest = self.revoked.back().map_or(0, |r| r.number);
        self.listeners.get(&member).is_some_and(|l| l.told < newest)
    }

    /// The next revocations that `member` was not told of, as one NETWORK_CREDENTIALS payload; they count as told.
    pub fn news_for(&mut self, member: Address, signer: &SecretIdentity) -> Option<Vec<u8>> {
        let listener = self.listeners.get_mut(&member)?;
        let (mut news, told) = (Credentials::default(), listener.told);
        for revoked in self.revoked.iter_mut().filter(|r| r.number > told).take(REVOCATIONS_PER_PACKET) {
            if revoked.revocation.signature.is_none() {
                revoked.revocation.sign(signer);
            }
            listener.told = revoked.number;
            news.revocations.push(revoked.revocation.clone());
        }
        if news.revocations.is_empty() {
            return None;
        }
        let mut payload = Vec::new();
        news.write(&mut payload);
        Some(payload)
    }

    /// Forgets revocations older than the window (certificates of before agree with nobody's any more), metadata of
    /// members that are offline, and altogether those of them that have no record.
    pub fn sweep(&mut self, now_ms: u64, window_ms: u64, has_record: impl Fn(Address) -> bool) {
        while self.revoked.front().is_some_and(|r| now_ms.saturating_sub(r.at_ms) > window_ms) {
            self.revoked.pop_front();
        }
        self.listeners.retain(|&address, listener| {
            let is_online = listener.is_online(now_ms);
            if !is_online {
                listener.metadata = Vec::new();
            }
            is_online || has_record(address)
        });
    }

    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }
}
