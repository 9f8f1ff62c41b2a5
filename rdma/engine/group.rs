// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Multicast groups: which queue pairs hear which address. IBTA 10.5.
//!
//! The members of all groups are one sorted list that the caller keeps; a group is a stretch of it.

/// One queue pair in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The group's address.
    pub gid: [u8; 16],
    /// The queue pair.
    pub qpn: u32,
}

/// The members of a group. `list` is sorted.
#[must_use]
pub fn of<'a>(list: &'a [Member], gid: &[u8; 16]) -> &'a [Member] {
    let start = list.partition_point(|member| member.gid < *gid);
    let rest = list.get(start..).unwrap_or(&[]);
    let len = rest.partition_point(|member| member.gid == *gid);
    rest.get(..len).unwrap_or(&[])
}

/// Brings the last of the list, which was just added, to its place.
pub fn admit(list: &mut [Member]) {
    let Some((new, sorted)) = list.split_last() else {
        return;
    };
    let at = sorted.partition_point(|member| member < new);
    // Never empty; said so that the compiler need not check.
    if let Some(tail) = list.get_mut(at..).filter(|tail| !tail.is_empty()) {
        tail.rotate_right(1);
    }
}

/// Brings a member to the end of the list, where the caller takes it away. False if there is no such member.
#[must_use]
pub fn dismiss(list: &mut [Member], member: &Member) -> bool {
    let Ok(at) = list.binary_search(member) else {
        return false;
    };
    // Never empty; said so that the compiler need not check.
    if let Some(tail) = list.get_mut(at..).filter(|tail| !tail.is_empty()) {
        tail.rotate_left(1);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_group_has_whom_it_admitted_and_did_not_dismiss(
            steps in proptest::collection::vec((any::<bool>(), 0u8..4, 0u32..6), 0..80),
        ) {
            let mut list = Vec::new();
            let mut model = BTreeSet::new();
            for (joins, group, qpn) in steps {
                let member = Member { gid: [group; 16], qpn };
                if !joins {
                    prop_assert_eq!(dismiss(&mut list, &member), model.remove(&(group, qpn)));
                    if list.len() > model.len() {
                        prop_assert_eq!(list.pop(), Some(member));
                    }
                } else if model.insert((group, qpn)) {
                    list.push(member);
                    admit(&mut list);
                }
                for group in 0..4 {
                    let has: Vec<u32> = of(&list, &[group; 16]).iter().map(|member| member.qpn).collect();
                    let should: Vec<u32> = model.iter().filter(|(g, _)| *g == group).map(|(_, q)| *q).collect();
                    prop_assert_eq!(has, should);
                }
            }
        }
    }
}
