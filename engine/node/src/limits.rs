//! Every number the control plane lives by: the protocol's name, the value, the unit, where it comes from.
//! "spec" is docs/ZEROTIER_STACK.md, section paths; "ours" is a bound or a timer that ZeroTierOne does not have.

// Paths. // spec: paths, "Constants"

/// A path is alive for this long after its last verified packet: heartbeat + 5000. ms, spec.
pub const PATH_ALIVE_MS: u64 = 19_000;
/// A path gets a heartbeat when nothing was sent over it for this long. ms, spec; it is our upper bound.
pub const PATH_HEARTBEAT_MS: u64 = 14_000;
/// Heartbeats are drawn up to this much earlier, so that nodes started together do not stay in phase. ms, ours (10 %).
pub const PATH_HEARTBEAT_JITTER_MS: u64 = 1_400;
/// A slot is forgotten this long after its last verified packet: 4 x ping + 3000. ms, spec.
pub const PATH_EXPIRATION_MS: u64 = 243_000;
/// Latency that stands for "not measured". ms, spec.
pub const UNKNOWN_LATENCY_MS: u64 = 65_535;
/// Added to the latency of a path that is not alive. ms, spec.
pub const DEAD_PATH_PENALTY_MS: u64 = 65_535;
/// Age beyond which a dead path gets no worse: ten heartbeats. ms, spec.
pub const QUALITY_AGE_CAP_MS: u64 = 140_000;
/// A path that carries frames keeps them while it is alive and no other is twice as good and better by this much: what
/// changes its path is overtaken by what follows, and what it carries makes a path look slow. ms, ours.
pub const PATH_HOLD_MS: u64 = 50;
/// Slots per peer. spec.
pub const SLOTS_MAX: usize = 64;
/// Slots of a peer that never proved a relationship. spec, "Hardening bounds".
pub const STRANGER_SLOTS_MAX: usize = 4;
/// Latency samples above this are not believed. us, spec.
pub const LATENCY_SAMPLE_MAX_US: u64 = 10_000_000;
/// Round trips count for the percentiles in status this long. ms, ours.
pub const LATENCY_WINDOW_MS: u64 = 600_000;
/// And so many of a path at most; a path that is only kept alive has about fifty in the window. ours.
pub const LATENCY_SAMPLES_MAX: usize = 512;

// Peers.

/// A peer that sent frames or configuration within this time is active and its paths are kept alive. ms, spec.
pub const PEER_ACTIVITY_MS: u64 = 500_000;
/// A peer silent for this long is forgotten. ms, spec.
pub const PEER_SILENCE_MS: u64 = 500_000;
/// A relationship proven by a packet lasts this long. ms, spec.
pub const TRUST_EXPIRATION_MS: u64 = 600_000;
/// Full HELLO to every slot. ms, spec "peer ping period".
pub const PEER_PING_MS: u64 = 60_000;
/// Each peer's period is drawn up to this much shorter or longer. ms, ours (10 %).
pub const PEER_PING_JITTER_MS: u64 = 6_000;
/// Peers in memory. ours.
pub const PEERS_MAX: usize = 65_536;
/// Peers in memory that never proved a relationship; a root, whose peers are all such, has no bound but [`PEERS_MAX`].
/// spec, "Hardening bounds".
pub const STRANGERS_MAX: usize = 4_096;
/// Forgotten peers whose identity and endpoints are remembered. ours.
pub const CACHED_PEERS_MAX: usize = 65_536;
/// Endpoints kept of a forgotten peer. ours.
pub const CACHED_ENDPOINTS_MAX: usize = 16;

// Timers.

/// Retry of queues, path keep-alive, re-evaluation of plans. ms, spec "queue tick".
pub const TICK_MS: u64 = 500;
/// Contact with upstreams, online state, refresh of networks. ms, spec "ping check interval".
pub const PING_CHECK_MS: u64 = 5_000;
/// The ping check is drawn up to this much earlier or later. ms, ours (10 %).
pub const PING_CHECK_JITTER_MS: u64 = 500;
/// Forgetting of peers, surfaces, pairs. ms, spec "housekeeping".
pub const HOUSEKEEPING_MS: u64 = 30_000;

