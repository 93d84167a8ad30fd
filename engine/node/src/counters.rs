//! What happened and what was dropped, by cause. Everything that is thrown away anywhere in this crate is counted here;
//! the metrics page shows the table as it is.

macro_rules! numbers {
    ($(#[$what:meta])* $table:ident: $type:ty { $($(#[$doc:meta])* $name:ident;)* }) => {
        $(#[$what])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $table {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl $table {
            /// Every number by name, in the order of the table.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name as u64),)*].into_iter()
            }
        }
    };
}

numbers! {
    /// Counts since start. Each field is one cause.
    Counters: u64 {
        /// Datagrams given to the node.
        received_datagrams;
        /// Whole packets authenticated here or by a shard.
        received_packets;
        /// Datagrams handed out for sending.
        sent_datagrams;
        /// Datagrams forwarded for others.
        relayed;
        /// Remotes whose way was found narrower than configured.
        narrowed;
        /// The same, but there was no room to remember it.
        narrowed_full;
        /// Datagrams that are no packet: too short, beacons.
        dropped_not_a_packet;
        /// Source or destination address zero or reserved, or source is ourselves.
        dropped_bad_address;
        /// Undefined cipher suite.
        dropped_suite;
        /// A verb in clear that has no business being in clear.
        dropped_clear_verb;
        /// Trusted-path packet without matching configuration.
        dropped_untrusted_path;
        /// MAC wrong, or packet damaged.
        dropped_unauthenticated;
        /// Compressed payload that does not decompress.
        dropped_compression;
        /// Payload shorter or other than its verb demands.
        dropped_malformed;
        /// Packet ID seen before.
        dropped_repeat;
        /// Fragment refused: bad numbers, no room, disagreeing totals.
        dropped_fragment;
        /// Packets for others, and we relay for nobody.
        dropped_not_for_us;
        /// To be relayed, but too many hops already.
        relay_hop_limit;
        /// To be relayed, but the sender has no verified path here.
        relay_unverified_source;
        /// To be relayed, but its path sends too much.
        relay_over_rate;
        /// To be relayed, but nobody knows where to.
        relay_no_route;
        /// Introductions sent, two packets each.
        introductions;
        /// Introductions not made because there were too many.
        introductions_over_rate;
        /// HELLO with a protocol version we do not speak, or of another than its address.
        hello_refused;
        /// HELLO under a known address with another key.
        hello_collision;
        /// HELLO of a new identity over the gate of its prefix or of the node.
        hello_over_identity_gate;
        /// HELLO of a new identity while its proof is being checked or the worker's queue is full.
        hello_proof_queue_full;
        /// HELLO of a known identity that came too often to be answered.
        hello_over_rate;
        /// Identities whose proof of work is wrong.
        identity_proof_failed;
        /// Refused identities forgotten to make room for others.
        refused_forgotten;
        /// Packets of unknown senders not held: too many.
        waiting_full;
        /// Packets of unknown senders dropped because nobody knew the sender.
        waiting_timeout;
        /// WHOIS not sent because too many were.
        whois_over_rate;
        /// WHOIS of others over its gate.
        whois_answer_gated;
        /// OK(WHOIS) from somebody who is no upstream, or identities nobody asked for.
        whois_answer_refused;
        /// ECHO over the gate of its peer, its path or the node.
        echo_gated;
        /// OK to a packet we did not send, or sent too long ago, or had answered already.
        reply_unexpected;
        /// Entries pushed out of the table of expected replies.
        expected_full;
        /// Latency samples that were not believed.
        latency_refused;
        /// Addresses not taken as a path: scope, blacklist, overlay, root pinning.
        path_refused;
        /// Challenges not sent because too many were.
        challenge_over_rate;
        /// OK from an address that was not asked; challenged instead of learned.
        path_unproven;
        /// Slots thrown out for a new path.
        path_replaced;
        /// New paths not learned because every slot is better.
        path_no_slot;
        /// Paths found dead by missed probes while they carried traffic.
        path_suspected;
        /// RENDEZVOUS from a node that is no upstream.
        rendezvous_stranger;
        /// RENDEZVOUS over its gates.
        rendezvous_over_rate;
        /// RENDEZVOUS about a peer that nobody knew in time, or no room to hold it.
        rendezvous_dropped;
        /// Timed probes not scheduled: too many.
        timed_probes_full;
        /// Entries of PUSH_DIRECT_PATHS not probed: more than eight of their class.
        push_over_class;
        /// Entries of PUSH_DIRECT_PATHS not probed: too many probes already.
        push_over_rate;
        /// Port spreads offered to peers, or taken up.
        spread_offers;
        /// Port spreads that peers offered or took up, and we did not: switched off, no upstream vouches for the address,
        /// too soon, too many at a time.
        spread_refused;
        /// Relayed peers that will not be offered one: too many.
        spread_full;
        /// Port spreads begun.
        spreads;
        /// Ports probed for them.
        spread_probes;
        /// Those that reached their peer.
        spread_successes;
        /// Entries of PUSH_DIRECT_PATHS not probed: a stranger names an address that is not global.
        push_stranger;
        /// Probes not sent: their target had its share, whoever named it.
        probes_over_target;
        /// How others see us, told by strangers.
        surface_stranger;
        /// How others see us, no room for it.
        surface_full;
        /// Times an upstream saw us at another address and the paths concerned were proved again.
        surface_resets;
        /// Peers thrown out to make room.
        peers_evicted;
        /// Peers not taken in: full.
        peers_full;
        /// Packets of ours dropped because their queue was full.
        queue_full;
        /// Packets of ours dropped because no way was found in time.
        queue_timeout;
        /// Packets of ours that would take more datagrams than any receiver accepts.
        too_large;
        /// Packets of ours to a peer with whom no key can be agreed.
        no_agreement;
        /// ERRORs not sent because the same was just sent.
        error_gated;
        /// ERRORs received, of whatever kind.
        errors_received;
        /// ACK, and PATH_NEGOTIATION_REQUEST of peers with whom no path is negotiated.
        bonding_ignored;
        /// QOS_MEASUREMENT from peers that bond.
        qos_received;
        /// QOS_MEASUREMENT that was relayed, or from a stranger.
        qos_refused;
        /// QOS_MEASUREMENT over its gate.
        qos_gated;
        /// QOS_MEASUREMENT sent to peers that bond.
        qos_sent;
        /// Packets of peers that bond which were not reported because newer ones came.
        qos_unreported;
        /// Peers that bond and paths of theirs that get no reports: too many.
        qos_full;
        /// Bonds of our own begun.
        bonds_made;
        /// Bonds of our own ended.
        bonds_ended;
        /// Peers that we would bond with: too many.
        bonds_full;
        /// Probes of paths of our bonds.
        bond_probes;
        /// Probes wanted and not sent: the remote would not have answered one more.
        bond_probes_held;
        /// ICMP errors that named a request of ours and made its path suspect.
        bond_unreachable;
        /// ICMP errors that had a path of a bond asked.
        bond_unreachable_asked;
        /// ICMP errors without effect: of no path of a bond, of one that is known not to work, or too many.
        bond_unreachable_dropped;
        /// Padded frames that tested a path of a bond.
        test_frames;
        /// HELLOs that looked for further paths of bonded peers.
        bond_searches;
        /// Acknowledgements of frames handed on to the shards.
        bond_acks;
        /// The same, dropped because there were too many.
        bond_acks_over_rate;
        /// What shards saw of bonds that had ended.
        bond_seen_late;
        /// Frames copied by a bond over further paths.
        bond_copies;
        /// PATH_NEGOTIATION_REQUEST sent.
        negotiations_sent;
        /// PATH_NEGOTIATION_REQUEST that a bond heard.
        negotiations_received;
        /// Offers to peers that may be Hawsers.
        pact_offers;
        /// Answers to those of others, and words to those who mark frames without agreement.
        pact_answers;
        /// Times that a peer agreed.
        pacts_made;
        /// Times that this ended.
        pacts_ended;
        /// Such messages without effect: not asked for, too often, relayed, or from a stranger.
        pact_refused;
        /// Such messages of another version, or broken.
        pact_unknown;
        /// Peers that we would agree with: too many.
        pacts_full;
        /// Order marks removed by the node.
        marks_removed;
        /// Receive reports sent.
        receipts_sent;
        /// Receive reports heard.
        receipts_received;
        /// Receive reports dropped because there were too many.
        receipts_over_rate;
        /// Receive reports that say what cannot be.
        receipts_absurd;
        /// Paths of which nothing is reported: too many.
        receipts_full;
        /// Verbs that nobody has assigned.
        unassigned_verbs;
        /// REMOTE_TRACE received.
        remote_traces;
        /// Worlds offered that are not newer, not rightly signed, or not from somebody who may.
        world_refused;
        /// Members that our controller authorised, no room to remember them.
        authorised_full;
        /// Peers not watched for failing paths: too many.
        watched_full;
        /// Paths that looked as if nothing that we send over them arrived, and were probed at once.
        path_doubted;
        /// Paths left because a peer that bonds with us left them.
        paths_followed;
        /// Paths that went with their socket and are not tried from the next one: too many.
        lost_paths_full;
        /// Frames that went over a new path and over the relay.
        warm_up_copies;
        /// New paths not warmed up: too many.
        warming_full;
        /// Peers without lanes: too many have some.
        lanes_full;
        /// Lanes given up because nothing came back over them.
        lanes_lost;
        /// Requests refused because a table of gates had no room.
        gates_full;
        /// Paths whose gates were forgotten to make room for others.
        path_gates_evicted;
        /// Datagrams not sent because the identity collided with another and was given up.
        halted;
        /// Outputs lost because the caller did not drain them.
        outputs_full;
    }
}

