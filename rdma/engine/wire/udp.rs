// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Ethernet, IPv4, IPv6 and UDP headers around the transport, Annex A17.3 and RFC 791, 8200, 768.
//!
//! RoCEv2 sends UDP checksum 0 on both families and sets "don't fragment"; the ICRC protects the
//! packet. No VLAN tag, no IP options, no IPv6 extension headers.

use super::icrc::Icrc;
use super::Span;
use super::WireError;

/// UDP destination port of RoCEv2 (IANA).
pub const PORT: u16 = 4791;

/// Ethernet header length.
pub const ETHERNET_LEN: usize = 14;
/// IPv4 header length without options.
pub const IPV4_LEN: usize = 20;
/// IPv6 header length.
pub const IPV6_LEN: usize = 40;
/// UDP header length.
pub const UDP_LEN: usize = 8;

/// Longest chain built here.
const MAX_LEN: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const PROTOCOL_UDP: u8 = 17;
/// IPv4 flags: don't fragment.
const FLAG_DF: u8 = 0x40;

/// Source and destination address of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source.
        src: [u8; 4],
        /// Destination.
        dst: [u8; 4],
    },
    /// IPv6.
    V6 {
        /// Source.
        src: [u8; 16],
        /// Destination.
        dst: [u8; 16],
    },
}

impl Addresses {
    /// Length of the IP header of this family.
    #[must_use]
    pub const fn ip_len(&self) -> usize {
        match self {
            Self::V4 { .. } => IPV4_LEN,
            Self::V6 { .. } => IPV6_LEN,
        }
    }

    /// The GID of the destination.
    #[must_use]
    pub const fn dst_gid(&self) -> [u8; 16] {
        match *self {
            Self::V6 { dst, .. } => dst,
            Self::V4 { dst: [a, b, c, d], .. } => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
        }
    }

    /// The GID of the source.
    #[must_use]
    pub const fn src_gid(&self) -> [u8; 16] {
        match *self {
            Self::V6 { src, .. } => src,
            Self::V4 { src: [a, b, c, d], .. } => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
        }
    }

    /// Whether the datagram goes the opposite way of `path`.
    #[must_use]
    pub fn is_reverse_of(&self, path: &Self) -> bool {
        match (*path, *self) {
            (Self::V4 { src, dst }, Self::V4 { src: from, dst: to }) => src == to && dst == from,
            (Self::V6 { src, dst }, Self::V6 { src: from, dst: to }) => src == to && dst == from,
            _ => false,
        }
    }
}

/// The Ethernet address that frames for a multicast group have. RFC 1112, 6.4; RFC 2464, 7. `None` if the GID is no
/// multicast address.
#[must_use]
pub const fn multicast_mac(gid: &[u8; 16]) -> Option<[u8; 6]> {
    match *gid {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 224..=239, b, c, d] => Some([1, 0, 0x5e, b & 0x7f, c, d]),
        [0xff, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d] => Some([0x33, 0x33, a, b, c, d]),
        _ => None,
    }
}

/// How packets of a connection travel: what an address vector resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Our MAC address.
    pub src_mac: [u8; 6],
    /// MAC address of the peer or the gateway.
    pub dst_mac: [u8; 6],
    /// IP addresses.
    pub addresses: Addresses,
    /// UDP source port.
    pub src_port: u16,
    /// IPv4 TOS or IPv6 traffic class.
    pub traffic_class: u8,
    /// IPv4 TTL or IPv6 hop limit.
    pub hop_limit: u8,
    /// IPv6 flow label, 20 bits.
    pub flow_label: u32,
    /// The VLAN: EtherType in the upper 16 bits, number in the lower. 0: none. The netdev puts it into the frame.
    pub tag: u32,
}

impl Path {
    /// Whether both have the same next hop: the same addresses in the same VLAN.
    #[must_use]
    pub fn leads_as(&self, other: &Self) -> bool {
        self.addresses == other.addresses && self.tag == other.tag
    }

