// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the kernel's answers mean.

use crate::message::{attribute, Attributes};
use netlink_packet_core::DecodeError;
use std::collections::BTreeMap;

/// An RDMA device (GET).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub ports: u32,
    pub firmware: Option<String>,
    pub node_guid: Option<u64>,
    /// `roce`, `ib`, `iw`.
    pub protocol: Option<String>,
}

/// A port of a device (PORT_GET).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub device: u32,
    /// From 1.
    pub number: u32,
    pub state: PortState,
    /// Index and name of the network device, if it has one that this namespace sees.
    pub netdev: Option<(u32, String)>,
}

/// Logical state of a port, `enum ib_port_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    Down,
    Init,
    Armed,
    Active,
    /// One that this crate does not know.
    Other(u8),
}

/// A queue pair (RES_QP_GET).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePair {
    pub number: u32,
    /// The peer's, of a connected one.
    pub peer: Option<u32>,
    /// `RC`, `UD`, ...
    pub kind: String,
    /// `RTS`, `ERR`, ...
    pub state: String,
    /// The process that made it, or the kernel module.
    pub pid: Option<u32>,
    pub module: Option<String>,
    /// What the driver tells of its own.
    pub details: BTreeMap<String, u64>,
}

/// `enum ib_qp_type` and `enum ib_qp_state`, as `rdma` calls them.
const QP_KINDS: [&str; 5] = ["SMI", "GSI", "RC", "UC", "UD"];
const QP_STATES: [&str; 7] = ["RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"];

/// How the RDMA subsystem is set up (SYS_GET).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    pub netns: NetnsMode,
}

/// Which network namespaces see a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetnsMode {
    /// The one that it is in.
    Exclusive,
    /// All.
    Shared,
}

impl Device {
    /// None if the answer lacks what every device has.
    pub fn from_answer(answer: &Attributes) -> Option<Device> {
        Some(Device {
            index: answer.u32(attribute::DEV_INDEX)?,
            name: answer.string(attribute::DEV_NAME)?,
            ports: answer.u32(attribute::PORT_INDEX)?,
            firmware: answer.string(attribute::FW_VERSION),
            node_guid: answer.number(attribute::NODE_GUID),
            protocol: answer.string(attribute::DEV_PROTOCOL),
        })
    }
}

impl Port {
    /// None if the answer lacks what every port has.
    pub fn from_answer(answer: &Attributes) -> Option<Port> {
        let netdev = answer
            .u32(attribute::NDEV_INDEX)
            .zip(answer.string(attribute::NDEV_NAME));
        Some(Port {
            device: answer.u32(attribute::DEV_INDEX)?,
            number: answer.u32(attribute::PORT_INDEX)?,
            state: PortState::from(u8::try_from(answer.number(attribute::PORT_STATE)?).ok()?),
            netdev,
        })
    }
}

impl QueuePair {
    /// The queue pairs of one message of an answer.
    ///
    /// # Errors
    ///
    /// Bytes that are no attributes.
    pub(crate) fn from_answer(answer: &Attributes) -> Result<Vec<QueuePair>, DecodeError> {
        let mut found = vec![];
        for table in answer.nested(attribute::RES_QP)? {
            for entry in table.nested(attribute::RES_QP_ENTRY)? {
                let Some(number) = entry.u32(attribute::RES_LQPN) else {
                    continue;
                };
                let word = |kind: u16, words: &[&str]| {
                    let number = entry.number(kind).unwrap_or(u64::MAX);
                    let word = usize::try_from(number).ok().and_then(|number| words.get(number));
                    word.map_or_else(|| number.to_string(), |word| word.to_string())
                };
                let details = entry.nested(attribute::DRIVER)?;
                found.push(QueuePair {
                    number,
                    peer: entry.u32(attribute::RES_RQPN),
                    kind: word(attribute::RES_TYPE, &QP_KINDS),
                    state: word(attribute::RES_STATE, &QP_STATES),
                    pid: entry.u32(attribute::RES_PID),
                    module: entry.string(attribute::RES_KERN_NAME),
                    details: details.iter().flat_map(Attributes::named_numbers).collect(),
                });
            }
        }
        Ok(found)
    }
}

impl From<u8> for PortState {
    fn from(state: u8) -> PortState {
        match state {
            1 => PortState::Down,
            2 => PortState::Init,
            3 => PortState::Armed,
            4 => PortState::Active,
            other => PortState::Other(other),
        }
    }
}

impl std::fmt::Display for PortState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PortState::Down => f.write_str("down"),
            PortState::Init => f.write_str("init"),
            PortState::Armed => f.write_str("armed"),
            PortState::Active => f.write_str("active"),
            PortState::Other(number) => write!(f, "state {number}"),
        }
    }
}

impl System {
    /// None if the answer lacks the mode.
    pub fn from_answer(answer: &Attributes) -> Option<System> {
        let netns = match answer.number(attribute::SYS_NETNS_MODE)? {
            0 => NetnsMode::Exclusive,
            _ => NetnsMode::Shared,
        };
        Some(System { netns })
    }
}

