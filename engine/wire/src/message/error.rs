//! ERROR (0x02): a request failed, or something is missing.
//!
//! ```text
//! 0      1           9      10
//! +------+-----------+------+- - - - -
//! | verb | packet id | code | by code
//! +------+-----------+------+- - - - -
//! 3, 5, 6, 7: network 8     8: network 8, group 10     9: network 8, (length 2, dictionary)
//! ```
// spec: wire, "ERROR payloads (verb 0x02)"

use super::InRe;
use super::multicast::write_group;
use crate::address::{MulticastGroup, NetworkId};
use crate::read::{Malformed, Reader};

/// What went wrong, with the facts that the code carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode<'a> {
    /// 0: never sent.
    None,
    /// 1: never sent.
    InvalidRequest,
    /// 2: never sent.
    BadProtocolVersion,
    /// 3: the controller does not know the network.
    ObjectNotFound(NetworkId),
    /// 4: another identity has the address.
    IdentityCollision,
    /// 5: not a controller.
    UnsupportedOperation(NetworkId),
    /// 6: show your certificate first.
    NeedMembershipCertificate(NetworkId),
    /// 7: not a member.
    NetworkAccessDenied(NetworkId),
    /// 8: not subscribed to this group.
    UnwantedMulticast(NetworkId, MulticastGroup),
    /// 9: the user must log in. The dictionary says where; empty if it does not, or does not fit.
    NetworkAuthenticationRequired(NetworkId, &'a [u8]),
    /// Any other number.
    Unknown(u8),
}

impl ErrorCode<'_> {
    /// The number on the wire.
    pub const fn number(&self) -> u8 {
        match self {
            ErrorCode::None => 0,
            ErrorCode::InvalidRequest => 1,
            ErrorCode::BadProtocolVersion => 2,
            ErrorCode::ObjectNotFound(_) => 3,
            ErrorCode::IdentityCollision => 4,
            ErrorCode::UnsupportedOperation(_) => 5,
            ErrorCode::NeedMembershipCertificate(_) => 6,
            ErrorCode::NetworkAccessDenied(_) => 7,
            ErrorCode::UnwantedMulticast(..) => 8,
            ErrorCode::NetworkAuthenticationRequired(..) => 9,
            ErrorCode::Unknown(number) => *number,
        }
    }

    /// The network concerned.
    pub const fn network(&self) -> Option<NetworkId> {
        match self {
            ErrorCode::ObjectNotFound(network)
            | ErrorCode::UnsupportedOperation(network)
            | ErrorCode::NeedMembershipCertificate(network)
            | ErrorCode::NetworkAccessDenied(network)
            | ErrorCode::UnwantedMulticast(network, _)
            | ErrorCode::NetworkAuthenticationRequired(network, _) => Some(*network),
            _ => None,
        }
    }
}

/// An ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMessage<'a> {
    /// What it answers; not to be trusted without a look at what was sent.
    pub in_re: InRe,
    /// What went wrong.
    pub code: ErrorCode<'a>,
}

impl<'a> ErrorMessage<'a> {
    /// Reads an ERROR; bytes after the described fields are ignored.
    pub fn parse(payload: &'a [u8]) -> Result<ErrorMessage<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        let in_re = InRe::read(r)?;
        let code = match r.u8("error code")? {
            0 => ErrorCode::None,
            1 => ErrorCode::InvalidRequest,
            2 => ErrorCode::BadProtocolVersion,
            3 => ErrorCode::ObjectNotFound(NetworkId::read(r)?),
            4 => ErrorCode::IdentityCollision,
            5 => ErrorCode::UnsupportedOperation(NetworkId::read(r)?),
            6 => ErrorCode::NeedMembershipCertificate(NetworkId::read(r)?),
            7 => ErrorCode::NetworkAccessDenied(NetworkId::read(r)?),
            8 => ErrorCode::UnwantedMulticast(NetworkId::read(r)?, MulticastGroup::read(r)?),
            9 => ErrorCode::NetworkAuthenticationRequired(NetworkId::read(r)?, login_dictionary(r)),
            number => ErrorCode::Unknown(number),
        };
        Ok(ErrorMessage { in_re, code })
    }

    /// Writes the ERROR; a dictionary beyond 65535 bytes is left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.in_re.write(out);
        out.push(self.code.number());
        if let Some(network) = self.code.network() {
            out.extend_from_slice(&network.0.to_be_bytes());
        }
        match self.code {
            ErrorCode::UnwantedMulticast(_, group) => write_group(&group, out),
            ErrorCode::NetworkAuthenticationRequired(_, dictionary) => {
                if let Ok(len) = u16::try_from(dictionary.len()) {
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(dictionary);
                }
            }
            _ => {}
        }
    }
}

fn login_dictionary<'a>(r: &mut Reader<'a>) -> &'a [u8] {
    let Ok(len) = r.u16("login dictionary length") else { return &[] };
    r.take(usize::from(len), "login dictionary").unwrap_or(&[])
}
