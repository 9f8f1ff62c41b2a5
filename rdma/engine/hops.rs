// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Next hops, looked up once for each peer in a pass over the paths of a device.
//!
//! A path is resolved when it becomes a queue pair's or an address handle's. Later the peer's Ethernet address may
//! change, or another gateway may lead there, or this host has to ask its neighbours anew. So the caller goes over its
//! paths whenever something of that kind has changed, and after a peer was late. Many paths lead to few peers.

use crate::wire::udp::Path;

/// Peers that are remembered. With more of them in turn, some are looked up more than once.
const KNOWN: usize = 16;

/// What a look-up has found.
#[derive(Clone, Copy, Debug)]
struct Known {
    path: Path,
    doubt: bool,
    hop: Option<[u8; 6]>,
}

/// What a pass has found so far.
#[derive(Debug, Default)]
pub struct Hops {
    known: [Option<Known>; KNOWN],
    next: usize,
}

impl Hops {
    /// Nothing looked up.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The Ethernet address where `path` leads now. `None` if that is not known. `look_up` is asked once for the paths
    /// that lead the same way, and once more for the first whose peer was late: the `doubt` is part of the question.
    pub fn find(
        &mut self,
        path: &Path,
        doubt: bool,
        look_up: impl FnOnce(&Path, bool) -> Option<[u8; 6]>,
    ) -> Option<[u8; 6]> {
        let is_it = |known: &&Known| known.path.leads_as(path) && (known.doubt || !doubt);
        if let Some(known) = self.known.iter().flatten().find(is_it) {
            return known.hop;
        }
        let hop = look_up(path, doubt);
        if let Some(place) = self.known.get_mut(self.next) {
            *place = Some(Known {
                path: *path,
                doubt,
                hop,
            });
        }
        self.next = self.next.wrapping_add(1) % KNOWN;
        hop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::udp::Addresses;

    fn to(last: u8, tag: u32) -> Path {
        Path {
            src_mac: [0; 6],
            dst_mac: [2, 0, 0, 0, 0, last],
            addresses: Addresses::V4 {
                src: [10, 0, 0, 1],
                dst: [10, 0, 0, last],
            },
            src_port: 0xc000,
            traffic_class: 0,
            hop_limit: 64,
            flow_label: 0,
            tag,
        }
    }

    #[test]
    fn a_peer_is_looked_up_once_whatever_the_port_and_the_old_address() {
        let mut hops = Hops::new();
        let mut asked = 0;
        for src_port in 0xc000..0xc100 {
            let path = Path {
                src_port,
                dst_mac: [2, 0, 0, 0, 9, (src_port & 0xff) as u8],
                ..to(2, 0)
            };
            let found = hops.find(&path, false, |_, _| {
                asked += 1;
                Some([2, 0, 0, 0, 1, 1])
            });
            assert_eq!(found, Some([2, 0, 0, 0, 1, 1]));
        }
        assert_eq!(asked, 1);
    }

    #[test]
    fn another_vlan_and_a_doubt_are_other_questions_and_the_unknown_is_an_answer() {
        let mut hops = Hops::new();
        let mut asked = Vec::new();
        for (path, doubt) in [
            (to(2, 0), false),
            (to(2, 5), false),
            (to(2, 0), true),
            (to(2, 0), false),
            (to(2, 0), true),
            (to(3, 0), true),
            (to(3, 0), false),
        ] {
            let found = hops.find(&path, doubt, |path, doubt| {
                asked.push((path.dst_mac[5], path.tag, doubt));
                None
            });
            assert_eq!(found, None);
        }
        assert_eq!(asked, [(2, 0, false), (2, 5, false), (2, 0, true), (3, 0, true)]);
    }

    #[test]
    fn more_peers_than_are_remembered_are_looked_up_again() {
        let mut hops = Hops::new();
        for last in (0..40).chain(0..40) {
            let found = hops.find(&to(last, 0), false, |path, _| Some(path.dst_mac));
            assert_eq!(found, Some([2, 0, 0, 0, 0, last]));
        }
    }
}
