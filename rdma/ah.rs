// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Address handles: where datagrams go.
//!
//! A handle of user space has a number, which its sends carry. librxe before v39 asks for none and puts the address
//! vector into each send instead; so do our own kernel sends, whose handle may be gone when they are carried out. Such
//! a vector names the source by its index in the GID table and is resolved when its packet is built.

use crate::{
    attr,
    kapi::{
        hint::hint,
        ibdev::IbDev,
        netdev::Netdev,
        pure::random,
        sync::{new_irq_lock, IrqLock},
        uverbs::{flat_path, path_of, AhAttr, Udata},
    },
    table::Table,
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    abi::{self, Network},
    keys::Pd,
    wire::udp::Path,
};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

/// Handles have it in their number, so that none is 0, which means "none".
const NUMBER_FLAG: u32 = 1 << 31;
/// Address handles of user space, by number.
pub(crate) type Ahs = Table<Ah, 16>;

/// The address vector in a send.
#[derive(Clone, Copy, Default)]
pub(crate) struct Vector(abi::Vector);

impl Vector {
    /// Reads the vector of a send. Anything may be in it.
    pub(crate) fn parse(raw: &[u8; abi::Vector::LEN]) -> Self {
        Self(abi::Vector::parse(raw))
    }

    /// The path it means, if its source is an address of the device now and of the same family as its destination.
    /// Its Ethernet address may be older than the peer's.
    pub(crate) fn path(&self, ib: &IbDev, netdev: &Netdev, src_port: u16) -> Option<Path> {
        let Self(vector) = self;
        let wanted = c::usb4_path {
            dmac: vector.dmac,
            hop_limit: vector.hop_limit,
            traffic_class: vector.traffic_class,
            flow_label: vector.flow_label & 0x000f_ffff,
            sgid_index: u32::from(vector.sgid_index),
            dgid: vector.dgid,
            ..Default::default()
        };
        let flat = path_of(ib, &wanted, netdev)?;
        let is_v4 = vector.dgid.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        let network = if is_v4 { Network::IPV4 } else { Network::IPV6 };
        (vector.network == network && (flat.ipv6 == 0) == is_v4).then(|| attr::path(&flat, src_port))
    }
}

/// The device of a handle.
pub(crate) struct Over<'a> {
    pub(crate) ib: &'a IbDev,
    pub(crate) netdev: &'a Netdev,
}

fn refuse(ib: &IbDev) -> Error {
    hint!(ib, "address handle: {}", attr::NO_PATH);
    EINVAL
}

/// Guarded by the handle's lock.
struct State {
    flat: c::usb4_path,
    kept: AhAttr,
}

/// An address handle.
#[pin_data]
pub(crate) struct Ah {
    pd: Pd,
    /// 0: none.
    number: u32,
    #[pin]
    state: IrqLock<State>,
}

impl Ah {
    /// A handle in `pd`, whose number is in `ahs`. Only with `sleeps` it may wait for memory, and only then have a
    /// number. Any context else.
    pub(crate) fn create(
        ahs: &Ahs,
        over: &Over<'_>,
        pd: Pd,
        wanted: &mut c::rdma_ah_attr,
        sleeps: bool,
        udata: Option<&Udata>,
    ) -> Result<Arc<Self>> {
        let flat = flat_path(wanted, over.netdev).ok_or_else(|| refuse(over.ib))?;
        let kept = AhAttr::keep(wanted);
        let reply = udata.filter(|udata| udata.out_len() >= 8);
        if udata.is_some_and(|udata| udata.in_len() != 0) {
            return Err(EINVAL);
        }
        let number = match reply {
            Some(_) if sleeps => Ahs::number(ahs.reserve(random())?, random()) | NUMBER_FLAG,
            Some(_) => return Err(not_supported()),
            None => 0,
        };
        let made = Arc::pin_init(
            pin_init!(Self {
                pd,
                number,
                state <- new_irq_lock!(State { flat, kept }, c"usb4_ah"),
            }),
            if sleeps { GFP_KERNEL } else { GFP_ATOMIC },
        );
        let Some(reply) = reply else {
            return made;
        };
        let mut answer = [0; 8];
        if let Some(first) = answer.first_chunk_mut() {
            *first = number.to_ne_bytes();
        }
        match made.and_then(|ah| reply.reply(&answer).map(|()| ah)) {
            Ok(ah) => {
                ahs.fill(number, ah.clone());
                Ok(ah)
            }
            Err(err) => {
                drop(ahs.release(number));
                Err(err)
            }
        }
    }

    /// Leads elsewhere from now on.
    pub(crate) fn modify(&self, over: &Over<'_>, wanted: &mut c::rdma_ah_attr) -> Result {
        let flat = flat_path(wanted, over.netdev).ok_or_else(|| refuse(over.ib))?;
        let kept = AhAttr::keep(wanted);
        *self.state.lock() = State { flat, kept };
        Ok(())
    }

    /// Answers `query_ah`.
    pub(crate) fn query(&self, attr: &mut c::rdma_ah_attr) {
        self.state.lock().kept.answer(attr);
    }

    /// Withdraws the number.
    pub(crate) fn close(&self, ahs: &Ahs) {
        if self.number != 0 {
            drop(ahs.release(self.number));
        }
    }

    /// The path for a QP in `pd`.
    pub(crate) fn path(&self, pd: Pd, src_port: u16) -> Option<Path> {
        let flat = self.state.lock().flat;
        (self.pd == pd).then(|| attr::path(&flat, src_port))
    }

    /// Leads to where its next hop is now.
    pub(crate) fn renew(&self, look_up: &mut impl FnMut(&Path, bool) -> Option<[u8; 6]>) {
        let old = attr::path(&self.state.lock().flat, 0);
        let Some(hop) = look_up(&old, false) else {
            return;
        };
        let mut state = self.state.lock();
        // It may have been modified since.
        if attr::path(&state.flat, 0).leads_as(&old) {
            state.flat.dmac = hop;
        }
    }

    /// As a vector in a send.
    pub(crate) fn vector(&self) -> Option<abi::Vector> {
        let flat = self.state.lock().flat;
        Some(abi::Vector {
            network: if flat.ipv6 == 0 { Network::IPV4 } else { Network::IPV6 },
            dmac: flat.dmac,
            dgid: flat.dgid,
            flow_label: flat.flow_label,
            // No address has a greater index: `caps::GID_TABLE_LEN`.
            sgid_index: u8::try_from(flat.sgid_index).ok()?,
            hop_limit: flat.hop_limit,
            traffic_class: flat.traffic_class,
        })
    }
}
