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
use roce::wire::udp::Path;
use usb4_bindings as c;

/// Handles have it in their number, so that none is 0, which means "none".
const NUMBER_FLAG: u32 = 1 << 31;
/// `RXE_NETWORK_TYPE_IPV4`; the other one is IPv6.
const NETWORK_IPV4: u8 = 1;
const NETWORK_IPV6: u8 = 2;

/// Address handles of user space, by number.
pub(crate) type Ahs = Table<Ah, 16>;

/// `struct rxe_av` as far as we look at it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Vector {
    network: u8,
    dmac: [u8; 6],
    dgid: [u8; 16],
    flow_label: u32,
    sgid_index: u8,
    hop_limit: u8,
    traffic_class: u8,
}

impl Vector {
    /// Bytes in a send.
    pub(crate) const LEN: usize = 88;

    /// Reads the vector of a send. Anything may be in it.
    pub(crate) fn parse(raw: &[u8; Self::LEN]) -> Self {
        let &[_, network, m0, m1, m2, m3, m4, m5, ref rest @ ..] = raw;
        let mut this = Self {
            network,
            dmac: [m0, m1, m2, m3, m4, m5],
            ..Self::default()
        };
        if let Some((dgid, &[f0, f1, f2, f3, sgid_index, hop_limit, traffic_class, ..])) = rest.split_first_chunk() {
            this.dgid = *dgid;
            this.flow_label = u32::from_ne_bytes([f0, f1, f2, f3]);
            this.sgid_index = sgid_index;
            this.hop_limit = hop_limit;
            this.traffic_class = traffic_class;
        }
        this
    }

    /// The bytes that [`Self::parse`] reads; the rest is zero.
    pub(crate) fn bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(to) = out.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(0, &[1, self.network]);
        put(2, &self.dmac);
        put(8, &self.dgid);
        put(24, &self.flow_label.to_ne_bytes());
        put(28, &[self.sgid_index, self.hop_limit, self.traffic_class]);
        out
    }

    /// The path it means, if its source is an address of the device now and of the same family as its destination.
    /// Its Ethernet address may be older than the peer's.
    pub(crate) fn path(&self, ib: &IbDev, netdev: &Netdev, src_port: u16) -> Option<Path> {
        let wanted = c::usb4_path {
            dmac: self.dmac,
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class,
            flow_label: self.flow_label & 0x000f_ffff,
            sgid_index: u32::from(self.sgid_index),
            dgid: self.dgid,
            ..Default::default()
        };
        let flat = path_of(ib, &wanted, netdev)?;
        let is_v4 = self.dgid.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        let network = if is_v4 { NETWORK_IPV4 } else { NETWORK_IPV6 };
        (self.network == network && (flat.ipv6 == 0) == is_v4).then(|| attr::path(&flat, src_port))
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
    pd: u64,
    /// 0: none.
    number: u32,
    #[pin]
    state: IrqLock<State>,
}

impl Ah {
    /// A handle in `pd`, whose number is in `ahs`. Only with `sleeps` it may wait for memory, and only then have a number. Any context else.
    pub(crate) fn create(
        ahs: &Ahs,
        over: &Over<'_>,
        pd: u64,
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
            Some(_) => return Err(EOPNOTSUPP),
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
    pub(crate) fn path(&self, pd: u64, src_port: u16) -> Option<Path> {
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
    pub(crate) fn vector(&self) -> Option<Vector> {
        let flat = self.state.lock().flat;
        Some(Vector {
            network: if flat.ipv6 == 0 { NETWORK_IPV4 } else { NETWORK_IPV6 },
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
