//! What two Hawsers agree on by USER_MESSAGE, ours: an offer and its answer, receive reports, and the order mark at the end of
//! a frame. Others hand such messages to nobody, and what follows an IP packet in its frame is padding to every host.
//! It must not know when any of it is sent or believed.
//!
//! ```text
//! offer      0      8         9     10         12      20          20 bytes
//!            +------+---------+-----+----------+-------+
//!            | kind | version | 1   | features | nonce |
//!            +------+---------+-----+----------+-------+
//! answer     0      8         9     10         12      20       24 bytes
//!            +------+---------+-----+----------+-------+--------+
//!            | kind | version | 2   | features | nonce | window |
//!            +------+---------+-----+----------+-------+--------+
//! report     0      8         9     10      14        22      30       38     42 bytes
//!            +------+---------+-----+-------+---------+-------+--------+------+
//!            | kind | version | 3   | epoch | packets | bytes | newest | held |
//!            +------+---------+-----+-------+---------+-------+--------+------+
//! marked     0         8       9    +6    +12          +14         n-4    n
//! EXT_FRAME  +---------+-------+----+------+-----------+-----------+------+
//!            | network | flags | to | from | ethertype | IP packet | mark |
//!            +---------+-------+----+------+-----------+-----------+------+
//! ```
// ours; spec: bonding, "A better bond on the same wire"

use super::UserMessage;

/// The type of our messages: a random number, once drawn.
pub const PACT_KIND: u64 = 0x0e56_98a0_bef4_9426;
/// The version of what is written here. Messages of another one are passed over.
pub const PACT_VERSION: u8 = 1;

/// Things that a receiver does for a sender. Bits that mean nothing yet are passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u16);

impl Features {
    /// Nothing.
    pub const NONE: Features = Features(0);
    /// It takes the order mark off, and lets frames of one flow through in the order of their marks.
    pub const ORDER_MARK: Features = Features(0x0001);
    /// It sends receive reports.
    pub const REPORTS: Features = Features(0x0002);
    /// It drops frames whose packet ID came before.
    pub const DUPLICATES: Features = Features(0x0004);
    /// All that mean something.
    pub const ALL: Features = Features(0x0007);

    /// Those of a number that mean something.
    pub const fn from_bits(bits: u16) -> Features {
        Features(bits & Features::ALL.0)
    }

    /// As a number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Those in both.
    pub const fn and(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }

    /// Those that are not in the other.
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// All of `other` are among them.
    pub const fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// There is none.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// What came over one path, counted by the receiver and told to the sender over the same path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveReport {
    /// Names the count: another number is another count, which began at zero.
    pub epoch: u32,
    /// Frames that came, repetitions included, up to the newest and with it.
    pub packets: u64,
    /// Bytes of their packets.
    pub bytes: u64,
    /// ID of the newest.
    pub newest: u64,
    /// How long ago that one came, us.
    pub held_us: u32,
}

/// A message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PactMessage {
    /// The sender has a bond for the receiver and asks for these; for none: it has a bond no more. An answer is wanted.
    Offer {
        /// What it asks for.
        features: Features,
        /// Names the offer. Not zero.
        nonce: u64,
    },
    /// The sender does these for the receiver; none: it does not, whatever it said before.
    Answer {
        /// What it does.
        features: Features,
        /// The offer's; 0: there was none, frames with marks came and nobody remembers why.
        nonce: u64,
        /// Packet IDs that are remembered, at least.
        window: u32,
    },
    /// What came.
    Report(ReceiveReport),
}

impl PactMessage {
    const OFFER: u8 = 1;
    const ANSWER: u8 = 2;
    const REPORT: u8 = 3;
    const OFFER_LEN: usize = 10;
    const ANSWER_LEN: usize = 14;
    const REPORT_LEN: usize = 32;
    /// Bytes of the longest payload, that of a report.
    pub const LEN_MAX: usize = 8 + 2 + PactMessage::REPORT_LEN;

    /// The message in a USER_MESSAGE, if it is one that we understand.
    pub fn parse(message: &UserMessage<'_>) -> Option<PactMessage> {
        let [version, what, body @ ..] = message.content else { return None };
        if message.kind != PACT_KIND || *version != PACT_VERSION {
            return None;
        }
        match *what {
            PactMessage::OFFER => {
                let body: &[u8; PactMessage::OFFER_LEN] = body.try_into().ok()?;
                let (features, nonce) = (Features::from_bits(be16(body, 0)), be64(body, 2));
                (nonce != 0).then_some(PactMessage::Offer { features, nonce })
            }
            PactMessage::ANSWER => {
                let body: &[u8; PactMessage::ANSWER_LEN] = body.try_into().ok()?;
                let (features, nonce) = (Features::from_bits(be16(body, 0)), be64(body, 2));
                Some(PactMessage::Answer { features, nonce, window: be32(body, 10) })
            }
            PactMessage::REPORT => {
                let body: &[u8; PactMessage::REPORT_LEN] = body.try_into().ok()?;
                Some(PactMessage::Report(ReceiveReport {
                    epoch: be32(body, 0),
                    packets: be64(body, 4),
                    bytes: be64(body, 12),
                    newest: be64(body, 20),
                    held_us: be32(body, 28),
                }))
            }
            _ => None,
        }
    }