// Gates on what others may cause. // spec: paths, "Hardening bounds"

/// ECHO answers per path. ms, spec.
pub const ECHO_GATE_MS: u64 = 166;
/// ECHO answers per peer, one for each slot it can have. 1/s, ours.
pub const ECHO_ANSWERS_PER_PEER_PER_S: u32 = 64;
/// ECHO answers per node. 1/s, spec.
pub const ECHO_ANSWERS_PER_S: u32 = 500;
/// And so many more for every peer that is no stranger, or whom a root knows: who is not answered thinks the path dead.
/// 1/s, ours; the pace of [`WATCH_PROBE_MS`].
pub const ECHO_ANSWERS_PER_FRIEND_PER_S: u32 = 6;
/// HELLO answers per path to known identities. 1/s, spec.
pub const HELLO_ANSWERS_PER_PATH_PER_S: u32 = 2;
/// HELLO answers per known identity. 1/s, spec.
pub const HELLO_ANSWERS_PER_PEER_PER_S: u32 = 8;
/// World updates in OK(HELLO) per peer. ms, spec.
pub const WORLD_UPDATE_GATE_MS: u64 = 60_000;
/// Challenge per unknown path and peer. ms, spec "unconfirmed path re-probe".
pub const CHALLENGE_GATE_MS: u64 = 1_000;
/// Challenges per peer. 1/s, spec.
pub const CHALLENGES_PER_PEER_PER_S: u32 = 4;
/// Challenges per node. 1/s, spec.
pub const CHALLENGES_PER_S: u32 = 200;
/// New identities per IPv4 /24 or IPv6 /56: one in this time. ms, spec.
pub const IDENTITY_GATE_MS: u64 = 2_000;
/// And so many at once: nodes of one household or office that start together, as after a power cut. ours.
pub const IDENTITY_BURST: u32 = 4;
/// Prefix length of the identity gate, IPv4. bits, spec.
pub const IDENTITY_GATE_V4_BITS: u8 = 24;
/// Prefix length of the identity gate, IPv6. bits, spec.
pub const IDENTITY_GATE_V6_BITS: u8 = 56;
/// New identities per node. 1/s, spec.
pub const IDENTITIES_PER_S: u32 = 20;
/// Prefixes remembered by the identity gate. ours.
pub const IDENTITY_PREFIXES_MAX: usize = 1_024;
/// Proofs of work that wait for a worker. spec.
pub const PROOF_QUEUE_MAX: usize = 64;
/// A worker that has not answered by then never will. ms, ours.
pub const PROOF_TIMEOUT_MS: u64 = 30_000;
/// Identities whose proof of work failed, refused from then on; the oldest goes. ours.
pub const REFUSED_IDENTITIES_MAX: usize = 1_024;
/// WHOIS answers per asking peer, unless we are an upstream. ms, spec.
pub const WHOIS_ANSWER_GATE_MS: u64 = 100;
/// Addresses of one WHOIS that are looked at. ours; what fits a packet unfragmented.
pub const WHOIS_ADDRESSES_MAX: usize = 16;
/// ERRORs per (peer, code, network). ms, spec.
pub const ERROR_GATE_MS: u64 = 1_000;
/// Entries of the ERROR gate. ours.
pub const ERROR_GATE_MAX: usize = 4_096;
/// Paths whose gates are remembered; the one used least recently goes. ours.
pub const PATH_GATES_MAX: usize = 131_072;
/// The gates of a path are forgotten after this much silence. ms, ours.
pub const PATH_GATE_IDLE_MS: u64 = 30_000;

// Asking for identities.

