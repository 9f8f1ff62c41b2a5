// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Golden vectors of the layouts, and the two sides by themselves. Together they are in `tests/direct_sim.rs`.

use super::*;
use crate::frame::{EOF_MASK, SOF};
use crate::limits::{RESET_SOON, START_REPEAT, WINDOW_ASK, WINDOW_LIMIT, WINDOW_PAUSE, WINDOW_SLOW, WINDOW_STALL};
use crate::time::Instant;
use crate::train::Arrival;
use proptest::prelude::*;

const T: Instant = Instant(1_000);

fn arrival(eof: u8, len: usize) -> Arrival {
    Arrival {
        sof: SOF,
        eof,
        len,
        spoiled: false,
    }
}

fn page(eof: u8) -> Arrival {
    arrival(eof, MAX_FRAME)
}

/// A granter that runs, with generation 5.
fn running() -> Granter {
    let mut granter = Granter::new(T, 5);
    let start = Start(5).bytes();
    assert!(granter.wants_page());
    assert_eq!(granter.handle_frame(T, arrival(EOF_VOID, 8), &start), Frame::Other);
    assert!(!granter.wants_page() && !granter.is_broken());
    granter
}

fn request(number: u32, frames: u16) -> Request {
    Request {
        number,
        generation: 5,
        frames,
        key: 1,
        address: 4096,
    }
}

fn open(granter: &mut Granter, number: u32, frames: u16) {
    let request = request(number, frames);
    assert!(granter.handle_request(&request));
    granter.grant(T, &request, None);
}

/// An asker to which generation 5 has been opened.
fn asking() -> Asker<u64> {
    let mut asker = Asker::new();
    assert!(!asker.has_room());
    assert_eq!(asker.handle_grant(T, &grant(0, &[], true)), Heard::Reset);
    assert_eq!(asker.take_start(), Some(Start(5)));
    assert_eq!(asker.take_start(), None);
    assert!(!asker.has_room());
    assert_eq!(asker.handle_grant(T, &grant(0, &[], false)), Heard::News);
    assert!(asker.has_room());
    assert_eq!(asker.poll_told(), None);
    assert_eq!(asker.poll_timeout(), None);
    asker
}

/// A grant with the states of the last requests, the newest first.
fn grant(answered: u32, states: &[State], waits: bool) -> Grant {
    let bits = states.iter().rev().fold(0, |bits, state| bits << 2 | state.bits());
    Grant {
        generation: 5,
        answered,
        states: bits,
        waits,
    }
}

#[test]
fn a_request_has_its_24_bytes_in_place() {
    let request = Request {
        number: 0x0403_0201,
        generation: 0x0807_0605,
        frames: 0x20,
        key: 0x100f_0e0d,
        address: 0x0807_0605_0403_2000,
    };
    let bytes = [
        1, 2, 3, 4, 5, 6, 7, 8, 0x20, 0, 0, 0, 13, 14, 15, 16, 0, 0x20, 3, 4, 5, 6, 7, 8,
    ];
    assert_eq!(request.bytes(), bytes);
    assert_eq!(Request::parse(&bytes), Ok(request));
    let with = |change: fn(&mut Request)| {
        let mut other = request;
        change(&mut other);
        Request::parse(&other.bytes())
    };
    assert_eq!(with(|r| r.frames = 0), Err(WireError::Length));
    assert_eq!(with(|r| r.frames = 65), Err(WireError::Length));
    assert_eq!(with(|r| r.address += 1), Err(WireError::Value));
    assert_eq!(with(|r| r.address = u64::MAX - 4095), Err(WireError::Value));
    assert!(with(|r| (r.frames, r.address) = (1, u64::MAX - 8191)).is_ok());
}

