// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Packets of queue pairs, from the module's event `qp_packet`: in words, and as the RoCEv2 that Wireshark knows.
//!
//! A train on the cable has neither IP nor UDP header, and is many packets at once; what is written of it is those
//! packets as they would go over any other network, with the path's addresses. Payloads are not in the event: in their
//! place, and in the ICRC's, are zeros, as Wireshark takes a packet that is cut before its ICRC for malformed. A
//! capture that would be too large with them is cut behind the transport headers, and each packet says how long it was.

use anyhow::{Context, Result};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::DataLink;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv6Addr;
use std::time::Duration;

/// UDP port of RoCEv2, and a source port where none is known.
const PORT: u16 = 4791;
const SOURCE: u16 = 0xc000;
const BTH: usize = 12;
const ICRC: usize = 4;
/// Bits of the BTH: of byte 1 solicited event and pad count, of byte 8 the wish for an acknowledgement and what marks a
/// run (docs/protocol.md).
const SOLICITED: u8 = 0x80;
const PAD: u8 = 0x30;
const ACK_REQUEST: u8 = 0x80;
const RUN: u8 = 1;

/// A packet, or a run of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    out: bool,
    by: Carrier,
    packets: u32,
    mtu: u32,
    /// Of the payload of all packets, and of these by a window.
    bytes: u32,
    window: u32,
    src_port: u16,
    src: [u8; 16],
    dst: [u8; 16],
    /// Transport headers of the first, from the BTH on.
    head: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Datagram,
    Run,
    Train,
}

/// An operation of the BTH's five lower bits.
struct Operation {
    code: u8,
    name: &'static str,
    family: Family,
    /// Whether a packet of it begins a message; with what opcode the last packet of a run goes, if it ends one.
    begins: bool,
    last: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Send,
    Write,
    Read,
    /// Never more than a packet.
    Single,
}

impl Family {
    /// Opcodes of the first packet and of those in the middle, and bytes of extension headers that the first has.
    fn first(self) -> (u8, u8, usize) {
        match self {
            Family::Send | Family::Single => (0x00, 0x01, 0),
            Family::Write => (0x06, 0x07, 16),
            Family::Read => (0x0d, 0x0e, 4),
        }
    }
}

const fn operation(code: u8, name: &'static str, family: Family, begins: bool, last: Option<u8>) -> Operation {
    Operation {
        code,
        name,
        family,
        begins,
        last,
    }
}

/// IBTA 9.2, table 38.
const OPERATIONS: [Operation; 25] = [
    operation(0x00, "SEND first", Family::Send, true, None),
    operation(0x01, "SEND middle", Family::Send, false, None),
    operation(0x02, "SEND last", Family::Send, false, Some(0x02)),
    operation(0x03, "SEND last, immediate", Family::Send, false, Some(0x03)),
    operation(0x04, "SEND", Family::Send, true, Some(0x02)),
    operation(0x05, "SEND, immediate", Family::Send, true, Some(0x03)),
    operation(0x06, "WRITE first", Family::Write, true, None),
    operation(0x07, "WRITE middle", Family::Write, false, None),
    operation(0x08, "WRITE last", Family::Write, false, Some(0x08)),
    operation(0x09, "WRITE last, immediate", Family::Write, false, Some(0x09)),
    operation(0x0a, "WRITE", Family::Write, true, Some(0x08)),
    operation(0x0b, "WRITE, immediate", Family::Write, true, Some(0x09)),
    operation(0x0c, "READ request", Family::Single, true, None),
    operation(0x0d, "READ response first", Family::Read, true, None),
    operation(0x0e, "READ response middle", Family::Read, false, None),
    operation(0x0f, "READ response last", Family::Read, false, Some(0x0f)),
    operation(0x10, "READ response", Family::Read, true, Some(0x0f)),
    operation(0x11, "acknowledgement", Family::Single, true, None),
    operation(0x12, "atomic acknowledgement", Family::Single, true, None),
    operation(0x13, "compare and swap", Family::Single, true, None),
    operation(0x14, "fetch and add", Family::Single, true, None),
    operation(0x16, "SEND last, invalidate", Family::Send, false, Some(0x16)),
    operation(0x17, "SEND, invalidate", Family::Send, true, Some(0x16)),
    operation(0x1c, "FLUSH", Family::Single, true, None),
    operation(0x1d, "atomic WRITE", Family::Single, true, None),
];