    /// Writes the payload of a USER_MESSAGE.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&PACT_KIND.to_be_bytes());
        out.push(PACT_VERSION);
        match *self {
            PactMessage::Offer { features, nonce } => {
                out.push(PactMessage::OFFER);
                out.extend_from_slice(&features.bits().to_be_bytes());
                out.extend_from_slice(&nonce.to_be_bytes());
            }
            PactMessage::Answer { features, nonce, window } => {
                out.push(PactMessage::ANSWER);
                out.extend_from_slice(&features.bits().to_be_bytes());
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(&window.to_be_bytes());
            }
            PactMessage::Report(ReceiveReport { epoch, packets, bytes, newest, held_us }) => {
                out.push(PactMessage::REPORT);
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(&packets.to_be_bytes());
                out.extend_from_slice(&bytes.to_be_bytes());
                out.extend_from_slice(&newest.to_be_bytes());
                out.extend_from_slice(&held_us.to_be_bytes());
            }
        }
    }
}

/// The order mark of a frame: four bytes behind its IP packet, which say how many of its flow were sent before. A host
/// takes them for the padding of its Ethernet and drops them, so who does not know the mark, or has forgotten that it agreed
/// to it, delivers the same packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderMark(pub u32);

impl OrderMark {
    /// Bytes of a mark.
    pub const LEN: usize = 4;

    /// Whether a frame can be marked: it is an IP packet and nothing else, by its own length.
    pub fn fits(ethertype: u16, payload: &[u8]) -> bool {
        ip_len(ethertype, payload) == Some(payload.len())
    }

    /// The frame's payload and its mark. None if it does not end with exactly four bytes that are not the IP packet's.
    pub fn split(ethertype: u16, payload: &[u8]) -> Option<(&[u8], OrderMark)> {
        let (packet, mark) = payload.split_last_chunk::<{ OrderMark::LEN }>()?;
        OrderMark::fits(ethertype, packet).then_some((packet, OrderMark(u32::from_be_bytes(*mark))))
    }

    /// The four bytes.
    pub const fn to_bytes(self) -> [u8; OrderMark::LEN] {
        self.0.to_be_bytes()
    }
}

