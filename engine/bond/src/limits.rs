//! Every number a bond lives by: the protocol's name, the value, the unit, where it comes from.
//! "spec" is the specification's chapter on bonding; "ours" is a bound or a timer that the reference does not have.

// Configuration. // spec: bonding, "Constants"

/// Default `failoverInterval`. ms, spec.
pub const FAILOVER_INTERVAL_MS: u32 = 5000;
/// Smallest `failoverInterval`. ms, spec.
pub const FAILOVER_INTERVAL_MIN_MS: u32 = 500;
/// Largest delay or interval that a setting may ask for. ms, ours: a day.
pub const DELAY_MAX_MS: u32 = 86_400_000;
/// Packets per turn of balance-rr in `compat` mode. spec.
pub const PACKETS_PER_LINK: u32 = 64;
/// Links that one policy may list. ours.
pub const LINKS_MAX: usize = 64;

/// Least `capacity`. bit/s, ours: [`RATE_MIN`].
pub const CAPACITY_MIN: u64 = 64_000;
/// Largest `capacity`. bit/s, ours: [`RATE_MAX`].
pub const CAPACITY_MAX: u64 = 100_000_000_000;
/// A smaller `capacity` without unit is not taken for bits per second: others write them in kbit/s or Mbit/s. bit/s, ours.
pub const CAPACITY_PLAIN_MIN: u64 = 1_000_000;
/// Least `mtu` of a link: the largest packet fits into 16 datagrams. bytes of UDP payload, ours.
pub const LINK_MTU_MIN: u16 = 1000;
/// Largest `mtu` of a link. bytes of UDP payload, spec: that of a physical network.
pub const LINK_MTU_MAX: u16 = 10_324;

// Paths.

/// Paths of one bond. spec.
pub const PATHS_MAX: usize = 64;
/// How long a new path is taken on trust in `compat` mode. ms, spec.
pub const TRIAL_MS: u64 = 15_000;
/// A path that was not eligible for this long is forgotten. ms, spec.
pub const INELIGIBLE_MS: u64 = 600_000;
/// A QOS_MEASUREMENT counts for this long. ms, spec.
pub const QOS_AGE_MS: u64 = 600_000;
/// A path to a root is alive for this long. ms, spec.
pub const ROOT_ALIVE_MS: u64 = 243_000;
/// Time between two switches under select method `optimize`. ms, spec.
pub const OPTIMIZE_HOLD_MS: u64 = 15_000;
/// It doubles with each of them so many times at most. ours.
pub const OPTIMIZE_DOUBLED_MAX: u32 = 8;

// Measuring.

/// Odd packet IDs that are remembered per path and direction. spec.
pub const QOS_PENDING_MAX: usize = 420;
/// Samples that a mean is made of. spec.
pub const SAMPLES_MAX: usize = 64;
/// Samples below which there is no mean. spec.
pub const SAMPLES_MIN: usize = 4;
/// Records per report of ours: 1028 bytes, which fit any link. ours.
pub const QOS_RECORDS_OURS: usize = 100;
/// A latency above this is not believed. us, spec.
pub const LATENCY_MAX_US: u64 = 10_000_000;
/// Arrivals in a row, each close to the one before, after which a gate is shut. spec.
pub const GATE_COUNT: u32 = 128;
/// Shortest gap between two negotiation requests that does not count as close. ms, spec.
pub const NEGOTIATION_GAP_MS: u64 = 937;
/// Shortest gap between two ECHOs of one path that are both answered. ms, spec.
pub const ECHO_GAP_MS: u64 = 166;

// Negotiation. // spec: bonding, "ACK and path negotiation"

/// Between two checks. ms, spec.
pub const NEGOTIATION_CHECK_MS: u64 = 15_000;
/// Requests until we are silent. spec.
pub const NEGOTIATION_TRIES: u8 = 3;
/// After this long we may ask again. ms, spec.
pub const NEGOTIATION_CUTOFF_MS: u64 = 60_000;
/// After this long without an answer we give in. ms, spec.
pub const NEGOTIATION_GIVE_UP_MS: u64 = 30_000;

