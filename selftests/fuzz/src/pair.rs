// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Two ends and a cable: bytes become calls, posts, and what happens to packets.

use crate::input::Input;
use crate::side::{OnWire, Side};
use roce::psn::{Psn, Qpn};
use roce::qp::QpKind;
use roce::time::Instant;
use roce::wire::icrc::Icrc;
use roce::wire::udp::{self, Addresses, Path, PathHeaders};
use roce::wire::{Bth, Packet};

/// Calls at most; what follows is not looked at.
const CALLS: usize = 400;

/// One run. With `raw` the users write anything into their queues.
pub fn run(data: &[u8], raw: bool) {
    let mut input = Input::new(data);
    let kind = input.pick(&[
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Rc,
        QpKind::Uc,
        QpKind::Ud,
        QpKind::Gsi,
    ]);
    let psn = |input: &mut Input<'_>| Psn::new(input.pick(&[0, 0xff_fffc, 77, 0x7f_fffe]));
    let (one, two) = (psn(&mut input), psn(&mut input));
    let mut sides = [
        Side::new(&mut input, kind, 0x11, 0x12, (two, one)),
        Side::new(&mut input, kind, 0x12, 0x11, (one, two)),
    ];
    let mut now = Instant(0);
    for _ in 0..CALLS {
        if input.is_empty() {
            break;
        }
        let code = input.u8();
        let (here, there) = two_of(&mut sides, code & 1 != 0);
        step(code >> 1, here, there, &mut input, &mut now, raw);
    }
    for side in &mut sides {
        side.finish(now);
    }
}

fn two_of(sides: &mut [Side; 2], second: bool) -> (&mut Side, &mut Side) {
    let [one, two] = sides;
    if second {
        (two, one)
    } else {
        (one, two)
    }
}

fn step(code: u8, here: &mut Side, there: &mut Side, input: &mut Input<'_>, now: &mut Instant, raw: bool) {
    let arg = code >> 4;
    match code & 15 {
        0 => here.post_send(input),
        1 => {
            here.post_send(input);
            here.drive(*now, &mut there.inbox);
        }
        2 => here.post_recv(input),
        3 => deliver(arg, here, there, *now),
        4 => {
            // Without a look at completions in between: what finds no room is as if lost.
            for packet in arrived(arg, here) {
                here.receive(*now, &packet, &mut there.inbox);
            }
        }
        5 => {
            // Packets to and fro, without a fault.
            for _ in 0..=arg {
                deliver(7, here, there, *now);
                here.drive(*now, &mut there.inbox);
                deliver(7, there, here, *now);
                there.drive(*now, &mut here.inbox);
            }
        }
        6 => here.drive(*now, &mut there.inbox),
        7 => spoil(arg, here, input),
        8 => {
            now.0 = now.0.saturating_add(u64::from(input.u16()) << (2 * arg));
            here.timeout(*now);
            if arg & 1 != 0 {
                here.drive(*now, &mut there.inbox);
            }
        }
        9 => inject(arg, here, there, input, *now),
        10 => frame(arg, here, there, input, *now),
        11 if arg < 3 => {
            here.completions(usize::from(arg) + 1);
        }
        11 if arg < 6 => here.transmit(*now, usize::from(arg), &mut there.inbox),
        11 => {
            here.engine.poll_event();
        }
        12 => match arg {
            0..=3 => here.modify_any(input, *now),
            4 => here.connect(input, *now),
            _ => {
                let region = &mut here.user.regions[usize::from(arg & 3)];
                region.valid = !region.valid;
            }
        },
        _ if raw => scribble(code & 15, arg, here, input),
        13 => here.post_recv(input),
        14 => there.drive(*now, &mut here.inbox),
        _ => deliver(arg, there, here, *now),
    }
}

/// Packets arrive here.
fn deliver(count: u8, here: &mut Side, there: &mut Side, now: Instant) {
    for packet in arrived(count, here) {
        here.receive(now, &packet, &mut there.inbox);
        // The kernel drains completions after every packet; a queue pair that is not drained drops.
        here.completions(4);
    }
}

/// The oldest packets on their way here.
fn arrived(count: u8, here: &mut Side) -> Vec<OnWire> {
    let count = here.inbox.len().min(1 + usize::from(count));
    here.inbox.drain(..count).collect()
}

/// Something happens to a packet on its way here.
fn spoil(arg: u8, here: &mut Side, input: &mut Input<'_>) {
    if here.inbox.is_empty() {
        return;
    }
    let place = usize::from(input.u8()) % here.inbox.len();
    match arg {
        0 => drop(here.inbox.remove(place)),
        1 => here.inbox.swap(0, place),
        2 => here.inbox.push(here.inbox[place].clone()),
        3 => here.inbox[place].len = input.u16().into(),
        4 => {
            let packet = &mut here.inbox[place];
            packet.head.truncate(input.u8().into());
        }
        _ => {
            let (at, value) = (usize::from(input.u8()), input.u8());
            if let Some(byte) = here.inbox[place].head.get_mut(at) {
                *byte ^= value;
            }
        }
    }
}

