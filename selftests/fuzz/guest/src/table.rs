// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the kernel has given us so far.

use crate::queues::Known;
use crate::rng::Rng;
use crate::sys::{self, Arena};

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pd,
    Channel,
    Cq,
    Qp,
    Srq,
    Ah,
    Mr,
    Mw,
}

/// An object: its handle, or descriptor, and a number by which others know it (QPN, key).
#[derive(Clone, Copy, Debug)]
pub struct Object {
    pub kind: Kind,
    pub handle: u32,
    pub number: u32,
}

/// All of them.
#[derive(Default)]
pub struct Table {
    objects: Vec<Object>,
    /// Keys of regions and windows that are or were.
    pub known: Vec<Known>,
    /// Queues that we share with the device.
    pub shared: Vec<Arena>,
}

/// Objects beyond this are forgotten. They live on in the kernel until the context goes.
const MOST: usize = 96;
/// Mappings beyond this are undone.
const MOST_SHARED: usize = 24;

impl Table {
    /// A new object.
    pub fn add(&mut self, object: Object) {
        if self.objects.len() < MOST {
            self.objects.push(object);
        } else if object.kind == Kind::Channel {
            sys::close(object.handle as i32);
        }
    }

    /// A key that others may not use, now or later.
    pub fn note(&mut self, known: Known) {
        if self.known.len() < MOST {
            self.known.push(known);
        }
    }

    /// A new mapping.
    pub fn share(&mut self, arena: Arena) {
        if self.shared.len() >= MOST_SHARED {
            self.shared.remove(0);
        }
        self.shared.push(arena);
    }

    /// One of a kind.
    pub fn pick(&self, kind: Kind, rng: &mut Rng) -> Option<Object> {
        let all: Vec<Object> = self
            .objects
            .iter()
            .copied()
            .filter(|object| object.kind == kind)
            .collect();
        (!all.is_empty()).then(|| rng.pick(&all))
    }

    /// How many there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.objects.iter().filter(|object| object.kind == kind).count()
    }

    /// It is gone.
    pub fn remove(&mut self, kind: Kind, handle: u32) {
        self.objects
            .retain(|object| object.kind != kind || object.handle != handle);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for object in &self.objects {
            if object.kind == Kind::Channel {
                sys::close(object.handle as i32);
            }
        }
    }
}
