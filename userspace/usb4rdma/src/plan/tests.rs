// SPDX-License-Identifier: GPL-2.0 OR MIT
//! From hosts' facts to the commands that are printed and performed.

use super::*;
use crate::health::tests::{add_cable, bonded, healthy};
use crate::peers::peers;

/// A host with cables, the module loaded, and nothing set up.
fn bare(cables: u32) -> Facts {
    let mut facts = healthy();
    for n in 1..cables {
        add_cable(&mut facts, n);
    }
    facts.rdma.clear();
    for netdev in &mut facts.netdevs {
        netdev.up = false;
        netdev.carrier = false;
        netdev.addresses.clear();
    }
    facts
}

fn commands(facts: &Facts, wanted: &Wanted) -> Vec<String> {
    let (steps, _) = devices(facts, wanted).unwrap();
    steps.iter().map(|planned| planned.step.command()).collect()
}

#[test]
fn one_cable_needs_no_bond() {
    assert_eq!(
        commands(&bare(1), &Wanted::default()),
        [
            "ip link set usb4net0 up",
            "ip addr add 10.85.15.177/30 dev usb4net0",
            "ip addr add fd79:2f75:c5a1::1/64 dev usb4net0 nodad",
            "rdma link add usb4r0 type usb4 netdev usb4net0",
        ]
    );
}

#[test]
fn two_cables_are_bonded() {
    assert_eq!(
        commands(&bare(2), &Wanted::default()),
        [
            "ip link add usb4bond0 type bond mode balance-xor miimon 100 xmit_hash_policy layer3+4",
            "ip link set usb4net0 master usb4bond0",
            "ip link set usb4net1 master usb4bond0",
            "ip link set usb4bond0 mtu 65522",
            "ip link set usb4bond0 up",
            "ip addr add 10.85.15.177/30 dev usb4bond0",
            "ip addr add fd79:2f75:c5a1::1/64 dev usb4bond0 nodad",
            "rdma link add usb4r0 type usb4 netdev usb4bond0",
        ]
    );
}

#[test]
fn a_device_that_is_up_goes_down_before_it_joins() {
    let mut facts = bare(2);
    facts.netdevs[1].up = true;
    let found = commands(&facts, &Wanted::default());
    assert!(found.contains(&"ip link set usb4net1 down".to_string()), "{found:?}");
}

#[test]
fn what_is_up_needs_nothing() {
    for facts in [healthy(), bonded()] {
        assert_eq!(devices(&facts, &Wanted::default()).unwrap(), (vec![], vec![]));
        assert_eq!(modules(&facts, false), []);
        assert_eq!(modules(&facts, true), []);
    }
}

#[test]
fn peers_have_devices_of_their_own() {
    let mut facts = bare(2);
    facts.cables[1].peer_name = "h2".into();
    let found = commands(&facts, &Wanted::default());
    assert!(
        found.contains(&"rdma link add usb4r0 type usb4 netdev usb4net0".to_string()),
        "{found:?}"
    );
    assert!(
        found.contains(&"rdma link add usb4r1 type usb4 netdev usb4net1".to_string()),
        "{found:?}"
    );
}

#[test]
fn without_a_bond_each_cable_has_a_link() {
    let wanted = Wanted {
        bond: Some(false),
        ..Wanted::default()
    };
    let found = commands(&bare(2), &wanted);
    assert_eq!(
        found.iter().filter(|c| c.starts_with("rdma link add")).count(),
        2,
        "{found:?}"
    );
    assert!(!found.iter().any(|c| c.contains("bond")), "{found:?}");
}

#[test]
fn a_peer_can_be_chosen_and_given_an_address() {
    let mut facts = bare(2);
    facts.cables[1].peer_name = "h2".into();
    let wanted = Wanted {
        peers: vec!["h2".into()],
        addresses: vec![Address::new([10, 0, 0, 1], 24)],
        ..Wanted::default()
    };
    assert_eq!(
        commands(&facts, &wanted),
        [
            "ip link set usb4net1 up",
            "ip addr add 10.0.0.1/24 dev usb4net1",
            "rdma link add usb4r0 type usb4 netdev usb4net1",
        ]
    );
    let all = Wanted {
        peers: vec![],
        ..wanted.clone()
    };
    assert!(devices(&facts, &all).unwrap_err().to_string().contains("--peer"));
    let nobody = Wanted {
        peers: vec!["h7".into()],
        ..wanted
    };
    assert_eq!(
        devices(&facts, &nobody).unwrap_err().to_string(),
        "no cable leads to a host h7: there are h1, h2"
    );
}