    /// Whether it leads to a group, whose Ethernet address follows from its GID and never changes.
    #[must_use]
    pub fn is_multicast(&self) -> bool {
        multicast_mac(&self.addresses.dst_gid()).is_some()
    }
}

/// Finished Ethernet, IP and UDP header bytes for one packet.
#[derive(Clone, Copy, Debug)]
pub struct PathHeaders {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl PathHeaders {
    /// Build the headers for a packet of `transport_len` bytes (BTH through pad, no ICRC).
    /// `ip_id` is the IPv4 identification; the ICRC covers it.
    ///
    /// # Errors
    ///
    /// [`WireError::Length`] if the packet does not fit an IP datagram.
    pub fn build(path: &Path, ip_id: u16, transport_len: usize) -> Result<Self, WireError> {
        let len = transport_len.checked_add(Icrc::LEN).ok_or(WireError::Length)?;
        Self::build_for(path, ip_id, len)
    }

    /// As [`Self::build`], for a run ([`crate::wire::Bth::run`]), which no ICRC follows.
    ///
    /// # Errors
    ///
    /// As [`Self::build`].
    pub fn build_run(path: &Path, ip_id: u16, transport_len: usize) -> Result<Self, WireError> {
        Self::build_for(path, ip_id, transport_len)
    }

    /// Headers before `len` bytes of UDP payload.
    fn build_for(path: &Path, ip_id: u16, len: usize) -> Result<Self, WireError> {
        let udp_len = len.checked_add(UDP_LEN).ok_or(WireError::Length)?;
        let udp_len = u16::try_from(udp_len).map_err(|_| WireError::Length)?;
        let mut out = Self {
            bytes: [0; MAX_LEN],
            len: 0,
        };
        out.push(&path.dst_mac);
        out.push(&path.src_mac);
        match path.addresses {
            Addresses::V4 { src, dst } => {
                let total = udp_len.checked_add(IPV4_LEN as u16).ok_or(WireError::Length)?;
                out.push(&ETHERTYPE_IPV4);
                out.push(&ipv4(path, ip_id, total, src, dst));
            }
            Addresses::V6 { src, dst } => {
                let [_, flow0, flow1, flow2] = path.flow_label.to_be_bytes();
                let [len0, len1] = udp_len.to_be_bytes();
                let class = path.traffic_class;
                out.push(&ETHERTYPE_IPV6);
                out.push(&[0x60 | (class >> 4), (class << 4) | (flow0 & 0x0f), flow1, flow2]);
                out.push(&[len0, len1, PROTOCOL_UDP, path.hop_limit]);
                out.push(&src);
                out.push(&dst);
            }
        }
        out.push(&path.src_port.to_be_bytes());
        out.push(&PORT.to_be_bytes());
        out.push(&udp_len.to_be_bytes());
        out.push(&[0, 0]);
        Ok(out)
    }

    /// All headers, Ethernet first.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// IP and UDP headers only: what [`Icrc::seed`] takes.
    #[must_use]
    pub fn ip_udp(&self) -> &[u8] {
        self.bytes.get(ETHERNET_LEN..usize::from(self.len)).unwrap_or(&[])
    }

    fn push(&mut self, part: &[u8]) {
        let start = usize::from(self.len);
        let room = self.bytes.get_mut(start..).and_then(|rest| rest.get_mut(..part.len()));
        if let Some(room) = room {
            room.copy_from_slice(part);
            self.len = start.wrapping_add(part.len()) as u8;
        }
    }
}

/// A received datagram: addresses, ports and where the transport lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// IP addresses.
    pub addresses: Addresses,
    /// UDP source port.
    pub src_port: u16,
    /// UDP destination port.
    pub dst_port: u16,
    /// IPv4 TOS or IPv6 traffic class (its low two bits are ECN).
    pub traffic_class: u8,
    /// The transport from the BTH through the pad, without the ICRC, counted from the IP header.
    /// The ICRC's four bytes follow it. What lies before it is what [`Icrc::seed`] takes.
    pub transport: Span,
}