// Judging whether what we send arrives. // spec: bonding, "Probing, liveness, loss"

/// Smallest RTO. us, spec.
pub const RTO_MIN_US: u64 = 20_000;
/// Largest RTO. us, ours.
pub const RTO_MAX_US: u64 = 2_000_000;
/// RTO before the first round trip was measured. us, ours.
pub const RTO_FIRST_US: u64 = 250_000;
/// Added to srtt at least. us, spec.
pub const RTO_SLACK_US: u64 = 10_000;
/// Acknowledged requests in flight that a path remembers; more than are sent in one RTO at the politest rate. ours.
pub const OUTSTANDING_MAX: usize = 64;
/// Probes of a suspect path. spec.
pub const SUSPECT_PROBES: u8 = 5;
/// Unanswered probes after which a suspect path is down. spec.
pub const DOWN_PROBES: u8 = 3;
/// Between two probes at least, for politeness: 50 per second. us, spec.
pub const PROBE_GAP_MIN_US: u64 = 20_000;
/// First pause between probes of a path that is down. us, spec.
pub const BACKOFF_FIRST_US: u64 = 50_000;
/// Last. us, spec.
pub const BACKOFF_MAX_US: u64 = 5_000_000;
/// Most cuts are short, and what returns is to be found at once: a path that is down no longer than this is probed every
/// [`BACKOFF_SOON_MAX_US`] at least. us, ours.
pub const BACKOFF_SOON_US: u64 = 10_000_000;
/// See [`BACKOFF_SOON_US`]. us, ours.
pub const BACKOFF_SOON_MAX_US: u64 = 400_000;
/// A path that is down and over which packets come in is probed this often at most. us, ours: as a HELLO may be.
pub const HEARD_GAP_US: u64 = 500_000;
/// Acknowledgements in a row that raise a path. spec.
pub const UP_ACKS: u8 = 3;
/// They must come within this long. us, spec.
pub const UP_WITHIN_US: u64 = 1_000_000;
/// Keep-alive of a path that stands by. us, spec.
pub const KEEP_ALIVE_STANDBY_US: u64 = 1_000_000;
/// Keep-alive of the others. us, spec.
pub const KEEP_ALIVE_US: u64 = 5_000_000;
/// What one failure adds to the flap penalty. spec.
pub const PENALTY: f64 = 1000.0;
/// The penalty halves in this long. us, spec.
pub const PENALTY_HALF_US: f64 = 15_000_000.0;
/// Above this a path is held back. spec.
pub const PENALTY_HELD: f64 = 2500.0;
/// The penalty never exceeds this, so a path is held for a minute or so after the last flap at most. ours.
pub const PENALTY_MAX: f64 = 10_000.0;
/// How long a path that flapped must stay good before it gets data. us, spec.
pub const HELD_US: u64 = 10_000_000;
/// A path that was acknowledged within this time is better than none. us, spec.
pub const LAST_RESORT_US: u64 = 1_000_000;
/// All paths suspect for this long: relay beside. us, spec.
pub const RELAY_AFTER_US: u64 = 2_000_000;

/// ICMP errors make one path suspect this often at most: one that is forged costs one round trip in as long. us, ours.
pub const HINT_AGAIN_US: u64 = 10_000_000;
/// And have it asked this often at most, which is as often as every remote answers an ECHO. us, ours.
pub const HINT_GAP_US: u64 = 200_000;

/// Shortest and longest time between two looks at the paths in `compat` mode. ms, spec.
pub const TICK_MIN_MS: u64 = 60;
/// See [`TICK_MIN_MS`].
pub const TICK_MAX_MS: u64 = 500;
/// A bond is looked at this often though nothing happens. us, ours.
pub const TICK_IDLE_US: u64 = 1_000_000;

/// After the first path answered, one that is preferred may still take over under any select method. us, ours.
pub const SETTLING_US: u64 = 2_000_000;

/// Shards whose say about one path is told apart; one more makes who was silent longest be forgotten. ours.
pub const SEEN_SHARDS_MAX: usize = 64;

// Sending again. // spec: bonding, "Failover without loss"

