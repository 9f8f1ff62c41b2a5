// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Unit tests of the login machine, message by message.

use super::*;
use crate::wire::{Route, Uuid};

const A: Uuid = Uuid([0xa; 16]);
const B: Uuid = Uuid([0xb; 16]);

fn ends(local: Uuid, remote: Uuid) -> Ends {
    Ends {
        local,
        remote,
        route: Route(1),
    }
}

fn machine() -> Login {
    let config = Config {
        ends: ends(A, B),
        mac: Mac([2; 6]),
        path: HopId(8),
    };
    let mut login = Login::new(config, 100);
    login.start(Instant(0), HopId(8));
    login
}

const fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

/// What the peer sends.
fn from_peer(login: &mut Login, now: Instant, control: Control, sequence: u8, command: u32) {
    let buf = control.message(&ends(B, A), sequence, command);
    login.handle_message(now, buf.as_bytes()).unwrap();
}

/// The next message of the machine.
fn sent(login: &mut Login, now: Instant) -> Option<(Control, u8, u32)> {
    let buf = login.poll_transmit(now)?;
    let message = Message::parse(buf.as_bytes()).unwrap();
    let h = *message.header();
    Some((Control::parse(&message).unwrap(), h.sequence, h.command))
}

/// Bring the machine up with the peer sending on `path`.
fn bring_up(login: &mut Login, path: u16) {
    let (control, sequence, _) = sent(login, ms(0)).unwrap();
    assert_eq!(control, Control::Logout);
    from_peer(login, ms(1), Control::Status { status: 0 }, sequence, 77);
    let (control, sequence, command) = sent(login, ms(1)).unwrap();
    assert_eq!(control, Control::login(HopId(8)));
    from_peer(
        login,
        ms(2),
        Control::LoginResponse {
            status: 0,
            mac: Mac([4; 6]),
        },
        sequence,
        command,
    );
    assert_eq!(login.poll_action(), None);
    from_peer(login, ms(3), Control::login(HopId(path)), 0, 1);
    assert!(matches!(
        sent(login, ms(3)),
        Some((Control::LoginResponse { .. }, 0, 1))
    ));
    assert_eq!(
        login.poll_action(),
        Some(Action::Open {
            receive_path: HopId(path)
        })
    );
    login.handle_opened(ms(4), true);
    assert_eq!(login.up(), Some(HopId(path)));
}

#[test]
fn a_link_is_up_after_both_logins() {
    bring_up(&mut machine(), 9);
}

#[test]
fn logins_are_repeated_until_the_peer_is_there() {
    let mut login = machine();
    let mut now = ms(0);
    let (mut logouts, mut logins) = (0, 0);
    for _ in 0..200 {
        match sent(&mut login, now) {
            Some((Control::Logout, ..)) => logouts += 1,
            Some((Control::Login { .. }, ..)) => logins += 1,
            other => assert_eq!(other, None),
        }
        now = login.poll_timeout().unwrap();
    }
    assert_eq!((logouts, logins), (10, 190));
}

#[test]
fn a_logout_of_the_peer_takes_the_link_down() {
    let mut login = machine();
    bring_up(&mut login, 9);
    from_peer(&mut login, ms(50), Control::Logout, 2, 5);
    assert_eq!(login.up(), None);
    assert!(matches!(sent(&mut login, ms(50)), Some((Control::Status { .. }, 2, _))));
    assert_eq!(login.poll_action(), Some(Action::Close));
    login.handle_closed(ms(60));
    assert_eq!(sent(&mut login, ms(60)), None);
    assert!(matches!(sent(&mut login, ms(1050)), Some((Control::Login { .. }, ..))));
}

#[test]
fn a_login_on_another_path_opens_the_rings_anew() {
    let mut login = machine();
    bring_up(&mut login, 9);
    from_peer(&mut login, ms(10), Control::login(HopId(10)), 0, 2);
    assert_eq!(login.poll_action(), Some(Action::Close));
    login.handle_closed(ms(11));
    assert_eq!(
        login.poll_action(),
        Some(Action::Open {
            receive_path: HopId(10)
        })
    );
}

#[test]
fn a_late_login_is_not_believed() {
    let mut login = machine();
    bring_up(&mut login, 9);
    from_peer(&mut login, ms(50), Control::login(HopId(11)), 0, 0);
    assert_eq!(login.up(), Some(HopId(9)));
    assert_eq!(sent(&mut login, ms(50)), None);
    // A reloaded peer numbers anew; its next try is believed.
    from_peer(&mut login, ms(5_000), Control::login(HopId(11)), 0, 0);
    assert_eq!(login.poll_action(), Some(Action::Close));
}