/// The counters of a port by name (STAT_GET).
///
/// # Errors
///
/// Bytes that are no attributes.
pub(crate) fn counters(answer: &Attributes) -> Result<BTreeMap<String, u64>, DecodeError> {
    let entries = (attribute::STAT_HWCOUNTERS, attribute::STAT_HWCOUNTER_ENTRY);
    let names = (
        attribute::STAT_HWCOUNTER_ENTRY_NAME,
        attribute::STAT_HWCOUNTER_ENTRY_VALUE,
    );
    table(answer, entries, names)
}

/// How many of each kind of object a device has (RES_GET).
///
/// # Errors
///
/// Bytes that are no attributes.
pub(crate) fn resources(answer: &Attributes) -> Result<BTreeMap<String, u64>, DecodeError> {
    let entries = (attribute::RES_SUMMARY, attribute::RES_SUMMARY_ENTRY);
    let names = (attribute::RES_SUMMARY_ENTRY_NAME, attribute::RES_SUMMARY_ENTRY_CURR);
    table(answer, entries, names)
}

/// A table of entries with a name and a number each, as the kernel nests them.
fn table(
    answer: &Attributes,
    (all, one): (u16, u16),
    (name, number): (u16, u16),
) -> Result<BTreeMap<String, u64>, DecodeError> {
    let mut found = BTreeMap::new();
    for table in answer.nested(all)? {
        for entry in table.nested(one)? {
            if let (Some(name), Some(number)) = (entry.string(name), entry.number(number)) {
                found.insert(name, number);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::hex;

    /// An answer of kernel 7.3, recorded by strace.
    fn answer(digits: &str) -> Attributes {
        Attributes::parse(&hex(digits)).unwrap()
    }

    #[test]
    fn a_device_is_read() {
        let device = Device::from_answer(&answer(
            "08000100000000000b000200757362347230000008000300010000000c00040000382201400100000a000500302e312e30000000\
             0c000600da2995feffd0c2880c000700da2995feffd0c28805000e0001000000050054000000000005006500010000000900430\
             0726f636500000000",
        ));
        assert_eq!(
            device,
            Some(Device {
                index: 0,
                name: "usb4r0".into(),
                ports: 1,
                firmware: Some("0.1.0".into()),
                node_guid: Some(0x88c2_d0ff_fe95_29da),
                protocol: Some("roce".into()),
            })
        );
    }

    #[test]
    fn a_port_is_read_with_its_netdev() {
        let port = Port::from_answer(&answer(
            "08000100000000000b0002007573623472300000080003000100000005000c000100000005000d00020000000800320003000000\
             0d003300757362346e65743000000000",
        ));
        assert_eq!(
            port,
            Some(Port {
                device: 0,
                number: 1,
                state: PortState::Down,
                netdev: Some((3, "usb4net0".into())),
            })
        );
    }

    #[test]
    fn resources_are_counted_by_kind() {
        let counts = resources(&answer(
            "08000100000000000b00020075736234723000000c010f002400100007001100706400000c00120001000000000000000c007600\
             00001000000000002400100007001100637100000c00120001000000000000000c00760000001000000000002400100007001100\
             717000000c00120001000000000000000c00760000000100000000001c0010000a001100636d5f69640000000c00120000000000\
             0000000024001000070011006d7200000c00120000000000000000000c00760000001000000000001800100008001100637478\
             000c00120000000000000000002400100008001100737271000c00120000000000000000000c0076000000100000000000200010\
             000e001100636f6d705f636e74720000000c0012000000000000000000",
        ))
        .unwrap();
        assert_eq!((counts["qp"], counts["cq"], counts["mr"]), (1, 1, 0));
        assert_eq!(counts.len(), 8);
    }

    #[test]
    fn queue_pairs_are_read_with_the_drivers_details() {
        let found = QueuePair::from_answer(&answer(
            "08000100000000000b0002007573623472300000 60001300 5c001400 0800030001000000 0800150001000000\
             0c001d0069625f636f726500 0800180000000000 05001a0001000000 05001b0003000000\
             24003480 0b0036006e756d6265720000 0500370001000000 0c003b000600fa0000000000",
        ));
        let expected = QueuePair {
            number: 1,
            kind: "GSI".into(),
            state: "RTS".into(),
            module: Some("ib_core".into()),
            details: BTreeMap::from([("number".to_string(), 0xfa0006)]),
            ..QueuePair::default()
        };
        assert_eq!(found.unwrap(), [expected]);
    }

    #[test]
    fn counters_are_read_by_name() {
        let counters = counters(&answer(
            "44005080200051800e00520073656e745f706b74730000000c00530007000000000000002000518\
             00e005200726376645f706b74730000000c0053000000000000000000",
        ))
        .unwrap();
        assert_eq!((counters["sent_pkts"], counters["rcvd_pkts"]), (7, 0));
    }

    #[test]
    fn the_system_says_who_sees_devices() {
        let system = System::from_answer(&answer(
            "05004200010000000500600000000000050067000100000005005d0001000000",
        ));
        assert_eq!(
            system,
            Some(System {
                netns: NetnsMode::Shared
            })
        );
    }

    #[test]
    fn an_answer_without_a_name_is_no_device() {
        assert_eq!(Device::from_answer(&answer("0800010000000000")), None);
        assert_eq!(Port::from_answer(&answer("0800010000000000")), None);
    }
}