/// WHOIS per address. ms, spec.
pub const WHOIS_RETRY_MS: u64 = 500;
/// WHOIS for packets of strangers. 1/s, spec.
pub const WHOIS_PER_S: u32 = 50;
/// WHOIS for packets of our own, a budget that strangers cannot touch. 1/s, ours.
pub const OWN_WHOIS_PER_S: u32 = 50;
/// Addresses asked for at a time, strangers' and ours each. ours.
pub const WHOIS_PENDING_MAX: usize = 1_024;
/// Addresses in one WHOIS. ours.
pub const WHOIS_BATCH: usize = 16;
/// Packets of one unknown sender that wait for its identity. spec.
pub const WAITING_PER_SOURCE: usize = 4;
/// Packets of unknown senders that wait, in all. spec.
pub const WAITING_MAX: usize = 1_024;
/// Bytes of packets of unknown senders that wait. spec.
pub const WAITING_BYTES_MAX: usize = 2 << 20;
/// How long they wait. ms, spec "RX timeout".
pub const WAITING_MS: u64 = 5_000;

// Packets of ours that have no way yet.

/// Per destination. ours.
pub const QUEUE_PER_PEER: usize = 256;
/// Bytes per destination. ours.
pub const QUEUE_PER_PEER_BYTES: usize = 512 << 10;
/// In all. ours.
pub const QUEUE_MAX: usize = 4_096;
/// Bytes in all. ours.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;
/// How long they wait. ms, spec "TX timeout".
pub const QUEUE_MS: u64 = 5_000;

// Replies.

/// A reply is accepted for this long. ms, spec.
pub const REPLY_TIMEOUT_MS: u64 = 10_000;
/// Packets whose replies are awaited. ours.
pub const EXPECTED_MAX: usize = 16_384;
/// Replies taken to one packet that several may answer: sockets of a HELLO fan-out, chunks of a configuration. ours.
pub const REPLIES_PER_REQUEST: usize = 512;
/// Sockets over which replies to one HELLO are taken. ours.
pub const HELLO_REPLIES_MAX: usize = 32;

// RENDEZVOUS and PUSH_DIRECT_PATHS.

/// Introductions obeyed per upstream. 1/s, spec.
pub const RENDEZVOUS_PER_UPSTREAM_PER_S: u32 = 10;
/// Introductions obeyed per named peer. ms, spec.
pub const RENDEZVOUS_GATE_MS: u64 = 2_000;
/// Named peers remembered by that gate. ours.
pub const RENDEZVOUS_PEERS_MAX: usize = 1_024;
/// Introductions of peers not yet known that wait for WHOIS. ours.
pub const RENDEZVOUS_HELD_MAX: usize = 64;
/// How long they wait. ms, spec.
pub const RENDEZVOUS_HELD_MS: u64 = 2_000;
/// The first probe of a RENDEZVOUS or push waits for the other side to open its NAT at least so long. ms, ours.
pub const PUNCH_WAIT_MIN_MS: u64 = 100;
/// And at most so long: also if we do not know how far the relay is. ms, ours.
pub const PUNCH_WAIT_MAX_MS: u64 = 400;
/// Further probes, unless the peer was heard. ms after the first, spec.
pub const RENDEZVOUS_RETRIES_MS: [u64; 3] = [200, 600, 1_500];
/// Probes waiting for their time. ours.
pub const TIMED_PROBES_MAX: usize = 1_024;
/// TTL of the packet that opens our own NAT only. hops, spec.
pub const HOLE_PUNCH_TTL: u8 = 2;
/// Bytes of that packet. spec.
pub const HOLE_PUNCH_BYTES: usize = 4;
/// Introduction per pair of peers. ms, spec "unite interval".
pub const INTRODUCTION_GATE_MS: u64 = 30_000;
/// Introductions per node. 1/s, spec.
pub const INTRODUCTIONS_PER_S: u32 = 100;
/// Pairs remembered: what the rate above can fill. ours.
pub const INTRODUCED_PAIRS_MAX: usize = 4_096;
/// Packets relayed per source path. 1/s, spec.
pub const RELAYED_PER_PATH_PER_S: u32 = 10_000;
/// Entries tried per (scope, family) of one push, and offered by us. spec.
pub const PUSH_PER_CLASS: usize = 8;
/// Probes that one peer's pushes may cause: per 10 s. spec.
pub const PUSH_PROBES_PER_10_S: u32 = 16;
/// Probes that one peer's pushes may cause at once: one full push of three classes. ours.
pub const PUSH_PROBES_BURST: u32 = 24;
/// Probes that all pushes may cause. 1/s, spec.
pub const PUSH_PROBES_PER_S: u32 = 200;
/// Addresses pushed to a directly connected peer. ms, spec.
pub const PUSH_DIRECT_MS: u64 = 120_000;
/// Addresses pushed to a relayed peer: the n-th gap, the last one repeating. A gap above 30000 resets the remote's
/// counter. ms, spec.
pub const PUSH_RELAYED_MS: [u64; 3] = [15_000, 30_000, 31_000];
/// A peer is still "trying" until it was told our addresses so often over a relay. ours.
pub const RELAYED_PUSHES: usize = 2;
/// Bytes of one push. spec.
pub const PUSH_PACKET_MAX: usize = 1_200;
/// Pushes sent at once after a change of our addresses, per tick. ours.
pub const PUSH_ON_CHANGE_PER_TICK: usize = 64;
/// A cluster redirect waits this long for its target to answer. ms, ours.
pub const REDIRECT_TIMEOUT_MS: u64 = 10_000;

