// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory windows: keys of their own for parts of regions. IBTA 10.6.7.2.
//!
//! ```text
//!   type 1:   bind (any time, length 0 takes back)                      queue pairs of its domain
//!   type 2B:  unbound --bind--> bound --invalidate, end--> unbound       the queue pair that bound it
//! ```
//!
//! The end is that of the queue pair's life: destruction or RESET. The low 8 bits of a window's key are its owner's;
//! each bind may change them.

use crate::abi::Bind;
use crate::fault::Fault;
use crate::keys::{Access, Key, Pd};

/// Rights that a window may give. The owner's own, which changes nothing, may be asked for.
const RIGHTS: u32 = Access::REMOTE_WRITE
    .with(Access::LOCAL_WRITE)
    .with(Access::REMOTE_READ)
    .with(Access::REMOTE_ATOMIC)
    .with(Access::FLUSH_GLOBAL)
    .0;

/// Who may bind and use a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any queue pair of its domain.
    Type1,
    /// The queue pair that bound it.
    Type2,
}

/// A queue pair as a window knows it. Both numbers are given to nothing else ever: a QPN would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The protection domain.
    pub pd: Pd,
    /// The queue pair's life, which ends with its destruction or RESET.
    pub life: u64,
}

/// What a window shows.
#[derive(Debug)]
struct Bound<R> {
    region: R,
    base: u64,
    length: u64,
    access: Access,
    /// Of the queue pair that bound it.
    life: u64,
}

/// A memory window over regions, which are held as `R`.
#[derive(Debug)]
pub struct Window<R> {
    pd: Pd,
    kind: Kind,
    key: Key,
    bound: Option<Bound<R>>,
    /// No binding any more.
    closed: bool,
}

impl<R> Window<R> {
    /// An unbound window of a domain.
    pub const fn new(pd: Pd, kind: Kind, key: Key) -> Self {
        Self {
            pd,
            kind,
            key,
            bound: None,
            closed: false,
        }
    }

    /// The key as it is.
    pub const fn key(&self) -> Key {
        self.key
    }

    /// The region behind a peer's access through `key`, which came to `holder`.
    ///
    /// # Errors
    ///
    /// [`Fault::RemoteAccess`].
    pub fn admit(&self, key: Key, holder: Holder, va: u64, len: u32, needed: Access) -> Result<&R, Fault> {
        let bound = self.bound.as_ref().ok_or(Fault::RemoteAccess)?;
        let theirs = self.pd == holder.pd && (self.kind == Kind::Type1 || bound.life == holder.life);
        let inside = va
            .checked_sub(bound.base)
            .and_then(|offset| offset.checked_add(u64::from(len)))
            .is_some_and(|end| end <= bound.length);
        if self.key != key || !theirs || !inside || !needed.is_remote() || !bound.access.allows(needed) {
            return Err(Fault::RemoteAccess);
        }
        Ok(&bound.region)
    }

    /// Carries a bind of `holder` out. `hold` is asked for the region last. What was bound before is let go of.
    ///
    /// # Errors
    ///
    /// [`Fault::Bind`]; then nothing has changed.
    pub fn bind(&mut self, wanted: &Bind, holder: Holder, hold: impl FnOnce(Access) -> Option<R>) -> Result<(), Fault> {
        let free = self.kind == Kind::Type1 || self.bound.is_none();
        if self.closed || self.key != wanted.window || self.pd != holder.pd || !free {
            return Err(Fault::Bind);
        }
        if wanted.access & !RIGHTS != 0 {
            return Err(Fault::Bind);
        }
        let access = Access(wanted.access);
        self.bound = match (wanted.length, self.kind) {
            (0, Kind::Type1) => None,
            (0, Kind::Type2) => return Err(Fault::Bind),
            (length, _) => Some(Bound {
                region: hold(access).ok_or(Fault::Bind)?,
                base: wanted.base,
                length,
                access,
                life: holder.life,
            }),
        };
        self.key = Key(self.key.0 & !0xff | wanted.new.0 & 0xff);
        Ok(())
    }

    /// Takes the key back that `holder` had given. False if it is not one that can be.
    pub fn invalidate(&mut self, key: Key, holder: Holder) -> bool {
        let theirs = self.pd == holder.pd && self.is_bound_in(holder.life);
        let ends = self.kind == Kind::Type2 && self.key == key && theirs;
        if ends {
            self.bound = None;
        }
        ends
    }

    /// The life of a queue pair has ended, and with it what it bound alone.
    pub fn on_end(&mut self, life: u64) {
        if self.kind == Kind::Type2 && self.is_bound_in(life) {
            self.bound = None;
        }
    }

