//! The verbs: what a packet asks for. Knows their numbers and names, nothing about their payloads.
// spec: wire, "Verbs"

use std::fmt;

macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A verb of ZeroTier V1 by its number on the wire. Numbers without a variant are unassigned: such packets are
        /// authenticated, counted as a sign of life, and otherwise ignored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Verb {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Verb {
            /// Every assigned verb, in order of its number.
            pub const ALL: &[Verb] = &[$(Verb::$variant),*];

            /// The verb with this number (flag bits already removed); none if unassigned.
            pub const fn from_u8(number: u8) -> Option<Verb> {
                match number {
                    $($number => Some(Verb::$variant),)*
                    _ => None,
                }
            }

            /// The protocol's name, for logs and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Verb::$variant => $name,)*
                }
            }
        }
    };
}

verbs! {
    /// Nothing; a sign of life.
    Nop = 0x00, "NOP";
    /// Introduces the sender's identity.
    Hello = 0x01, "HELLO";
    /// A request failed.
    Error = 0x02, "ERROR";
    /// A request succeeded.
    Ok = 0x03, "OK";
    /// Asks a root for identities.
    Whois = 0x04, "WHOIS";
    /// A relay tells two peers where to meet.
    Rendezvous = 0x05, "RENDEZVOUS";
    /// An Ethernet frame between two members' own MACs.
    Frame = 0x06, "FRAME";
    /// An Ethernet frame with explicit MACs.
    ExtFrame = 0x07, "EXT_FRAME";
    /// Asks for the same bytes back.
    Echo = 0x08, "ECHO";
    /// Announces multicast subscriptions.
    MulticastLike = 0x09, "MULTICAST_LIKE";
    /// Shows certificates, capabilities, tags, revocations.
    NetworkCredentials = 0x0a, "NETWORK_CREDENTIALS";
    /// Asks a controller for a network's configuration.
    NetworkConfigRequest = 0x0b, "NETWORK_CONFIG_REQUEST";
    /// Pushes a chunk of a network's configuration.
    NetworkConfig = 0x0c, "NETWORK_CONFIG";
    /// Asks for members of a multicast group.
    MulticastGather = 0x0d, "MULTICAST_GATHER";
    /// An Ethernet frame to a multicast group.
    MulticastFrame = 0x0e, "MULTICAST_FRAME";
    /// Tells a peer where we can be reached directly.
    PushDirectPaths = 0x10, "PUSH_DIRECT_PATHS";
    /// Bytes received; sent by 1.4 to 1.6 only.
    Ack = 0x12, "ACK";
    /// How long received packets were held, for latency without clocks.
    QosMeasurement = 0x13, "QOS_MEASUREMENT";
    /// Opaque data for the application above.
    UserMessage = 0x14, "USER_MESSAGE";
    /// Telemetry dictionaries.
    RemoteTrace = 0x15, "REMOTE_TRACE";
    /// Asks the peer to use one path in both directions.
    PathNegotiationRequest = 0x16, "PATH_NEGOTIATION_REQUEST";
}

impl Verb {
    /// May come authenticated but in clear (suite 0). The reference takes any verb so, but sends only these.
    // spec: wire, "Gateway hardening", suite 0
    pub const fn may_be_clear(self) -> bool {
        matches!(self, Verb::Hello | Verb::Ack | Verb::QosMeasurement | Verb::PathNegotiationRequest)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_found_by_its_number_and_no_other_number_is_one() {
        for n in 0..=u8::MAX {
            match Verb::from_u8(n) {
                Some(v) => assert_eq!(v as u8, n),
                None => assert!(!Verb::ALL.iter().any(|&v| v as u8 == n)),
            }
        }
        assert_eq!(Verb::ALL.len(), 21);
    }
}
