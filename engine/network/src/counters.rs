//! What was dropped, cut short or refused, by cause. An operator reads them; nothing here decides by them.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Events since the start, by cause.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name, for metrics.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Messages whose bytes did not have their form.
    malformed,
    /// Frames from a peer that did not pass the gate.
    refused_by_gate,
    /// Messages not held because the room for it was full.
    held_dropped,
    /// Messages held for longer than 5 s.
    held_expired,
    /// Errors not sent because one went to that peer within the second.
    errors_suppressed,
    /// NETWORK_CREDENTIALS not read because one of that peer was read within the second.
    credentials_too_soon,
    /// Credentials that were revoked, old, of another network, or had a bad signature.
    credentials_rejected,
    /// Signatures not checked because the sender's budget was used up.
    signatures_over_budget,
    /// Members who took another one's place, or were not recorded, because the table was full.
    members_full,
    /// Packets of credentials not queued because the queue was full.
    spaced_pushes_full,
    /// Recipients left out when something was passed on to all members.
    floods_cut,
    /// Configuration chunks that were unsigned, badly signed or did not fit.
    chunks_refused,
    /// Whole configurations that could not be read, or were for another member.
    configs_refused,
    /// Configurations older than the one held that we had not asked for.
    configs_rolled_back,
    /// Frames from our TAP that the rules refused.
    filtered_outbound,
    /// Frames from members that the rules refused.
    filtered_inbound,
    /// Frames from our TAP with a source MAC that is not ours, while we are no bridge.
    foreign_source,
    /// Frames from our TAP that cannot be sent: no configuration, no such member, broadcast or multicast switched off.
    unsendable,
    /// Frames from members whose MACs do not fit their sender or recipient.
    misaddressed,
    /// Frames too long for a packet, or for the MTU.
    too_long,
    /// Bridge routes not learned because the table was full.
    bridge_routes_full,
    /// Groups behind us not learned because the table was full.
    bridged_groups_full,
    /// Groups of our TAP left out because there were too many.
    subscriptions_cut,
    /// Members of groups not recorded because a table was full.
    multicast_members_full,
    /// Multicasts not queued because a queue was full.
    multicast_queue_full,
    /// Gathers not sent because one was sent within its period.
    gathers_suppressed,
    /// LIKEs and gathers of peers that may not.
    multicast_unauthorised,
}
