//! A TCP stream cut into its records, whatever the pieces in which it comes: the client of a relay and the relay read alike.
//! What a record holds is not looked at. // spec: paths, "TCP fallback"

use wire::Malformed;
use wire::raw::tcp_record;

use super::DATAGRAM_MAX;

/// Longest body of a record: an IPv6 endpoint and the longest datagram.
const BODY_MAX: usize = wire::endpoint::MAX_ENDPOINT_LEN + DATAGRAM_MAX;

/// Puts the records of a stream together. Holds at most one unfinished record beside what was fed last.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    at: usize,
}

impl Records {
    /// The next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The body of the next whole record; none if more bytes are needed. After an error the stream makes no sense.
    #[expect(clippy::should_implement_trait, reason = "it lends from itself")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let stream = &self.bytes[self.at..];
        if let Some([high, low]) = stream.get(3..5)
            && usize::from(u16::from_be_bytes([*high, *low])) > BODY_MAX
        {
            return Err(Malformed { what: "tcp record length" });
        }
        let Some((body, len)) = tcp_record(stream)? else { return Ok(None) };
        self.at += len;
        Ok(Some(body))
    }

    /// A record is there in part.
    pub fn is_unfinished(&self) -> bool {
        self.at < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use wire::raw::{TcpGreeting, TcpRelayed};

    use super::*;

    fn record(datagram: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        TcpRelayed { endpoint: Some("44.1.1.1:9993".parse().expect("endpoint")), datagram }.write(&mut out);
        out
    }

    #[test]
    fn records_are_put_together_whatever_the_pieces() {
        let stream = [record(&[1; 16]), record(&[2; DATAGRAM_MAX]), record(&[3; 40])].concat();
        for piece in [1, 5, 7, 2000, stream.len()] {
            let (mut records, mut lengths) = (Records::default(), Vec::new());
            for bytes in stream.chunks(piece) {
                records.feed(bytes);
                while let Some(body) = records.next().expect("well formed") {
                    lengths.push(TcpRelayed::parse(body).expect("a datagram").datagram.len());
                }
            }
            assert_eq!((lengths, records.is_unfinished()), (vec![16, DATAGRAM_MAX, 40], false), "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_record_or_too_long_a_one_ends_the_stream_before_its_body_came() {
        for bytes in [&b"GET / HTTP/1.1"[..], &[0x17, 3, 4], &[0x17, 3, 3, 0xff, 0xff], &[0x16]] {
            let mut records = Records::default();
            records.feed(bytes);
            assert!(records.next().is_err(), "{bytes:?}");
        }
        let mut half = Records::default();
        half.feed(&record(&[1; 30])[..20]);
        assert!(matches!(half.next(), Ok(None)) && half.is_unfinished());
    }

    /// Whatever comes: nothing panics, what is held stays within one record and what was fed, and an error ends it.
    fn digest(pieces: &[&[u8]]) -> Result<usize, Malformed> {
        let (mut records, mut count) = (Records::default(), 0);
        for piece in pieces {
            records.feed(piece);
            while let Some(body) = records.next()? {
                assert!(body.len() <= BODY_MAX);
                let _ = (TcpGreeting::parse(body), TcpRelayed::parse(body));
                count += 1;
            }
            assert!(records.bytes.len() - records.at < 5 + BODY_MAX);
        }
        Ok(count)
    }

    #[test]
    fn no_stream_of_bytes_does_any_harm_however_it_is_cut() {
        bolero::check!().with_type::<Vec<Vec<u8>>>().for_each(|pieces| {
            let _ = digest(&pieces.iter().map(Vec::as_slice).collect::<Vec<_>>());
        });
        // Records with damage: the same outcome in one piece and in many.
        let edits = bolero::produce::<Vec<(u16, u8)>>().with().len(0..=3usize);
        let lengths = bolero::produce::<Vec<u16>>().with().len(1..=8usize);
        bolero::check!().with_generator((lengths, edits, 1usize..3000)).for_each(|(lengths, edits, piece)| {
            let datagram = |len: &u16| vec![7; usize::from(*len) % (DATAGRAM_MAX + 1)];
            let mut stream: Vec<u8> = lengths.iter().flat_map(|len| record(&datagram(len))).collect();
            for (at, byte) in edits {
                let at = usize::from(*at) % stream.len();
                stream[at] = *byte;
            }
            let whole = digest(&stream.chunks(2 + BODY_MAX).collect::<Vec<_>>());
            assert_eq!(digest(&stream.chunks(*piece).collect::<Vec<_>>()), whole);
            assert!(!edits.is_empty() || whole == Ok(lengths.len()));
        });
    }
}