// Port spread. Ours; can be switched off.

/// A peer gets an offer when frames to it have gone by a relay for this long. ms.
pub const SPREAD_AFTER_MS: u64 = 1_500;
/// And only if they still do: the latest is no older than this. ms.
pub const SPREAD_IDLE_MS: u64 = 3_000;
/// An offer is repeated if nothing was heard for this long. ms.
pub const SPREAD_ANSWER_MS: u64 = 1_000;
/// Offers to one peer before a pause.
pub const SPREAD_OFFERS: usize = 3;
/// The pause after offers without answer, and after a spread that reached nobody. ms.
pub const SPREAD_PAUSE_MS: u64 = 300_000;
/// The pause after one that did, and the least one before another offer of the same peer is taken up. ms.
pub const SPREAD_REST_MS: u64 = 60_000;
/// How long an upstream's word counts on where a peer can be met. ms; four introductions.
pub const SPREAD_VOUCHED_MS: u64 = 4 * INTRODUCTION_GATE_MS;
/// Sockets that one spread opens: a probe of any port out of 64512 finds one of them in 1 of 252 cases.
pub const SPREAD_SOCKETS: u16 = 256;
/// When each of them sends what opens its flow, and with which TTL: through one router, then through a carrier's too.
/// ms after the start, hops.
pub const SPREAD_JUNK: [(u64, u8); 2] = [(20, HOLE_PUNCH_TTL), (1_000, 4)];
/// Ports probed in one spread: with so many flows open 98 of 100 find one.
pub const SPREAD_PROBES_MAX: usize = 1_024;
/// Probes at a time. With the next: 200 a second, and twice that in all.
pub const SPREAD_BATCH: usize = 4;
/// The time between them. ms.
pub const SPREAD_BATCH_MS: u64 = 20;
/// Flows that a router may have opened for others since its port was seen, where ports are counted on.
pub const SPREAD_AHEAD: u16 = 64;
/// A spread ends after this long. ms.
pub const SPREAD_LIFE_MS: u64 = 10_000;
/// Its other sockets stay so long after the first path, for what is on its way. ms.
pub const SPREAD_GRACE_MS: u64 = 1_000;
/// Sockets kept per spread: each side may have heard another one first.
pub const SPREAD_KEPT: usize = 2;
/// Spreads at a time, all towards different hosts.
pub const SPREADS_MAX: usize = 2;
/// Sockets kept in all.
pub const SPREAD_ADOPTED_MAX: usize = 64;
/// Relayed peers that are watched for needing one.
pub const SPREAD_PEERS_MAX: usize = 1_024;

