// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A lane as its client sees it. What goes by it is in [`crate::client`].

use crate::{
    client::{Client, Held, NotSent, Outbound, WindowOut},
    lane::Lane,
};
use kernel::{prelude::*, sync::Arc};
use tbip::limits::MAX_FRAME;

/// A share in a cable's lane, of its client.
#[derive(Clone)]
pub struct Port(Arc<Lane>);

impl PartialEq for Port {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Port {
    pub(crate) fn new(lane: Arc<Lane>) -> Self {
        Self(lane)
    }

    /// Whether it has no client. Process context.
    pub fn is_free(&self) -> bool {
        self.0.is_free()
    }

    /// Trains, and news of room, go to `client` from now on. Process context.
    pub fn attach(&self, client: Arc<dyn Client>) {
        self.0.attach(client);
    }

    /// And to nobody any more: on return nobody is in a call of the client. But it is still told what becomes of the
    /// windows that it has granted, or asked for. Process context.
    pub fn detach(&self) {
        self.0.detach();
    }

    /// Whether the peer takes trains and has this Ethernet address. Any context.
    pub fn reaches(&self, mac: [u8; 6]) -> bool {
        self.0.reaches(mac)
    }

    /// Whether the peer answers by it, as far as is known. One by which it does not may carry nothing. Any context.
    pub fn answers(&self) -> bool {
        self.0.answers()
    }

    /// Whether the peer has told of trains by it since then, in nanoseconds. Any context.
    pub fn has_answered(&self, since: u64) -> bool {
        self.0.has_answered(since)
    }

    /// Asks the peer to tell, unless something is under way that asks. Softirqs off; not from another lane's transmit
    /// side.
    pub fn ask(&self) {
        self.0.ask();
    }

    /// Most payload of a train, wherever in its pages it begins. Any context.
    pub fn most(&self) -> usize {
        self.0.most_pages().saturating_sub(1) * MAX_FRAME
    }

    /// Whether it is the one of its cable that packets of the stack go by as well.
    pub fn is_first(&self) -> bool {
        self.0.is_first()
    }

    /// Whether any train has room now. If not, [`Client::on_room`] is called when it has. `several`: other cables lead
    /// where it does, and trains go by so many rings of each (`tbip::share`). Softirqs off or on.
    pub fn has_room(&self, several: Option<usize>) -> bool {
        self.0.has_room(several)
    }

    /// Posts a train; `copy` copies payload from an offset, if it is copied. The hardware is told by [`Self::ring`].
    /// `held` is dropped when it has gone, or could not be sent. Softirqs off or on.
    ///
    /// # Errors
    ///
    /// It was not sent, and nothing has changed.
    pub fn post<E>(
        &self,
        train: &Outbound<'_>,
        held: Option<KBox<dyn Held>>,
        copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), NotSent<E>> {
        self.0.post(train, held, copy)
    }

    /// Whether windows are worth asking for, if perhaps there is no room for one now. Softirqs off or on.
    pub fn has_windows(&self) -> bool {
        self.0.has_windows()
    }

    /// Whether one may be asked for now. If not, [`Client::on_room`] is called when that may have changed.
    pub fn has_window_room(&self) -> bool {
        self.0.has_window_room()
    }

    /// As [`Self::post`], for a train whose payload begins with a window: `train` has the rest of it. It needs a token,
    /// and [`Client::on_told`] tells what became of it.
    ///
    /// # Errors
    ///
    /// As [`Self::post`].
    pub fn post_window<E>(
        &self,
        train: &Outbound<'_>,
        window: WindowOut<'_>,
        held: Option<KBox<dyn Held>>,
        copy: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), NotSent<E>> {
        self.0.post_window(train, window, held, copy)
    }

    /// Tells the hardware of what was posted.
    pub fn ring(&self) {
        self.0.ring();
    }
}