    fn is_bound_in(&self, life: u64) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.life == life)
    }

    /// The end of the window, bound or not.
    pub fn close(&mut self) {
        self.closed = true;
        self.bound = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    const KEY: Key = Key(0x8000_1200);
    const PD: Pd = Pd(3);
    const LIFE: u64 = 40;
    const OWNER: Holder = Holder { pd: PD, life: LIFE };

    fn wanted(window: Key, new: u8) -> Bind {
        Bind {
            window,
            new: Key(u32::from(new)),
            region: Key(0x77),
            base: 0x1000,
            length: 0x100,
            access: Access::REMOTE_READ.0,
        }
    }

    /// A window of the kind, bound by its owner, with the region whose holders are counted.
    fn bound(kind: Kind) -> (Window<Rc<()>>, Rc<()>, Key) {
        let region = Rc::new(());
        let mut window = Window::new(PD, kind, KEY);
        assert_eq!(window.bind(&wanted(KEY, 0x34), OWNER, |_| Some(region.clone())), Ok(()));
        let key = window.key();
        assert_eq!(key, Key(0x8000_1234));
        (window, region, key)
    }

    fn reads(window: &Window<Rc<()>>, key: Key, holder: Holder) -> bool {
        window.admit(key, holder, 0x1000, 0x100, Access::REMOTE_READ).is_ok()
    }

    #[test]
    fn type_1_opens_for_its_domain_and_type_2_for_who_bound_it() {
        for (kind, others) in [(Kind::Type1, true), (Kind::Type2, false)] {
            let (window, _region, key) = bound(kind);
            assert!(reads(&window, key, OWNER));
            assert_eq!(reads(&window, key, Holder { life: 41, ..OWNER }), others);
            assert!(!reads(&window, key, Holder { pd: Pd(4), life: 41 }));
            assert!(
                !reads(&window, key, Holder { pd: Pd(4), ..OWNER }),
                "{kind:?} asks for the domain"
            );
            assert!(!reads(&window, KEY, OWNER), "the key before the bind");
        }
    }

    #[test]
    fn what_it_shows_is_reachable_and_not_a_byte_or_a_right_more() {
        let (window, _region, key) = bound(Kind::Type2);
        let admits = |va, len, needed| window.admit(key, OWNER, va, len, needed).is_ok();
        assert!(admits(0x1000, 0x100, Access::REMOTE_READ) && admits(0x10ff, 1, Access::REMOTE_READ));
        assert!(!admits(0xfff, 1, Access::REMOTE_READ) && !admits(0x1000, 0x101, Access::REMOTE_READ));
        assert!(!admits(u64::MAX, u32::MAX, Access::REMOTE_READ));
        assert!(!admits(0x1000, 1, Access::REMOTE_WRITE) && !admits(0x1000, 1, Access::NONE));
    }

    #[test]
    fn a_life_s_end_ends_what_it_bound_alone_and_lets_the_region_go() {
        let (mut window, region, key) = bound(Kind::Type2);
        window.on_end(LIFE + 1);
        assert!(reads(&window, key, OWNER), "somebody else's end");
        window.on_end(LIFE);
        assert!(!reads(&window, key, OWNER));
        assert_eq!(Rc::strong_count(&region), 1);
        // Another queue pair of the domain binds it anew, with the key that it has now.
        let other = Holder { life: 41, ..OWNER };
        assert_eq!(window.bind(&wanted(key, 0x35), other, |_| Some(region.clone())), Ok(()));
        assert!(!reads(&window, key, OWNER) && reads(&window, window.key(), other));

        let (mut window, region, key) = bound(Kind::Type1);
        window.on_end(LIFE);
        assert!(
            reads(&window, key, Holder { life: 41, ..OWNER }),
            "type 1 is its domain's"
        );
        assert_eq!(Rc::strong_count(&region), 2);
    }

    #[test]
    fn only_who_bound_a_window_takes_its_key_back() {
        let (mut window, region, key) = bound(Kind::Type2);
        assert!(!window.invalidate(key, Holder { life: 41, ..OWNER }));
        assert!(!window.invalidate(key, Holder { pd: Pd(4), ..OWNER }));
        assert!(!window.invalidate(KEY, OWNER));
        assert!(window.invalidate(key, OWNER) && !window.invalidate(key, OWNER));
        assert_eq!(Rc::strong_count(&region), 1);
        let (mut window, _region, key) = bound(Kind::Type1);
        assert!(
            !window.invalidate(key, OWNER),
            "type 1 is taken back by a bind of no bytes"
        );
        let none = Bind {
            length: 0,
            ..wanted(key, 1)
        };
        assert_eq!(window.bind(&none, OWNER, |_| None), Ok(()));
        assert!(!reads(&window, window.key(), OWNER));
    }

    #[test]
    fn a_refused_bind_changes_nothing_and_holds_nothing() {
        let region = Rc::new(());
        let (mut window, _first, key) = bound(Kind::Type2);
        let refused = |window: &mut Window<Rc<()>>, wanted: Bind, holder| {
            assert_eq!(window.bind(&wanted, holder, |_| Some(region.clone())), Err(Fault::Bind));
            assert_eq!(Rc::strong_count(&region), 1);
        };
        refused(&mut window, wanted(key, 1), OWNER);
        assert!(reads(&window, key, OWNER), "bound already, and still");
        let mut free = Window::new(PD, Kind::Type2, KEY);
        refused(&mut free, wanted(Key(KEY.0 + 1), 1), OWNER);
        refused(&mut free, wanted(KEY, 1), Holder { pd: Pd(4), ..OWNER });
        refused(
            &mut free,
            Bind {
                length: 0,
                ..wanted(KEY, 1)
            },
            OWNER,
        );
        refused(
            &mut free,
            Bind {
                access: Access::FLUSH_PERSISTENT.0,
                ..wanted(KEY, 1)
            },
            OWNER,
        );
        assert_eq!(
            free.bind(&wanted(KEY, 1), OWNER, |_| None),
            Err(Fault::Bind),
            "the region does not admit it"
        );
        assert_eq!(free.key(), KEY);
        free.close();
        refused(&mut free, wanted(KEY, 1), OWNER);
    }

    #[test]
    fn the_end_of_a_window_lets_the_region_go() {
        for kind in [Kind::Type1, Kind::Type2] {
            let (mut window, region, key) = bound(kind);
            window.close();
            assert!(!reads(&window, key, OWNER));
            assert_eq!(Rc::strong_count(&region), 1);
        }
    }
}