// Targets of probes: IPv4 addresses, or 64 bits of IPv6 ones, where nobody has proved to be.

/// Probes and challenges to one target that are not answered, in any 10 s: this and the burst. ours.
pub const TARGET_PROBES_PER_10_S: u32 = 32;
/// And at once; half of it if strangers cause them. ours.
pub const TARGET_PROBES_BURST: u32 = 96;
/// Given back for every path that is found: an opening packet, a probe and its three repetitions, from some links. ours.
pub const TARGET_PROBES_BACK: u64 = 8;
/// Targets remembered: what the rates of pushes and challenges can fill in 10 s. ours.
pub const TARGETS_MAX: usize = 4_096;

// Surfaces.

/// A report of how others see us is good for this long. ms, spec.
pub const SURFACE_TIMEOUT_MS: u64 = 600_000;
/// Reports kept. spec.
pub const SURFACES_MAX: usize = 64;
/// Reports kept per (socket, family). spec.
pub const SURFACES_PER_SOCKET: usize = 4;
/// A report counts for what kind of NAT is before a socket while its reporter repeats it: two full HELLOs. ms, ours.
pub const NAT_VIEW_MS: u64 = 150_000;
/// Mappings seen within this time were made together, so that the distance of their ports means something. ms, ours.
pub const NAT_STEP_WINDOW_MS: u64 = 2_000;
/// Larger distances of ports are chance. ours.
pub const NAT_STEP_MAX: u16 = 16;

// Upstreams.

/// Contact with a moon seed or other wanted node that has no endpoint of its own. ms, spec "leaf always-contact".
pub const ALWAYS_CONTACT_MS: u64 = 28_000;
/// A better upstream must be better by this much. percent, spec.
pub const UPSTREAM_HYSTERESIS_PERCENT: u64 = 20;
/// An upstream must have been heard within this time to rank as alive: 3 probe intervals. ms, spec.
pub const UPSTREAM_FRESH_MS: u64 = 3 * PATH_HEARTBEAT_MS;
/// Moons held and wanted. ours.
pub const MOONS_MAX: usize = 32;
/// Two upstreams must report a collision of our identity within this time. ms, ours.
pub const COLLISION_REPORTS_MS: u64 = 600_000;
/// HELLO to a hint of the operator for a peer without path. ms, spec "try memorised path".
pub const HINT_MS: u64 = 30_000;

// Fast failover: probing of paths that carry frames. Ours; can be switched off.

/// A path carries traffic if a frame was sent over it this recently. ms.
pub const TRAFFIC_WINDOW_MS: u64 = 2_000;
/// How often watched paths are looked at. ms.
pub const WATCH_MS: u64 = 25;
/// A watched path from which nothing was verified for this long is probed. ms.
pub const WATCH_PROBE_MS: u64 = 200;
/// The same for paths to upstreams that relay nothing back. ms.
pub const WATCH_PROBE_UPSTREAM_MS: u64 = 400;
/// The same for peers that answer few probes, and for paths already suspect that are silent. ms.
pub const WATCH_PROBE_SLOW_MS: u64 = 1_000;
/// A probe counts as missed after this long, or twice the path's latency if that is more. ms; the gate of who answers,
/// [`ECHO_GATE_MS`], is just open again.
pub const WATCH_MISS_MS: u64 = 170;
/// The same for a path that is doubted. ms.
pub const WATCH_MISS_DOUBTED_MS: u64 = 85;
/// A path is doubted at most once in this time. ms.
pub const WATCH_DOUBT_MS: u64 = 1_000;
/// A path that frames left by and nothing came over for this long, while the peer speaks some other way, is doubted. ms.
pub const WATCH_DOUBT_SILENCE_MS: u64 = 100;
/// A peer that bonds with us and was silent for this long on a path, while it speaks over another, has left that one. us, ours.
pub const FOLLOW_AFTER_US: u64 = 30_000;
/// If so many frames came over that one before, with shorter pauses. ours.
pub const FOLLOW_FRAMES: u64 = 16;
/// And if it was so for no longer than this. us, ours.
pub const FOLLOW_WITHIN_US: u64 = 500_000;
/// One path is left so at most once in this time. ms, ours.
pub const FOLLOW_GAP_MS: u64 = 1_000;
/// Missed probes that make a path suspect. spec, "Path selection".
pub const WATCH_MISSES: u8 = 2;
/// Missed probes that make a doubted path suspect: the second may have come before the answerer's gate was open again.
pub const WATCH_MISSES_DOUBTED: u8 = 3;
/// Peers watched at a time. ours.
pub const WATCHED_MAX: usize = 4_096;
/// Paths that went with their socket and are tried from the next socket that appears. ours.
pub const LOST_PATHS_MAX: usize = 1_024;
/// How long they are remembered. ms.
pub const LOST_PATHS_MS: u64 = 60_000;

