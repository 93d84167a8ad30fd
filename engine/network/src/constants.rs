//! Every number of this room in one place: the protocol's with its name and section, ours with what happens at it.

// spec: networks, "Constants"

/// Period of requests while unanswered and of the LIKE check, ms.
pub const TICK_MS: u64 = 5_000;
/// Age at which a configuration is asked for again, ms.
pub const CONFIG_REFRESH_MS: u64 = 60_000;
/// Period of sweeping tables for what has expired, ms.
pub const HOUSEKEEPING_MS: u64 = 30_000;
/// Credentials shown to a peer this long ago are shown again before the next frame, ms.
pub const CREDENTIALS_PUSH_AGE_MS: u64 = 500_000;
/// A peer that asks for credentials (ERROR 6) gets them if the last push is older than this, ms.
pub const CREDENTIALS_PUSH_ON_REQUEST_MS: u64 = 1_000;
/// At most one NETWORK_CREDENTIALS per peer is read in this time, ms.
pub const CREDENTIALS_RECEIVE_GATE_MS: u64 = 1_000;
/// Distance between two packets of one credential push; more than the receiver's gate, ms.
pub const CREDENTIALS_SPACING_MS: u64 = 1_100;
/// Frames wait this long for the sender's credentials, ms.
pub const HELD_MS: u64 = 5_000;
/// Period of announcing all groups to one recipient, ms.
pub const LIKE_PERIOD_MS: u64 = 60_000;
/// A group member not heard of for this long is forgotten, ms.
pub const LIKE_EXPIRY_MS: u64 = 600_000;
/// Period of explicit gathers while a group is short of members, ms.
pub const GATHER_PERIOD_MS: u64 = 60_000;
/// The same while nobody is known at all, ms. // spec: networks, "Traps and hardening"
pub const GATHER_EMPTY_PERIOD_MS: u64 = 1_000;
/// While a multicast waits and nobody is known at all, its first gather is repeated after these pauses: who joined a
/// moment ago is announced a moment later. ms, ours.
pub const GATHER_REPEATS_MS: [u64; 3] = [100, 200, 400];
/// Groups whose gather is being repeated; the gathers of others are not.
pub const GATHER_REPEATS_MAX: usize = 64;
/// A multicast waits this long for recipients to turn up, ms.
pub const MULTICAST_QUEUE_MS: u64 = 5_000;
/// Multicasts that wait in one group.
pub const MULTICAST_QUEUE_MAX: usize = 32;
/// Nodes that one explicit gather asks.
pub const GATHER_RECIPIENTS_MAX: usize = 16;
/// Most members that one gather may ask for.
pub const GATHER_LIMIT_MAX: u32 = 65_535;
/// Bridges that get a frame for a MAC nobody has been seen to have.
pub const BRIDGE_FAN_OUT: usize = 32;
/// Records in one MULTICAST_LIKE.
pub const LIKES_PER_PACKET: usize = 554;
/// Groups one TAP reports. // spec: networks, "Subscriptions"
pub const SUBSCRIPTIONS_MAX: usize = 1_024;
/// MTU without a configuration, bytes.
pub const MTU_DEFAULT: u16 = 2_800;
/// Least MTU, bytes.
pub const MTU_MIN: u16 = 1_280;
/// Greatest MTU, and the longest multicast payload that is delivered, bytes.
pub const MTU_MAX: u16 = 10_000;
/// A configuration dictionary must be shorter than this, bytes.
pub const CONFIG_TOTAL_LIMIT: usize = 484_520;
/// Chunks of one configuration.
pub const CONFIG_CHUNKS_MAX: usize = 474;
/// Configurations in assembly per network.
pub const CONFIG_UPDATES_MAX: usize = 3;
/// Least configuration version that is understood.
pub const CONFIG_VERSION_MIN: u64 = 6;
/// Configuration version that is written and asked for.
pub const CONFIG_VERSION: u64 = 7;
/// Routes of one configuration.
pub const ROUTES_MAX: usize = 128;
/// Static addresses of one configuration.
pub const ADDRESSES_MAX: usize = 32;
/// Specialists of one configuration.
pub const SPECIALISTS_MAX: usize = 256;
/// Base rules of one configuration.
pub const RULES_MAX: usize = 1_024;
/// Rules of one capability.
pub const CAPABILITY_RULES_MAX: usize = 64;
/// Capabilities of one configuration, and of one peer.
pub const CAPABILITIES_MAX: usize = 128;
/// Tags of one configuration, and of one peer.
pub const TAGS_MAX: usize = 128;
/// Certificates of ownership of one configuration, and of one peer.
pub const OWNERSHIPS_MAX: usize = 4;
/// DNS servers of one configuration.
pub const DNS_SERVERS: usize = 4;
/// Bytes of the DNS domain field; the last one is a NUL.
pub const DNS_DOMAIN_LEN: usize = 128;
/// Bytes of a network's name that are kept.
pub const NAME_MAX: usize = 127;