impl Datagram {
    /// The same if it is a run: no ICRC follows.
    #[must_use]
    pub const fn run(self) -> Self {
        let Span { offset, len } = self.transport;
        let len = len.saturating_add(Icrc::LEN as u32);
        Self {
            transport: Span { offset, len },
            ..self
        }
    }
}

/// Parse IP and UDP headers. `head` begins with the IP header and holds at least the headers;
/// `packet_len` is the number of bytes from the IP header to the end of what was received
/// (link padding included).
///
/// # Errors
///
/// [`WireError`]: not IP, options or extension headers, fragments, not UDP, lengths that
/// contradict, a wrong IPv4 header checksum, or no room for the ICRC.
pub fn parse_ip_udp(head: &[u8], packet_len: usize) -> Result<Datagram, WireError> {
    let first = head.first().copied().ok_or(WireError::Truncated)?;
    let (addresses, traffic_class, ip_payload, rest) = match first >> 4 {
        4 => {
            let (ip, rest) = head.split_first_chunk::<IPV4_LEN>().ok_or(WireError::Truncated)?;
            let (addresses, class, payload) = parse_ipv4(ip)?;
            (addresses, class, payload, rest)
        }
        6 => {
            let (ip, rest) = head.split_first_chunk::<IPV6_LEN>().ok_or(WireError::Truncated)?;
            let (addresses, class, payload) = parse_ipv6(ip)?;
            (addresses, class, payload, rest)
        }
        _ => return Err(WireError::Version),
    };
    let (udp, _) = rest.split_first_chunk::<UDP_LEN>().ok_or(WireError::Truncated)?;
    let [s0, s1, d0, d1, l0, l1, _, _] = *udp;
    let udp_len = usize::from(u16::from_be_bytes([l0, l1]));
    let ip_len = addresses.ip_len();
    let end = ip_len.checked_add(udp_len).ok_or(WireError::Length)?;
    if udp_len != ip_payload || end > packet_len {
        return Err(WireError::Length);
    }
    let overhead = UDP_LEN.wrapping_add(Icrc::LEN);
    let len = udp_len.checked_sub(overhead).ok_or(WireError::Length)?;
    let offset = ip_len.wrapping_add(UDP_LEN);
    Ok(Datagram {
        addresses,
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        traffic_class,
        transport: Span {
            offset: offset as u32,
            len: len as u32,
        },
    })
}

/// The payload of an Ethernet frame, if it is untagged IPv4 or IPv6.
///
/// # Errors
///
/// [`WireError::Truncated`] or [`WireError::Protocol`].
pub fn parse_ethernet(frame: &[u8]) -> Result<&[u8], WireError> {
    let (header, rest) = frame.split_first_chunk::<ETHERNET_LEN>().ok_or(WireError::Truncated)?;
    match [header[12], header[13]] {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ok(rest),
        _ => Err(WireError::Protocol),
    }
}

fn ipv4(path: &Path, id: u16, total: u16, src: [u8; 4], dst: [u8; 4]) -> [u8; IPV4_LEN] {
    let [t0, t1] = total.to_be_bytes();
    let [i0, i1] = id.to_be_bytes();
    let [s0, s1, s2, s3] = src;
    let [d0, d1, d2, d3] = dst;
    let mut header = [
        0x45,
        path.traffic_class,
        t0,
        t1,
        i0,
        i1,
        FLAG_DF,
        0,
        path.hop_limit,
        PROTOCOL_UDP,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ];
    let [c0, c1] = (!ones_complement_sum(&header)).to_be_bytes();
    header[10] = c0;
    header[11] = c1;
    header
}

