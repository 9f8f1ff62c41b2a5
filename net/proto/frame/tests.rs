// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Golden vectors and properties of the frame formats.

use super::*;
use proptest::prelude::*;

fn header(kind: Kind, inline_len: u16, pages: u8, page_bytes: u32) -> Header {
    Header {
        kind,
        probe: false,
        inline_len,
        seq: Seq(0x0403_0201),
        credit: Seq(0x0807_0605),
        pages,
        page_bytes,
    }
}

#[test]
fn a_frame_header_has_its_16_bytes_in_place() {
    let h = Header {
        probe: true,
        ..header(Kind::Eth, 0x0102, 16, 0x01_0000)
    };
    let bytes = [1, 1, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 16];
    assert_eq!(h.bytes(), bytes);
    assert_eq!(Header::parse(&bytes, 4096), Ok(h));
    assert_eq!(h.total(), 0x0102 + 0x01_0000);
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let parse = |h: Header, len| Header::parse(&h.bytes(), len);
    assert_eq!(parse(header(Kind::Eth, 100, 0, 0), 115), Err(WireError::Truncated));
    assert!(parse(header(Kind::Eth, 100, 0, 0), 116).is_ok());
    assert_eq!(parse(header(Kind::Eth, 4081, 0, 0), 9999), Err(WireError::Truncated));
    assert_eq!(parse(header(Kind::Eth, 1, 1, 4097), 4096), Err(WireError::Length));
    assert_eq!(parse(header(Kind::Eth, 1, 2, 1), 4096), Err(WireError::Length));
    assert_eq!(parse(header(Kind::Eth, 1, 18, 4096), 4096), Err(WireError::Length));
    assert_eq!(parse(header(Kind::Eth, 1, 0, 1), 4096), Err(WireError::Length));
    assert_eq!(parse(header(Kind::Ctrl, 4, 1, 1), 4096), Err(WireError::Length));
    let mut bytes = header(Kind::Eth, 1, 0, 0).bytes();
    bytes[0] = 4;
    assert_eq!(Header::parse(&bytes, 4096), Err(WireError::Protocol));
    assert_eq!(Header::parse(&bytes[..15], 4096), Err(WireError::Protocol));
}

#[test]
fn a_frame_of_4096_bytes_has_length_field_0() {
    assert_eq!((size_field(4096), frame_len(0)), (0, 4096));
    assert_eq!((size_field(4095), frame_len(4095)), (4095, 4095));
    assert_eq!((size_field(1), frame_len(1)), (1, 1));
}

#[test]
fn page_markers_count_modulo_13_and_never_look_like_a_head() {
    assert_eq!(Seq(0).page_eof(), 3);
    assert_eq!(Seq(12).page_eof(), 15);
    assert_eq!(Seq(13).page_eof(), 3);
    for n in 0..100 {
        let eof = Seq(n).page_eof();
        assert!(eof != EOF_HEAD && EOF_MASK & (1 << eof) != 0);
    }
    assert_eq!(SOF_MASK & EOF_MASK, 0);
}

#[test]
fn first_sequences_differ_by_direction_and_lane() {
    let golden = Seq::first(0x1122_3344_5566_7788, 0x0102_0304_0506_0708, 0);
    assert_eq!(golden, Seq(GOLDEN_FIRST));
    assert_ne!(golden, Seq::first(0x0102_0304_0506_0708, 0x1122_3344_5566_7788, 0));
    assert_ne!(golden, Seq::first(0x1122_3344_5566_7788, 0x0102_0304_0506_0708, 1));
}

/// Computed by hand from the formula in docs/protocol.md (Python, 64-bit arithmetic).
const GOLDEN_FIRST: u32 = 0x15fd_e32a;