#[test]
fn a_grant_has_its_20_bytes_in_place() {
    let grant = Grant {
        generation: 0x0403_0201,
        answered: 0x0000_0102,
        states: 0b11_10_01_00,
        waits: true,
    };
    let bytes = [1, 2, 3, 4, 2, 1, 0, 0, 0xe4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(grant.bytes(), bytes);
    assert_eq!(Grant::parse(&bytes), Ok(grant));
    assert_eq!(Grant::parse(&bytes[..19]), Err(WireError::Truncated));
    let states = [0x102, 0x101, 0x100, 0xff].map(|number| grant.state(number));
    let told = [State::Denied, State::Open, State::Whole, State::Void].map(Some);
    assert_eq!(states, told);
    assert_eq!(
        (grant.state(0x103), grant.state(0x102 - 31)),
        (None, Some(State::Denied))
    );
    assert_eq!(grant.state(0x102 - 32), None);
}

#[test]
fn a_question_and_the_first_frame_of_a_generation_have_their_8_bytes() {
    let ask = Ask {
        generation: 0x0403_0201,
        asked: 0x0807_0605,
    };
    assert_eq!(ask.bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(Ask::parse(&ask.bytes()), Ok(ask));
    assert_eq!(Ask::parse(&[0; 7]), Err(WireError::Truncated));
    let start = Start(0x0403_0201);
    assert_eq!(start.bytes(), [1, 2, 3, 4, 0xfe, 0xfd, 0xfc, 0xfb]);
    assert_eq!(Start::parse(EOF_VOID, &start.bytes()), Some(start));
    assert_eq!(Start::parse(3, &start.bytes()), None);
    assert_eq!(Start::parse(EOF_VOID, &[1, 2, 3, 4, 0xfe, 0xfd, 0xfc, 0xfa]), None);
    assert_eq!(Start::parse(EOF_VOID, &[0; 7]), None);
}

#[test]
fn markers_are_those_that_the_ring_accepts_and_no_last_one_is_inner() {
    for n in 0..100 {
        let (inner, last) = (marker(n, None), marker(n, Some(n)));
        assert!((3..7).contains(&inner) && (7..16).contains(&last));
        assert!(EOF_MASK & (1 << inner) != 0 && EOF_MASK & (1 << last) != 0);
    }
    assert_eq!([marker(5, None), marker(5, Some(0)), marker(0, Some(17))], [4, 7, 15]);
}

#[test]
fn a_window_is_whole_when_its_last_frame_is_in_its_place() {
    let mut granter = running();
    open(&mut granter, 1, 2);
    open(&mut granter, 2, 1);
    assert_eq!(granter.handle_frame(T, page(3), &[]), Frame::Page);
    let last = |number, whole| Frame::Last { number, whole };
    assert_eq!(granter.handle_frame(T, page(7), &[]), last(1, true));
    assert_eq!(granter.take_grant(), grant(2, &[State::Open, State::Whole], false));
    assert_eq!(granter.handle_frame(T, page(8), &[]), last(2, true));
    assert_eq!(granter.take_grant(), grant(2, &[State::Whole, State::Whole], false));
    assert_eq!(granter.poll_timeout(), None);
    granter.handle_undelivered(1);
    assert!(granter.is_due());
    assert_eq!(granter.take_grant(), grant(2, &[State::Whole, State::Void], false));
}

#[test]
fn void_and_spoiled_frames_keep_their_places() {
    let mut granter = running();
    open(&mut granter, 1, 2);
    open(&mut granter, 2, 2);
    open(&mut granter, 3, 1);
    let spoiled = Arrival {
        spoiled: true,
        ..page(14)
    };
    assert_eq!(granter.handle_frame(T, spoiled, &[]), Frame::Page);
    let last = |number, whole| Frame::Last { number, whole };
    assert_eq!(granter.handle_frame(T, page(7), &[]), last(1, false));
    assert_eq!(granter.handle_frame(T, arrival(EOF_VOID, 1), &[]), Frame::Page);
    assert_eq!(granter.handle_frame(T, arrival(EOF_VOID, 1), &[]), last(2, false));
    assert_eq!(granter.handle_frame(T, page(9), &[]), last(3, true));
    assert_eq!(
        granter.take_grant(),
        grant(3, &[State::Whole, State::Void, State::Void], false)
    );
}

#[test]
fn a_frame_out_of_place_ends_it_all_until_the_ring_has_been_stopped() {
    let wrong: [(u16, &[Arrival]); 7] = [
        // The last frame a place early or late, or of another window.
        (3, &[page(3), page(7)]),
        (2, &[page(3), page(5)]),
        (2, &[page(3), page(8)]),
        // An inner frame out of turn, a short one, data behind void, void behind data.
        (3, &[page(4)]),
        (3, &[arrival(3, 4095)]),
        (3, &[arrival(EOF_VOID, 1), page(4)]),
        (3, &[page(3), arrival(EOF_VOID, 1)]),
    ];
    for (frames, arrivals) in wrong {
        let mut granter = running();
        open(&mut granter, 1, frames);
        let (last, before) = arrivals.split_last().unwrap();
        for frame in before {
            assert_eq!(granter.handle_frame(T, *frame, &[]), Frame::Page);
        }
        assert_eq!(granter.handle_frame(T, *last, &[]), Frame::Other, "{arrivals:?}");
        assert!(granter.is_broken());
        // Nobody hears that the window is void while something may still be written to it.
        assert_eq!(granter.take_grant(), grant(1, &[State::Open], false));
        assert!(!granter.handle_request(&request(2, 1)));
        granter.handle_reset(T.after(RESET_SOON));
        assert!(granter.wants_page());
        let told = granter.take_grant();
        assert_eq!((told.generation, told.waits), (6, true));
        assert_eq!((told.state(1), told.state(2)), (Some(State::Void), Some(State::Denied)));
        // A frame of the former life, a start of it, and the one that counts.
        assert_eq!(granter.handle_frame(T, page(3), &[0; 4096]), Frame::Other);
        assert_eq!(
            granter.handle_frame(T, arrival(EOF_VOID, 8), &Start(5).bytes()),
            Frame::Other
        );
        assert!(granter.wants_page());
        granter.handle_frame(T, arrival(EOF_VOID, 8), &Start(6).bytes());
        assert!(!granter.wants_page() && granter.is_due());
    }
}

#[test]
fn a_lane_that_breaks_again_and_again_is_shut_for_longer_each_time() {
    let mut granter = running();
    let mut now = T;
    let mut pauses = vec![];
    for _ in 0..12 {
        // A frame for which there is no window.
        granter.handle_frame(now, page(3), &[]);
        assert!(granter.is_broken());
        granter.handle_reset(now);
        let broke = now;
        loop {
            let start = Start(granter.take_grant().generation);
            granter.handle_frame(now, arrival(EOF_VOID, 8), &start.bytes());
            if !granter.wants_page() {
                break;
            }
            now = granter.poll_timeout().unwrap();
            granter.handle_timeout(now);
        }
        pauses.push(now.since(broke).0 / 1_000_000);
        let asks = Request {
            generation: granter.take_grant().generation,
            ..request(pauses.len() as u32, 1)
        };
        assert!(granter.handle_request(&asks));
    }
    assert_eq!(pauses, [8, 16, 32, 64, 128, 256, 512, 1000, 1000, 1000, 1000, 1000]);
    // One that has run for a while is open at once.
    now = now.after(RESET_SOON);
    granter.handle_frame(now, page(3), &[]);
    granter.handle_reset(now);
    let start = Start(granter.take_grant().generation);
    granter.handle_frame(now, arrival(EOF_VOID, 8), &start.bytes());
    assert!(!granter.wants_page());
}

#[test]
fn a_frame_for_which_there_is_no_window_breaks_the_lane() {
    let mut granter = running();
    assert_eq!(
        granter.handle_frame(T, arrival(EOF_VOID, 8), &Start(5).bytes()),
        Frame::Other
    );
    assert!(granter.is_broken());
}

#[test]
fn requests_that_did_not_come_are_denied_and_late_ones_too() {
    let mut granter = running();
    open(&mut granter, 3, 1);
    assert!(!granter.handle_request(&request(2, 1)) && !granter.handle_request(&request(3, 1)));
    granter.handle_ask(&Ask {
        generation: 5,
        asked: 5,
    });
    let told = granter.take_grant();
    assert_eq!(told.answered, 5);
    let states = [1, 2, 3, 4, 5].map(|number| told.state(number).unwrap());
    assert_eq!(states[2], State::Open);
    assert!([0, 1, 3, 4].iter().all(|i| states[*i] == State::Denied));
    // Of another generation.
    let other = Request {
        generation: 4,
        ..request(6, 1)
    };
    assert!(!granter.handle_request(&other));
    for number in 7..7 + MAX_WINDOWS as u32 - 1 {
        open(&mut granter, number, 1);
    }
    assert!(!granter.handle_request(&request(99, 1)), "no more than that");
}

#[test]
fn a_window_without_progress_breaks_the_lane_in_time() {
    let mut granter = running();
    assert_eq!(granter.poll_timeout(), None);
    open(&mut granter, 1, 3);
    assert_eq!(granter.poll_timeout(), Some(T.after(WINDOW_STALL)));
    open(&mut granter, 2, 1);
    // Its frames put that off for the window behind it, which is the oldest from then on, and for none else.
    let later = Instant(50_000_000);
    granter.handle_frame(later, page(3), &[]);
    assert_eq!(granter.poll_timeout(), Some(T.after(WINDOW_STALL)));
    granter.handle_frame(later, page(4), &[]);
    granter.handle_frame(later, page(7), &[]);
    assert_eq!(granter.poll_timeout(), Some(later.after(WINDOW_STALL)));
    granter.handle_timeout(T.after(WINDOW_STALL));
    assert!(!granter.is_broken());
    granter.handle_timeout(later.after(WINDOW_STALL));
    assert!(granter.is_broken());
    assert_eq!(granter.poll_timeout(), None);
}

/// A peer that sends a frame whenever the window would be given up holds its pages no longer than one that sends none.
#[test]
fn a_trickle_of_frames_holds_no_window() {
    let mut granter = running();
    let mut now = T;
    for number in 1..=MAX_WINDOWS as u32 {
        open(&mut granter, number, Request::MAX_FRAMES);
    }
    for frame in 0.. {
        now = now.after(crate::time::Duration(WINDOW_STALL.0 - 1));
        granter.handle_timeout(now);
        if granter.is_broken() {
            break;
        }
        let index = frame % u32::from(Request::MAX_FRAMES);
        let last = index + 1 == u32::from(Request::MAX_FRAMES);
        granter.handle_frame(now, page(marker(frame, last.then_some(frame / 64))), &[]);
    }
    assert!(
        now.since(T).0 <= WINDOW_STALL.0 * MAX_WINDOWS as u64,
        "{} ns",
        now.since(T).0
    );
}

#[test]
fn a_window_is_whole_pages_and_none_that_an_open_one_is_to_write_last() {
    let mut granter = running();
    let part = |page, len| Part { page, len };
    let fits = |granter: &Granter, pages: &[Part], tail: &[Part], room| {
        let request = request(2, 2);
        granter.fits(&request, pages.iter().copied(), tail.iter().copied(), room)
    };
    let pages = [part(7, MAX_FRAME), part(8, MAX_FRAME)];
    let tail = [part(9, 17)];
    assert!(fits(&granter, &pages, &tail, 2) && fits(&granter, &pages, &[], 3));
    // No room, a page too few, a tail of two pages, a piece of a page.
    assert!(!fits(&granter, &pages, &tail, 1));
    assert!(!fits(&granter, &pages[1..], &tail, 9));
    assert!(!fits(&granter, &pages, &[part(9, 1), part(10, 16)], 9));
    assert!(!fits(&granter, &[part(7, MAX_FRAME), part(8, 4095)], &[], 9));
    let first = request(1, 1);
    assert!(granter.handle_request(&first));
    granter.grant(T, &first, Some(8));
    assert!(!fits(&granter, &pages, &tail, 9));
    // A tail may be where another's is, or where its window writes: both come in their turn.
    assert!(fits(&granter, &[pages[0], pages[0]], &[part(8, 5)], 9));
    let last = Frame::Last { number: 1, whole: true };
    assert_eq!(granter.handle_frame(T, page(7), &[]), last);
    assert!(fits(&granter, &pages, &tail, 9));
}

#[test]
fn a_number_whose_window_is_open_is_not_granted_again() {
    let mut granter = running();
    open(&mut granter, 1, 1);
    // Questions lead round to it without a request.
    for asked in [0x7000_0000, 0xe000_0000] {
        granter.handle_ask(&Ask { generation: 5, asked });
    }
    assert!(!granter.handle_request(&request(1, 1)));
    let last = |number, whole| Frame::Last { number, whole };
    assert_eq!(granter.handle_frame(T, page(7), &[]), last(1, true));
    assert!(granter.handle_request(&request(2, 1)));
}

#[test]
fn a_granter_that_waits_says_so_again() {
    let mut granter = Granter::new(T, 1);
    assert!(granter.take_grant().waits);
    let mut waits = vec![];
    let mut before = T;
    for _ in 0..5 {
        let at = granter.poll_timeout().unwrap();
        granter.handle_timeout(at);
        assert_eq!(granter.take_grant().generation, 2 + waits.len() as u32);
        waits.push(at.since(before).0 / START_REPEAT.0);
        before = at;
    }
    assert_eq!(waits, [1, 2, 4, 8, 8]);
}

#[test]
fn windows_are_filled_in_the_order_of_their_requests() {
    let mut asker = asking();
    for token in 10..13 {
        asker.request(T, 2, token).unwrap();
    }
    assert_eq!(asker.poll_window(), None);
    asker.handle_grant(T, &grant(2, &[State::Open, State::Denied], false));
    let told = |number, token, fate| Some(Told { number, token, fate });
    assert_eq!(asker.poll_told(), told(1, 10, Fate::Denied));
    let window = asker.poll_window().unwrap();
    assert_eq!(
        (window.number, window.token, window.eof(0), window.eof(1)),
        (2, Some(11), 3, 7)
    );
    asker.handle_filled(&window);
    assert_eq!(asker.poll_window(), None);
    asker.handle_grant(T, &grant(3, &[State::Open, State::Whole, State::Denied], false));
    assert_eq!(asker.poll_told(), told(2, 11, Fate::Carried));
    // The memory of the third cannot be shown to the hardware.
    let window = asker.poll_window().unwrap().void();
    assert_eq!((window.token, window.eof(0), window.eof(1)), (None, EOF_VOID, EOF_VOID));
    asker.handle_filled(&window);
    asker.handle_grant(T, &grant(3, &[State::Void, State::Whole, State::Denied], false));
    assert_eq!(asker.poll_told(), told(3, 12, Fate::Lost));
    assert_eq!(asker.poll_told(), None);
    assert!(asker.is_empty() && asker.poll_timeout().is_none());
}

#[test]
fn another_generation_ends_what_is_under_way_but_what_was_told_is_true() {
    let mut asker = asking();
    for token in 0..4 {
        asker.request(T, 1, token).unwrap();
    }
    asker.handle_grant(T, &grant(2, &[State::Open, State::Open], false));
    for _ in 0..2 {
        let window = asker.poll_window().unwrap();
        asker.handle_filled(&window);
    }
    let next = Grant {
        generation: 6,
        ..grant(3, &[State::Denied, State::Void, State::Whole], true)
    };
    assert_eq!(asker.handle_grant(T, &next), Heard::Reset);
    let fates: Vec<_> = std::iter::from_fn(|| asker.poll_told())
        .map(|told| (told.token, told.fate))
        .collect();
    let wanted = [(0, Fate::Carried), (1, Fate::Lost), (2, Fate::Denied), (3, Fate::Lost)];
    assert_eq!(fates, wanted);
    assert!(!asker.has_room() && asker.is_empty());
    assert_eq!(asker.take_start(), Some(Start(6)));
}

#[test]
fn an_answer_that_is_missed_is_asked_for_and_not_waited_for_for_ever() {
    let mut asker = asking();
    asker.request(T, 1, 7).unwrap();
    let at = asker.poll_timeout().unwrap();
    assert_eq!((at, asker.take_ask(T)), (T.after(WINDOW_ASK), None));
    let ask = Ask {
        generation: 5,
        asked: 1,
    };
    assert_eq!(asker.take_ask(at), Some(ask));
    assert_eq!(asker.take_ask(at), None);
    assert_eq!(asker.poll_late(at), None);
    let late = T.after(WINDOW_LIMIT);
    // However seldom it asks by then, the owner is told in time.
    while asker.poll_timeout().unwrap() < late {
        let at = asker.poll_timeout().unwrap();
        assert!(asker.take_ask(at).is_some());
    }
    assert_eq!(asker.poll_timeout(), Some(late));
    let told = Told {
        number: 1,
        token: 7,
        fate: Fate::Lost,
    };
    assert_eq!((asker.poll_late(late), asker.poll_late(late)), (Some(told), None));
    // The window comes after all, and the debt is paid.
    asker.handle_grant(late, &grant(1, &[State::Open], false));
    assert_eq!(asker.poll_window().map(|window| window.token), Some(None));
}

#[test]
fn grants_that_make_no_sense_are_counted_and_cost_what_they_lie_about() {
    let mut asker = asking();
    asker.request(T, 1, 7).unwrap();
    assert_eq!(
        asker.handle_grant(T, &grant(2, &[State::Open; 2], false)),
        Heard::Excess
    );
    // Whole before it was filled.
    assert_eq!(asker.handle_grant(T, &grant(1, &[State::Whole], false)), Heard::Excess);
    let told = Told {
        number: 1,
        token: 7,
        fate: Fate::Lost,
    };
    assert_eq!(asker.poll_told(), Some(told));
    asker.request(T, 1, 8).unwrap();
    asker.handle_dead();
    assert!(!asker.has_room());
    assert_eq!(
        asker.poll_told().map(|told| (told.token, told.fate)),
        Some((8, Fate::Lost))
    );
}

#[test]
fn that_the_lane_is_open_is_asked_for_if_it_is_not_heard() {
    let mut asker = Asker::<u64>::new();
    asker.handle_grant(T, &grant(0, &[], true));
    asker.take_start();
    let at = asker.poll_timeout().unwrap();
    assert_eq!(at, T.after(START_REPEAT));
    assert!(asker.take_ask(at).is_some());
    // One frame for each generation.
    asker.handle_grant(at, &grant(0, &[], true));
    assert_eq!(asker.take_start(), None);
    let next = Grant {
        generation: 6,
        ..grant(0, &[], true)
    };
    assert_eq!(asker.handle_grant(at, &next), Heard::Reset);
    assert_eq!(asker.take_start(), Some(Start(6)));
}

#[test]
fn where_grants_are_slow_windows_are_not_worth_it_for_a_while() {
    let mut asker = asking();
    let mut at = T;
    let slow = WINDOW_SLOW.0;
    for (number, takes, pause) in [
        (1, slow - 1, 0),
        (2, slow, 1),
        (3, slow, 2),
        (4, slow - 1, 0),
        (5, slow, 1),
    ] {
        asker.request(at, 1, 0).unwrap();
        assert!(asker.is_worth(at));
        at = Instant(at.0 + takes);
        asker.handle_grant(at, &grant(number, &[State::Open; 5], false));
        let until = Instant(at.0 + pause * WINDOW_PAUSE.0);
        assert!(pause == 0 || !asker.is_worth(Instant(until.0 - 1)));
        at = until;
    }
    assert!(asker.is_worth(at));
}

#[test]
fn no_more_is_asked_than_a_grant_can_tell_of() {
    let mut asker = asking();
    asker.request(T, 1, 0).unwrap();
    asker.handle_grant(T, &grant(1, &[State::Open], false));
    let mut asked = 1;
    while asker.request(T, 1, 1).is_some() {
        asked += 1;
        // All but the oldest are denied.
        let states: Vec<_> = (1..asked).map(|_| State::Denied).chain([State::Open]).collect();
        asker.handle_grant(T, &grant(asked, &states, false));
        while asker.poll_told().is_some() {}
        assert!(asked <= KNOWN);
    }
    assert_eq!(asked, KNOWN);
    assert_eq!(asker.len(), 1);
}

proptest! {
    #[test]
    fn any_bytes_make_sense_or_are_refused(bytes: [u8; 24]) {
        if let Ok(request) = Request::parse(&bytes) {
            prop_assert_eq!(Request::parse(&request.bytes()), Ok(request));
            prop_assert!(request.address.checked_add(request.byte_len() as u64).is_some());
        }
        let grant = Grant::parse(&bytes).unwrap();
        prop_assert_eq!(Grant::parse(&grant.bytes()), Ok(grant));
    }

    /// Whatever a peer asks and sends: no more windows are open than there are places, they end in order, each once,
    /// with as many frames as were posted, and a window is whole only if all its frames were.
    #[test]
    fn a_granter_counts_the_descriptors_whatever_comes(
        steps in proptest::collection::vec((0u8..8, any::<u32>(), 1u16..6, 0u8..16), 1..400),
    ) {
        let mut granter = running();
        let mut posted = std::collections::VecDeque::new();
        let mut now = T;
        for (what, wild, frames, eof) in steps {
            match what {
                0 | 1 => {
                    let Grant { answered, generation, .. } = granter.take_grant();
                    let near = answered.wrapping_add(wild % 5);
                    let number = if what == 0 { near } else { wild };
                    let asks = Request { generation, ..request(number, frames) };
                    if granter.handle_request(&asks) && eof < 12 {
                        granter.grant(now, &asks, None);
                        posted.push_back((number, frames));
                    }
                }
                2 => granter.handle_ask(&Ask { generation: wild, asked: wild }),
                3 => {
                    now = now.after(crate::time::Duration(u64::from(wild) / 64));
                    granter.handle_timeout(now);
                }
                _ => {
                    // No frame comes where no descriptor is posted.
                    let wants = granter.wants_page();
                    if wants {
                        let start = Start(granter.take_grant().generation).bytes();
                        prop_assert_eq!(granter.handle_frame(now, arrival(EOF_VOID, 8), &start), Frame::Other);
                    } else if !posted.is_empty() {
                        let frame = Arrival { spoiled: wild % 50 == 0, ..arrival(eof, if wild % 9 == 0 { 1 } else { 4096 }) };
                        match granter.handle_frame(now, frame, &[]) {
                            Frame::Page => {
                                let (_, left) = posted.front_mut().unwrap();
                                *left -= 1;
                                prop_assert!(*left > 0);
                            }
                            Frame::Last { number, .. } => {
                                let (posted, left) = posted.pop_front().unwrap();
                                prop_assert_eq!((number, left), (posted, 1));
                            }
                            Frame::Other => prop_assert!(granter.is_broken()),
                        }
                    }
                }
            }
            if granter.is_broken() {
                granter.handle_reset(now);
                posted.clear();
            }
            prop_assert!(posted.len() <= MAX_WINDOWS);
        }
    }

    /// Whatever a peer grants: each token is told at most once, and no window is filled that was not asked for.
    #[test]
    fn an_asker_tells_each_token_once_whatever_comes(
        steps in proptest::collection::vec((0u8..6, any::<u64>(), any::<u32>(), 0u32..3), 1..400),
    ) {
        let mut asker = asking();
        let mut now = T;
        let (mut next, mut newest) = (0u64, 0u32);
        let mut waiting = std::collections::HashSet::new();
        let mut filled = std::collections::HashSet::new();
        for (what, states, wild, near) in steps {
            match what {
                0 | 1 => {
                    if let Some(request) = asker.request(now, 1 + (wild % 64) as u16, next) {
                        waiting.insert(next);
                        (next, newest) = (next + 1, request.number);
                    }
                }
                2 | 3 => {
                    let answered = if what == 2 { newest.wrapping_sub(near) } else { wild };
                    let grant = Grant { generation: 5 + u32::from(wild % 32 == 0), answered, states, waits: wild % 16 == 0 };
                    asker.handle_grant(now, &grant);
                    let _ = asker.take_start();
                }
                4 => {
                    now = now.after(crate::time::Duration(u64::from(wild) / 64));
                    let _ = asker.take_ask(now);
                    while let Some(told) = asker.poll_late(now) {
                        prop_assert!(waiting.remove(&told.token));
                    }
                }
                _ => {
                    if let Some(window) = asker.poll_window() {
                        prop_assert!(filled.insert(window.number) && window.number <= newest);
                        prop_assert!(window.token.is_none_or(|token| waiting.contains(&token)));
                        asker.handle_filled(&window);
                    }
                }
            }
            while let Some(told) = asker.poll_told() {
                prop_assert!(waiting.remove(&told.token));
            }
            prop_assert!(waiting.len() <= asker.len() && asker.len() <= MAX_WINDOWS);
        }
        asker.handle_dead();
        while let Some(told) = asker.poll_told() {
            prop_assert!(waiting.remove(&told.token));
        }
        prop_assert!(waiting.is_empty() && asker.is_empty());
    }
}
