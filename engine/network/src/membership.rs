//! What is on record about one member of one network: its credentials, what was revoked, and the verdict of the gate.
//! Must never know how credentials arrive, and never looks at a clock to judge one: timestamps of the controller are
//! compared with each other only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use wire::credential::{Capability, Com, CredentialKind, CustodyError, Ownership, Revocation, Tag};
use wire::rule::Rule;
use wire::{Address, Identity, Mac, NetworkId};

use crate::config::Config;
use crate::constants::{CAPABILITIES_MAX, LIKE_PERIOD_MS, MEMBER_IDLE_MS, OWNERSHIPS_MAX, TAGS_MAX, THRESHOLDS_MAX};
use crate::rules::Claims;

/// Something a controller signed about a member.
#[derive(Clone, Copy, Debug)]
pub enum Credential<'a> {
    /// Certificate of membership.
    Com(&'a Com),
    /// Capability.
    Capability(&'a Capability),
    /// Tag.
    Tag(&'a Tag),
    /// Certificate of ownership.
    Ownership(&'a Ownership),
    /// Revocation of one of the others.
    Revocation(&'a Revocation),
}

/// Whether a credential's signatures hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// They do.
    Good,
    /// They do not.
    Bad,
    /// It takes this identity to tell.
    Unknown(Address),
}

/// What became of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Stored.
    New,
    /// Already on record.
    Redundant,
    /// Revoked, older than what is held, not signed by the controller, or no room for it.
    Rejected,
    /// It takes this identity to tell.
    Unknown(Address),
}

impl Credential<'_> {
    /// The network it is for.
    pub fn network(&self) -> NetworkId {
        match self {
            Credential::Com(c) => c.network(),
            Credential::Capability(c) => c.network,
            Credential::Tag(t) => t.network,
            Credential::Ownership(o) => o.network,
            Credential::Revocation(r) => r.network,
        }
    }

    /// The member under whose address it is filed, whoever delivered it.
    pub fn member(&self) -> Address {
        match self {
            Credential::Com(c) => c.issued_to(),
            Credential::Capability(c) => c.issued_to(),
            Credential::Tag(t) => t.issued_to,
            Credential::Ownership(o) => o.issued_to,
            Credential::Revocation(r) => r.target,
        }
    }

    /// Checks the signatures. `identity` looks signers up.
    pub fn verify(&self, identity: impl Fn(Address) -> Option<Arc<Identity>>) -> Signed {
        let controller = self.network().controller();
        let by_controller = |verify: &dyn Fn(&Identity) -> bool, signer| {
            if signer != controller {
                return Signed::Bad;
            }
            match identity(controller) {
                None => Signed::Unknown(controller),
                Some(known) if verify(&known) => Signed::Good,
                Some(_) => Signed::Bad,
            }
        };
        match self {
            Credential::Com(c) => by_controller(&|i| c.verify(i), c.signer),
            Credential::Tag(t) => by_controller(&|i| t.verify(i), t.signer),
            Credential::Ownership(o) => by_controller(&|i| o.verify(i), o.signer),
            Credential::Revocation(r) => by_controller(&|i| r.verify(i), r.signer),
            Credential::Capability(c) => {
                let signers: Vec<_> = c.custody.iter().filter_map(|link| identity(link.from)).collect();
                match c.verify(|address| signers.iter().find(|i| i.address() == address).map(Arc::as_ref)) {
                    Ok(()) => Signed::Good,
                    Err(CustodyError::Unknown(address)) => Signed::Unknown(address),
                    Err(CustodyError::Broken) => Signed::Bad,
                }
            }
        }
    }
}

/// The record of one member. // spec: networks, "Storing others' credentials"
#[derive(Debug, Default)]
pub struct Membership {
    com: Option<Com>,
    com_threshold: i64,
    thresholds: BTreeMap<(u8, u32), i64>,
    tags: BTreeMap<u32, Tag>,
    capabilities: BTreeMap<u32, Capability>,
    ownerships: BTreeMap<u32, Ownership>,
    /// Who the verdict is about.
    identity: Option<Identity>,
    allowed: bool,
    pub(crate) told_allowed: bool,
    /// Which of our configurations our credentials were shown from, and when.
    pub(crate) pushed: Option<(u64, u64)>,
    pub(crate) liked_ms: Option<u64>,
    pub(crate) heard_ms: u64,
}

impl Membership {
    pub(crate) fn heard(self, now_ms: u64) -> Membership {
        Membership { heard_ms: now_ms, ..self }
    }

    /// Files a credential of this member. Revoked, old and repeated ones are told apart before a signature is checked.
    pub fn accept(&mut self, credential: &Credential<'_>, verify: impl FnOnce() -> Signed) -> Acceptance {
        match credential {
            Credential::Com(com) => self.accept_com(com, verify),
            Credential::Tag(t) => {
                let threshold = self.threshold(CredentialKind::Tag, t.id);
                store(&mut self.tags, TAGS_MAX, threshold, (t.id, *t), |t| t.timestamp, verify)
            }
            Credential::Capability(c) => {
                let threshold = self.threshold(CredentialKind::Capability, c.id);
                store(&mut self.capabilities, CAPABILITIES_MAX, threshold, (c.id, *c), |c| c.timestamp, verify)
            }
            Credential::Ownership(o) => {
                let threshold = self.threshold(CredentialKind::Ownership, o.id);
                store(&mut self.ownerships, OWNERSHIPS_MAX, threshold, (o.id, *o), |o| o.timestamp, verify)
            }
            Credential::Revocation(revocation) => self.accept_revocation(revocation, verify),
        }
    }

    fn accept_com(&mut self, com: &Com, verify: impl FnOnce() -> Signed) -> Acceptance {
        let timestamp = com_timestamp(com);
        let held = self.com.as_ref();
        if timestamp <= self.com_threshold || held.is_some_and(|h| timestamp < com_timestamp(h)) {
            return Acceptance::Rejected;
        }
        if held == Some(com) {
            return Acceptance::Redundant;
        }
        when_good(verify(), || self.com = Some(com.clone()))
    }

    /// A threshold never goes down, and one kind's never moves another's. // spec: networks, "Traps and hardening"
    fn accept_revocation(&mut self, revocation: &Revocation, verify: impl FnOnce() -> Signed) -> Acceptance {
        let Some(kind) = CredentialKind::from_u8(revocation.kind) else { return Acceptance::Rejected };
        if kind == CredentialKind::Com {
            if revocation.threshold <= self.com_threshold {
                return Acceptance::Redundant;
            }
            return when_good(verify(), || self.com_threshold = revocation.threshold);
        }
        let key = (kind as u8, revocation.credential_id);
        match self.thresholds.get(&key) {
            Some(&held) if revocation.threshold <= held => Acceptance::Redundant,
            None if self.thresholds.len() >= THRESHOLDS_MAX => Acceptance::Rejected,
            _ => when_good(verify(), || {
                self.thresholds.insert(key, revocation.threshold);
            }),
        }
    }

    /// Judges the member anew: after every change of our configuration, of its credentials, or of whom we take it for.
    /// Returns whether it may talk to us. // spec: networks, "The gate: may this peer talk to us on this network"
    pub fn judge(&mut self, config: Option<&Config>) -> bool {
        self.allowed = config.is_some_and(|config| config.public || self.agrees(config));
        self.allowed
    }

    fn agrees(&self, config: &Config) -> bool {
        let (Some(ours), Some(theirs), Some(identity)) = (&config.com, &self.com, &self.identity) else { return false };
        com_timestamp(theirs) > self.com_threshold && ours.agrees_with(theirs, identity)
    }

    /// Notes whom we take this member for.
    pub fn is(&mut self, identity: &Identity) {
        if self.identity.as_ref() != Some(identity) {
            self.identity = Some(identity.clone());
        }
    }

    /// Whom we take this member for.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The last verdict: this member may talk to us.
    pub fn allowed(&self) -> bool {
        self.allowed
    }

    /// Its certificate of membership.
    pub fn com(&self) -> Option<&Com> {
        self.com.as_ref()
    }

    /// Certificates of membership issued at this time, ms of the controller's clock, or before are revoked.
    pub fn com_threshold(&self) -> i64 {
        self.com_threshold
    }

    /// Its tags, capabilities and ownerships as far as they count under this configuration.
    pub fn usable<'a>(&'a self, config: &'a Config) -> Usable<'a> {
        Usable { member: self, config }
    }

    /// Nothing that a controller signed is on record.
    pub(crate) fn is_hollow(&self) -> bool {
        self.com.is_none()
            && self.com_threshold == 0
            && self.thresholds.is_empty()
            && self.tags.is_empty()
            && self.capabilities.is_empty()
            && self.ownerships.is_empty()
    }

    pub(crate) fn like_due(&self, now_ms: u64) -> bool {
        self.liked_ms.is_none_or(|at| now_ms.saturating_sub(at) >= LIKE_PERIOD_MS)
    }

    /// Nothing is lost by forgetting it: unheard for long, not allowed by a certificate, and no revocation on record that
    /// could still bar one. // spec: networks, "Storing others' credentials"
    pub(crate) fn is_spent(&self, now_ms: u64, config: Option<&Config>) -> bool {
        if now_ms.saturating_sub(self.heard_ms) < MEMBER_IDLE_MS {
            return false;
        }
        let Some(config) = config else { return false };
        let window = config.com.as_ref().and_then(|c| c.qualifier(Com::TIMESTAMP)).map_or(0, |q| q.max_delta);
        let oldest = |window: u64| i128::from(config.timestamp) - i128::from(window);
        let bars_com = self.com_threshold != 0 && i128::from(self.com_threshold) >= oldest(window);
        let bars_others = self.thresholds.values().any(|&t| i128::from(t) >= oldest(config.credential_window_ms));
        !bars_com && !bars_others && (config.public || !self.allowed)
    }

    fn threshold(&self, kind: CredentialKind, id: u32) -> Option<i64> {
        self.thresholds.get(&(kind as u8, id)).copied()
    }

    fn counts(&self, config: &Config, kind: CredentialKind, id: u32, timestamp: i64) -> bool {
        config.accepts_timestamp(timestamp) && self.threshold(kind, id).is_none_or(|t| timestamp > t)
    }
}

/// What a member may claim under a configuration of ours.
#[derive(Clone, Copy, Debug)]
pub struct Usable<'a> {
    member: &'a Membership,
    config: &'a Config,
}

