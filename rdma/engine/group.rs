// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Multicast groups: which queue pairs hear which address. IBTA 10.5.
//!
//! The members of all groups are one sorted list that the caller keeps; a group is a stretch of it.

/// One queue pair in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The group's address.
    pub gid: [u8; 16],
    /// The queue pair.
    pub qpn: u32,
    /// How often it has been attached: each time with another LID, which tells nothing on Ethernet (annex A16). It is
    /// detached as often.
    pub times: u32,
}

impl Member {
    /// A queue pair that is attached for the first time.
    #[must_use]
    pub const fn new(gid: [u8; 16], qpn: u32) -> Self {
        Self { gid, qpn, times: 1 }
    }

    /// What the list is sorted by.
    const fn key(&self) -> ([u8; 16], u32) {
        (self.gid, self.qpn)
    }
}

/// What became of a member that was to be dismissed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dismissal {
    /// There is no such member.
    Absent,
    /// It has been attached once more than it has been detached now.
    Stays,
    /// It is at the end of the list, where the caller takes it away.
    Goes,
}

/// The members of a group. `list` is sorted.
#[must_use]
pub fn of<'a>(list: &'a [Member], gid: &[u8; 16]) -> &'a [Member] {
    let start = list.partition_point(|member| member.gid < *gid);
    let rest = list.get(start..).unwrap_or(&[]);
    let len = rest.partition_point(|member| member.gid == *gid);
    rest.get(..len).unwrap_or(&[])
}

/// Counts a member that is attached once more. False if it is none yet.
#[must_use]
pub fn again(list: &mut [Member], gid: &[u8; 16], qpn: u32) -> bool {
    let found = list.binary_search_by_key(&(*gid, qpn), Member::key);
    let Some(member) = found.ok().and_then(|at| list.get_mut(at)) else {
        return false;
    };
    member.times = member.times.saturating_add(1);
    true
}

/// Brings the last of the list, which was just added, to its place.
pub fn admit(list: &mut [Member]) {
    let Some((new, sorted)) = list.split_last() else {
        return;
    };
    let at = sorted.partition_point(|member| member.key() < new.key());
    // Never empty; said so that the compiler need not check.
    if let Some(tail) = list.get_mut(at..).filter(|tail| !tail.is_empty()) {
        tail.rotate_right(1);
    }
}

/// Detaches a member once.
#[must_use]
pub fn dismiss(list: &mut [Member], gid: &[u8; 16], qpn: u32) -> Dismissal {
    let Ok(at) = list.binary_search_by_key(&(*gid, qpn), Member::key) else {
        return Dismissal::Absent;
    };
    match list.get_mut(at) {
        Some(member) if member.times > 1 => {
            member.times = member.times.wrapping_sub(1);
            return Dismissal::Stays;
        }
        _ => {}
    }
    // Never empty; said so that the compiler need not check.
    if let Some(tail) = list.get_mut(at..).filter(|tail| !tail.is_empty()) {
        tail.rotate_left(1);
    }
    Dismissal::Goes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_group_has_whom_it_admitted_until_as_often_dismissed(
            steps in proptest::collection::vec((any::<bool>(), 0u8..4, 0u32..6), 0..80),
        ) {
            let mut list = Vec::new();
            let mut model = BTreeMap::<(u8, u32), u32>::new();
            for (joins, group, qpn) in steps {
                let gid = [group; 16];
                let times = model.entry((group, qpn)).or_default();
                if joins {
                    prop_assert_eq!(again(&mut list, &gid, qpn), *times > 0);
                    if *times == 0 {
                        list.push(Member::new(gid, qpn));
                        admit(&mut list);
                    }
                    *times += 1;
                } else {
                    let should = match *times {
                        0 => Dismissal::Absent,
                        1 => Dismissal::Goes,
                        _ => Dismissal::Stays,
                    };
                    prop_assert_eq!(dismiss(&mut list, &gid, qpn), should);
                    if should == Dismissal::Goes {
                        prop_assert_eq!(list.pop(), Some(Member::new(gid, qpn)));
                    }
                    *times = times.saturating_sub(1);
                }
                for group in 0..4 {
                    let has: Vec<u32> = of(&list, &[group; 16]).iter().map(|member| member.qpn).collect();
                    let should: Vec<u32> =
                        model.iter().filter(|((g, _), n)| *g == group && **n > 0).map(|((_, q), _)| *q).collect();
                    prop_assert_eq!(has, should);
                }
            }
        }
    }
}
