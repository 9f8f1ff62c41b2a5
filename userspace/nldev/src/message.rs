// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Requests and answers as bytes.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, Nla, NlaBuffer,
    NlasIterator, Parseable, NLA_TYPE_MASK,
};
use std::collections::BTreeMap;

/// The client of RDMA netlink that all messages here are of (`RDMA_NL_NLDEV`), and where a message type has it.
const CLIENT: u16 = 5;
const CLIENT_SHIFT: u16 = 10;
/// Where a message type has the operation.
const OPERATION: u16 = 0x3ff;

/// Operations, `enum rdma_nldev_command`.
pub mod operation {
    pub const GET: u16 = 1;
    pub const NEWLINK: u16 = 3;
    pub const DELLINK: u16 = 4;
    pub const PORT_GET: u16 = 5;
    pub const SYS_GET: u16 = 6;
    pub const RES_GET: u16 = 9;
    pub const RES_QP_GET: u16 = 10;
    pub const STAT_GET: u16 = 17;
}

/// Attributes, `enum rdma_nldev_attr`; the type of each in the order of the kernel's header.
pub mod attribute {
    /// u32.
    pub const DEV_INDEX: u16 = 1;
    /// String.
    pub const DEV_NAME: u16 = 2;
    /// u32; in an answer about a device the number of its ports.
    pub const PORT_INDEX: u16 = 3;
    /// String.
    pub const FW_VERSION: u16 = 5;
    /// u64.
    pub const NODE_GUID: u16 = 6;
    /// u8, [`crate::PortState`].
    pub const PORT_STATE: u16 = 12;
    /// Nested, one [`RES_SUMMARY_ENTRY`] for each kind of resource.
    pub const RES_SUMMARY: u16 = 15;
    pub const RES_SUMMARY_ENTRY: u16 = 16;
    /// String.
    pub const RES_SUMMARY_ENTRY_NAME: u16 = 17;
    /// u64.
    pub const RES_SUMMARY_ENTRY_CURR: u16 = 18;
    /// Nested, one [`RES_QP_ENTRY`] for each queue pair.
    pub const RES_QP: u16 = 19;
    pub const RES_QP_ENTRY: u16 = 20;
    /// u32: the number of a queue pair, and of its peer.
    pub const RES_LQPN: u16 = 21;
    pub const RES_RQPN: u16 = 22;
    /// u8, `enum ib_qp_type` and `enum ib_qp_state`.
    pub const RES_TYPE: u16 = 26;
    pub const RES_STATE: u16 = 27;
    /// u32: the process that has it; or the name of the kernel module that has it.
    pub const RES_PID: u16 = 28;
    pub const RES_KERN_NAME: u16 = 29;
    /// u32.
    pub const NDEV_INDEX: u16 = 50;
    /// String.
    pub const NDEV_NAME: u16 = 51;
    /// Nested, attributes of the driver's own: for each its name and then its value.
    pub const DRIVER: u16 = 52;
    /// String.
    pub const DRIVER_STRING: u16 = 54;
    pub const DRIVER_U32: u16 = 57;
    pub const DRIVER_U64: u16 = 59;
    /// String, the kind of a link that is added.
    pub const LINK_TYPE: u16 = 65;
    /// u8, 1 where devices are in all network namespaces.
    pub const SYS_NETNS_MODE: u16 = 66;
    /// String, such as `roce`.
    pub const DEV_PROTOCOL: u16 = 67;
    /// Nested, one [`STAT_HWCOUNTER_ENTRY`] for each counter.
    pub const STAT_HWCOUNTERS: u16 = 80;
    pub const STAT_HWCOUNTER_ENTRY: u16 = 81;
    /// String.
    pub const STAT_HWCOUNTER_ENTRY_NAME: u16 = 82;
    /// u64.
    pub const STAT_HWCOUNTER_ENTRY_VALUE: u16 = 83;
    /// u8, 1 in a request that asks for the driver's own attributes too.
    pub const DRIVER_DETAILS: u16 = 97;
}

/// A request to the kernel, or one message of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One of [`operation`].
    pub operation: u16,
    pub attributes: Attributes,
}

/// The attributes of a message, or those nested in one of them, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<DefaultNla>);

impl Message {
    pub fn new(operation: u16) -> Message {
        Message {
            operation,
            attributes: Attributes::default(),
        }
    }

    /// Adds a number.
    pub fn with_u32(mut self, kind: u16, value: u32) -> Message {
        self.attributes
            .0
            .push(DefaultNla::new(kind, value.to_ne_bytes().to_vec()));
        self
    }

    /// Adds a number of one byte.
    pub fn with_u8(mut self, kind: u16, value: u8) -> Message {
        self.attributes.0.push(DefaultNla::new(kind, vec![value]));
        self
    }

    /// Adds a string, which is sent with a zero behind it.
    pub fn with_str(mut self, kind: u16, value: &str) -> Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attributes.0.push(DefaultNla::new(kind, bytes));
        self
    }
}

impl Attributes {
    /// Reads attributes that lie one after the other.
    ///
    /// # Errors
    ///
    /// A length that goes beyond the end, or is shorter than an attribute's head.
    pub fn parse(bytes: &[u8]) -> Result<Attributes, DecodeError> {
        NlasIterator::new(bytes)
            .map(|nla| nla.and_then(|nla: NlaBuffer<&[u8]>| DefaultNla::parse(&nla)))
            .collect::<Result<_, _>>()
            .map(Attributes)
    }

