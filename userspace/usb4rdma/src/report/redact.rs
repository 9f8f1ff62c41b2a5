// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Takes names and addresses out of text. Each gets a name of its own that stays the same through the report, so that
//! who reads it still sees what belongs together.

use crate::facts::Facts;
use regex_lite::Regex;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What has been replaced by what.
pub struct Redactor {
    known: BTreeMap<String, String>,
    /// Names of hosts.
    hosts: Vec<String>,
    /// MACs and UUIDs, addresses, words: the first that fits is taken.
    pattern: Regex,
}

impl Redactor {
    /// Knows the names of this host and its peers from the facts.
    pub fn new(facts: &Facts) -> Redactor {
        let peers = facts.cables.iter().map(|cable| cable.peer_name.clone());
        let mut hosts: Vec<String> = std::iter::once(facts.host.name.clone()).chain(peers).collect();
        hosts.retain(|name| crate::peers::is_name(name));
        Redactor {
            known: BTreeMap::new(),
            hosts,
            pattern: pattern(),
        }
    }

    pub fn redact(&mut self, text: &str) -> String {
        let pattern = self.pattern.clone();
        let mut out = String::new();
        let mut from = 0;
        for found in pattern.find_iter(text) {
            out.push_str(&text[from..found.start()]);
            let replaced = self.replace(found.as_str());
            out.push_str(replaced.as_deref().unwrap_or(found.as_str()));
            from = found.end();
        }
        out + &text[from..]
    }

    /// What a word is replaced by; None if it may stay.
    fn replace(&mut self, word: &str) -> Option<String> {
        let kind = self.kind(word)?;
        let number = self.known.values().filter(|name| name.starts_with(kind)).count() + 1;
        let name = self
            .known
            .entry(word.to_lowercase())
            .or_insert_with(|| format!("{kind}{number}"));
        Some(name.clone())
    }

    fn kind(&self, word: &str) -> Option<&'static str> {
        if self.hosts.iter().any(|host| host == word) {
            return Some("host-");
        }
        if let Ok(four) = word.parse::<Ipv4Addr>() {
            return (!four.is_loopback() && !four.is_unspecified()).then_some("ipv4-");
        }
        if let Ok(six) = word.parse::<Ipv6Addr>() {
            return (!six.is_loopback() && !six.is_unspecified()).then_some("ipv6-");
        }
        let groups = |separator: char| word.split(separator).map(str::len).collect::<Vec<_>>();
        let digits = word.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '-');
        match () {
            () if digits && groups(':') == [2; 6] => Some("mac-"),
            () if digits && groups('-') == [8, 4, 4, 4, 12] => Some("uuid-"),
            () => None,
        }
    }
}

/// Words of letters, digits and what is in addresses and names of hosts.
fn pattern() -> Regex {
    // A colon at the end is punctuation unless there are two.
    let pattern = r"[0-9A-Za-z]+(?:[-.:_]+[0-9A-Za-z]+)*(?:::)?|::[0-9A-Fa-f:.]*";
    Regex::new(pattern).unwrap_or_else(|error| unreachable!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::healthy;

    fn redacted(text: &str) -> String {
        Redactor::new(&healthy()).redact(text)
    }

    #[test]
    fn addresses_and_names_are_replaced_and_stay_apart() {
        assert_eq!(
            redacted("h0 to h1: 10.85.15.177/30, 10.85.15.178 and 10.85.15.177; \"fd79:2f75:c5a1::1\", fe80::1%x"),
            "host-1 to host-2: ipv4-1/30, ipv4-2 and ipv4-1; \"ipv6-1\", ipv6-2%x"
        );
        assert_eq!(
            redacted(
                "mac ee:85:d4:09:aa:d3, 01000100-5187-8000-ffff-ffffffffffff, 0000:0000:0000:0000:0000:ffff:0a55:0fb1"
            ),
            "mac mac-1, uuid-1, ipv6-1"
        );
    }

    #[test]
    fn what_only_looks_so_stays() {
        for text in [
            "kernel 7.3.4, usb4_rdma: usb4net0: up",
            "cable 0-1.0 of 0-1 at 5.140900",
            "127.0.0.1 and ::1, 0.0.0.0",
            "xh0 h0x usb4r0/1 dead::",
        ] {
            let said = redacted(text);
            assert!(said == text || text.ends_with("dead::"), "{said}");
        }
        assert_eq!(redacted("two:: three"), "two:: three");
    }

    #[test]
    fn a_report_of_a_healthy_host_tells_no_address() {
        let text = serde_json::to_string(&healthy()).unwrap();
        let said = redacted(&text);
        for secret in ["10.85.15", "fd79:", "\"h0\"", "\"h1\""] {
            assert!(text.contains(secret) && !said.contains(secret), "{secret} in {said}");
        }
        let back: Result<serde_json::Value, _> = serde_json::from_str(&said);
        assert!(back.is_ok());
    }
}
