//! What a shard does for its bonds besides passing frames: lets go what waited, and reports.

use wire::{Address, Now};

use super::{Bonds, Turn};
use crate::Shard;
use crate::activity::Report;
use crate::egress::Egress;
use crate::seal::Sealer;
use crate::tables::{Peer, Tables};

impl Shard {
    /// Lets go what waited for its path and is due now. To be called at the end of each batch, and when
    /// [`Shard::next_due_us`] says so.
    pub fn poll(&mut self, now: Now, out: &mut impl Egress) {
        self.now_us = now.mono_us;
        if self.tables.bonds.queued.is_empty() {
            return;
        }
        let mut queued = std::mem::take(&mut self.tables.bonds.queued);
        queued.retain(|&address| self.poll_bond(now, address, out));
        // Nobody was enlisted meanwhile.
        self.tables.bonds.queued = queued;
    }

    fn poll_bond(&mut self, now: Now, address: Address, out: &mut impl Egress) -> bool {
        let Shard { own, tables, ids, scratch, counters, .. } = self;
        let Some(peer) = tables.peers.get_mut(&address) else { return false };
        let Peer { keys, suite, route, bond, ledger, .. } = peer;
        let Some(bonded) = bond else { return false };
        let Some(route) = route.or(bonded.any_route()) else {
            // Nothing leads there any more.
            bonded.discard(&mut tables.bonds.pool, counters);
            return false;
        };
        let mut sealer = Sealer { own: *own, ids, scratch: &mut scratch[..], counters };
        let ledger = (ledger, &mut tables.active);
        let bonds = &mut tables.bonds;
        let mut turn = Turn { now_us: now.mono_us, address, route, sealer: &mut sealer, bonds, ledger, out };
        let waits = bonded.poll(&mut turn, keys, *suite);
        bonded.enlist(address, bonds);
        if bonded.is_ended() {
            bonded.discard(&mut bonds.pool, counters);
            bonds.forget(address);
            *bond = None;
            return false;
        }
        waits
    }

    /// Whether something waits for [`Shard::poll`].
    pub fn has_waiting(&self) -> bool {
        !self.tables.bonds.queued.is_empty()
    }

    /// When [`Shard::poll`] has something to do, us of the monotonic clock. None: not before something else happens.
    pub fn next_due_us(&self) -> Option<u64> {
        let bonds = self.tables.bonds.queued.iter().filter_map(|address| self.tables.peers.get(address)?.bond.as_ref());
        bonds.filter_map(|bond| bond.next_us()).min()
    }

    /// Whether there is something for [`Shard::bond_tick`] to report.
    pub fn has_bond_news(&self) -> bool {
        !self.tables.bonds.news.is_empty() || !self.tables.told.is_empty()
    }

    /// Whether packets are kept that must be forgotten in time: [`Shard::tick`] does.
    pub fn keeps_packets(&self) -> bool {
        !self.tables.bonds.keeping.is_empty() || !self.tables.bonds.pool.is_bare()
    }

    /// Appends to `report` what was seen of the paths of peers that we bond with, and what came of peers that are told. Some
    /// 5 ms after there is news.
    pub fn bond_tick(&mut self, now: Now, report: &mut Report) {
        let Tables { peers, bonds, told, .. } = &mut self.tables;
        for address in told.drain(..) {
            if let Some(peer) = peers.get_mut(&address) {
                peer.ledger.drain_receipts(now, address, report);
            }
        }
        for address in bonds.news.drain(..) {
            if let Some(bond) = peers.get_mut(&address).and_then(|peer| peer.bond.as_mut()) {
                bond.report(now.mono_us, address, report);
            }
        }
    }
}

impl Bonds {
    /// A peer is gone.
    pub(crate) fn forget(&mut self, address: Address) {
        for list in [&mut self.queued, &mut self.news, &mut self.keeping] {
            list.retain(|&listed| listed != address);
        }
    }
}

impl Tables {
    /// Forgets what was kept long enough.
    pub(crate) fn tidy_bonds(&mut self, now: Now) {
        let Tables { peers, bonds, .. } = self;
        bonds.pool.tick();
        bonds.keeping.retain(|address| {
            let bond = peers.get_mut(address).and_then(|peer| peer.bond.as_mut());
            bond.is_some_and(|bond| bond.expire(now.mono_us))
        });
    }
}
