//! What a TAP says in front of a frame: the 10-byte virtio-net header, which makes one frame out of many segments and
//! leaves checksums to whoever needs them. It must never know what a frame is for or where it goes.

/// Which protocol's segments a super-frame stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gso {
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    Tcp6,
    /// UDP over either (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp,
}

/// A checksum that is still to be computed: its field holds the sum over the pseudo-header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Where the summing starts, bytes from the Ethernet header.
    pub start: u16,
    /// Where the checksum goes, bytes from `start`.
    pub offset: u16,
}

/// What is left to do for a frame. The default: nothing, it is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum is to be completed.
    pub checksum: Option<Partial>,
    /// The frame stands for segments of this protocol and of this many payload bytes each; the last may be shorter.
    pub segments: Option<(Gso, u16)>,
    /// Bytes of all headers. Only a hint when it comes from the kernel.
    pub headers_len: u16,
}

/// A virtio-net header that asks for what was never offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOffload;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl Offload {
    /// Bytes of the virtio-net header.
    pub const LEN: usize = 10;

    /// Reads a header as this machine's kernel writes it. The ECN bit says that CWR is set, which the TCP header says too.
    pub fn parse(header: &[u8; Offload::LEN]) -> Result<Offload, UnknownOffload> {
        let [flags, kind, headers @ ..] = *header;
        let [h0, h1, g0, g1, s0, s1, o0, o1] = headers;
        let number = |a, b| u16::from_ne_bytes([a, b]);
        let kind = match kind & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 => Some(Gso::Tcp4),
            GSO_TCP6 => Some(Gso::Tcp6),
            GSO_UDP => Some(Gso::Udp),
            _ => return Err(UnknownOffload),
        };
        let partial = Partial { start: number(s0, s1), offset: number(o0, o1) };
        Ok(Offload {
            checksum: (flags & NEEDS_CSUM != 0).then_some(partial),
            segments: kind.map(|kind| (kind, number(g0, g1))),
            headers_len: number(h0, h1),
        })
    }

    /// The header as this machine's kernel reads it.
    pub fn emit(&self) -> [u8; Offload::LEN] {
        let mut header = [0; Offload::LEN];
        if let Some((kind, bytes)) = self.segments {
            header[1] = match kind {
                Gso::Tcp4 => GSO_TCP4,
                Gso::Tcp6 => GSO_TCP6,
                Gso::Udp => GSO_UDP,
            };
            header[4..6].copy_from_slice(&bytes.to_ne_bytes());
        }
        if let Some(Partial { start, offset }) = self.checksum {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        header[2..4].copy_from_slice(&self.headers_len.to_ne_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_being_written_and_read() {
        for segments in [None, Some((Gso::Tcp4, 1448)), Some((Gso::Tcp6, 1)), Some((Gso::Udp, 1200))] {
            for checksum in [None, Some(Partial { start: 34, offset: 16 })] {
                let offload = Offload { checksum, segments, headers_len: 66 };
                assert_eq!(Offload::parse(&offload.emit()), Ok(offload));
            }
        }
        assert_eq!(Offload::default().emit(), [0; Offload::LEN]);
    }

    #[test]
    fn the_ecn_bit_changes_nothing_and_unknown_kinds_are_refused() {
        let header = |kind| [1, kind, 0, 0, 8, 0, 34, 0, 16, 0];
        assert_eq!(Offload::parse(&header(GSO_TCP4 | GSO_ECN)), Offload::parse(&header(GSO_TCP4)));
        for kind in (0..=255).filter(|kind| !matches!(kind & 0x7f, 0 | 1 | 4 | 5)) {
            assert_eq!(Offload::parse(&header(kind)), Err(UnknownOffload));
        }
    }
}
