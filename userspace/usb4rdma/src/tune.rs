// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma tune`: settings that cost or gain, each with its reason; nothing is changed without `--apply`.

use crate::facts::{ethtool, governor_files, Facts, Net, Netdev, MODULE};
use crate::peers::peers;
use crate::plan::mtu_for;
use crate::text::table;
use anyhow::{ensure, Context, Result};
use rtnetlink::LinkUnspec;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

pub mod sweep;

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
/// A cable with new rings carries again within this.
const SETTLE: Duration = Duration::from_secs(4);
/// What the driver opens its rings with.
const RINGS: u32 = 512;
/// What the driver `thunderbolt` gives a path.
const CREDITS: u32 = 14;

/// What matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Long messages, and the processor's time
    Bandwidth,
    /// Short messages, whatever it costs
    Latency,
}

/// What `tune --json` prints; schema/tune.json describes it.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tune {
    /// Of this format.
    pub version: u32,
    pub host: String,
    pub goal: Goal,
    pub applied: bool,
    pub settings: Vec<Setting>,
    /// Round trips over the bare rings of each cable, before and after; empty unless applied.
    pub round_trips: Vec<RoundTrip>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Setting {
    pub what: String,
    pub now: String,
    /// The same where it is well.
    pub better: String,
    pub why: String,
    /// What sets it, and what sets it back; null where it is well, or not this tool's to set.
    pub command: Option<String>,
    pub undo: Option<String>,
    #[serde(skip)]
    change: Option<Change>,
}

/// Nanoseconds, as `ethtool -t` measures them; null where it cannot.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RoundTrip {
    pub netdev: String,
    pub before_median: Option<u64>,
    pub before_p99: Option<u64>,
    pub after_median: Option<u64>,
    pub after_p99: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Change {
    Moderation { netdev: String, usecs: u32, adaptive: bool },
    Rings { netdev: String, rx: u32, tx: u32 },
    Mtu { netdev: String, mtu: u32 },
    Governor(String),
}

impl Change {
    fn command(&self) -> String {
        match self {
            Change::Moderation {
                netdev, adaptive: true, ..
            } => format!("ethtool -C {netdev} adaptive-rx on"),
            Change::Moderation { netdev, usecs, .. } => {
                format!("ethtool -C {netdev} adaptive-rx off rx-usecs {usecs}")
            }
            Change::Rings { netdev, rx, tx } => format!("ethtool -G {netdev} rx {rx} tx {tx}"),
            Change::Mtu { netdev, mtu } => format!("ip link set {netdev} mtu {mtu}"),
            Change::Governor(name) => {
                format!("echo {name} | tee /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
            }
        }
    }

    fn make(&self, net: &Net) -> Result<()> {
        match self {
            Change::Moderation {
                netdev,
                usecs,
                adaptive,
            } => ethtool::set_coalesce(netdev, *usecs, *adaptive),
            Change::Rings { netdev, rx, tx } => ethtool::set_rings(netdev, *rx, *tx),
            Change::Mtu { netdev, mtu } => {
                let index = net.index(netdev)?.with_context(|| format!("there is no {netdev}"))?;
                let link = LinkUnspec::new_with_index(index).mtu(*mtu).build();
                Ok(net.wait(net.handle().link().set(link).execute())?)
            }
            Change::Governor(name) => {
                for file in governor_files(Path::new("/sys")) {
                    std::fs::write(&file, name).with_context(|| file.display().to_string())?;
                }
                Ok(())
            }
        }
    }
}

impl Tune {
    /// What could be better for the goal.
    pub fn of(facts: &Facts, goal: Goal) -> Tune {
        let facts = &facts.without_left();
        let mut settings = vec![];
        for netdev in facts
            .of_cables()
            .filter(|netdev| netdev.driver.as_deref() == Some(MODULE))
        {
            settings.extend(moderation(netdev, goal));
            settings.extend(rings(netdev));
        }
        for peer in peers(facts) {
            let Some(top) = peer.top(facts) else { continue };
            settings.push(mtu(top, mtu_for(facts, &peer)));
        }
        settings.extend(governor(facts));
        settings.extend(credits(facts));
        Tune {
            version: VERSION,
            host: facts.host.name.clone(),
            goal,
            applied: false,
            settings,
            round_trips: vec![],
        }
    }

