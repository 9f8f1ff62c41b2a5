// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Multicast: the groups of a device, the netdev's filter for them, and the way of a packet to each member.

use crate::kapi::{
    netdev::Netdev,
    sync::{new_bh_lock, BhLock},
};
use kernel::{new_mutex, prelude::*, sync::Mutex};
use roce::{
    group::{self, Dismissal, Member},
    wire::udp::multicast_mac,
};

/// QPs in one group at most, as rxe.
pub(crate) const MAX_ATTACH: usize = 56;
/// Groups of a device at most, as rxe.
pub(crate) const MAX_GROUPS: usize = 8192;
/// Members of all groups at most. They are moved about with softirqs off.
pub(crate) const MAX_TOTAL: usize = 65_536;

type Members = KVVec<Member>;

/// The groups of a device.
#[pin_data]
pub(crate) struct Groups {
    /// Held over a change, which may wait for memory: the number of groups.
    #[pin]
    count: Mutex<usize>,
    /// Sorted.
    #[pin]
    members: BhLock<Members>,
}

impl Groups {
    /// No groups.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            count <- new_mutex!(0, "usb4_groups"),
            members <- new_bh_lock!(Members::new(), c"usb4_members"),
        })
    }

    /// Attaches a QP. Again is no error: it is to be detached as often, for the core counts each time. Sleeps.
    pub(crate) fn attach(&self, netdev: Option<&Netdev>, gid: &[u8; 16], qpn: u32) -> Result {
        let mac = multicast_mac(gid).ok_or(EINVAL)?;
        let mut count = self.count.lock();
        let (others, total, full) = {
            let mut members = self.members.lock();
            if group::again(&mut members, gid, qpn) {
                return Ok(());
            }
            let full = members.len() == members.capacity();
            (group::of(&members, gid).len(), members.len(), full)
        };
        if others >= MAX_ATTACH || total >= MAX_TOTAL || (others == 0 && *count >= MAX_GROUPS) {
            return Err(ENOMEM);
        }
        if full {
            self.grow((total * 2).max(8))?;
        }
        if others == 0 {
            netdev.ok_or(ENODEV)?.hear(&mac)?;
            *count += 1;
        }
        let mut members = self.members.lock();
        let _ = members.push_within_capacity(Member::new(*gid, qpn));
        group::admit(&mut members);
        Ok(())
    }

    /// Detaches a QP once. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it was not attached.
    pub(crate) fn detach(&self, netdev: Option<&Netdev>, gid: &[u8; 16], qpn: u32) -> Result {
        let mut count = self.count.lock();
        let last = {
            let mut members = self.members.lock();
            match group::dismiss(&mut members, gid, qpn) {
                Dismissal::Absent => return Err(EINVAL),
                Dismissal::Stays => return Ok(()),
                Dismissal::Goes => drop(members.pop()),
            }
            group::of(&members, gid).is_empty()
        };
        if last {
            // Counted by the first `attach` of the group, under the same lock: it never is 0 here.
            *count = count.saturating_sub(1);
            if let (Some(netdev), Some(mac)) = (netdev, multicast_mac(gid)) {
                netdev.ignore(&mac);
            }
        }
        Ok(())
    }

    fn grow(&self, wanted: usize) -> Result {
        let mut bigger = Members::with_capacity(wanted, GFP_KERNEL)?;
        let mut members = self.members.lock();
        for member in members.drain_all() {
            let _ = bigger.push_within_capacity(member);
        }
        core::mem::swap(&mut *members, &mut bigger);
        drop(members);
        drop(bigger);
        Ok(())
    }

    /// Whether somebody hears the group.
    pub(crate) fn has(&self, gid: &[u8; 16]) -> bool {
        !group::of(&self.members.lock(), gid).is_empty()
    }

    /// Calls `each` with every QP that hears the group, without a lock.
    pub(crate) fn members(&self, gid: &[u8; 16], each: impl FnMut(u32)) {
        let mut heard = [0; MAX_ATTACH];
        for (place, member) in heard.iter_mut().zip(group::of(&self.members.lock(), gid)) {
            *place = member.qpn;
        }
        heard.into_iter().take_while(|qpn| *qpn != 0).for_each(each);
    }
}
