// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Every entry of the engine with a host nobody can see through, for `total.rs` to look at.
#![no_std]
#![allow(improper_ctypes, improper_ctypes_definitions)]

extern crate roce;

use roce::abi::{Place, Places, Sge, RECV_HEADER, SEND_HEADER};
use roce::completion::{Completion, Event};
use roce::keys::{Access, Key};
use roce::qp::{Modify, Posted, Qp, QpConfig, ReadResource, SendMessage, Slots};
use roce::time::Instant;
use roce::tombstone::Tombstone;
use roce::wire::udp::{Path, PathHeaders};
use roce::wire::{icrc::Icrc, Packet};
use roce::wqe::{AtomicOp, Early, Fault, FlushKind, Host, RecvWqe, Room, SendWqe, Span, Target, Transmit};

extern "Rust" {
    fn host_send() -> Option<SendWqe>;
    fn host_recv() -> Option<RecvWqe>;
    fn host_check(rkey: Key, va: u64, length: u32, access: Access) -> Result<(), Fault>;
    fn host_place(to: Target, payload: Span) -> Result<(), Fault>;
    fn host_atomic(op: AtomicOp, rkey: Key, va: u64) -> Result<u64, Fault>;
    fn host_keep(early: Early) -> bool;
    fn host_may(slot: u32) -> Result<(), Fault>;
}

pub struct Opaque;

impl Host for Opaque {
    fn keep(&mut self, early: Early) -> bool {
        unsafe { host_keep(early) }
    }
    fn take_send(&mut self) -> Option<SendWqe> {
        unsafe { host_send() }
    }
    fn take_recv(&mut self) -> Option<RecvWqe> {
        unsafe { host_recv() }
    }
    fn check(&mut self, rkey: Key, va: u64, length: u32, access: Access) -> Result<(), Fault> {
        unsafe { host_check(rkey, va, length, access) }
    }
    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        unsafe { host_place(to, payload) }
    }
    fn place_grh(&mut self, slot: u32) -> Result<(), Fault> {
        unsafe { host_may(slot) }
    }
    fn atomic(&mut self, op: AtomicOp, rkey: Key, va: u64) -> Result<u64, Fault> {
        unsafe { host_atomic(op, rkey, va) }
    }
    fn atomic_result(&mut self, slot: u32, _: u64) -> Result<(), Fault> {
        unsafe { host_may(slot) }
    }
    fn atomic_write(&mut self, rkey: Key, _: u64, _: Span) -> Result<(), Fault> {
        unsafe { host_may(rkey.0) }
    }
    fn flush(&mut self, rkey: Key, _: u64, _: u32, _: FlushKind) -> Result<(), Fault> {
        unsafe { host_may(rkey.0) }
    }
    fn invalidate(&mut self, key: Key) -> Result<(), Fault> {
        unsafe { host_may(key.0) }
    }
    fn local(&mut self, slot: u32) -> Result<(), Fault> {
        unsafe { host_may(slot) }
    }
}

pub type Engine = Qp<Slots<&'static mut [SendMessage], &'static mut [ReadResource]>>;