numbers! {
    /// How full the bounded tables are; the bounds are in [`crate::limits`].
    Gauges: usize {
        /// Peers in memory.
        peers;
        /// Forgotten peers that are remembered.
        cached_peers;
        /// Packets whose replies are awaited.
        expected_replies;
        /// Addresses asked for.
        whois_pending;
        /// Packets of unknown senders that wait.
        waiting_packets;
        /// Their bytes.
        waiting_bytes;
        /// Packets of ours that have no way yet.
        queued_packets;
        /// Their bytes.
        queued_bytes;
        /// Packets being put together.
        reassembly_sets;
        /// Their bytes.
        reassembly_bytes;
        /// Reports of how others see us.
        surfaces;
        /// Addresses probed of late that may not be those of peers.
        targets;
        /// Proofs of work that the worker has.
        proofs;
        /// Pairs introduced lately.
        introduced_pairs;
        /// Introductions that wait for an identity.
        rendezvous_held;
        /// Probes that wait for their time.
        timed_probes;
        /// Peers met lately on introduction.
        rendezvous_peers;
        /// Relayed peers that may be offered a port spread.
        spread_peers;
        /// Sockets open for port spreads, those kept included.
        spread_sockets;
        /// Paths with gates.
        path_gates;
        /// Prefixes in the gate of new identities.
        identity_prefixes;
        /// Errors sent lately.
        error_gates;
        /// Peers watched for failing paths.
        watched;
        /// Peers whose frames go twice.
        warming;
        /// Paths to be tried from the next socket.
        lost_paths;
        /// Members that our controller authorised lately.
        authorised;
        /// Peers with lanes.
        lane_peers;
        /// Peers that bond.
        bonded_peers;
        /// Their paths.
        reported_paths;
        /// Peers with whom something is agreed on.
        pacts;
        /// Their paths on which is counted what comes.
        receipt_paths;
        /// Bonds of our own.
        bonds;
        /// Their paths.
        bond_paths;
    }
}
