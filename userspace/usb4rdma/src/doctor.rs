// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma doctor`: all checks, with evidence; the worst finding is the exit status.

use crate::facts::Facts;
use crate::health::{self, Finding, Severity, CHECKS};
use crate::peers::peers;
use crate::text::Paint;
use serde::Serialize;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// What `doctor --json` prints; schema/doctor.json describes it.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Doctor {
    /// Of this format.
    pub version: u32,
    pub host: String,
    pub kernel: String,
    /// All codes that were looked for.
    pub checked: Vec<String>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

impl Doctor {
    pub fn of(facts: &Facts) -> Doctor {
        let codes = CHECKS
            .iter()
            .flat_map(|checks| checks.iter())
            .flat_map(|check| check.codes);
        Doctor {
            version: VERSION,
            host: facts.host.name.clone(),
            kernel: facts.host.kernel.clone(),
            checked: codes.map(|code| code.to_string()).collect(),
            findings: health::findings(facts),
        }
    }

    /// 0 where nothing is wrong, 1 where something could be better, 2 where RDMA does not work.
    pub fn status(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.severity).max() {
            None | Some(Severity::Info) => 0,
            Some(Severity::Warning) => 1,
            Some(Severity::Error) => 2,
        }
    }

    /// For a person.
    pub fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            text += &format!(
                "{} {}: {}\n    seen: {}\n",
                paint.severity(finding.severity),
                finding.code,
                finding.text,
                finding.evidence
            );
            if let Some(fix) = &finding.fix {
                text += &format!("    fix: {fix}\n");
            }
        }
        let count = |severity| {
            self.findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .count()
        };
        text += &format!(
            "{}: {} checks, {} errors, {} warnings, {} notes\n",
            self.host,
            self.checked.len(),
            count(Severity::Error),
            count(Severity::Warning),
            count(Severity::Info)
        );
        text
    }
}

/// A port where nobody listens: a host refuses a connection to it at once. A datagram would do too, but its answers are
/// limited to one a second.
const CLOSED: u16 = 9;
/// Longer than the second after which the first packet is sent again.
const ANSWER: Duration = Duration::from_millis(2500);

/// Finds out which peers do not answer at the address that they should have, and notes them in the facts.
pub fn probe(facts: &mut Facts) {
    let mut unreachable = vec![];
    for peer in peers(facts) {
        let pair = peer.addresses();
        let Some(top) = peer.top(facts) else { continue };
        // With addresses of a person's choice nothing is known of the peer's.
        if !top.carrier || !top.addresses.contains(&pair.own[0]) {
            continue;
        }
        let address = pair.peer[0].address;
        if !answers(address) {
            unreachable.push((peer.name.clone(), address.to_string()));
        }
    }
    facts.unreachable = unreachable;
}

/// Whether a host accepts or refuses a connection.
fn answers(address: IpAddr) -> bool {
    match TcpStream::connect_timeout(&SocketAddr::new(address, CLOSED), ANSWER) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::healthy;
    use crate::schema::same_as_file;

    #[test]
    fn the_schema_is_that_of_the_type() {
        same_as_file("doctor.json", schemars::schema_for!(Doctor));
    }

    #[test]
    fn the_worst_is_the_exit_status() {
        let mut facts = healthy();
        assert_eq!(Doctor::of(&facts).status(), 0);
        facts.cables[0].tx_speed = 20.0;
        assert_eq!(Doctor::of(&facts).status(), 0);
        facts.netdevs[0].mtu = 1500;
        assert_eq!(Doctor::of(&facts).status(), 1);
        facts.netdevs[0].up = false;
        assert_eq!(Doctor::of(&facts).status(), 2);
    }

    #[test]
    fn evidence_and_command_follow_each_finding() {
        let mut facts = healthy();
        facts.netdevs[0].up = false;
        let text = Doctor::of(&facts).text(Paint::none());
        assert_eq!(
            text.lines().map(str::trim).collect::<Vec<_>>()[..3],
            [
                "error netdev-down: usb4net0, the network device of cable 0-1, is down",
                "seen: ip link show usb4net0: no UP",
                "fix: ip link set usb4net0 up",
            ]
        );
    }

    #[test]
    fn this_host_answers_itself() {
        assert!(answers(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn every_code_is_in_the_documentation() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/doctor.md")).unwrap();
        for code in Doctor::of(&healthy()).checked {
            assert!(page.contains(&format!("| `{code}` |")), "docs/doctor.md lacks {code}");
        }
    }
}