#[no_mangle]
pub fn new(config: QpConfig, sends: &'static mut [SendMessage], reads: &'static mut [ReadResource]) -> Engine {
    Qp::new(config, Slots { sends, reads })
}
#[no_mangle]
pub fn modify(engine: &mut Engine, now: Instant, modify: &Modify) -> bool {
    engine.modify(now, modify).is_ok()
}
#[no_mangle]
pub fn doorbell(engine: &mut Engine, now: Instant) {
    engine.handle_doorbell(now, &mut Opaque)
}
#[no_mangle]
pub fn post(engine: &mut Engine, now: Instant, posted: Posted) {
    engine.handle_post(now, posted)
}
#[no_mangle]
pub fn may_wait(engine: &mut Engine) -> bool {
    engine.may_wait()
}
#[no_mangle]
pub fn packet(engine: &mut Engine, now: Instant, head: &[u8], len: usize, run: u32) -> bool {
    let Ok(packet) = Packet::parse(head, len) else {
        return false;
    };
    engine.handle_packet(now, &packet.run(run), &mut Opaque);
    true
}
#[no_mangle]
pub fn timeout(engine: &mut Engine, now: Instant) -> Option<Instant> {
    engine.handle_timeout(now, &mut Opaque);
    engine.poll_timeout()
}
#[no_mangle]
pub fn transmit(engine: &mut Engine, now: Instant, room: Room) -> Option<Transmit> {
    engine.poll_transmit(now, room, &mut Opaque)
}
#[no_mangle]
pub fn early(engine: &mut Engine) -> Option<Early> {
    let early = engine.poll_early()?;
    (!engine.is_early(early)).then_some(early)
}
#[no_mangle]
pub fn unbuilt(engine: &mut Engine, now: Instant, transmit: &Transmit, stuck: u32) -> bool {
    engine.handle_unbuilt(now, transmit);
    engine.handle_company(stuck);
    engine.is_stuck()
}
#[no_mangle]
pub fn gather_fault(engine: &mut Engine, now: Instant, transmit: &Transmit, fault: Fault) {
    engine.handle_gather_fault(now, transmit, fault, &mut Opaque)
}
#[no_mangle]
pub fn completion(engine: &mut Engine) -> Option<Completion> {
    engine.poll_completion(&mut Opaque)
}
#[no_mangle]
pub fn tombstone(engine: &Engine) -> Option<Tombstone> {
    engine.tombstone()
}
#[no_mangle]
pub fn epitaph(tombstone: &Tombstone, head: &[u8], len: usize) -> Option<Transmit> {
    tombstone.answer(&Packet::parse(head, len).ok()?)
}
#[no_mangle]
pub fn event(engine: &mut Engine) -> Option<Event> {
    engine.poll_event()
}
#[no_mangle]
pub fn headers(path: &Path, id: u16, len: usize) -> Option<PathHeaders> {
    PathHeaders::build(path, id, len).ok()
}
#[no_mangle]
pub fn icrc(headers: &[u8], transport: &[u8]) -> Option<[u8; 4]> {
    Some(Icrc::seed(headers).ok()?.transport(transport).ok()?.finish())
}

/// Requests in memory nobody can see through.
pub type Held = Places<&'static mut [Place], &'static mut [Sge], &'static mut [u8]>;

extern "Rust" {
    fn shared_read(at: usize, to: &mut [u8]);
    fn region_read(key: Key, va: u64, to: &mut [u8]) -> Result<(), Fault>;
    fn region_write(key: Key, va: u64, from: &[u8]) -> Result<(), Fault>;
}

#[no_mangle]
pub fn places(
    places: &'static mut [Place],
    sges: &'static mut [Sge],
    inline: &'static mut [u8],
    sges_each: usize,
    inline_each: usize,
) -> Held {
    Places::new(places, sges, inline, sges_each, inline_each)
}
#[no_mangle]
pub fn take_send(held: &mut Held, raw: &[u8; SEND_HEADER], signal_all: bool) -> SendWqe {
    held.take_send(raw, signal_all, |at, to| unsafe { shared_read(at, to) })
}
#[no_mangle]
pub fn take_recv(held: &mut Held, raw: &[u8; RECV_HEADER]) -> RecvWqe {
    held.take_recv(raw, |at, to| unsafe { shared_read(at, to) })
}
#[no_mangle]
pub fn gather(held: &Held, slot: u32, offset: u32, to: &mut [u8]) -> Result<(), Fault> {
    held.gather(slot, offset, to, |key, va, to| unsafe { region_read(key, va, to) })
}
#[no_mangle]
pub fn scatter(held: &Held, slot: u32, offset: u32, from: &[u8]) -> Result<(), Fault> {
    held.scatter(slot, offset, from, |key, va, from| unsafe {
        region_write(key, va, from)
    })
}