// Warm-up duplication. Ours; off unless asked for.

/// Peers whose frames go twice at a time. ours.
pub const WARMING_MAX: usize = 256;
/// Frames that a warm-up may be asked to double. ours.
pub const WARM_UP_PACKETS_MAX: u32 = 10_000;
/// How long a warm-up lasts at most. ms, ours.
pub const WARM_UP_MS_MAX: u32 = 10_000;

// Lanes. Ours.

/// Peers that have lanes at a time.
pub const LANE_PEERS_MAX: usize = 1_024;
/// A peer to whom no frame went for this long has no lanes. ms.
pub const LANE_IDLE_MS: u64 = 60_000;
/// A lane is probed this often: the keep-alive of a path. ms.
pub const LANE_PROBE_MS: u64 = PATH_HEARTBEAT_MS;
/// Probes are drawn up to this much earlier. ms.
pub const LANE_PROBE_JITTER_MS: u64 = PATH_HEARTBEAT_JITTER_MS;
/// A probe counts as missed after this long, and is repeated. ms.
pub const LANE_MISS_MS: u64 = 1_000;
/// Missed probes after which frames go by the link's first socket again.
pub const LANE_MISSES: u8 = 3;
/// A lane that was given up, or never worked, is probed again after this long. ms.
pub const LANE_RETRY_MS: u64 = 60_000;

// Timing reports to peers that bond. // spec: bonding, "QoS measurement"

/// Between two reports over one path: twice the shortest failover interval of a bond. ms, spec.
pub const QOS_REPORT_MS: u64 = 1_000;
/// A peer that sent no report of its own for this long does not bond any more: what a report is good for. ms, spec.
pub const QOS_LIFE_MS: u64 = 600_000;
/// Peers that bond with us at a time. ours.
pub const QOS_PEERS_MAX: usize = 1_024;
/// Their paths that get reports; four for each of as many peers. ours.
pub const QOS_PATHS_MAX: usize = 4_096;

// Our own bonds. // spec: bonding, "A better bond on the same wire"

