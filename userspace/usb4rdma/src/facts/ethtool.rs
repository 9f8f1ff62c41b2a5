// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Driver, counters and interrupt moderation of a network device, by the ioctl SIOCETHTOOL: a driver's own counters
//! have no netlink message.

use super::Rings;
use anyhow::{ensure, Result};
use std::collections::BTreeMap;

/// `linux/ethtool.h`.
const GDRVINFO: u32 = 0x03;
const GCOALESCE: u32 = 0x0e;
const SCOALESCE: u32 = 0x0f;
const GRINGPARAM: u32 = 0x10;
const SRINGPARAM: u32 = 0x11;
const TEST: u32 = 0x1a;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GSSET_INFO: u32 = 0x37;
/// The sets of names of a driver's tests, and of its counters.
const SS_TEST: u32 = 0;
const SS_STATS: u32 = 1;
/// Bytes of a counter's name.
const NAME: usize = 32;
/// Bytes of struct ethtool_drvinfo, and where the driver's name is in it.
const DRVINFO: usize = 196;
const DRIVER: std::ops::Range<usize> = 4..36;
/// Bytes of struct ethtool_coalesce, and where two of its fields are.
const COALESCE: usize = 92;
const RX_USECS: usize = 4;
const ADAPTIVE_RX: usize = 40;
/// Bytes of struct ethtool_ringparam, and where its limits and sizes are.
const RINGPARAM: usize = 36;
const RX_MAX: usize = 4;
const TX_MAX: usize = 16;
const RX: usize = 20;
const TX: usize = 32;
/// More counters than any driver has.
const MOST: usize = 4096;

nix::ioctl_readwrite_bad!(siocethtool, libc::SIOCETHTOOL, libc::ifreq);

/// The driver of a network device.
pub fn driver(netdev: &str) -> Result<String> {
    let mut info = request(GDRVINFO, DRVINFO);
    ask(netdev, &mut info)?;
    Ok(string(&info[DRIVER]))
}

/// Microseconds between receive interrupts, and whether the driver adapts them.
pub fn coalesce(netdev: &str) -> Result<(u32, bool)> {
    let mut coalesce = request(GCOALESCE, COALESCE);
    ask(netdev, &mut coalesce)?;
    Ok((word(&coalesce, RX_USECS), word(&coalesce, ADAPTIVE_RX) != 0))
}

/// Sets microseconds between receive interrupts, or has the driver adapt them.
pub fn set_coalesce(netdev: &str, usecs: u32, adaptive: bool) -> Result<()> {
    let mut coalesce = request(GCOALESCE, COALESCE);
    ask(netdev, &mut coalesce)?;
    put(&mut coalesce, 0, SCOALESCE);
    put(&mut coalesce, RX_USECS, usecs);
    put(&mut coalesce, ADAPTIVE_RX, u32::from(adaptive));
    ask(netdev, &mut coalesce)
}

/// How many descriptors the rings have.
pub fn rings(netdev: &str) -> Result<Rings> {
    let mut rings = request(GRINGPARAM, RINGPARAM);
    ask(netdev, &mut rings)?;
    Ok(Rings {
        rx: word(&rings, RX),
        rx_max: word(&rings, RX_MAX),
        tx: word(&rings, TX),
        tx_max: word(&rings, TX_MAX),
    })
}

/// Sets them.
pub fn set_rings(netdev: &str, rx: u32, tx: u32) -> Result<()> {
    let mut rings = request(GRINGPARAM, RINGPARAM);
    ask(netdev, &mut rings)?;
    put(&mut rings, 0, SRINGPARAM);
    put(&mut rings, RX, rx);
    put(&mut rings, TX, tx);
    ask(netdev, &mut rings)
}

/// Runs the driver's test: what it finds, by name.
pub fn test(netdev: &str) -> Result<BTreeMap<String, u64>> {
    let names = set_names(netdev, SS_TEST)?;
    // struct ethtool_test: command, flags, reserved, length, numbers.
    let mut values = request(TEST, 16 + names.len() * 8);
    ask(netdev, &mut values)?;
    Ok(numbers(names, &values[16..]))
}

/// A driver's counters by name.
pub fn counters(netdev: &str) -> Result<BTreeMap<String, u64>> {
    let names = set_names(netdev, SS_STATS)?;
    // struct ethtool_stats: command, count, numbers.
    let mut values = request(GSTATS, 8 + names.len() * 8);
    put(&mut values, 4, u32::try_from(names.len())?);
    ask(netdev, &mut values)?;
    Ok(numbers(names, &values[8..]))
}

/// The names of one of a driver's sets.
fn set_names(netdev: &str, set: u32) -> Result<Vec<String>> {
    // struct ethtool_sset_info: command, reserved, 64 bits of sets, a length for each.
    let mut sets = request(GSSET_INFO, 20);
    sets[8..16].copy_from_slice(&(1u64 << set).to_ne_bytes());
    ask(netdev, &mut sets)?;
    let count = word(&sets, 16) as usize;
    ensure!(count > 0 && count <= MOST, "{netdev} has {count} counters");
    // struct ethtool_gstrings: command, set, length, names.
    let mut names = request(GSTRINGS, 12 + count * NAME);
    names[4..8].copy_from_slice(&set.to_ne_bytes());
    names[8..12].copy_from_slice(&(count as u32).to_ne_bytes());
    ask(netdev, &mut names)?;
    Ok(names[12..].chunks(NAME).map(string).collect())
}

fn numbers(names: Vec<String>, values: &[u8]) -> BTreeMap<String, u64> {
    let values = values.chunks_exact(8).map(|bytes| {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        u64::from_ne_bytes(number)
    });
    names.into_iter().zip(values).collect()
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
}

/// A zeroed structure of `length` bytes that begins with a command.
fn request(command: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..4].copy_from_slice(&command.to_ne_bytes());
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(number)
}

fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Has the kernel fill in a structure that begins with a command.
fn ask(netdev: &str, structure: &mut [u8]) -> Result<()> {
    ensure!(netdev.len() < libc::IFNAMSIZ, "{netdev} is no name of a network device");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all fields of an ifreq may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(netdev.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = structure.as_mut_ptr().cast();
    // SAFETY: the request has a name that ends in zero and points to a structure with room for what its command and
    // counts have the kernel write; both live until the call returns.
    unsafe { siocethtool(std::os::fd::AsRawFd::as_raw_fd(&socket), &mut request) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(counters("no-such-device").is_err());
        assert!(driver("a-name-that-is-far-too-long").is_err());
    }

    #[test]
    fn names_end_at_their_zero() {
        assert_eq!(string(b"tx_packets\0\0\0"), "tx_packets");
        assert_eq!(string(b"full"), "full");
    }
}
