// SPDX-License-Identifier: GPL-2.0 OR MIT
//! ThunderboltIP control messages.

use super::PROTOCOL;
use crate::wire::{Ends, Header, HopId, Mac, Message, MessageBuf, Reader, WireError};

/// The version field of a login.
const LOGIN_VERSION: u32 = 1;

/// A control message, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Asks to be let in: "I send on this path, listen there".
    Login {
        /// Version of the sender; all are answered alike.
        version: u32,
        /// HopID that the sender transmits on.
        path: HopId,
    },
    /// Answers a login.
    LoginResponse {
        /// 0 if accepted.
        status: u32,
        /// Address of the answering side.
        mac: Mac,
    },
    /// The sender stops its rings.
    Logout,
    /// Answers a logout.
    Status {
        /// 0 if accepted.
        status: u32,
    },
}

impl Control {
    /// Message type field.
    #[must_use]
    pub const fn kind(&self) -> u32 {
        match self {
            Self::Login { .. } => 0,
            Self::LoginResponse { .. } => 1,
            Self::Logout => 2,
            Self::Status { .. } => 3,
        }
    }

    /// Decode the body of `message`.
    ///
    /// # Errors
    ///
    /// [`WireError::Protocol`] for another protocol or an unknown type, [`WireError::Truncated`]
    /// if fields are missing, [`WireError::Value`] for a HopID that cannot be. Unknown bytes at the
    /// end are skipped, as `thunderbolt_net` skips them.
    pub fn parse(message: &Message<'_>) -> Result<Self, WireError> {
        if message.header().protocol != PROTOCOL {
            return Err(WireError::Protocol);
        }
        let mut r = Reader::new(message.body());
        match message.header().kind {
            0 => {
                let version = r.u32()?;
                let path = u16::try_from(r.u32()?).map_err(|_| WireError::Value)?;
                Ok(Self::Login {
                    version,
                    path: HopId(path),
                })
            }
            1 => Ok(Self::LoginResponse {
                status: r.u32()?,
                mac: Mac(r.bytes()?),
            }),
            2 => Ok(Self::Logout),
            3 => Ok(Self::Status { status: r.u32()? }),
            _ => Err(WireError::Protocol),
        }
    }

    /// Encode the message, to be sent over the cable between `ends`.
    #[must_use]
    pub fn message(&self, ends: &Ends, sequence: u8, command: u32) -> MessageBuf {
        let mut buf = MessageBuf::new(&Header {
            route: ends.route,
            sequence,
            protocol: PROTOCOL,
            initiator: ends.local,
            target: ends.remote,
            kind: self.kind(),
            command,
        });
        match *self {
            Self::Login { version, path } => {
                buf.put_u32(version);
                buf.put_u32(u32::from(path.0));
                buf.put(&[0; 16]);
            }
            Self::LoginResponse { status, mac } => {
                buf.put_u32(status);
                buf.put(&mac.0);
                buf.put(&[0; 2]);
                buf.put_u32(6);
                buf.put(&[0; 16]);
            }
            Self::Logout => {}
            Self::Status { status } => buf.put_u32(status),
        }
        buf.finish()
    }

    /// Our login for the transmit path `path`.
    #[must_use]
    pub const fn login(path: HopId) -> Self {
        Self::Login {
            version: LOGIN_VERSION,
            path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Route, Uuid};
    use proptest::prelude::*;

    const ENDS: Ends = Ends {
        local: Uuid([0x11; 16]),
        remote: Uuid([0x22; 16]),
        route: Route(1),
    };

    /// The protocol UUID, the two ends: bytes 12 to 60 of every message here.
    fn middle() -> Vec<u8> {
        let mut v = vec![
            0x79, 0x8f, 0x58, 0x9e, 0x36, 0x16, 0x8a, 0x47, 0x97, 0xc6, 0x56, 0x64, 0xa9, 0x20, 0xc8, 0xdd,
        ];
        v.extend([0x11; 16]);
        v.extend([0x22; 16]);
        v
    }

    #[test]
    fn a_login_has_the_92_bytes_of_thunderbolt_net() {
        let buf = Control::login(HopId(8)).message(&ENDS, 3, 5);
        let mut want = vec![0, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0x18];
        want.extend(middle());
        want.extend([0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0]);
        want.extend([0; 16]);
        assert_eq!(want.len(), 92);
        assert_eq!(buf.as_bytes(), want);
    }

    #[test]
    fn a_login_response_carries_the_address_and_its_length() {
        let mac = Mac([2, 1, 2, 3, 4, 5]);
        let buf = Control::LoginResponse { status: 0, mac }.message(&ENDS, 0, 9);
        let mut want = vec![0, 0, 0, 0, 1, 0, 0, 0, 22, 0, 0, 0];
        want.extend(middle());
        want.extend([1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([2, 1, 2, 3, 4, 5, 0, 0, 6, 0, 0, 0]);
        want.extend([0; 16]);
        assert_eq!(want.len(), 100);
        assert_eq!(buf.as_bytes(), want);
    }

    #[test]
    fn logout_and_status_have_68_and_72_bytes() {
        let logout = Control::Logout.message(&ENDS, 0, 1);
        assert_eq!((logout.as_bytes().len(), logout.as_bytes()[8]), (68, 14));
        let status = Control::Status { status: 0 }.message(&ENDS, 0, 1);
        assert_eq!((status.as_bytes().len(), status.as_bytes()[8]), (72, 15));
    }

    #[test]
    fn every_message_decodes_to_itself() {
        let mac = Mac([6, 5, 4, 3, 2, 1]);
        for control in [
            Control::login(HopId(31)),
            Control::LoginResponse { status: 3, mac },
            Control::Logout,
            Control::Status { status: 0 },
        ] {
            let buf = control.message(&ENDS, 1, 2);
            assert_eq!(Control::parse(&Message::parse(buf.as_bytes()).unwrap()), Ok(control));
        }
    }

    #[test]
    fn an_unknown_type_is_not_ours() {
        let mut bytes = Control::Logout.message(&ENDS, 0, 0).as_bytes().to_vec();
        bytes[60] = 4;
        assert_eq!(
            Control::parse(&Message::parse(&bytes).unwrap()),
            Err(WireError::Protocol)
        );
    }

    proptest! {
        #[test]
        fn any_body_parses_or_fails(kind in 0u8..6, body in proptest::collection::vec(any::<u8>(), 0..184)) {
            let mut bytes = Control::Logout.message(&ENDS, 0, 0).as_bytes().to_vec();
            bytes[60] = kind;
            bytes.extend(&body[..body.len() / 4 * 4]);
            bytes[8] = ((bytes.len() - 12) / 4) as u8;
            let _ = Control::parse(&Message::parse(&bytes).unwrap());
        }
    }
}