    /// Makes the changes, with round trips measured before and after.
    ///
    /// # Errors
    ///
    /// No root, or the kernel refuses one.
    pub fn apply(mut self, net: &Net, facts: &Facts) -> Result<Tune> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "tune --apply needs root, as it sets up devices: `sudo usb4rdma tune --apply`"
        );
        let ports: Vec<&str> = facts.of_cables().map(|netdev| netdev.name.as_str()).collect();
        let before: Vec<_> = ports.iter().map(|port| round_trip(port)).collect();
        for setting in &self.settings {
            if let Some(change) = &setting.change {
                tracing::info!("{}", change.command());
                change.make(net).with_context(|| change.command())?;
            }
        }
        for (port, (before_median, before_p99)) in ports.into_iter().zip(before) {
            let (after_median, after_p99) = settled_round_trip(port, before_median.is_some());
            self.round_trips.push(RoundTrip {
                netdev: port.into(),
                before_median,
                before_p99,
                after_median,
                after_p99,
            });
        }
        self.applied = true;
        Ok(self)
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut rows = vec![["SETTING", "NOW", "BETTER"].map(String::from).to_vec()];
        for setting in &self.settings {
            let better = if setting.now == setting.better {
                "as it is"
            } else {
                &setting.better
            };
            rows.push(vec![setting.what.clone(), setting.now.clone(), better.into()]);
        }
        if self.applied {
            rows[0][1] = "WAS".into();
            rows[0][2] = "IS".into();
        }
        let mut text = table(&rows) + "\n";
        let changes: Vec<&Setting> = self.settings.iter().filter(|s| s.command.is_some()).collect();
        for setting in self.settings.iter().filter(|setting| setting.now != setting.better) {
            text += &format!("{}: {}\n", setting.what, setting.why);
        }
        let lines = |heading: &str, commands: &dyn Fn(&Setting) -> Option<String>| {
            let lines: String = changes
                .iter()
                .filter_map(|s| commands(s))
                .map(|c| format!("    {c}\n"))
                .collect();
            format!("{heading}\n{lines}")
        };
        if changes.is_empty() {
            return text + "nothing to set\n";
        }
        if !self.applied {
            return text
                + &lines("what `usb4rdma tune --apply` would do:", &|setting| {
                    setting.command.clone()
                });
        }
        let told = |time: Option<u64>| time.map_or("-".into(), |nanos| format!("{:.1}", nanos as f64 / 1000.0));
        let mut rows = vec![["ROUND TRIP, US", "MEDIAN BEFORE", "AFTER", "P99 BEFORE", "AFTER"]
            .map(String::from)
            .to_vec()];
        for trip in &self.round_trips {
            let times = [trip.before_median, trip.after_median, trip.before_p99, trip.after_p99];
            rows.push(std::iter::once(trip.netdev.clone()).chain(times.map(told)).collect());
        }
        text += &format!("{}\n", table(&rows));
        text + &lines("done; it lasts until the next boot. To undo it:", &|setting| {
            setting.undo.clone()
        })
    }
}

/// Median and p99 of round trips over a cable's bare rings.
fn round_trip(netdev: &str) -> (Option<u64>, Option<u64>) {
    let found = ethtool::test(netdev).unwrap_or_default();
    let of = |name: &str| {
        let time = found
            .iter()
            .find(|(found, _)| found.contains(name))
            .map(|(_, time)| *time);
        time.filter(|time| *time > 0)
    };
    (of("median"), of("p99"))
}

/// The same when the cable carries again: new rings take a moment.
fn settled_round_trip(netdev: &str, could: bool) -> (Option<u64>, Option<u64>) {
    let start = Instant::now();
    loop {
        let found = round_trip(netdev);
        if found.0.is_some() || !could || start.elapsed() > SETTLE {
            return found;
        }
        std::thread::sleep(SETTLE / 20);
    }
}

fn setting(what: String, now: String, better: String, why: &str, change: Option<(Change, Change)>) -> Setting {
    let (change, back) = change.filter(|_| now != better).unzip();
    Setting {
        what,
        now,
        better,
        why: why.into(),
        command: change.as_ref().map(Change::command),
        undo: back.as_ref().map(Change::command),
        change,
    }
}

fn moderation(netdev: &Netdev, goal: Goal) -> Option<Setting> {
    let (usecs, adaptive) = netdev.coalesce?;
    let told = |usecs: u32, adaptive: bool| match adaptive {
        true => "adaptive".to_string(),
        false => format!("every {usecs} us"),
    };
    let (better, why) = match goal {
        Goal::Bandwidth => (
            (0, true),
            "under load interrupts wait for each other, and one that is alone comes at once: a fixed interval makes \
             every answer late",
        ),
        Goal::Latency => (
            (0, false),
            "an interrupt for each frame: a short answer never waits for others, at the cost of a core under load",
        ),
    };
    let change = |(usecs, adaptive)| Change::Moderation {
        netdev: netdev.name.clone(),
        usecs,
        adaptive,
    };
    Some(setting(
        format!("{} receive interrupts", netdev.name),
        told(usecs, adaptive),
        told(better.0, better.1),
        why,
        Some((change(better), change((usecs, adaptive)))),
    ))
}

fn rings(netdev: &Netdev) -> Option<Setting> {
    let rings = netdev.rings?;
    let better = (
        rings.rx.max(RINGS.min(rings.rx_max)),
        rings.tx.max(RINGS.min(rings.tx_max)),
    );
    let change = |(rx, tx)| Change::Rings {
        netdev: netdev.name.clone(),
        rx,
        tx,
    };
    Some(setting(
        format!("{} rings", netdev.name),
        format!("{} in, {} out", rings.rx, rings.tx),
        format!("{} in, {} out", better.0, better.1),
        "a frame that finds no descriptor waits, and a train of 64 KiB takes 17 of them; the cable starts anew, which \
         RDMA survives and takes up to a second",
        Some((change(better), change((rings.rx, rings.tx)))),
    ))
}