/// One packet of RoCEv2, from the IP header to the end of the transport headers.
struct Frame {
    bytes: Vec<u8>,
    /// With payload, pad and ICRC.
    length: usize,
    comment: Option<String>,
}

impl Packet {
    /// From the fields of the event.
    pub fn parse<'f>(field: impl Fn(&str) -> Option<&'f str>) -> Option<Packet> {
        let number = |name: &str| field(name)?.parse::<u32>().ok();
        let address = |name: &str| hex(field(name)?)?.try_into().ok();
        let head = hex(field("head")?)?;
        if head.len() < BTH {
            return None;
        }
        Some(Packet {
            out: number("out")? == 1,
            by: match number("by")? {
                0 => Carrier::Datagram,
                1 => Carrier::Run,
                _ => Carrier::Train,
            },
            packets: number("packets")?,
            mtu: number("mtu")?,
            bytes: number("bytes")?,
            window: number("window")?,
            src_port: u16::try_from(number("sport")?).ok()?,
            src: address("src")?,
            dst: address("dst")?,
            head,
        })
    }

    fn operation(&self) -> Option<&'static Operation> {
        OPERATIONS.iter().find(|one| one.code == self.head[0] & 0x1f)
    }

    fn psn(&self) -> u32 {
        u32::from_be_bytes([0, self.head[9], self.head[10], self.head[11]])
    }

    /// In words.
    pub fn text(&self) -> String {
        let class = match self.head[0] >> 5 {
            0 => "",
            1 => "UC ",
            3 => "UD ",
            _ => "? ",
        };
        let name = self.operation().map_or("unknown operation", |one| one.name);
        let (verb, preposition) = if self.out { ("sends", "to") } else { ("gets", "for") };
        let number = u32::from_be_bytes([0, self.head[5], self.head[6], self.head[7]]);
        let mut text = format!("{verb} {class}{name} {preposition} {number:#x}, PSN {}", self.psn());
        if self.packets > 1 {
            text += &format!(" and {} more", self.packets - 1);
        }
        if self.bytes > 0 {
            text += &format!(", {} bytes", self.bytes);
        }
        match (self.head[0] & 0x1f, &self.head[BTH..]) {
            (0x06 | 0x0a | 0x0b | 0x0c | 0x1d, [a @ .., k0, k1, k2, k3, l0, l1, l2, l3]) if a.len() == 8 => {
                let word = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
                let address = a.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
                text += &format!(
                    ", {} bytes at {address:#x} of key {:#x}",
                    word([*l0, *l1, *l2, *l3]),
                    word([*k0, *k1, *k2, *k3])
                );
            }
            (0x0d | 0x0f..=0x12, [syndrome, m0, m1, m2, ..]) => {
                let what = match syndrome >> 5 {
                    0 => "ACK".to_string(),
                    1 => "not ready".into(),
                    _ => format!("NAK {}", syndrome & 0x1f),
                };
                text += &format!(", {what}, MSN {}", u32::from_be_bytes([0, *m0, *m1, *m2]));
            }
            _ => {}
        }
        match self.by {
            Carrier::Datagram => {}
            Carrier::Run => text += ", a run",
            Carrier::Train => text += ", a train",
        }
        if self.window > 0 {
            text += &format!(", {} bytes of it by a window", self.window);
        }
        text
    }

    /// The packets of a run, one by one.
    fn frames(&self) -> Vec<Frame> {
        let operation = self.operation().filter(|one| one.family != Family::Single);
        let Some(operation) = operation.filter(|_| self.packets > 1) else {
            return vec![self.frame(self.head.clone(), self.bytes as usize, 0)];
        };
        let (first, middle, extra) = operation.family.first();
        let (bth, rest) = self.head.split_at(BTH);
        // The first packet has what names the target, the last one what comes with the completion.
        let at_end = match (operation.family, operation.last) {
            (_, None) => 0,
            (Family::Read, _) => 4,
            (_, Some(0x02 | 0x08)) => 0,
            _ => 4,
        };
        let start = rest.get(..extra).filter(|_| operation.begins).unwrap_or(&[]);
        let end = rest.get(rest.len().saturating_sub(at_end)..).unwrap_or(&[]);
        let one = |index: u32| {
            let is_last = index + 1 == self.packets;
            let mut head = bth.to_vec();
            let (code, extension) = match operation.last.filter(|_| is_last) {
                Some(last) => (last, end),
                None if index == 0 && operation.begins => (first, start),
                None => (middle, &[][..]),
            };
            head[0] = head[0] & 0xe0 | code;
            if !is_last {
                head[1] &= !SOLICITED;
                head[8] &= !ACK_REQUEST;
            }
            let psn = (self.psn() + index) & 0x00ff_ffff;
            head[9..BTH].copy_from_slice(&psn.to_be_bytes()[1..]);
            head.extend_from_slice(extension);
            let before = self.mtu.saturating_mul(index).min(self.bytes);
            let left = self.bytes - before;
            let length = if is_last { left } else { left.min(self.mtu) };
            self.frame(head, length as usize, index)
        };
        (0..self.packets).map(one).collect()
    }

    fn frame(&self, mut head: Vec<u8>, payload: usize, index: u32) -> Frame {
        let pad = payload.wrapping_neg() % 4;
        head[1] = head[1] & !PAD | (pad as u8) << 4;
        head[8] &= !RUN;
        let transport = head.len() + payload + pad + ICRC;
        let udp = 8 + transport;
        let field = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        let mut bytes = vec![];
        let ipv4 = [self.src, self.dst].map(|gid| Ipv6Addr::from(gid).to_ipv4_mapped());
        let length = match ipv4 {
            [Some(src), Some(dst)] => {
                bytes.extend([0x45, 0]);
                bytes.extend(field(20 + udp));
                bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
                bytes.extend(src.octets().into_iter().chain(dst.octets()));
                let sum = checksum(&bytes);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                20 + udp
            }
            _ => {
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(field(udp));
                bytes.extend([17, 64]);
                bytes.extend(self.src.into_iter().chain(self.dst));
                40 + udp
            }
        };
        let source = if self.src_port == 0 { SOURCE } else { self.src_port };
        for word in [source.to_be_bytes(), PORT.to_be_bytes(), field(udp), [0, 0]] {
            bytes.extend(word);
        }
        bytes.extend(head);
        let what = match self.by {
            Carrier::Datagram => None,
            Carrier::Run => Some("run"),
            Carrier::Train => Some("train"),
        };
        let comment = what.map(|what| {
            let mut text = format!(
                "packet {} of {} in a {what} of {} bytes",
                index + 1,
                self.packets,
                self.bytes
            );
            if self.window > 0 {
                text += &format!(", {} of them by a window", self.window);
            }
            if self.by == Carrier::Train {
                text += "; on the cable it has no IP and no UDP header";
            }
            text
        });
        Frame { bytes, length, comment }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// A pcapng file, with an interface for each RDMA device.
pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    interfaces: BTreeMap<String, u32>,
    /// What the events' clock is behind that of the wall.
    behind: Duration,
    /// Without zeros in the payload's place.
    cut: bool,
    /// Packets written.
    pub packets: u64,
}