/// Memory of one peer for sealed packets of the last moments. bytes, spec.
pub const RECALL_BYTES_MAX: usize = 4 << 20;
/// Packets kept of one peer. ours.
pub const RECALL_PACKETS_MAX: usize = 8192;
/// A packet older than this is not sent again, however long it waited for its turn. us, ours.
pub const RECALL_AGE_MAX_US: u64 = 1_000_000;
/// Memory that was not used for this long is given back. us, ours.
pub const RECALL_IDLE_US: u64 = 2_000_000;

// Putting in order. // spec: bonding, "Receiving"

/// A segment waits for those before it for this long at most. us, spec.
pub const RESEQUENCE_HOLD_MAX_US: u64 = 40_000;
/// Segments of one flow that wait: 40 ms of 300 Mbit/s. ours (spec: 256).
pub const RESEQUENCE_SEGMENTS_MAX: usize = 1024;
/// Segments that wait in one shard. ours.
pub const RESEQUENCE_HELD_MAX: usize = 8192;
/// Memory for them. bytes, ours.
pub const RESEQUENCE_BYTES_MAX: usize = 4 << 20;
/// Flows that one shard keeps in order side by side; more push out the longest idle of their bucket. ours.
pub const RESEQUENCE_FLOWS_MAX: usize = 1024;
/// Paths of one peer that are told apart; more share a place. ours.
pub const RESEQUENCE_PATHS_MAX: usize = 4;
/// Memory that was not used for this long is given back. us, ours.
pub const RESEQUENCE_IDLE_US: u64 = 5_000_000;

// Sharing. // spec: bonding, "Flow assignment"

/// A live flow goes home when it was idle for this long. us, spec.
pub const MOVE_IDLE_US: u64 = 50_000;
/// Or when its home has been back for this long. us, spec.
pub const MOVE_AFTER_US: u64 = 1_000_000;
/// Between two moves of live flows at least. us, ours.
pub const MOVE_GAP_US: u64 = 20_000;
/// Between two flows that leave a path that is to be avoided, in `compat` mode. us, spec: one tick.
pub const AVOID_GAP_US: u64 = 500_000;
/// A path is overloaded above this share of its rate. spec.
pub const LOAD_HIGH: f64 = 0.95;
/// And another has room below this. spec.
pub const LOAD_LOW: f64 = 0.70;
/// Paths of known rates are in use from this share of one of them on, and until all are below the second. ours.
pub const BUSY: [f64; 2] = [0.5, 0.1];
/// For this long. us, spec.
pub const LOAD_FOR_US: u64 = 1_000_000;
/// Between two elephants that are moved. us, spec.
pub const ELEPHANT_GAP_US: u64 = 250_000;
/// Until one may go the other way between the same two paths. us, ours.
pub const ELEPHANT_BACK_US: u64 = 60_000_000;
/// Packets within [`ELEPHANT_WINDOW_US`] above which a flow is large. spec.
pub const ELEPHANT_PACKETS: u32 = 32;
/// us, spec.
pub const ELEPHANT_WINDOW_US: u64 = 100_000;
/// A path whose delay is greater by no more than this is as near as the nearest. us, ours.
pub const NEAR_US: u64 = 5_000;
/// Flows that are not spread keep to the nearest paths below this share of what these carry. ours.
pub const LIGHT_SHARE: f64 = 0.5;
/// By what they carried in this time. us, ours.
pub const LIGHT_WINDOW_US: u64 = 100_000;
/// A path that acknowledged something within this time is known well enough to stripe over. us, ours.
pub const FRESH_US: u64 = 2_000_000;
/// A weight that changed by less than this share is not published. ours.
pub const WEIGHT_STEP: f64 = 0.2;
/// An idle flow is forgotten after this. us, spec.
pub const FLOW_IDLE_US: u64 = 243_000_000;
/// Flows of one selector at most; more push out the longest idle of their bucket. ours.
pub const FLOWS_MAX: usize = 65_536;
/// Rate taken for a path that nobody measured or configured. bytes/s, ours: 2 Mbit/s.
pub const RATE_FIRST: f64 = 250_000.0;
/// Bounds of any rate. bytes/s, ours: 64 kbit/s to 100 Gbit/s.
pub const RATE_MIN: f64 = 8_000.0;
/// See [`RATE_MIN`].
pub const RATE_MAX: f64 = 12.5e9;

