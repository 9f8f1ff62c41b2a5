// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Finds queue pairs of the other host to connect to: offers and answers by UDP, lost as they may be.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PORT: u16 = 18600;
/// Offers and answers older than this are dropped: their queue pair is gone, or soon will be.
const FRESH: Duration = Duration::from_secs(2);
const MOST: usize = 64;

/// A queue pair that waits for a peer, or the one that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Chosen by who offers; the answer has it too.
    pub id: u64,
    pub answer: bool,
    pub kind: u8,
    pub mtu: u8,
    pub number: u32,
    pub psn: u32,
    pub rkey: u32,
    pub address: u64,
    pub gid: [u64; 2],
}

const LEN: usize = 56;

impl End {
    fn bytes(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let words = [self.id, self.address, self.gid[0], self.gid[1]];
        for (index, word) in words.iter().enumerate() {
            out[8 * index..8 * index + 8].copy_from_slice(&word.to_le_bytes());
        }
        for (index, word) in [self.number, self.psn, self.rkey].iter().enumerate() {
            out[32 + 4 * index..36 + 4 * index].copy_from_slice(&word.to_le_bytes());
        }
        (out[44], out[45], out[46]) = (self.answer.into(), self.kind, self.mtu);
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        Some(Self {
            id: long(0),
            address: long(8),
            gid: [long(16), long(24)],
            number: word(32),
            psn: word(36),
            rkey: word(40),
            answer: bytes[44] != 0,
            kind: bytes[45],
            mtu: bytes[46],
        })
    }
}

pub struct Broker {
    socket: UdpSocket,
    peer: SocketAddr,
    open: Mutex<Vec<(Instant, End)>>,
    answered: Mutex<HashMap<u64, (Instant, End)>>,
}

impl Broker {
    pub fn new(peer: &str) -> io::Result<Self> {
        let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let peer = peer.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            socket,
            peer: SocketAddr::new(peer, PORT),
            open: Mutex::default(),
            answered: Mutex::default(),
        })
    }

    /// Sends an offer or an answer, if there is a way just now.
    pub fn send(&self, end: &End) {
        let _ = self.socket.send_to(&end.bytes(), self.peer);
    }

    /// Takes in what has come; waits a little for it.
    pub fn listen(&self) {
        let mut bytes = [0; 128];
        let Ok((len, _)) = self.socket.recv_from(&mut bytes) else {
            return;
        };
        let (Some(end), now) = (End::parse(&bytes[..len]), Instant::now()) else {
            return;
        };
        if end.answer {
            if let Ok(mut answered) = self.answered.lock() {
                answered.retain(|_, (at, _)| now - *at < FRESH);
                answered.insert(end.id, (now, end));
            }
        } else if let Ok(mut open) = self.open.lock() {
            open.retain(|(at, _)| now - *at < FRESH);
            if open.len() < MOST {
                open.push((now, end));
            }
        }
    }

    /// An offer of the other host's, which is then ours to answer.
    pub fn take_offer(&self) -> Option<End> {
        let now = Instant::now();
        let mut open = self.open.lock().ok()?;
        open.retain(|(at, _)| now - *at < FRESH);
        open.pop().map(|(_, end)| end)
    }

    /// The answer to an offer of ours.
    pub fn answer_to(&self, id: u64) -> Option<End> {
        self.answered.lock().ok()?.remove(&id).map(|(_, end)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_arrives_as_it_was_sent() {
        let end = End {
            id: 7 << 40,
            answer: true,
            kind: 3,
            mtu: 5,
            number: 0x80_0001,
            psn: 0xff_ffff,
            rkey: 0xdead_beef,
            address: 1 << 46,
            gid: [1, 2],
        };
        assert_eq!(End::parse(&end.bytes()), Some(end));
        assert_eq!(End::parse(&[0; 20]), None);
    }
}