impl<'a> Usable<'a> {
    /// Ids and values of its tags.
    pub fn tags(self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let Usable { member, config } = self;
        let counts = move |t: &&Tag| member.counts(config, CredentialKind::Tag, t.id, t.timestamp);
        member.tags.values().filter(counts).map(|t| (t.id, t.value))
    }

    /// Rules of its capabilities, by ascending id.
    pub fn capabilities(self) -> impl Iterator<Item = &'a [Rule]> {
        let Usable { member, config } = self;
        let counts = move |c: &&Capability| member.counts(config, CredentialKind::Capability, c.id, c.timestamp);
        member.capabilities.values().filter(counts).map(|c| c.rules.rules())
    }

    pub(crate) fn ownerships(self) -> impl Iterator<Item = &'a Ownership> {
        let Usable { member, config } = self;
        let counts = move |o: &&Ownership| member.counts(config, CredentialKind::Ownership, o.id, o.timestamp);
        member.ownerships.values().filter(counts)
    }
}

impl Claims for Usable<'_> {
    fn tag(&self, id: u32) -> Option<u32> {
        let tag = self.member.tags.get(&id)?;
        self.member.counts(self.config, CredentialKind::Tag, id, tag.timestamp).then_some(tag.value)
    }

    fn owns_ip(&self, ip: IpAddr) -> bool {
        self.ownerships().any(|o| o.owns(ip))
    }

    fn owns_mac(&self, mac: Mac) -> bool {
        self.ownerships().any(|o| o.owns(mac))
    }
}