    /// The value of the first attribute of this kind.
    pub fn bytes(&self, kind: u16) -> Option<Vec<u8>> {
        self.0.iter().find(|nla| is(nla, kind)).map(value)
    }

    /// A number of one, two, four or eight bytes, whichever the kernel sent.
    pub fn number(&self, kind: u16) -> Option<u64> {
        match self.bytes(kind)?.as_slice() {
            [byte] => Some(u64::from(*byte)),
            bytes => match bytes.len() {
                2 => Some(u64::from(u16::from_ne_bytes(bytes.try_into().ok()?))),
                4 => Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?))),
                8 => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
                _ => None,
            },
        }
    }

    /// The same of 32 bits.
    pub fn u32(&self, kind: u16) -> Option<u32> {
        self.number(kind)?.try_into().ok()
    }

    /// A string up to its first zero.
    pub fn string(&self, kind: u16) -> Option<String> {
        let bytes = self.bytes(kind)?;
        let text = bytes.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// The names of [`attribute::DRIVER_STRING`] with the number that follows each.
    pub(crate) fn named_numbers(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let mut name = None;
        for nla in &self.0 {
            let one = Attributes(vec![nla.clone()]);
            match nla.kind() & NLA_TYPE_MASK {
                attribute::DRIVER_STRING => name = one.string(attribute::DRIVER_STRING),
                kind @ (attribute::DRIVER_U32 | attribute::DRIVER_U64) => {
                    found.extend(name.take().zip(one.number(kind)));
                }
                _ => {}
            }
        }
        found
    }

    /// What is nested in each attribute of this kind.
    ///
    /// # Errors
    ///
    /// As [`Attributes::parse`].
    pub fn nested(&self, kind: u16) -> Result<Vec<Attributes>, DecodeError> {
        let of_kind = self.0.iter().filter(|nla| is(nla, kind));
        of_kind.map(|nla| Attributes::parse(&value(nla))).collect()
    }
}

/// Whether an attribute is of a kind; the flag of nested ones beside it does not count.
fn is(nla: &DefaultNla, kind: u16) -> bool {
    nla.kind() & NLA_TYPE_MASK == kind
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    bytes
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        (CLIENT << CLIENT_SHIFT) | self.operation
    }

    fn buffer_len(&self) -> usize {
        self.attributes.0.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.attributes.0.as_slice().emit(buffer);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Message, DecodeError> {
        Ok(Message {
            operation: header.message_type & OPERATION,
            attributes: Attributes::parse(payload)?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes from their hexadecimal digits.
    pub(crate) fn hex(digits: &str) -> Vec<u8> {
        let digits: Vec<u8> = digits.bytes().filter(|b| b.is_ascii_hexdigit()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn payload(message: &Message) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    // What iproute2 6.15's `rdma` sent, recorded by strace.

    #[test]
    fn a_link_is_added_with_the_bytes_of_rdma_link_add() {
        let message = Message::new(operation::NEWLINK)
            .with_str(attribute::DEV_NAME, "usb4r0")
            .with_str(attribute::LINK_TYPE, "usb4")
            .with_str(attribute::NDEV_NAME, "usb4net0");
        assert_eq!(message.message_type(), 0x1403);
        assert_eq!(
            payload(&message),
            hex("0b00020075736234723000000900410075736234000000000d003300757362346e65743000000000")
        );
    }

    #[test]
    fn a_link_is_deleted_with_the_bytes_of_rdma_link_del() {
        let message = Message::new(operation::DELLINK).with_u32(attribute::DEV_INDEX, 0);
        assert_eq!(message.message_type(), 0x1404);
        assert_eq!(payload(&message), hex("0800010000000000"));
    }

    #[test]
    fn counters_are_asked_for_with_the_bytes_of_rdma_statistic() {
        let message = Message::new(operation::STAT_GET)
            .with_u32(attribute::DEV_INDEX, 0)
            .with_u32(attribute::PORT_INDEX, 1);
        assert_eq!(message.message_type(), 0x1411);
        assert_eq!(payload(&message), hex("0800010000000000 0800030001000000"));
    }

    #[test]
    fn what_was_written_is_read() {
        let message = Message::new(operation::GET)
            .with_u32(attribute::DEV_INDEX, 7)
            .with_str(attribute::DEV_NAME, "x");
        let read = Attributes::parse(&payload(&message)).unwrap();
        assert_eq!(read, message.attributes);
        assert_eq!(read.u32(attribute::DEV_INDEX), Some(7));
        assert_eq!(read.string(attribute::DEV_NAME).as_deref(), Some("x"));
        assert_eq!(read.u32(attribute::PORT_INDEX), None);
    }

    #[test]
    fn lengths_that_cannot_be_are_an_error() {
        for bytes in ["0300010000000000", "ffff010000000000", "0800", "00000000"] {
            assert!(Attributes::parse(&hex(bytes)).is_err(), "{bytes}");
        }
    }

    #[test]
    fn every_cut_of_an_answer_is_read_or_refused() {
        let whole = hex("08000100000000000b0002007573623472300000080003000100000005000c0001000000");
        for end in 0..whole.len() {
            let _ = Attributes::parse(&whole[..end]);
        }
    }
}