/// Paths that were lost and then forgotten of which shards are told. ours.
pub const BURIED_MAX: usize = 4;

// Explaining.

/// Round trips of a path that are held for the operator. ours: 1 KiB per path.
pub const TRIPS_MAX: usize = 256;
/// Requests that recent loss is a share of: a result of 1 % needs a hundred. ours.
pub const FATES_MAX: u32 = 128;

/// Decisions that a bond remembers. ours.
pub const DECISIONS_MAX: usize = 64;

// Agreeing with another Hawser. ours.

/// The second offer comes this long after the first if that is not answered, the next after twice as long. ms.
pub const PACT_GAP_FIRST_MS: u64 = 2_000;
/// But never later than this. ms.
pub const PACT_GAP_MAX_MS: u64 = 300_000;
/// An agreement is renewed after this long. ms.
pub const PACT_RENEW_MS: u64 = 60_000;
/// The sender reckons with it for this long from when the offer left. ms.
pub const PACT_HELD_MS: u64 = 180_000;
/// The receiver keeps it for this long from when the offer came. ms.
pub const PACT_GIVEN_MS: u64 = 300_000;
/// An answer to an offer older than this has no effect. ms.
pub const PACT_ANSWER_MS: u64 = 10_000;
/// Who gets marks that it did not agree to says so this often at most. ms.
pub const PACT_STRAY_MS: u64 = 1_000;
/// Offers to one peer in any minute.
pub const PACT_OFFERS_PER_MINUTE: usize = 6;
/// Answers to one peer in any minute.
pub const PACT_ANSWERS_PER_MINUTE: usize = 12;

/// Flows of one peer whose frames are numbered. More push out the longest idle of their bucket.
pub const MARKED_FLOWS_MAX: usize = 256;

// What the receiver reports of one path. ours.

/// Between two notes of what was sent. us.
pub const DELIVERY_GAP_US: u64 = 5_000;
/// Such notes: more than a second under load.
pub const DELIVERY_SENT_MAX: usize = 256;
/// Figures are of at least this long. us.
pub const DELIVERY_WINDOW_US: u64 = 100_000;
/// And of as many packets, if they come within the next.
pub const DELIVERY_PACKETS_MIN: u64 = 64;
/// What was reported counts for this long. us.
pub const DELIVERY_FRESH_US: u64 = 3_000_000;
/// Share of a new figure that is believed.
pub const DELIVERY_GAIN: f64 = 0.25;

// Testing a link.

/// How long a link is probed at most. us, ours.
pub const TEST_MAX_US: u64 = 60_000_000;
/// How long it is loaded at most. us, ours.
pub const TEST_LOAD_MAX_US: u64 = 10_000_000;
/// Between two probes: 20 per second, of the 50 that are polite. us, ours.
pub const TEST_PROBE_GAP_US: u64 = 50_000;
/// Largest load. bytes/s, ours: 200 Mbit/s, what the control plane sends without being late.
pub const TEST_LOAD_MAX: f64 = 25e6;
/// Of a load one frame in so many us asks for acknowledgement. spec: 2 to 10 ms.
pub const TEST_ACK_GAP_US: f64 = 5_000.0;
/// But at least one in so many. spec.
pub const TEST_ACK_EVERY_MAX: u64 = 64;
/// A load that could not leave in time is made up for by so much. us, ours.
pub const TEST_LATE_US: f64 = 5_000.0;
/// A link that took less than this share of the load is full. ours.
pub const TEST_FULL: f64 = 0.97;
/// Without an answer for so long no data is sent over a link under test. us, ours.
pub const TEST_SILENCE_US: u64 = 500_000;
/// How long the last answers are waited for. us, ours.
pub const TEST_WAIT_US: u64 = 2_000_000;
/// Requests and answers of one test that are remembered: more than it makes. ours.
pub const TEST_SAMPLES_MAX: usize = 4096;
