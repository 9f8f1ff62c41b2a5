// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory regions: pinned user memory under a random key.

use crate::{
    device::Device,
    kapi::{
        self,
        sync::wait_for_packets,
        umem::{KernelMemory, Umem},
    },
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    keys::{self, Access, Key, RegionView},
    wqe::Fault,
};
use usb4_bindings as c;

/// Rights that mean something to us. Optional ones (relaxed ordering) may be asked for and change nothing.
const RIGHTS: u32 = c::ib_access_flags_IB_ACCESS_LOCAL_WRITE
    | c::ib_access_flags_IB_ACCESS_REMOTE_WRITE
    | c::ib_access_flags_IB_ACCESS_REMOTE_READ
    | c::ib_access_flags_IB_ACCESS_REMOTE_ATOMIC;

/// A registered range of memory. Its key is lkey and rkey at once.
pub(crate) struct Region {
    view: RegionView,
    memory: Backing,
}

/// Where the bytes of a region are.
enum Backing {
    Pinned(Umem),
    /// All memory of the kernel, for its own callers: the offset is the address.
    Kernel(KernelMemory),
}

impl Backing {
    fn read(&self, at: usize, to: &mut [u8]) -> bool {
        match self {
            Self::Pinned(umem) => umem.read(at, to),
            Self::Kernel(memory) => memory.read(at, to),
        }
    }

    fn write(&self, at: usize, from: &[u8]) -> bool {
        match self {
            Self::Pinned(umem) => umem.write(at, from),
            Self::Kernel(memory) => memory.write(at, from),
        }
    }
}

impl Region {
    /// Pins and publishes `length` bytes at `start`, known to the peer as `iova`.
    pub(crate) fn register(
        device: &Device,
        pd: u32,
        start: u64,
        length: u64,
        iova: u64,
        access: i32,
    ) -> Result<Arc<Self>> {
        let optional = c::ib_access_flags_IB_ACCESS_OPTIONAL;
        let asked = u32::from_ne_bytes(access.to_ne_bytes());
        if asked & !(RIGHTS | optional) != 0 {
            return Err(EOPNOTSUPP);
        }
        iova.checked_add(length).ok_or(EINVAL)?;
        let memory = Umem::pin(device.ib(), start, length, access)?;
        let access = Access(asked & RIGHTS);
        Self::publish(device, pd, Backing::Pinned(memory), (iova, length), access)
    }

    /// Publishes the kernel's memory for local use in `pd`, which is a kernel caller's.
    pub(crate) fn of_kernel(device: &Device, pd: u32, memory: KernelMemory, access: i32) -> Result<Arc<Self>> {
        let asked = u32::from_ne_bytes(access.to_ne_bytes());
        if asked & !c::ib_access_flags_IB_ACCESS_OPTIONAL & !c::ib_access_flags_IB_ACCESS_LOCAL_WRITE != 0 {
            // A key for all of this host's memory is not given to peers.
            return Err(EOPNOTSUPP);
        }
        let access = Access(asked & RIGHTS);
        Self::publish(device, pd, Backing::Kernel(memory), (0, u64::MAX), access)
    }

    fn publish(
        device: &Device,
        pd: u32,
        memory: Backing,
        (base, length): (u64, u64),
        access: Access,
    ) -> Result<Arc<Self>> {
        let slot = device.regions.reserve(kapi::pure::random())?;
        let key = crate::device::Regions::number(slot, kapi::pure::random());
        let view = RegionView {
            key: Key(key),
            pd,
            base,
            length,
            access,
            valid: true,
        };
        match Arc::new(Self { view, memory }, GFP_KERNEL) {
            Ok(region) => {
                device.regions.fill(key, region.clone());
                Ok(region)
            }
            Err(err) => {
                device.regions.release(key);
                Err(err.into())
            }
        }
    }

    /// Withdraws a region; on return nothing refers to its memory.
    pub(crate) fn deregister(device: &Device, region: Arc<Self>) {
        drop(device.regions.release(region.key()));
        // Packets find regions, and let go of them, with softirqs off.
        wait_for_packets();
        drop(region);
    }

    /// The key.
    pub(crate) fn key(&self) -> u32 {
        self.view.key.0
    }

    /// The offset of an access, if the rule admits it.
    fn admit(&self, key: Key, pd: u32, va: u64, len: u32, needed: Access) -> Result<usize, Fault> {
        let offset = keys::check(&self.view, key, pd, va, len, needed)?;
        usize::try_from(offset).map_err(|_| Fault::LocalProtection)
    }
}

/// The memory that a QP may reach.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a> {
    /// Whose regions.
    pub(crate) device: &'a Device,
    /// In which protection domain.
    pub(crate) pd: u32,
}

impl Memory<'_> {
    /// Whether an access would be admitted.
    pub(crate) fn check(&self, key: Key, va: u64, len: u32, needed: Access) -> Result<(), Fault> {
        self.find(key, needed)?.admit(key, self.pd, va, len, needed).map(drop)
    }

    /// Copies out of a region.
    pub(crate) fn read(&self, key: Key, va: u64, to: &mut [u8], needed: Access) -> Result<(), Fault> {
        let region = self.find(key, needed)?;
        let at = region.admit(key, self.pd, va, length(to.len())?, needed)?;
        region.memory.read(at, to).then_some(()).ok_or(Fault::LocalProtection)
    }

    /// Copies into a region.
    pub(crate) fn write(&self, key: Key, va: u64, from: &[u8], needed: Access) -> Result<(), Fault> {
        let region = self.find(key, needed)?;
        let at = region.admit(key, self.pd, va, length(from.len())?, needed)?;
        region
            .memory
            .write(at, from)
            .then_some(())
            .ok_or(Fault::LocalProtection)
    }

    fn find(&self, key: Key, needed: Access) -> Result<Arc<Region>, Fault> {
        let refused = if needed.is_remote() {
            Fault::RemoteAccess
        } else {
            Fault::LocalProtection
        };
        self.device.regions.find(key.0).ok_or(refused)
    }
}

fn length(len: usize) -> Result<u32, Fault> {
    u32::try_from(len).map_err(|_| Fault::LocalLength)
}