#[test]
fn ethernet_metadata_has_its_12_bytes_in_place() {
    let eth = Eth {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Segmentation {
            kind: Gso::Tcp4,
            ecn: true,
            header_len: 66,
            size: 1448,
        }),
    };
    let bytes = [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    assert_eq!(eth.bytes(), bytes);
    assert_eq!(
        Eth::parse(&bytes, &header(Kind::Eth, 12 + 66, 16, 65_536 - 66)),
        Ok(eth)
    );
    let verified = Eth {
        checksum: Checksum::Verified,
        gso: None,
    };
    assert_eq!(verified.bytes(), [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn ethernet_metadata_never_points_out_of_the_inline_bytes() {
    let h = header(Kind::Eth, 12 + 60, 1, 4096);
    let parse = |b: [u8; 12]| Eth::parse(&b, &h);
    // Checksum field at 58..60 is the last place.
    assert!(parse([1, 0, 0, 0, 0, 0, 34, 0, 24, 0, 0, 0]).is_ok());
    assert_eq!(parse([1, 0, 0, 0, 0, 0, 34, 0, 25, 0, 0, 0]), Err(WireError::Value));
    assert_eq!(parse([1, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0]), Err(WireError::Value));
    assert_eq!(
        parse([1, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0]),
        Err(WireError::Value)
    );
    assert_eq!(parse([3, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]), Err(WireError::Value));
    // Segmentation without a size, without a checksum place, with headers that are not inline.
    assert_eq!(parse([1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0]), Err(WireError::Value));
    assert_eq!(parse([0, 1, 54, 0, 9, 0, 0, 0, 0, 0, 0, 0]), Err(WireError::Value));
    assert_eq!(parse([1, 1, 61, 0, 9, 0, 34, 0, 16, 0, 0, 0]), Err(WireError::Value));
    assert_eq!(parse([1, 2, 54, 0, 9, 0, 34, 0, 16, 0, 0, 0]), Err(WireError::Value));
    assert!(parse([1, 4, 54, 0, 9, 0, 34, 0, 16, 0, 0, 0]).is_ok());
    // Shorter than an Ethernet header; longer than a super-packet.
    assert_eq!(
        Eth::parse(&[0; 12], &header(Kind::Eth, 25, 0, 0)),
        Err(WireError::Length)
    );
    assert_eq!(
        Eth::parse(&[0; 12], &header(Kind::Eth, 12 + 60, 17, 17 * 4096)),
        Err(WireError::Length)
    );
}

#[test]
fn transport_metadata_has_its_24_bytes_and_exact_sizes() {
    let roce = Roce {
        packets: 4,
        mtu: 4096,
        header_len: 28,
        ends: 0x0102_0304_0506_0708,
        account: Some(Account {
            floor: Seq(0x1112_1314),
            carried: Seq(0x2122_2324),
        }),
        window: None,
    };
    let mut bytes = vec![4, 0, 0, 16, 28, 0, 1, 0, 8, 7, 6, 5, 4, 3, 2, 1];
    bytes.extend([0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22, 0x21]);
    assert_eq!(&roce.bytes()[..], bytes);
    let fits = |pages: u8, bytes: u32| Roce::parse(&roce.bytes(), None, &header(Kind::Roce, 24 + 28, pages, bytes));
    assert_eq!(fits(4, 4 * 4096), Ok(roce));
    assert_eq!(fits(4, 3 * 4096 + 1), Ok(roce));
    assert_eq!(fits(3, 3 * 4096), Err(WireError::Length));
    assert_eq!(fits(5, 4 * 4096 + 1), Err(WireError::Length));
    let none = Roce { packets: 0, ..roce };
    assert_eq!(
        Roce::parse(&none.bytes(), None, &header(Kind::Roce, 52, 0, 0)),
        Err(WireError::Length)
    );
    let ack = Roce {
        packets: 1,
        mtu: 0,
        header_len: 16,
        ends: 0,
        account: None,
        window: None,
    };
    assert_eq!(Roce::parse(&ack.bytes(), None, &header(Kind::Roce, 40, 0, 0)), Ok(ack));
    assert_eq!(
        Roce::parse(&ack.bytes(), None, &header(Kind::Roce, 39, 0, 0)),
        Err(WireError::Length)
    );
}

#[test]
fn a_request_follows_the_metadata_and_its_window_is_payload() {
    let request = Request {
        number: 9,
        generation: 7,
        frames: 15,
        key: 5,
        address: 0x1000,
    };
    let roce = Roce {
        packets: 16,
        mtu: 4096,
        header_len: 28,
        ends: 1,
        account: None,
        window: Some(request),
    };
    assert_eq!((roce.bytes()[6], roce.wire_len()), (2, 48));
    let parse = |roce: Roce, pages: u8, page_bytes: u32| {
        let mut frame = vec![0; 16];
        frame.extend(roce.bytes());
        frame.extend(request.bytes());
        frame.extend([0xaa; 28]);
        let header = header(Kind::Roce, 24 + 24 + 28, pages, page_bytes);
        match Head::parse(&header, &frame) {
            Ok(Head::Roce(roce, front)) => Ok((roce, front.to_vec())),
            Ok(_) => unreachable!(),
            Err(err) => Err(err),
        }
    };
    // The tail comes along, the rest by the window.
    assert_eq!(parse(roce, 1, 4096), Ok((roce, vec![0xaa; 28])));
    assert_eq!(parse(roce, 1, 1).map(|(roce, _)| roce), Ok(roce));
    assert_eq!(parse(roce, 0, 0), Err(WireError::Length));
    assert_eq!(parse(roce, 2, 4097), Err(WireError::Length));
    let all = Roce { packets: 15, ..roce };
    assert_eq!(parse(all, 0, 0).map(|(roce, _)| roce), Ok(all));
}

#[test]
fn a_report_follows_its_operation_and_the_floor() {
    let report = crate::ledger::Report::carried(Seq(9));
    let (bytes, len) = report.bytes();
    let mut rest = vec![7, 0, 0, 0];
    rest.extend(&bytes[..len]);
    assert_eq!(Ctrl::parse(&[3, 0, 0, 0]), Ctrl::Report);
    assert_eq!(Ctrl::report(&rest), Ok((Seq(7), report)));
    assert_eq!(Ctrl::report(&rest[..11]), Err(WireError::Truncated));
}

#[test]
fn a_head_frame_is_viewed_by_its_kind() {
    let h = header(Kind::Ctrl, 6, 0, 0);
    let mut frame = h.bytes().to_vec();
    frame.extend(Ctrl::Credit.bytes());
    frame.extend([7, 8, 9]);
    assert_eq!(Head::parse(&h, &frame), Ok(Head::Ctrl(Ctrl::Credit, &[7, 8])));
    assert_eq!(Head::parse(&h, &frame[..21]), Err(WireError::Truncated));
}

#[test]
fn an_echo_is_these_bytes() {
    let head = Header {
        inline_len: (Ctrl::LEN + Ctrl::TOKEN) as u16,
        ..header(Kind::Ctrl, 0, 0, 0)
    };
    let mut frame = head.bytes().to_vec();
    frame.extend(Ctrl::Echo.bytes());
    frame.extend(0x0102_0304_0506_0708u64.to_le_bytes());
    assert_eq!(frame[16..], [4, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
    let Ok(Head::Ctrl(Ctrl::Echo, rest)) = Head::parse(&head, &frame) else {
        panic!("no echo");
    };
    assert_eq!(Ctrl::token(rest), Some(0x0102_0304_0506_0708));
    assert_eq!(Ctrl::token(&rest[..7]), None);
}

#[test]
fn every_operation_decodes_to_itself() {
    for op in 0..=255 {
        assert_eq!(Ctrl::parse(&[op, 0, 0, 0]).bytes()[0], op);
    }
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail_and_stay_inside(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1u8..4, fix: bool) {
        let mut bytes = bytes;
        if fix && bytes.len() >= 16 {
            let inline = ((bytes.len() - 16) as u16).to_le_bytes();
            bytes[0] = kind;
            bytes[2..4].copy_from_slice(&inline);
            bytes[12..16].copy_from_slice(&[10, 0, 0, 2]);
        }
        if let Ok(h) = Header::parse(&bytes, bytes.len()) {
            prop_assert!(h.total() <= 4080 + MAX_PAGES * 4096);
            if let Ok(Head::Eth(eth, inline)) = Head::parse(&h, &bytes) {
                prop_assert!(inline.len() >= 14);
                if let Checksum::Partial { start, offset } = eth.checksum {
                    prop_assert!(usize::from(start) + usize::from(offset) + 2 <= inline.len());
                }
            }
        }
    }

    #[test]
    fn metadata_that_parses_encodes_to_itself(flags in 0u8..3, gso in prop_oneof![Just(0u8), Just(1), Just(0x81), Just(4), Just(5)], rest: [u16; 4]) {
        let mut bytes = [0; 12];
        bytes[0] = flags;
        bytes[1] = gso;
        for (i, v) in rest.iter().enumerate() {
            bytes[2 + 2 * i..4 + 2 * i].copy_from_slice(&(v % 200).to_le_bytes());
        }
        if let Ok(eth) = Eth::parse(&bytes, &header(Kind::Eth, 400, 2, 8192)) {
            let again = Eth::parse(&eth.bytes(), &header(Kind::Eth, 400, 2, 8192));
            prop_assert_eq!(again, Ok(eth));
        }
    }

    #[test]
    fn adding_and_measuring_agree(base: u32, n in 0u32..1 << 31) {
        prop_assert_eq!(Seq(base).plus(n).offset(Seq(base)), n as i32);
        prop_assert_eq!(Seq(base).plus(n).minus(n), Seq(base));
    }
}