#[test]
fn what_a_person_has_set_up_stays() {
    let mut facts = healthy();
    facts.netdevs[0].addresses = vec![Address::new([192, 168, 7, 1], 24)];
    facts.rdma.clear();
    assert_eq!(
        commands(&facts, &Wanted::default()),
        [
            "ip addr add fd79:2f75:c5a1::1/64 dev usb4net0 nodad",
            "rdma link add usb4r0 type usb4 netdev usb4net0"
        ]
    );
}

#[test]
fn a_cable_to_another_host_gets_the_addresses_of_that_pair() {
    let mut facts = healthy();
    let before = facts.netdevs[0].addresses.clone();
    facts.cables[0].peer_name = "h5".into();
    let given = |addresses: &[Address]| Wanted {
        given: addresses.iter().map(|a| ("usb4net0".to_string(), *a)).collect(),
        ..Wanted::default()
    };
    let found = commands(&facts, &given(&before));
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(found[0], "ip addr del 10.85.15.177/30 dev usb4net0");
    assert!(found[2].starts_with("ip addr add 10.85."), "{found:?}");
    // Addresses that somebody else gave stay.
    assert_eq!(commands(&facts, &given(&[])), [""; 0]);
    facts.netdevs[0].addresses = vec![Address::new([10, 0, 0, 1], 24)];
    let found = commands(&facts, &given(&[Address::new([10, 0, 0, 1], 24)]));
    assert!(!found.iter().any(|c| c.starts_with("ip addr del")), "{found:?}");
}

fn with(text: &str) -> Wanted {
    let file = std::env::temp_dir().join(format!("usb4rdma-plan-{}-{}.toml", std::process::id(), text.len()));
    std::fs::write(&file, text).unwrap();
    let config = Config::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    Wanted {
        config,
        ..Wanted::default()
    }
}

#[test]
fn the_file_says_what_the_command_line_does_not() {
    let wanted = with("bond = false\nmtu = 9000\n[peer.h1]\naddresses = ['10.0.0.1/24']\nbond = true\nmtu = 4200\n");
    let found = commands(&bare(2), &wanted);
    assert!(found[0].starts_with("ip link add usb4bond0 type bond"), "{found:?}");
    assert_eq!(
        found[3..],
        [
            "ip link set usb4bond0 mtu 4200",
            "ip link set usb4bond0 up",
            "ip addr add 10.0.0.1/24 dev usb4bond0",
            "rdma link add usb4r0 type usb4 netdev usb4bond0",
        ]
    );
    // What is said of h1 is not said of h2.
    let mut facts = bare(2);
    for cable in &mut facts.cables {
        cable.peer_name = "h2".into();
    }
    let line = Wanted {
        mtu: Some(5000),
        ..wanted.clone()
    };
    for (wanted, mtu) in [(line, 5000), (wanted, 9000)] {
        let found = commands(&facts, &wanted);
        assert_eq!(found[0], format!("ip link set usb4net0 mtu {mtu}"), "{found:?}");
        assert_eq!(found.iter().filter(|c| c.starts_with("rdma link add")).count(), 2);
    }
    let bonded = Wanted {
        bond: Some(true),
        ..with("bond = false")
    };
    assert_eq!(
        commands(&facts, &bonded)
            .iter()
            .filter(|c| c.starts_with("rdma link add"))
            .count(),
        1
    );
}

#[test]
fn a_bond_gets_the_mtu_that_is_asked_for() {
    assert_eq!(
        commands(&bonded(), &with("mtu = 4200")),
        ["ip link set usb4bond0 mtu 4200"]
    );
    let error = devices(
        &bonded(),
        &Wanted {
            mtu: Some(65522),
            ..Wanted::default()
        },
    );
    assert_eq!(error.unwrap(), (vec![], vec![]));
    let mut small = bare(1);
    small.netdevs[0].max_mtu = 9000;
    let error = devices(&small, &with("mtu = 65522")).unwrap_err().to_string();
    assert_eq!(
        error,
        "the devices of the cables to h1 take an MTU of 9000 at most, not 65522"
    );
}