fn mtu(netdev: &Netdev, most: u32) -> Setting {
    let change = |mtu| Change::Mtu {
        netdev: netdev.name.clone(),
        mtu,
    };
    setting(
        format!("{} MTU", netdev.name),
        netdev.mtu.to_string(),
        most.to_string(),
        "longer packets of the stack for the same work; 4176 is the least for RDMA packets of 4096 bytes; the same on \
         both hosts",
        Some((change(most), change(netdev.mtu))),
    )
}

fn governor(facts: &Facts) -> Option<Setting> {
    let now = facts.host.governors.join(" and ");
    let change = |name: &str| Change::Governor(name.to_string());
    // Several cannot be set back by one command.
    let back = facts.host.governors.first()?;
    Some(setting(
        "processors' clocks".into(),
        now,
        "performance".into(),
        "a processor that has slowed down takes long to wake for a frame; it costs power",
        Some((change("performance"), change(back))),
    ))
}

fn credits(facts: &Facts) -> Option<Setting> {
    let now = facts.host.dma_credits?;
    Some(setting(
        "thunderbolt.dma_credits".into(),
        now.to_string(),
        now.max(CREDITS).to_string(),
        "fewer frames under way on a path than the driver's own choice; it is read when the driver is loaded: `options \
         thunderbolt dma_credits=14` in /etc/modprobe.d, then boot",
        None,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Rings;
    use crate::health::tests::healthy;
    use crate::schema::same_as_file;

    fn facts() -> Facts {
        let mut facts = healthy();
        facts.netdevs[0].coalesce = Some((0, true));
        facts.netdevs[0].rings = Some(Rings {
            rx: 512,
            rx_max: 4096,
            tx: 512,
            tx_max: 4096,
        });
        facts.host.governors = vec!["performance".into()];
        facts.host.dma_credits = Some(14);
        facts
    }

    fn commands(facts: &Facts, goal: Goal) -> Vec<String> {
        let settings = Tune::of(facts, goal).settings;
        settings.into_iter().filter_map(|setting| setting.command).collect()
    }

    #[test]
    fn the_schema_is_that_of_the_type() {
        same_as_file("tune.json", schemars::schema_for!(Tune));
    }

    #[test]
    fn what_is_well_is_left() {
        assert_eq!(commands(&facts(), Goal::Bandwidth), [""; 0]);
        let text = Tune::of(&facts(), Goal::Bandwidth).text();
        assert_eq!(text.lines().last(), Some("nothing to set"));
        assert_eq!(text.matches("as it is").count(), 5, "{text}");
    }

    #[test]
    fn what_could_be_better_is_told_with_its_command_and_what_undoes_it() {
        let mut facts = facts();
        facts.netdevs[0].coalesce = Some((128, false));
        facts.netdevs[0].mtu = 9000;
        facts.netdevs[0].rings = Some(Rings {
            rx: 64,
            rx_max: 4096,
            tx: 1024,
            tx_max: 4096,
        });
        facts.host.governors = vec!["powersave".into()];
        let tune = Tune::of(&facts, Goal::Bandwidth);
        let (done, undone): (Vec<_>, Vec<_>) = tune
            .settings
            .iter()
            .filter_map(|s| s.command.clone().zip(s.undo.clone()))
            .unzip();
        assert_eq!(
            done,
            [
                "ethtool -C usb4net0 adaptive-rx on",
                "ethtool -G usb4net0 rx 512 tx 1024",
                "ip link set usb4net0 mtu 65522",
                "echo performance | tee /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
            ]
        );
        assert_eq!(
            undone[..3],
            [
                "ethtool -C usb4net0 adaptive-rx off rx-usecs 128",
                "ethtool -G usb4net0 rx 64 tx 1024",
                "ip link set usb4net0 mtu 9000"
            ]
        );
        let text = tune.text();
        assert!(
            text.contains("what `usb4rdma tune --apply` would do:\n    ethtool -C"),
            "{text}"
        );
    }

    #[test]
    fn for_latency_interrupts_come_at_once() {
        assert_eq!(
            commands(&facts(), Goal::Latency),
            ["ethtool -C usb4net0 adaptive-rx off rx-usecs 0"]
        );
    }

    #[test]
    fn few_credits_are_told_and_not_set() {
        let mut facts = facts();
        facts.host.dma_credits = Some(7);
        let tune = Tune::of(&facts, Goal::Bandwidth);
        assert_eq!(commands(&facts, Goal::Bandwidth), [""; 0]);
        assert!(tune.text().contains("options thunderbolt dma_credits=14"));
    }
}