impl<W: Write> Capture<W> {
    /// # Errors
    ///
    /// It cannot be written.
    pub fn new(to: W, behind: Duration, cut: bool) -> Result<Capture<W>> {
        Ok(Capture {
            writer: PcapNgWriter::new(to).context("pcapng")?,
            interfaces: BTreeMap::new(),
            behind,
            cut,
            packets: 0,
        })
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.writer.get_mut().flush()?)
    }

    /// Writes a packet, or each of a run, that `device` has sent or got at `time` of the events' clock.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&mut self, device: &str, time: Duration, packet: &Packet) -> Result<()> {
        let next = u32::try_from(self.interfaces.len())?;
        let interface_id = *self.interfaces.entry(device.into()).or_insert(next);
        if interface_id == next {
            // 0: no limit; what is cut says so by itself.
            let interface = InterfaceDescriptionBlock {
                linktype: DataLink::RAW,
                snaplen: 0,
                options: vec![
                    InterfaceDescriptionOption::IfName(device.into()),
                    InterfaceDescriptionOption::IfTsResol(9),
                ],
            };
            self.writer.write_block(&interface.into_block())?;
        }
        for mut frame in packet.frames() {
            if !self.cut {
                frame.bytes.resize(frame.length, 0);
            }
            let direction = if packet.out { 2 } else { 1 };
            let mut options = vec![EnhancedPacketOption::Flags(direction)];
            options.extend(frame.comment.map(|text| EnhancedPacketOption::Comment(text.into())));
            let block = EnhancedPacketBlock {
                interface_id,
                timestamp: self.behind + time,
                original_len: u32::try_from(frame.length)?,
                data: frame.bytes.into(),
                options,
            };
            self.writer.write_block(&block.into_block())?;
            self.packets += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 address as a GID.
    fn gid(last: u8) -> [u8; 16] {
        let mut gid = [0; 16];
        gid[10..].copy_from_slice(&[0xff, 0xff, 10, 85, 0, last]);
        gid
    }

    fn packet(opcode: u8, extension: &[u8], (packets, bytes): (u32, u32)) -> Packet {
        // Solicited, acknowledgement asked for, a run, PSN 2^24 - 1.
        let mut head = vec![opcode, 0x80, 0xff, 0xff, 0, 0x82, 0, 1, 0x81, 0xff, 0xff, 0xff];
        head.extend(extension);
        Packet {
            out: true,
            by: Carrier::Train,
            packets,
            mtu: 1024,
            bytes,
            window: 0,
            src_port: 0,
            src: gid(1),
            dst: gid(2),
            head,
        }
    }

    /// Opcode, bytes of extension headers, PSN, length of the IP packet.
    fn shape(packet: &Packet) -> Vec<(u8, usize, u32, usize)> {
        let of = |frame: Frame| {
            let bth = &frame.bytes[28..];
            (
                bth[0],
                bth.len() - BTH,
                u32::from_be_bytes([0, bth[9], bth[10], bth[11]]),
                frame.length,
            )
        };
        packet.frames().into_iter().map(of).collect()
    }

    #[test]
    fn runs_become_the_packets_that_they_stand_for() {
        // 28 bytes of IP and UDP, 12 of BTH, 4 of ICRC.
        let write = packet(0x0b, &[1; 20], (3, 2050));
        assert_eq!(
            shape(&write),
            [(0x06, 16, 0xff_ffff, 1084), (0x07, 0, 0, 1068), (0x09, 4, 1, 52)]
        );
        let read = packet(0x10, &[0, 0, 0, 9], (2, 2048));
        assert_eq!(shape(&read), [(0x0d, 4, 0xff_ffff, 1072), (0x0f, 4, 0, 1072)]);
        let part = packet(0x26, &[1; 16], (2, 2048));
        assert_eq!(shape(&part), [(0x26, 16, 0xff_ffff, 1084), (0x27, 0, 0, 1068)]);
        let end = packet(0x02, &[], (2, 1025));
        assert_eq!(shape(&end), [(0x01, 0, 0xff_ffff, 1068), (0x02, 0, 0, 48)]);
        assert_eq!(shape(&packet(0x16, &[1; 4], (2, 2048)))[1], (0x16, 4, 0, 1072));
        assert_eq!(shape(&packet(0x11, &[0; 4], (1, 0))), [(0x11, 4, 0xff_ffff, 48)]);
    }

    #[test]
    fn bits_of_a_message_are_those_of_its_last_packet() {
        let frames = packet(0x04, &[], (2, 1026)).frames();
        let bits = |frame: &Frame| (frame.bytes[29] & (SOLICITED | PAD), frame.bytes[36]);
        assert_eq!(bits(&frames[0]), (0, 0));
        assert_eq!(bits(&frames[1]), (SOLICITED | 0x20, ACK_REQUEST));
        assert_eq!(checksum(&frames[1].bytes[..20]), 0);
        assert!(frames[1]
            .comment
            .as_ref()
            .unwrap()
            .starts_with("packet 2 of 2 in a train of 1026 bytes;"));
    }

    #[test]
    fn what_is_not_known_is_zero() {
        let mut bytes = vec![];
        let mut capture = Capture::new(&mut bytes, Duration::ZERO, false).unwrap();
        capture
            .write("usb4r0", Duration::ZERO, &packet(0x0a, &[1; 16], (1, 64)))
            .unwrap();
        let mut reader = pcap_file::pcapng::PcapNgReader::new(&bytes[..]).unwrap();
        reader.next_block().unwrap().unwrap();
        let packet = reader.next_block().unwrap().unwrap().into_enhanced_packet().unwrap();
        assert_eq!(
            (packet.data.len(), packet.original_len),
            (28 + 28 + 64 + 4, 28 + 28 + 64 + 4)
        );
        assert!(packet.data[28 + 28..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_event_is_read_and_said_in_words() {
        let gids = ["00000000000000000000ffff0a550001", "00000000000000000000ffff0a550002"];
        let head = format!("0a40ffff00820001800000050000{}", "7f0000001000000003e900010000");
        let fields = [
            ("out", "0"),
            ("by", "2"),
            ("packets", "16"),
            ("mtu", "4096"),
            ("bytes", "65536"),
            ("window", "0"),
            ("sport", "0"),
            ("src", gids[0]),
            ("dst", gids[1]),
            ("head", &head),
        ];
        let of = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let read = Packet::parse(of).unwrap();
        assert_eq!(
            read.text(),
            "gets WRITE for 0x820001, PSN 5 and 15 more, 65536 bytes, 65536 bytes at 0x7f0000001000 of key 0x3e9, a train"
        );
        assert_eq!(read.frames().len(), 16);
        assert_eq!(Packet::parse(|name: &str| of(name).filter(|_| name != "head")), None);
        let nak = Packet {
            packets: 1,
            bytes: 0,
            ..packet(0x11, &[0x60, 0, 0, 3], (1, 0))
        };
        assert!(nak.text().ends_with(", NAK 0, MSN 3, a train"), "{}", nak.text());
    }

    #[test]
    fn a_capture_is_pcapng_with_an_interface_for_each_device() {
        let mut bytes = vec![];
        let mut capture = Capture::new(&mut bytes, Duration::from_secs(1), true).unwrap();
        for device in ["usb4r0", "usb4r1", "usb4r0"] {
            capture
                .write(device, Duration::from_micros(5), &packet(0x0a, &[0; 16], (2, 2048)))
                .unwrap();
        }
        assert_eq!(capture.packets, 6);
        let mut reader = pcap_file::pcapng::PcapNgReader::new(&bytes[..]).unwrap();
        let mut seen = vec![];
        while let Some(block) = reader.next_block() {
            if let Some(packet) = block.unwrap().into_enhanced_packet() {
                let cut = packet.data.len() < packet.original_len as usize;
                seen.push((
                    packet.interface_id,
                    packet.timestamp.as_micros(),
                    cut,
                    packet.options.len(),
                ));
            }
        }
        assert_eq!(
            seen,
            [0, 0, 1, 1, 0, 0].map(|interface| (interface, 1_000_005, true, 2))
        );
    }
}
