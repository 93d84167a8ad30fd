//! The controller's numbers: the protocol's under the protocol's names, and the bounds of everything that grows.

/// Two genuine requests of one member for one network are further apart than this, ms.
// spec: controller, "Online state, rate limits, concurrency"
pub const REQUEST_GATE_MS: u64 = 1_000;
/// A member is online for this long after its last genuine request, ms.
// spec: controller, "Unsolicited updates"
pub const ONLINE_MS: u64 = 120_000;
/// A member may use us as multicast registry for this long after we sent it a configuration, ms.
// spec: controller, "Sending"
pub const MULTICAST_AUTHORISATION_MS: u64 = 180_000;
/// How far certificates of two members may be apart: default, ms. // spec: controller, "Building the configuration"
pub const CREDENTIAL_WINDOW_MS: u64 = 1_800_000;
/// The same: smallest, ms.
pub const CREDENTIAL_WINDOW_MIN_MS: u64 = 300_000;
/// The same: largest, ms.
pub const CREDENTIAL_WINDOW_MAX_MS: u64 = 7_200_000;
/// Most recipients of one multicast by default. // spec: controller, "Network"
pub const MULTICAST_LIMIT_DEFAULT: u32 = 32;
/// Addresses tried per pool. // spec: controller, "Address assignment"
pub const TRIALS_PER_POOL: u32 = 1_000;
/// Entries of one array in a record at most; the reference cuts there, we refuse. // spec: controller, "Network"
pub const ARRAY_MAX: usize = 16_384;
/// Random network numbers tried before a new network is refused. // spec: controller, "REST interface"
pub const NETWORK_NUMBER_TRIALS: u32 = 100_000;
/// Version of the management interface. // spec: controller, "REST interface"
pub const API_VERSION: u64 = 4;

// The rest is ours; the reference has no bound there.

/// Networks of one controller at most; further ones are refused.
pub const NETWORKS_MAX: usize = 4_096;
/// Members of one network at most; further ones are refused.
pub const MEMBERS_MAX: usize = 65_536;
/// Members of one network that asked but were never authorised: at most; further ones are refused without a record, so
/// that strangers cannot fill the table.
pub const STRANGERS_MAX: usize = 4_096;
/// Members whose last request is remembered by the request gate at most; a request more is dropped.
pub const GATE_MAX: usize = 65_536;
/// Networks that do not exist for which one peer is answered within [`REQUEST_GATE_MS`] at most.
pub const UNKNOWN_NETWORKS_PER_GATE: u64 = 8;
/// Requests of authorised members that wait for an answer at most, one for each member and network; a newer one is
/// dropped.
pub const PENDING_MAX: usize = 4_096;
/// Requests of all others that wait at most; a newer one is dropped. They wait apart, so that strangers cannot delay
/// members.
pub const PENDING_STRANGERS_MAX: usize = 1_024;
/// Unsolicited configurations that wait at most; a newer one is dropped: the member asks within 60 s anyway.
pub const PUSHES_MAX: usize = 65_536;
/// Revocations of one network that are told to members that come online at most; the oldest is forgotten.
pub const REVOCATIONS_MAX: usize = 4_096;
/// Revocations in one packet at most: they fill about 7600 of 10024 bytes.
pub const REVOCATIONS_PER_PACKET: usize = 50;
/// Bytes of request metadata at most; the reference sends at most 1023.
pub const METADATA_MAX_BYTES: usize = 4_096;
/// Bytes of a name or token at most.
pub const TEXT_MAX_BYTES: usize = 1_024;
/// Bytes of a network's record at most.
pub const NETWORK_RECORD_MAX_BYTES: usize = 4 << 20;
/// Bytes of a member's record at most.
pub const MEMBER_RECORD_MAX_BYTES: usize = 1 << 20;
/// A larger file is not one of ours, bytes.
pub const FILE_MAX_BYTES: u64 = 16 << 20;
/// Events that wait to be polled at most; a newer one is dropped.
pub const EVENTS_MAX: usize = 1_024;

/// Changes within this time lead to one unsolicited configuration, ms.
pub const PUSH_COALESCE_MS: u64 = 200;
/// Answers and unsolicited packets per second: each costs a few signatures on the thread that runs all control.
pub const PACKETS_PER_SECOND: u64 = 500;
/// As many at once after a pause.
pub const PACKETS_BURST: u64 = 128;
/// How far ahead the stored clock is of the timestamps issued, ms: one write covers that much time.
pub const CLOCK_LEASE_MS: u64 = 60_000;
/// A stored time after this one (the year 10889) is a mistake, ms.
pub const TIMESTAMP_MAX_MS: u64 = 1 << 48;
/// Old entries are removed this often, ms.
pub const SWEEP_MS: u64 = 10_000;
/// Expired third-party authentications are looked for this often, ms. // spec: controller, "Unsolicited updates"
pub const AUTHENTICATION_CHECK_MS: u64 = 500;
/// A record that could not be written is tried again after this time, ms.
pub const STORE_RETRY_MS: u64 = 5_000;
