//! Acknowledgements: what asks for one is answered at once, over the path it came by, and what we asked for is told to the
//! bond that asked. Only for peers and networks that a shard knows; the rest is the control plane's.
// spec: bonding, "Probing, liveness, loss"; wire, "OK(EXT_FRAME)"

use rand::Rng;
use wire::message::{InRe, OkMessage};
use wire::packet::{HDR_LEN, Packet, Suite, header};
use wire::{Address, NetworkId, Verb};

use crate::activity::Received;
use crate::egress::Egress;
use crate::{Path, Shard};

/// Bytes of an OK(EXT_FRAME).
const OK_LEN: usize = HDR_LEN + InRe::LEN + 8;

impl Shard {
    /// An OK of a peer. False if it answers nothing that this shard's bonds sent: then somebody else knows what to do.
    pub(crate) fn acked(&mut self, path: Path, sender: Address, from: Received, packet: &[u8]) -> bool {
        let Some(peer) = self.tables.peers.get_mut(&sender) else { return false };
        let Some(bond) = &mut peer.bond else { return false };
        let Ok(view) = Packet::new(packet) else { return false };
        let Ok(ok) = OkMessage::parse(view.payload()) else { return false };
        let ours = ok.in_re.verb == Verb::ExtFrame as u8 && !view.compressed();
        if !ours || !bond.acked(from.now.mono_us, ok.in_re.packet_id, path, &mut self.counters) {
            return false;
        }
        bond.enlist(sender, &mut self.tables.bonds);
        self.heard(path, sender, from);
        true
    }

    /// An EXT_FRAME without payload that asks for acknowledgement: it probes its path. False if it is not for a shard.
    pub(crate) fn probed(
        &mut self,
        path: Path,
        sender: Address,
        from: Received,
        network: NetworkId,
        out: &mut impl Egress,
    ) -> bool {
        let admitted = self.tables.networks.get(&network).is_some_and(|known| known.admits(sender));
        if !admitted || !self.may_answer(sender) {
            return false;
        }
        let Some(peer) = self.tables.peers.get(&sender) else { return false };
        if peer.keys.first_time(from.packet_id) {
            self.heard(path, sender, from);
        } else {
            self.counters.duplicate += 1;
        }
        self.acknowledge(path, sender, from.packet_id, network, out);
        true
    }

    /// Whether answers to a peer can be sealed here.
    pub(crate) fn may_answer(&self, to: Address) -> bool {
        let peer = self.tables.peers.get(&to);
        peer.is_some_and(|peer| matches!(peer.suite, Suite::Salsa2012Poly1305 | Suite::AesGmacSiv))
    }

    /// Answers, as the control plane would: one answer for each that asks.
    pub(crate) fn acknowledge(
        &mut self,
        Path { socket, remote }: Path,
        to: Address,
        packet_id: u64,
        network: NetworkId,
        out: &mut impl Egress,
    ) {
        let Some(peer) = self.tables.peers.get(&to) else { return };
        let Some(buffer) = out.udp(socket, remote, OK_LEN) else {
            self.counters.no_buffer += 1;
            return;
        };
        buffer[..HDR_LEN].copy_from_slice(&header(self.ids.next_u64(), to, self.own, Verb::Ok as u8));
        buffer[HDR_LEN] = Verb::ExtFrame as u8;
        buffer[HDR_LEN + 1..HDR_LEN + InRe::LEN].copy_from_slice(&packet_id.to_be_bytes());
        buffer[HDR_LEN + InRe::LEN..].copy_from_slice(&network.0.to_be_bytes());
        peer.keys.seal(buffer, peer.suite);
        self.counters.bond_answers += 1;
    }

    /// A packet that is no frame came over a path.
    fn heard(&mut self, path: Path, sender: Address, from: Received) {
        let Some(peer) = self.tables.peers.get_mut(&sender) else { return };
        if peer.ledger(sender, &mut self.tables.active).received(path, from).is_err() {
            self.counters.activity_full += 1;
        }
    }
}