/// Length of an IP packet, by its header.
fn ip_len(ethertype: u16, payload: &[u8]) -> Option<usize> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const IPV6_HEADER: usize = 40;
    match ethertype {
        IPV4 => {
            let header: &[u8; 20] = payload.first_chunk()?;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            (header[0] >> 4 == 4 && len >= header.len()).then_some(len)
        }
        IPV6 => {
            let header: &[u8; IPV6_HEADER] = payload.first_chunk()?;
            let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            // Of a jumbogram the length is elsewhere.
            (header[0] >> 4 == 6 && len > 0).then_some(IPV6_HEADER + len)
        }
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(message: PactMessage) -> Vec<u8> {
        let mut payload = Vec::new();
        message.write(&mut payload);
        payload
    }

    fn parse(payload: &[u8]) -> Option<PactMessage> {
        PactMessage::parse(&UserMessage::parse(payload).ok()?)
    }

    fn message() -> impl Strategy<Value = PactMessage> {
        let features = (0..8u16).prop_map(Features::from_bits);
        prop_oneof![
            (features.clone(), 1..=u64::MAX).prop_map(|(features, nonce)| PactMessage::Offer { features, nonce }),
            (features, any::<u64>(), any::<u32>()).prop_map(|(features, nonce, window)| PactMessage::Answer {
                features,
                nonce,
                window
            }),
            any::<(u32, u64, u64, u64, u32)>().prop_map(|(epoch, packets, bytes, newest, held_us)| {
                PactMessage::Report(ReceiveReport { epoch, packets, bytes, newest, held_us })
            }),
        ]
    }

    #[test]
    fn the_wire_forms_are_these() {
        let (features, nonce) = (Features::ALL, 0x0102_0304_0506_0708);
        let offer = PactMessage::Offer { features, nonce };
        assert_eq!(hex::encode(written(offer)), "0e5698a0bef49426010100070102030405060708");
        let answer = PactMessage::Answer { features: Features::REPORTS, nonce, window: 8192 };
        assert_eq!(hex::encode(written(answer)), "0e5698a0bef4942601020002010203040506070800002000");
        let report = ReceiveReport { epoch: 0xa1, packets: 0xb2, bytes: 0xc3, newest: 0xd4, held_us: 0xe5 };
        assert_eq!(
            hex::encode(written(PactMessage::Report(report))),
            "0e5698a0bef494260103000000a100000000000000b200000000000000c300000000000000d4000000e5"
        );
    }

    #[test]
    fn other_kinds_versions_subtypes_and_lengths_are_passed_over() {
        let good = written(PactMessage::Offer { features: Features::ALL, nonce: 7 });
        assert!(parse(&good).is_some());
        for (at, byte) in [(7, 0x27), (8, 2), (8, 0), (9, 0), (9, 4)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(parse(&bad), None, "byte {at}");
        }
        assert!((0..good.len()).all(|len| parse(&good[..len]).is_none()));
        assert_eq!(parse(&[&good[..], &[0]].concat()), None);
        assert_eq!(parse(&written(PactMessage::Offer { features: Features::ALL, nonce: 0 })), None, "a nonce names");
    }

    #[test]
    fn features_that_mean_nothing_yet_are_passed_over() {
        let mut payload = written(PactMessage::Offer { features: Features::NONE, nonce: 7 });
        payload[10..12].copy_from_slice(&[0xff, 0xfa]);
        assert_eq!(parse(&payload), Some(PactMessage::Offer { features: Features::REPORTS, nonce: 7 }));
    }

    fn ipv4(len: u16, rest: usize) -> Vec<u8> {
        let [l0, l1] = len.to_be_bytes();
        [&[0x45, 0, l0, l1][..], &[0; 16], &vec![9; rest]].concat()
    }

    #[test]
    fn a_mark_is_what_follows_the_ip_packet_and_nothing_else_is() {
        let mut packet = ipv4(30, 10);
        assert!(OrderMark::fits(0x0800, &packet));
        assert_eq!(OrderMark::split(0x0800, &packet), None, "its last bytes are its own");
        packet.extend(OrderMark(0xdead_beef).to_bytes());
        assert!(!OrderMark::fits(0x0800, &packet));
        assert_eq!(OrderMark::split(0x0800, &packet), Some((&packet[..30], OrderMark(0xdead_beef))));
        assert_eq!(OrderMark::split(0x86dd, &packet), None, "not of that version");
        assert_eq!(OrderMark::split(0x0806, &packet), None);
        assert_eq!(OrderMark::split(0x0800, &packet[..33]), None);
        packet.push(0);
        assert_eq!(OrderMark::split(0x0800, &packet), None, "five bytes are padding");
        let v6 = [&[0x60, 0, 0, 0, 0, 2][..], &[0; 34], &[1, 2, 0, 0, 0, 7]].concat();
        assert_eq!(OrderMark::split(0x86dd, &v6), Some((&v6[..42], OrderMark(7))));
        let jumbo = [&[0x60, 0, 0, 0, 0, 0][..], &[0; 34], &[0; 4]].concat();
        assert_eq!(OrderMark::split(0x86dd, &jumbo), None);
    }

    proptest! {
        #[test]
        fn what_is_written_comes_back(message in message()) {
            let payload = written(message);
            prop_assert!(payload.len() <= PactMessage::LEN_MAX);
            prop_assert_eq!(parse(&payload), Some(message));
        }

        #[test]
        fn whatever_comes_in_is_understood_whole_or_not_at_all(
            what in 0..5u8,
            mut body in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut payload = PACT_KIND.to_be_bytes().to_vec();
            payload.extend([PACT_VERSION, what]);
            payload.append(&mut body);
            if let Some(message) = parse(&payload) {
                let again = written(message);
                prop_assert_eq!(again.len(), payload.len());
                prop_assert_eq!(parse(&again), Some(message));
            }
        }

        #[test]
        fn a_mark_comes_off_as_it_was_put_on(rest in 0..100usize, mark: u32, v6: bool) {
            let (ethertype, mut packet) = if v6 {
                (0x86dd, [&[0x60, 0, 0, 0, 0, rest as u8 + 1][..], &[0; 34], &vec![7; rest + 1]].concat())
            } else {
                (0x0800, ipv4(20 + rest as u16, rest))
            };
            prop_assert!(OrderMark::fits(ethertype, &packet));
            let plain = packet.clone();
            packet.extend(OrderMark(mark).to_bytes());
            prop_assert_eq!(OrderMark::split(ethertype, &packet), Some((&plain[..], OrderMark(mark))));
        }

        #[test]
        fn bytes_that_are_no_packet_have_no_mark(ethertype in prop_oneof![Just(0x0800u16), Just(0x86dd), any::<u16>()], bytes: Vec<u8>) {
            if let Some((packet, _)) = OrderMark::split(ethertype, &bytes) {
                prop_assert_eq!(packet.len() + OrderMark::LEN, bytes.len());
            }
        }
    }
}
