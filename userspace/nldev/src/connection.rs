// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The socket: a request goes out, answers come in until the kernel says that it was all.

use crate::answers::{counters, resources, Device, Port, QueuePair, System};
use crate::message::{attribute, operation, Message};
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{protocols::NETLINK_RDMA, Socket, SocketAddr};
use std::collections::BTreeMap;
use std::io;

/// What can go wrong.
#[derive(Debug)]
pub enum Error {
    /// The socket could not be made or used; `EPROTONOSUPPORT`: this kernel has no RDMA subsystem, or it is not loaded.
    Socket(io::Error),
    /// The kernel refused: its errno.
    Refused(io::Error),
    /// An answer that makes no sense.
    Answer(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Socket(error) => write!(f, "RDMA netlink: {error}"),
            Error::Refused(error) => write!(f, "{error}"),
            Error::Answer(what) => write!(f, "RDMA netlink: an answer that makes no sense: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Socket(error) | Error::Refused(error) => Some(error),
            Error::Answer(_) => None,
        }
    }
}

impl Error {
    /// The errno with which the kernel refused.
    pub fn refused_with(&self) -> Option<i32> {
        match self {
            Error::Refused(error) => error.raw_os_error(),
            Error::Socket(_) | Error::Answer(_) => None,
        }
    }
}