#[test]
fn a_restarted_peer_gets_our_login_again() {
    let mut login = machine();
    bring_up(&mut login, 9);
    login.handle_traffic(ms(2_000));
    assert_eq!(login.poll_timeout(), None);
    from_peer(&mut login, ms(20_000), Control::login(HopId(9)), 0, 1);
    assert_eq!(login.up(), Some(HopId(9)));
    assert!(matches!(
        sent(&mut login, ms(20_000)),
        Some((Control::LoginResponse { .. }, ..))
    ));
    assert!(matches!(
        sent(&mut login, ms(20_000)),
        Some((Control::Login { .. }, ..))
    ));
}

#[test]
fn a_silent_link_is_logged_in_again() {
    let mut login = machine();
    bring_up(&mut login, 9);
    login.handle_traffic(ms(500));
    assert_eq!(login.poll_timeout(), Some(ms(5004)));
    assert!(matches!(sent(&mut login, ms(5004)), Some((Control::Login { .. }, ..))));
    login.handle_traffic(ms(5005));
    assert_eq!(login.poll_timeout(), None);
}

#[test]
fn an_answer_to_a_former_life_counts_for_nothing() {
    let mut login = machine();
    let (_, sequence, _) = sent(&mut login, ms(0)).unwrap();
    from_peer(&mut login, ms(1), Control::Status { status: 0 }, sequence, 0);
    let (_, _, command) = sent(&mut login, ms(1)).unwrap();
    let mac = Mac([4; 6]);
    from_peer(
        &mut login,
        ms(2),
        Control::LoginResponse { status: 0, mac },
        0,
        command.wrapping_sub(50),
    );
    from_peer(&mut login, ms(2), Control::login(HopId(9)), 0, 1);
    assert_eq!(login.poll_action(), None);
    assert_eq!(login.counters().stale, 1);
    // The peer has a login of that life: it is made to forget it.
    while login.poll_transmit(ms(3)).is_some() {}
    assert!(matches!(sent(&mut login, ms(101)), Some((Control::Logout, ..))));
}

#[test]
fn rings_that_do_not_open_are_tried_again() {
    let mut login = machine();
    bring_up(&mut login, 9);
    from_peer(&mut login, ms(10), Control::login(HopId(10)), 0, 2);
    login.poll_action();
    login.handle_closed(ms(11));
    login.poll_action();
    login.handle_opened(ms(12), false);
    assert_eq!(login.up(), None);
    while sent(&mut login, ms(12)).is_some() {}
    let (control, sequence, command) = sent(&mut login, ms(1012)).unwrap();
    assert_eq!(control, Control::login(HopId(8)));
    let mac = Mac([4; 6]);
    from_peer(
        &mut login,
        ms(1013),
        Control::LoginResponse { status: 0, mac },
        sequence,
        command,
    );
    assert!(login.poll_action().is_some());
}

#[test]
fn stop_says_goodbye_and_does_not_wait_for_ever() {
    let mut login = machine();
    bring_up(&mut login, 9);
    login.stop(ms(10));
    assert_eq!(login.poll_action(), Some(Action::Close));
    login.handle_closed(ms(11));
    let mut now = ms(11);
    let mut logouts = 0;
    while !login.stopped() {
        logouts += u32::from(sent(&mut login, now).is_some());
        now = login.poll_timeout().unwrap_or(now);
    }
    assert_eq!(logouts, 10);
    assert!(now <= ms(11_000));
}

#[test]
fn a_login_while_down_is_not_answered_but_a_logout_is() {
    let config = Config {
        ends: ends(A, B),
        mac: Mac([2; 6]),
        path: HopId(8),
    };
    let mut login = Login::new(config, 0);
    from_peer(&mut login, ms(0), Control::login(HopId(9)), 0, 1);
    assert_eq!(sent(&mut login, ms(0)), None);
    from_peer(&mut login, ms(0), Control::Logout, 0, 1);
    assert!(matches!(sent(&mut login, ms(0)), Some((Control::Status { .. }, ..))));
}

#[test]
fn a_message_of_another_cable_is_not_ours() {
    let mut login = machine();
    let buf = Control::Logout.message(&ends(B, B), 0, 0);
    assert_eq!(login.handle_message(ms(0), buf.as_bytes()), Err(WireError::Protocol));
    let wrong = Control::login(HopId(3)).message(&ends(B, A), 0, 0);
    assert_eq!(login.handle_message(ms(0), wrong.as_bytes()), Err(WireError::Value));
}

#[test]
fn another_address_is_told_in_the_next_answer() {
    let mut login = machine();
    bring_up(&mut login, 9);
    login.set_mac(Mac([6; 6]));
    from_peer(&mut login, ms(10), Control::login(HopId(9)), 0, 2);
    let mac = Mac([6; 6]);
    assert_eq!(
        sent(&mut login, ms(10)),
        Some((Control::LoginResponse { status: 0, mac }, 0, 2))
    );
}