// Bounds of our own. None changes what a well-behaved peer sees. // spec: paths, "Hardening bounds"

/// A configuration in assembly that does not complete in this time is forgotten, ms.
pub const CONFIG_ASSEMBLY_MS: u64 = 30_000;
/// Bytes of unfinished configurations per network; the least recently fed one makes room.
pub const CONFIG_ASSEMBLY_BYTES_MAX: usize = 1 << 20;
/// Members on record per network; a newcomer beyond it takes the place of one without credentials, or gets none and stays
/// refused on a private network.
pub const MEMBERS_MAX: usize = 65_536;
/// A member unheard for this long whose certificate no longer agrees is forgotten, ms.
// spec: networks, "Storing others' credentials"
pub const MEMBER_IDLE_MS: u64 = 500_000;
/// Revocation thresholds of tags, capabilities and ownerships on record per member; the newest beyond it is refused.
pub const THRESHOLDS_MAX: usize = 512;
/// Messages held for credentials or an identity, per sender; the newest beyond it is dropped.
pub const HELD_PER_PEER_MAX: usize = 16;
/// Messages held in all; the newest beyond it is dropped.
pub const HELD_MAX: usize = 1_024;
/// Bytes of held messages in all; the newest beyond it is dropped.
pub const HELD_BYTES_MAX: usize = 2 << 20;
/// An ERROR of one code about one network goes to one peer at most once in this time, ms.
pub const ERROR_PERIOD_MS: u64 = 1_000;
/// Senders of ERRORs remembered for that; beyond it no ERROR is sent.
pub const ERRORS_REMEMBERED_MAX: usize = 65_536;
/// Peers whose receive gate and signature budget are remembered; a newcomer beyond it is not read.
pub const SENDERS_MAX: usize = 65_536;
/// Signature checks one sender can cause per [`SIGNATURE_WINDOW_MS`]; 261 is the largest honest push.
pub const SIGNATURES_PER_SENDER_MAX: u32 = 320;
/// Window of that budget, ms.
pub const SIGNATURE_WINDOW_MS: u64 = 1_000;
/// Credential packets that wait for their distance to the one before, per network; the newest beyond it is dropped.
pub const SPACED_PUSHES_MAX: usize = 1_024;
/// Members a fast revocation or configuration chunk is passed on to.
pub const FLOOD_RECIPIENTS_MAX: usize = 1_024;
/// Bridge routes per network; a MAC beyond it is not learned.
pub const BRIDGE_ROUTES_MAX: usize = 65_536;
/// Bridge routes per bridge; a MAC beyond it is not learned.
pub const BRIDGE_ROUTES_PER_BRIDGE_MAX: usize = 16_384;
/// A bridge route not confirmed for this long is forgotten, as in a switch, ms.
pub const BRIDGE_ROUTE_AGE_MS: u64 = 300_000;
/// Groups behind us that are announced; one beyond it is not learned.
pub const BRIDGED_GROUPS_MAX: usize = 1_024;
/// A group behind us not seen for this long is forgotten, ms. // spec: networks, "Groups behind a bridge"
pub const BRIDGED_GROUP_AGE_MS: u64 = 1_200_000;
/// Groups in the multicast database; one beyond it is not recorded.
pub const GROUPS_MAX: usize = 65_536;
/// Members of one group; one beyond it is not recorded.
pub const GROUP_MEMBERS_MAX: usize = 16_384;
/// Groups of one network that one member can be in; one beyond it is not recorded.
pub const GROUPS_PER_MEMBER_MAX: usize = 2_048;
/// Memberships of groups in all; one beyond it is not recorded.
pub const GROUP_MEMBERSHIPS_MAX: usize = 262_144;
/// Bytes of queued multicasts in all; the newest beyond it is sent but not queued.
pub const MULTICAST_QUEUE_BYTES_MAX: usize = 4 << 20;

/// Bytes of an Ethernet header: two MACs and the ethertype.
pub const ETHERNET_HEADER: usize = 14;
/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
