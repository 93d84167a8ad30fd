//! The number by which peers tell the flows between two of them apart. It is not on the wire: both ends compute it from
//! the frame, so it must be the same everywhere. It knows ports and protocol, never addresses.

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
const MOBILITY: u8 = 135;
const UDP_LITE: u8 = 136;

/// The flow of an Ethernet payload: the same in both directions. None if it has no ports, or they are out of sight.
// spec: bonding, "Flow identity"
pub fn flow_id(ethertype: u16, payload: &[u8]) -> Option<u16> {
    let (protocol, at) = match ethertype {
        IPV4 if payload.len() >= IPV4_LEN => (payload[9], usize::from(payload[0] & 0x0f) * 4),
        IPV6 if payload.len() >= IPV6_LEN => behind_extensions(payload)?,
        _ => return None,
    };
    // One byte more than the ports take. // the reference's comparison
    let [a, b, c, d, _] = *payload.get(at..)?.first_chunk()?;
    matches!(protocol, TCP | UDP | SCTP | UDP_LITE)
        .then(|| u16::from_be_bytes([a, b]) ^ u16::from_be_bytes([c, d]) ^ u16::from(protocol))
}

/// The last protocol of an IPv6 packet and where its header is. None if the extension headers are cut off.
fn behind_extensions(packet: &[u8]) -> Option<(u8, usize)> {
    let (mut protocol, mut at) = (packet[6], IPV6_LEN);
    while matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY) {
        let extension = packet.get(at..)?.first_chunk::<8>()?;
        (protocol, at) = (extension[0], at + 8 + 8 * usize::from(extension[1]));
    }
    Some((protocol, at))
}
