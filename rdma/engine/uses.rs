// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Counted uses of something that ends: the arithmetic of the count, for any number of users and one closer.
//!
//! ```text
//!     user                              closer
//!     ----                              ------
//!     before = count + ENTER            before = count | CLOSED
//!     refused(before)? then leave       must_wait(before)? then sleep until woken
//!     ... use ...
//!     before = count - ENTER
//!     is_last(before)? then wake
//! ```
//!
//! Each line is one atomic step of the caller's. Whoever is refused has counted himself in for a moment, so the closer
//! may wait for him as well; he leaves at once, and wakes.

/// What a user adds and takes away.
pub const ENTER: u32 = 1;
/// What the closer sets.
pub const CLOSED: u32 = 1 << 31;

/// Whether somebody who counted himself in has to leave at once. `before` is the count as he found it. A count that is
/// about to reach [`CLOSED`] refuses as well: there are not so many tasks and processors.
#[must_use]
pub const fn refused(before: u32) -> bool {
    before >= CLOSED.saturating_sub(ENTER)
}

/// Whether the closer has to wait for somebody.
#[must_use]
pub const fn must_wait(before: u32) -> bool {
    before & !CLOSED != 0
}

/// Whether the closer waits for the one who leaves, and for no other.
#[must_use]
pub const fn is_last(before: u32) -> bool {
    before == CLOSED | ENTER
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Where a user is, before the step that is named.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    enum User {
        Enter,
        Decide { before: u32 },
        Use,
        Leave,
        Wake { before: u32 },
        Gone,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    enum Closer {
        Close,
        Decide { before: u32 },
        Sleep,
        Ended,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct World {
        count: u32,
        woken: bool,
        users: Vec<User>,
        closer: Closer,
    }

    /// The rules as they are, or others that are to be found out.
    struct Rules {
        refused: fn(u32) -> bool,
        must_wait: fn(u32) -> bool,
        is_last: fn(u32) -> bool,
    }

    const RULES: Rules = Rules {
        refused,
        must_wait,
        is_last,
    };

    /// All that can come next.
    fn steps(world: &World, rules: &Rules) -> Vec<World> {
        let mut all = Vec::new();
        for (at, user) in world.users.iter().enumerate() {
            let mut next = world.clone();
            next.users[at] = match *user {
                User::Enter => {
                    next.count += ENTER;
                    User::Decide { before: world.count }
                }
                User::Decide { before } if (rules.refused)(before) => User::Leave,
                User::Decide { .. } => User::Use,
                User::Use => User::Leave,
                User::Leave => {
                    next.count -= ENTER;
                    User::Wake { before: world.count }
                }
                User::Wake { before } => {
                    next.woken |= (rules.is_last)(before);
                    User::Gone
                }
                User::Gone => continue,
            };
            all.push(next);
        }
        let mut next = world.clone();
        next.closer = match world.closer {
            Closer::Close => {
                next.count |= CLOSED;
                Closer::Decide { before: world.count }
            }
            Closer::Decide { before } if (rules.must_wait)(before) => Closer::Sleep,
            Closer::Decide { .. } => Closer::Ended,
            Closer::Sleep if world.woken => Closer::Ended,
            Closer::Sleep | Closer::Ended => return all,
        };
        all.push(next);
        all
    }

    /// Every interleaving of so many users with a closer: how many states there are, or what went wrong.
    fn explore(users: usize, rules: &Rules) -> Result<usize, &'static str> {
        let start = World {
            count: 0,
            woken: false,
            users: vec![User::Enter; users],
            closer: Closer::Close,
        };
        let mut seen = HashSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(world) = open.pop() {
            if world.closer == Closer::Ended && world.users.contains(&User::Use) {
                return Err("used after its end");
            }
            let next = steps(&world, rules);
            if next.is_empty() && world.closer != Closer::Ended {
                return Err("waits for ever");
            }
            for world in next {
                if seen.insert(world.clone()) {
                    open.push(world);
                }
            }
        }
        Ok(seen.len())
    }

    #[test]
    fn nobody_is_inside_after_the_end_and_the_end_comes() {
        for users in 0..=4 {
            let states = explore(users, &RULES).unwrap();
            assert!(states > users * 8, "{users} users: {states} states");
        }
    }

    #[test]
    fn the_search_finds_what_is_wrong() {
        let never_waits = Rules {
            must_wait: |_| false,
            ..RULES
        };
        assert_eq!(explore(1, &never_waits), Err("used after its end"));
        let lets_in = Rules {
            refused: |_| false,
            ..RULES
        };
        assert_eq!(explore(1, &lets_in), Err("used after its end"));
        let never_wakes = Rules {
            is_last: |_| false,
            ..RULES
        };
        assert_eq!(explore(1, &never_wakes), Err("waits for ever"));
        let wakes_early = Rules {
            is_last: |before| before & CLOSED != 0,
            ..RULES
        };
        assert_eq!(explore(2, &wakes_early), Err("used after its end"));
    }

    #[test]
    fn a_count_never_runs_into_the_flag() {
        assert!(!refused(CLOSED - 2));
        assert!(refused(CLOSED - 1));
    }
}