#[test]
fn addresses_on_a_cable_keep_it_from_a_bond() {
    let mut facts = bare(2);
    facts.netdevs[1].addresses = vec![Address::new([192, 168, 7, 1], 24)];
    let error = devices(&facts, &Wanted::default()).unwrap_err().to_string();
    assert!(
        error.contains("192.168.7.1/24") && error.contains("--no-bond"),
        "{error}"
    );
}

#[test]
fn a_network_that_another_device_has_is_refused() {
    let mut facts = bare(1);
    facts.netdevs.push(Netdev {
        name: "eth0".into(),
        addresses: vec![Address::new([10, 85, 0, 9], 16)],
        ..Netdev::default()
    });
    let error = devices(&facts, &Wanted::default()).unwrap_err().to_string();
    assert!(error.contains("eth0") && error.contains("--address"), "{error}");
}

#[test]
fn a_cable_in_use_is_not_torn_out_for_a_bond() {
    let mut facts = healthy();
    add_cable(&mut facts, 1);
    let (steps, notes) = devices(&facts, &Wanted::default()).unwrap();
    assert_eq!(steps, []);
    assert!(notes[0].contains("usb4rdma down"), "{notes:?}");
}

#[test]
fn a_new_cable_joins_the_bond() {
    let mut facts = bonded();
    add_cable(&mut facts, 2);
    assert_eq!(
        commands(&facts, &Wanted::default()),
        ["ip link set usb4net2 down", "ip link set usb4net2 master usb4bond0"]
    );
}

#[test]
fn a_cable_without_a_device_is_left_out() {
    let mut facts = bare(1);
    facts.netdevs.clear();
    assert_eq!(commands(&facts, &Wanted::default()), [""; 0]);
    assert_eq!(awaited(&facts, &peers(&facts)[0]), ["0-1"]);
}

#[test]
fn devices_to_come_are_assumed() {
    let mut facts = bare(2);
    facts.netdevs.clear();
    let (assumed, made_up) = assumed(&facts);
    assert!(made_up);
    assert_eq!(commands(&assumed, &Wanted::default()).len(), 8);
    assert!(!super::assumed(&bare(2)).1);
}

#[test]
fn the_module_is_loaded_where_it_is_not() {
    let mut facts = healthy();
    facts.modules.clear();
    let steps = modules(&facts, false);
    assert_eq!(steps, [Planned::of(Step::Load("usb4_rdma".into()))]);
}

#[test]
fn the_stock_driver_comes_back_with_what_its_devices_had() {
    let mut facts = healthy();
    facts.netdevs[0].driver = Some("thunderbolt-net".into());
    facts.netdevs[0].name = "thunderbolt0".into();
    facts.netdevs[0].mtu = 9000;
    facts.rdma[0].netdev = Some("thunderbolt0".into());
    facts.modules.push("thunderbolt_net".into());
    assert_eq!(modules(&facts, false), []);
    let steps = modules(&facts, true);
    let done: Vec<String> = steps.iter().map(|p| p.step.command()).collect();
    assert_eq!(
        done,
        [
            "rdma link del usb4r0",
            "rmmod usb4_rdma",
            "rmmod thunderbolt_net",
            "modprobe usb4_rdma"
        ]
    );
    let undone: Vec<String> = steps.iter().rev().flat_map(|p| &p.undo).map(Step::command).collect();
    assert_eq!(
        undone,
        [
            "rmmod usb4_rdma",
            "modprobe thunderbolt_net",
            "ip link set thunderbolt0 mtu 9000",
            "ip addr add fd79:2f75:c5a1::1/64 dev thunderbolt0 nodad",
            "ip addr add 10.85.15.177/30 dev thunderbolt0",
            "ip link set thunderbolt0 up",
            "rdma link add usb4r0 type usb4 netdev thunderbolt0",
            "modprobe usb4_rdma",
        ]
    );
}
