// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Lists of two-sided runs, played inside the guests one after the other.
//!
//! One command to each guest for the whole list (`guest/duo.py`), so that hundreds of short runs cost little more
//! than themselves.

use crate::lab::Lab;
use crate::verbs::{wait_listen, Pair};
use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// TCP port on which the two players meet.
const MEET: u16 = 7001;
/// Where the client's player finds its list.
const LIST: &str = "/usb4lab/x/runs.json";
/// What playing may take beyond the programs' own limits, seconds: a server has 10 to listen and 10 to end.
const SLACK: u64 = 30;

/// A server program on the pair's server, and a client program on its client.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub id: String,
    /// Lines of shell.
    pub server: String,
    pub client: String,
    /// The client starts when the server listens here: `tcp:PORT`, `udp:PORT`, `cm:PORT` for rdma_cm, or empty.
    pub listen: String,
    /// Seconds that the client may take.
    pub limit: u64,
}

/// How a program ended.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    /// 124 is the time limit.
    pub status: i32,
    pub out: String,
    pub err: String,
}

/// How a run went.
#[derive(Clone, Debug, Deserialize)]
pub struct Played {
    pub id: String,
    pub client: Said,
    pub server: Said,
    /// Time of the client.
    pub seconds: f64,
}

impl Played {
    /// Why the run does not count; None if both programs succeeded.
    pub fn trouble(&self) -> Option<String> {
        if self.client.status == 0 && self.server.status == 0 {
            return None;
        }
        let side = |name: &str, said: &Said| {
            let late = if said.status == 124 { " (time limit)" } else { "" };
            let text = format!("{}{}", said.out, said.err);
            format!("{name}: status {}{late}\n{}", said.status, text.trim_end())
        };
        Some(format!(
            "{}\n{}\n{}",
            self.id,
            side("client", &self.client),
            side("server", &self.server)
        ))
    }
}

impl Pair {
    /// Plays the runs in order, all of them whatever they come to.
    pub fn play(&self, lab: &Lab, runs: &[Run]) -> Result<Vec<Played>> {
        let mut list = String::new();
        for run in runs {
            list += &(serde_json::to_string(run)? + "\n");
        }
        let limit = Duration::from_secs(60 + runs.iter().map(|r| r.limit + SLACK).sum::<u64>());
        lab.put(self.client.host, LIST, list.as_bytes(), 0o644)?;
        let serving = lab.start(self.server.host, &format!("exec /usb4lab/duo.py serve {MEET}"), limit);
        let called = wait_listen(lab, self.server.host, MEET).and_then(|()| {
            let port = MEET.to_string();
            let argv = ["/usb4lab/duo.py", "call", &self.server.ipv4, &port, LIST];
            lab.run(self.client.host, &argv, limit)
        });
        if !matches!(&called, Ok(output) if output.status == 0) {
            lab.run(
                self.server.host,
                &["pkill", "-KILL", "-f", "usb4lab/duo.py"],
                Duration::from_secs(20),
            )?;
        }
        let served = serving.wait()?;
        let called = called?;
        if called.status != 0 || served.status != 0 {
            bail!(
                "the players did not get through their {} runs:\n{}{}",
                runs.len(),
                called.errors(),
                served.errors()
            );
        }
        called
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("a player printed {line:?}")))
            .collect()
    }

    /// Plays the runs and insists that every one succeeds.
    pub fn play_all(&self, lab: &Lab, runs: &[Run]) -> Result<Vec<Played>> {
        let played = self.play(lab, runs)?;
        let troubles: Vec<String> = played.iter().filter_map(Played::trouble).collect();
        if !troubles.is_empty() {
            bail!(
                "{} of {} runs from {} to {} failed:\n{}",
                troubles.len(),
                runs.len(),
                self.client.name,
                self.server.name,
                troubles.join("\n")
            );
        }
        Ok(played)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_when_both_sides_end_well() {
        let text = r#"{"id": "x", "client": {"status": 0, "out": "", "err": ""},
                       "server": {"status": 124, "out": "", "err": "waiting"}, "seconds": 0.5}"#;
        let mut played: Played = serde_json::from_str(text).unwrap();
        assert!(played.trouble().unwrap().contains("status 124 (time limit)\nwaiting"));
        played.server.status = 0;
        assert!(played.trouble().is_none());
    }
}