fn parse_ipv4(ip: &[u8; IPV4_LEN]) -> Result<(Addresses, u8, usize), WireError> {
    let [version, tos, t0, t1, _, _, frag0, frag1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
    if version != 0x45 {
        return Err(WireError::Version);
    }
    if protocol != PROTOCOL_UDP || frag0 & 0x3f != 0 || frag1 != 0 {
        return Err(WireError::Protocol);
    }
    if ones_complement_sum(ip) != 0xffff {
        return Err(WireError::Checksum);
    }
    let total = usize::from(u16::from_be_bytes([t0, t1]));
    let payload = total.checked_sub(IPV4_LEN).ok_or(WireError::Length)?;
    let addresses = Addresses::V4 {
        src: [s0, s1, s2, s3],
        dst: [d0, d1, d2, d3],
    };
    Ok((addresses, tos, payload))
}

fn parse_ipv6(ip: &[u8; IPV6_LEN]) -> Result<(Addresses, u8, usize), WireError> {
    let (fixed, addresses) = ip.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
    let (src, dst) = addresses.split_first_chunk::<16>().ok_or(WireError::Truncated)?;
    let dst: [u8; 16] = dst.try_into().map_err(|_| WireError::Truncated)?;
    let [v0, v1, _, _, l0, l1, next, _] = *fixed;
    if next != PROTOCOL_UDP {
        return Err(WireError::Protocol);
    }
    let class = (v0 << 4) | (v1 >> 4);
    let payload = usize::from(u16::from_be_bytes([l0, l1]));
    Ok((Addresses::V6 { src: *src, dst }, class, payload))
}

/// Ones' complement sum of big-endian words, RFC 1071.
fn ones_complement_sum(header: &[u8; IPV4_LEN]) -> u16 {
    let sum = header.chunks_exact(2).fold(0u32, |sum, pair| {
        let word = pair.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte));
        sum.wrapping_add(word)
    });
    let folded = (sum & 0xffff).wrapping_add(sum >> 16);
    let folded = (folded & 0xffff).wrapping_add(folded >> 16);
    folded as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Made with Python's `struct` and `socket`; the IPv4 checksum by RFC 1071 there.
    const V4: [u8; 28] = [
        0x45, 0x02, 0x00, 0x3c, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x14, 0x79, 0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00,
        0x00, 0x02, 0xc1, 0x23, 0x12, 0xb7, 0x00, 0x28, 0x00, 0x00,
    ];
    const V6: [u8; 48] = [
        0x6b, 0x85, 0x43, 0x21, 0x00, 0x28, 0x11, 0x3f, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x02, 0xc1, 0x23, 0x12, 0xb7, 0x00, 0x28, 0x00, 0x00,
    ];

    fn v4() -> Path {
        Path {
            src_mac: [2, 0, 0, 0, 0, 1],
            dst_mac: [2, 0, 0, 0, 0, 2],
            addresses: Addresses::V4 {
                src: [10, 0, 0, 1],
                dst: [10, 0, 0, 2],
            },
            src_port: 0xc123,
            traffic_class: 2,
            hop_limit: 64,
            flow_label: 0,
            tag: 0,
        }
    }

    fn v6() -> Path {
        let mut src = [0; 16];
        src[..2].copy_from_slice(&[0xfe, 0x80]);
        let mut dst = src;
        (src[15], dst[15]) = (1, 2);
        Path {
            addresses: Addresses::V6 { src, dst },
            traffic_class: 0xb8,
            hop_limit: 63,
            flow_label: 0x54321,
            tag: 0,
            ..v4()
        }
    }

    #[test]
    fn built_headers_are_those_of_a_foreign_implementation() {
        let headers = PathHeaders::build(&v4(), 0x1234, 28).unwrap();
        assert_eq!(headers.ip_udp(), V4);
        assert_eq!(headers.frame()[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        let headers = PathHeaders::build(&v6(), 0, 28).unwrap();
        assert_eq!(headers.ip_udp(), V6);
        assert_eq!(headers.frame()[12..14], [0x86, 0xdd]);
    }

    #[test]
    fn what_is_built_parses_back() {
        for path in [v4(), v6()] {
            let headers = PathHeaders::build(&path, 7, 100).unwrap();
            let ip = headers.ip_udp();
            assert_eq!(parse_ethernet(headers.frame()), Ok(ip));
            let datagram = parse_ip_udp(ip, ip.len() + 104).unwrap();
            assert_eq!(datagram.addresses, path.addresses);
            assert_eq!((datagram.src_port, datagram.dst_port), (0xc123, PORT));
            assert_eq!(datagram.traffic_class, path.traffic_class);
            assert_eq!(
                datagram.transport,
                Span {
                    offset: ip.len() as u32,
                    len: 100
                }
            );
            // Trailing link padding is no part of it; a cut packet is refused.
            assert_eq!(parse_ip_udp(ip, ip.len() + 200), Ok(datagram));
            assert_eq!(parse_ip_udp(ip, ip.len() + 103), Err(WireError::Length));
        }
    }

    #[test]
    fn fragments_options_other_protocols_and_bad_checksums_are_refused() {
        let with = |at: usize, value| {
            let mut bytes = V4;
            bytes[at] = value;
            parse_ip_udp(&bytes, 60)
        };
        assert!(with(0, 0x45).is_ok());
        assert_eq!(with(0, 0x46), Err(WireError::Version));
        assert_eq!(with(0, 0x35), Err(WireError::Version));
        assert_eq!(with(6, 0x20), Err(WireError::Protocol));
        assert_eq!(with(9, 6), Err(WireError::Protocol));
        assert_eq!(with(8, 63), Err(WireError::Checksum));
        assert_eq!(with(25, 0x27), Err(WireError::Length));
        assert_eq!(parse_ethernet(&[0; 14]), Err(WireError::Protocol));
    }

    #[test]
    fn groups_have_the_ethernet_addresses_of_the_rfcs() {
        let v4 = |last: [u8; 4]| {
            let mut gid = [0; 16];
            gid[10..12].fill(0xff);
            gid[12..].copy_from_slice(&last);
            multicast_mac(&gid)
        };
        assert_eq!(v4([239, 129, 2, 3]), Some([1, 0, 0x5e, 1, 2, 3]));
        assert_eq!(v4([224, 0, 0, 1]), Some([1, 0, 0x5e, 0, 0, 1]));
        assert_eq!(v4([240, 0, 0, 1]), None);
        assert_eq!(v4([10, 0, 0, 1]), None);
        let mut v6 = [0; 16];
        v6[..2].copy_from_slice(&[0xff, 0x0e]);
        v6[12..].copy_from_slice(&[0xc0, 1, 2, 3]);
        assert_eq!(multicast_mac(&v6), Some([0x33, 0x33, 0xc0, 1, 2, 3]));
        v6[0] = 0xfe;
        assert_eq!(multicast_mac(&v6), None);
    }

    #[test]
    fn a_path_leads_where_its_addresses_do() {
        for path in [v4(), v6()] {
            let renewed = Path {
                src_mac: [2, 0, 0, 0, 0, 8],
                dst_mac: [2, 0, 0, 0, 0, 9],
                ..path
            };
            assert!(renewed.leads_as(&path) && !path.is_multicast());
            assert!(!Path { tag: 5, ..path }.leads_as(&path));
        }
        assert!(!v4().leads_as(&v6()));
        let group = Addresses::V4 {
            src: [10, 0, 0, 1],
            dst: [239, 1, 2, 3],
        };
        let to_group = Path {
            addresses: group,
            ..v4()
        };
        assert!(to_group.is_multicast() && !to_group.leads_as(&v4()));
        assert_eq!(group.src_gid(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(v6().addresses.src_gid()[15], 1);
    }

    #[test]
    fn a_packet_too_long_for_ip_is_refused() {
        assert!(PathHeaders::build(&v4(), 0, 65535 - 32).is_ok());
        assert!(PathHeaders::build(&v4(), 0, 65536 - 32).is_err());
        assert!(PathHeaders::build(&v6(), 0, 65535 - 12).is_ok());
        assert!(PathHeaders::build(&v6(), 0, 65536 - 12).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100), len in 0usize..200, four: bool,
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = if four { 0x45 } else { 0x60 };
            }
            if let Ok(datagram) = parse_ip_udp(&bytes, len) {
                let end = datagram.transport.offset + datagram.transport.len + 4;
                prop_assert!(end as usize <= len);
            }
        }
    }
}