/// Peers that we bond with at a time. ours.
pub const BONDS_MAX: usize = 4_096;
/// A bond that is due is not called sooner again. us, ours.
pub const BOND_TICK_US: u64 = 5_000;
/// Data went to the peer within this time: its bond is looked at every [`BOND_LOOK_US`]. us, ours.
pub const BOND_BUSY_US: u64 = 2_000_000;
/// See [`BOND_BUSY_US`]: rates and loads follow no sooner. us, spec.
pub const BOND_LOOK_US: u64 = 60_000;
/// Load is measured over at least this long. us, ours.
pub const BOND_LOAD_US: u64 = 100_000;
/// Between two ECHOs over one path: the gate of who answers, and something for packets that catch up. us, spec and ours.
pub const BOND_ECHO_GAP_US: u64 = (ECHO_GATE_MS + 14) * 1000;
/// The same, over all paths, for peers that answer few of them. ms, spec and ours.
pub const BOND_ECHO_GAP_SLOW_MS: u64 = 1_020;
/// Between two frames without content over one path: 50 per second. us, spec.
pub const BOND_FRAME_GAP_US: u64 = 20_000;
/// Between two HELLOs as probes of one path. us, spec.
pub const BOND_HELLO_GAP_US: u64 = 500_000;
/// Data that the node sends itself asks for acknowledgement this often per path. us, spec "2 to 10 ms".
pub const BOND_ASK_GAP_US: u64 = 5_000;
/// Whether frames are acknowledged is tried again after twice this, and after twice as long each time. us, ours.
pub const BOND_TRIAL_MIN_US: u64 = 25_000;
/// But not after longer than this. us, ours.
pub const BOND_TRIAL_US: u64 = 1_000_000;
/// So many frames without acknowledgement, while the path is answered otherwise: the remote gives none. ours.
pub const BOND_UNANSWERED_MAX: u32 = 16;
/// And for so long. us, ours.
pub const BOND_UNANSWERED_US: u64 = 2_000_000;
/// Acknowledgements of frames of the shards that are handed on, per peer; one per 2 ms for each of 16 paths. 1/s, ours.
pub const BOND_ACKS_PER_S: u32 = 8_000;
/// Endpoints at which a bonded peer may be met. ours.
pub const BOND_REMOTES_MAX: usize = 16;
/// When all of them are tried by all links after news; later the full HELLOs do. ms after the round before, ours.
pub const BOND_SEARCH_MS: [u64; 4] = [1_000, 2_000, 4_000, 8_000];
/// Paths tried in one round. ours.
pub const BOND_SEARCH_MAX: usize = 32;

// What Hawsers agree on. ours.

/// Peers with whom something is agreed on at a time: 192 KiB of packet IDs are remembered of each that bonds with us.
pub const PACTS_MAX: usize = 512;
/// Their paths on which is counted what comes; four for each.
pub const PACT_PATHS_MAX: usize = 2_048;
/// An offer that waits for a path of its own is looked at again after this long. ms.
pub const PACT_RETRY_MS: u64 = 2_000;
/// What is remembered of a peer for the sake of a rate alone is forgotten after this long. ms.
pub const PACT_IDLE_MS: u64 = 60_000;
/// Offers without answer after which a peer is taken not to be a Hawser.
pub const PACT_OFFERS_IN_VAIN: u32 = 4;
/// Between two receive reports over one path under load. ms.
pub const PACT_REPORT_MS: u64 = 25;
/// And while less comes than the next. ms.
pub const PACT_REPORT_SLOW_MS: u64 = 1_000;
/// What must have come for a report to be a hundredth of it: a report is 98 bytes with UDP and IP. bytes.
pub const PACT_REPORT_BYTES: u64 = 9_800;
/// Receive reports of one peer that are heard: five paths under load.
pub const PACT_REPORTS_PER_S: u32 = 200;

// Networks.

/// Networks hear of frames that shards carry this often per peer. ms, ours.
pub const ACTIVITY_TO_NETWORKS_MS: u64 = 1_000;

/// A member to whom our controller sent a configuration counts as authorised this long. ms, spec.
pub const AUTHORISED_MS: u64 = 180_000;
/// Such members remembered. ours.
pub const AUTHORISED_MAX: usize = 65_536;

// Outputs.

/// Outputs that wait for the caller, those the shards must hear excepted. ours.
pub const OUTPUTS_MAX: usize = 65_536;

/// What every IPv6 link carries in one piece, less the headers of IPv6 and UDP: no way is taken to be narrower.
pub const NARROW_MTU_MIN: usize = 1_232;
/// How long a way that was found narrow is taken to stay so. // RFC 1191, 6.3
pub const NARROWED_MS: u64 = 600_000;
/// Remotes behind narrow ways that are remembered; the others stay as configured.
pub const NARROWED_MAX: usize = 1_024;