fn store<T: PartialEq + Clone>(
    held: &mut BTreeMap<u32, T>,
    most: usize,
    threshold: Option<i64>,
    (id, new): (u32, &T),
    timestamp: impl Fn(&T) -> i64,
    verify: impl FnOnce() -> Signed,
) -> Acceptance {
    match held.get(&id) {
        Some(old) if timestamp(new) < timestamp(old) => return Acceptance::Rejected,
        // Repeats cost nothing, also repeats of what was revoked since. // spec: networks, "Storing others' credentials"
        Some(old) if old == new => return Acceptance::Redundant,
        None if held.len() >= most => return Acceptance::Rejected,
        _ => {}
    }
    if threshold.is_some_and(|t| timestamp(new) <= t) {
        return Acceptance::Rejected;
    }
    when_good(verify(), || {
        held.insert(id, new.clone());
    })
}

fn when_good(signed: Signed, store: impl FnOnce()) -> Acceptance {
    match signed {
        Signed::Good => {
            store();
            Acceptance::New
        }
        Signed::Bad => Acceptance::Rejected,
        Signed::Unknown(address) => Acceptance::Unknown(address),
    }
}

/// Qualifiers are unsigned, thresholds signed: what does not fit is later than any threshold.
fn com_timestamp(com: &Com) -> i64 {
    i64::try_from(com.timestamp()).unwrap_or(i64::MAX)
}