/// A connection to the kernel's RDMA subsystem. Blocking; one request at a time.
pub struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens the socket.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] where there is no RDMA subsystem (`ib_core` is not loaded and cannot be).
    pub fn open() -> Result<Connection, Error> {
        let mut socket = Socket::new(NETLINK_RDMA).map_err(Error::Socket)?;
        socket.bind_auto().map_err(Error::Socket)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(Error::Socket)?;
        Ok(Connection { socket, sequence: 0 })
    }

    /// All devices that this network namespace sees.
    pub fn devices(&mut self) -> Result<Vec<Device>, Error> {
        let answers = self.ask(Message::new(operation::GET), NLM_F_DUMP)?;
        Ok(answers
            .iter()
            .filter_map(|m| Device::from_answer(&m.attributes))
            .collect())
    }

    /// The ports of a device.
    pub fn ports(&mut self, device: &Device) -> Result<Vec<Port>, Error> {
        let mut ports = Vec::new();
        for number in 1..=device.ports {
            let request = Message::new(operation::PORT_GET)
                .with_u32(attribute::DEV_INDEX, device.index)
                .with_u32(attribute::PORT_INDEX, number);
            let answers = self.ask(request, 0)?;
            ports.extend(answers.iter().filter_map(|m| Port::from_answer(&m.attributes)));
        }
        Ok(ports)
    }

    /// Adds a link: a device `name` of the kind `kind` (`usb4`, `rxe`, `siw`) over a network device. The kernel loads
    /// the module `rdma-link-KIND` where nobody serves that kind.
    ///
    /// # Errors
    ///
    /// Refused: `EEXIST` the name is taken, `EINVAL` nobody knows the kind, `ENODEV` no such network device, `EPERM`.
    pub fn add_link(&mut self, name: &str, kind: &str, netdev: &str) -> Result<(), Error> {
        let request = Message::new(operation::NEWLINK)
            .with_str(attribute::DEV_NAME, name)
            .with_str(attribute::LINK_TYPE, kind)
            .with_str(attribute::NDEV_NAME, netdev);
        self.ask(request, 0).map(|_| ())
    }

    /// Deletes a link.
    ///
    /// # Errors
    ///
    /// Refused: `EINVAL` the device is none that `add_link` makes, `ENODEV`, `EPERM`.
    pub fn delete_link(&mut self, device: u32) -> Result<(), Error> {
        let request = Message::new(operation::DELLINK).with_u32(attribute::DEV_INDEX, device);
        self.ask(request, 0).map(|_| ())
    }

    /// The counters of a port, by name.
    pub fn statistics(&mut self, device: u32, port: u32) -> Result<BTreeMap<String, u64>, Error> {
        let request = Message::new(operation::STAT_GET)
            .with_u32(attribute::DEV_INDEX, device)
            .with_u32(attribute::PORT_INDEX, port);
        self.table(request, counters)
    }

    /// How many objects of each kind (`qp`, `cq`, `mr`, ...) a device has.
    pub fn resources(&mut self, device: u32) -> Result<BTreeMap<String, u64>, Error> {
        let request = Message::new(operation::RES_GET).with_u32(attribute::DEV_INDEX, device);
        self.table(request, resources)
    }

    /// The queue pairs of a device, with the driver's own attributes.
    pub fn queue_pairs(&mut self, device: u32) -> Result<Vec<QueuePair>, Error> {
        let request = Message::new(operation::RES_QP_GET)
            .with_u8(attribute::DRIVER_DETAILS, 1)
            .with_u32(attribute::DEV_INDEX, device);
        let mut all = vec![];
        for answer in self.ask(request, NLM_F_DUMP)? {
            let found = QueuePair::from_answer(&answer.attributes);
            all.extend(found.map_err(|error| Error::Answer(error.to_string()))?);
        }
        Ok(all)
    }

    /// How the subsystem is set up.
    pub fn system(&mut self) -> Result<System, Error> {
        let answers = self.ask(Message::new(operation::SYS_GET), 0)?;
        let found = answers.iter().find_map(|m| System::from_answer(&m.attributes));
        found.ok_or_else(|| Error::Answer("SYS_GET without a mode".into()))
    }

    fn table(
        &mut self,
        request: Message,
        read: fn(&crate::Attributes) -> Result<BTreeMap<String, u64>, netlink_packet_core::DecodeError>,
    ) -> Result<BTreeMap<String, u64>, Error> {
        let mut all = BTreeMap::new();
        for answer in self.ask(request, 0)? {
            all.extend(read(&answer.attributes).map_err(|error| Error::Answer(error.to_string()))?);
        }
        Ok(all)
    }

    /// Sends a request; the messages of its answer.
    fn ask(&mut self, request: Message, flags: u16) -> Result<Vec<Message>, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(Error::Socket)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full().map_err(Error::Socket)?;
            if collect(&bytes, self.sequence, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Reads the messages of one datagram; true when the answer to request `sequence` is complete.
fn collect(mut bytes: &[u8], sequence: u32, answers: &mut Vec<Message>) -> Result<bool, Error> {
    while !bytes.is_empty() {
        let packet = NetlinkMessage::<Message>::deserialize(bytes).map_err(|e| Error::Answer(e.to_string()))?;
        let length = (packet.header.length as usize).next_multiple_of(4).min(bytes.len());
        bytes = &bytes[length..];
        if packet.header.sequence_number != sequence {
            continue;
        }
        match packet.payload {
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(Error::Refused(error.to_io())),
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::hex;

    /// A message of the kernel: type, flags and sequence number before the payload.
    fn packet(kind: u16, flags: u16, sequence: u32, payload: &str) -> Vec<u8> {
        let payload = hex(payload);
        let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    const DEVICE: &str = "08000100000000000b00020075736234723000000800030001000000";
    const ACK: &str = "00000000 18000000 0114 0500 07000000 00000000";
    const EINVAL: &str = "eaffffff 34000000 0314 0500 07000000 00000000";

    #[test]
    fn a_dump_ends_with_done() {
        let mut answers = Vec::new();
        let two = [packet(0x1401, 2, 7, DEVICE), packet(0x1401, 2, 7, DEVICE)].concat();
        assert!(!collect(&two, 7, &mut answers).unwrap());
        assert!(collect(&packet(3, 2, 7, "00000000"), 7, &mut answers).unwrap());
        assert_eq!(answers.len(), 2);
        assert_eq!(
            answers[0].attributes.string(attribute::DEV_NAME).as_deref(),
            Some("usb4r0")
        );
    }

    #[test]
    fn an_answer_ends_with_its_acknowledgement() {
        let mut answers = Vec::new();
        let both = [packet(0x1401, 0, 7, DEVICE), packet(2, 0x100, 7, ACK)].concat();
        assert!(collect(&both, 7, &mut answers).unwrap());
        assert_eq!(answers.len(), 1);
    }

    #[test]
    fn a_refusal_is_the_kernels_errno() {
        let error = collect(&packet(2, 0x100, 7, EINVAL), 7, &mut Vec::new()).unwrap_err();
        assert_eq!(error.refused_with(), Some(22));
    }

    #[test]
    fn what_belongs_to_another_request_is_passed_over() {
        let mut answers = Vec::new();
        assert!(!collect(&packet(2, 0x100, 6, EINVAL), 7, &mut answers).unwrap());
        assert!(answers.is_empty());
    }
}