/// A packet out of nothing, near the PSNs in use.
fn inject(arg: u8, here: &mut Side, there: &mut Side, input: &mut Input<'_>, now: Instant) {
    let length = usize::from(input.u8()) % 65;
    let mut head = input.take(length).to_vec();
    let payload = if arg & 4 == 0 {
        0
    } else {
        input.length() as usize & 0x1_ffff
    };
    if head.len() >= Bth::LEN && arg & 3 != 3 {
        let attrs = here.engine.query();
        let base = if arg & 1 == 0 { attrs.rq_psn } else { attrs.sq_psn };
        // The low byte of the PSN says how far it is.
        let near = i32::from(head[11] as i8) - i32::from(arg & 2);
        let psn = base.plus(near as u32 & 0xff_ffff).value().to_be_bytes();
        head[9..12].copy_from_slice(&psn[1..]);
        head[1] &= 0xf0;
    }
    let len = if arg & 4 == 0 { head.len() } else { payload };
    here.receive(now, &OnWire { head, len }, &mut there.inbox);
    here.completions(2);
}

/// A whole frame around the oldest packet, a few of its bytes changed.
fn frame(arg: u8, here: &mut Side, there: &mut Side, input: &mut Input<'_>, now: Instant) {
    let addresses = if arg & 1 == 0 {
        Addresses::V4 {
            src: [10, 0, 0, 1],
            dst: [10, 0, 0, 2],
        }
    } else {
        Addresses::V6 {
            src: [1; 16],
            dst: [2; 16],
        }
    };
    let path = Path {
        src_mac: [2; 6],
        dst_mac: [4; 6],
        addresses,
        src_port: input.u16(),
        traffic_class: input.u8(),
        hop_limit: 64,
        flow_label: 0x12345,
        tag: 0,
    };
    let packet = if here.inbox.is_empty() {
        let length = usize::from(input.u8());
        let head = input.take(length).to_vec();
        OnWire { len: head.len(), head }
    } else {
        here.inbox.remove(0)
    };
    let Ok(headers) = PathHeaders::build(&path, 7, packet.len) else {
        return;
    };
    let mut bytes = headers.frame().to_vec();
    let total = bytes.len() - udp::ETHERNET_LEN + packet.len + Icrc::LEN;
    bytes.extend(&packet.head);
    for _ in 0..arg >> 1 {
        let (at, value) = (usize::from(input.u8()), input.u8());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= value;
        }
    }
    if let Some((head, len)) = unwrap(&bytes, total) {
        here.receive(now, &OnWire { head, len }, &mut there.inbox);
        here.completions(2);
    }
}

/// What the module does with a frame on the way in.
fn unwrap(frame: &[u8], total: usize) -> Option<(Vec<u8>, usize)> {
    let head = udp::parse_ethernet(frame).ok()?;
    let datagram = udp::parse_ip_udp(head, total).ok()?;
    let (start, len) = (datagram.transport.offset as usize, datagram.transport.len as usize);
    assert!(start + len + Icrc::LEN <= total, "a transport longer than its frame");
    let transport = head.get(start..)?;
    let transport = transport.get(..len).unwrap_or(transport);
    let bth = Bth::parse(transport.first_chunk()?).ok()?;
    assert!(bth.dest.value() <= Qpn::new(u32::MAX).value());
    if let Ok(seed) = Icrc::seed(&head[..start]) {
        if let Ok(icrc) = seed.transport(transport) {
            let _ = icrc.finish();
        }
    }
    Packet::parse(transport, len).ok()?;
    Some((transport.to_vec(), len))
}

/// The user writes into its queues whatever it likes.
fn scribble(code: u8, arg: u8, here: &mut Side, input: &mut Input<'_>) {
    let ring = if arg & 1 == 0 {
        &mut here.user.sends
    } else {
        &mut here.user.recvs
    };
    match code {
        13 => {
            // Some bytes of the newest request, or of any.
            let index = if arg & 2 == 0 {
                ring.producer.wrapping_sub(1)
            } else {
                input.u8().into()
            };
            let (at, len) = (usize::from(input.u8()), usize::from(input.u8() & 31));
            let from = input.take(len);
            let slot = ring.slot(index);
            for (to, from) in slot.iter_mut().skip(at).zip(from) {
                *to = *from;
            }
        }
        14 => {
            ring.producer = match arg & 6 {
                0 => ring.producer.wrapping_add(1),
                2 => ring.producer.wrapping_sub(1),
                4 => ring.producer.wrapping_add(input.u8().into()),
                _ => input.u32(),
            }
        }
        _ => ring.late = Some((u32::from(arg >> 1), input.u16().into(), input.u8())),
    }
}
