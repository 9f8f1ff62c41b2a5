// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The control socket: one JSON object a line in, one a line out.
//!
//! ```text
//! {"cmd":"stat"}                                             counters of everything
//! {"cmd":"cable","op":"pull","cable":0}                      also plug, downgrade, restore
//! {"cmd":"cable","op":"rate","cable":0,"value":40e9}         bits per second, null or 0 for unlimited; latency in ns
//! {"cmd":"fault","set":{"drop":0.01},"cable":0,"seed":1}     cable null or absent: all of them
//! {"cmd":"fault","clear":true}
//! {"cmd":"quit"}
//! ```
//!
//! Answers are `{"ok":true,...}` or `{"ok":false,"error":"..."}`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{json, Value};
use usb4_model::Rules;

use crate::report;
use crate::service::Service;

/// Longest line that is read.
const LINE_LEN: u64 = 64 * 1024;

#[derive(Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase", deny_unknown_fields)]
enum Command {
    Stat,
    Cable {
        op: CableOp,
        cable: usize,
        #[serde(default)]
        value: Option<f64>,
    },
    Fault {
        #[serde(default)]
        set: Option<FaultSet>,
        #[serde(default)]
        clear: bool,
        #[serde(default)]
        cable: Option<usize>,
        #[serde(default)]
        seed: Option<u64>,
    },
    Quit,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CableOp {
    Pull,
    Plug,
    Rate,
    Latency,
    Downgrade,
    Restore,
}

/// The rules that a command names; the others stay as they are.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultSet {
    drop: Option<f64>,
    corrupt: Option<f64>,
    dup: Option<f64>,
    delay: Option<f64>,
    delay_ns: Option<f64>,
    reorder: Option<f64>,
    strand: Option<f64>,
    lost_irq: Option<f64>,
    overrun: Option<f64>,
}

impl FaultSet {
    fn apply(&self, rules: &mut Rules) -> Result<(), String> {
        let pairs = [
            ("drop", self.drop, &mut rules.drop),
            ("corrupt", self.corrupt, &mut rules.corrupt),
            ("dup", self.dup, &mut rules.duplicate),
            ("delay", self.delay, &mut rules.delay),
            ("reorder", self.reorder, &mut rules.reorder),
            ("strand", self.strand, &mut rules.strand),
            ("lost_irq", self.lost_irq, &mut rules.lost_irq),
            ("overrun", self.overrun, &mut rules.overrun),
        ];
        for (name, value, rule) in pairs {
            let Some(value) = value else { continue };
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name}: a probability is between 0 and 1"));
            }
            *rule = value;
        }
        if let Some(delay_ns) = self.delay_ns {
            rules.delay_ns = delay_ns as u64;
        }
        Ok(())
    }
}

/// Serves control connections for ever.
pub fn serve(service: &Arc<Service>, listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        let service = service.clone();
        let spawned = std::thread::Builder::new().name("ctl".into()).spawn(move || {
            // A client that goes away is no error.
            let _ = converse(&service, stream);
        });
        if let Err(error) = spawned {
            eprintln!("control connection: {error}");
        }
    }
}

fn converse(service: &Service, mut stream: UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if std::io::Read::take(&mut reader, LINE_LEN).read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            continue;
        }
        let (answer, quit) = match execute(service, &line) {
            Ok((value, quit)) => (value, quit),
            Err(error) => (json!({"ok": false, "error": error}), false),
        };
        writeln!(stream, "{answer}")?;
        if quit {
            std::process::exit(0);
        }
    }
}

fn execute(service: &Service, line: &str) -> Result<(Value, bool), String> {
    let command: Command = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let mut answer = json!({"ok": true});
    match command {
        Command::Stat => {
            let mut report = report::stat(service);
            if let (Value::Object(into), Value::Object(from)) = (&mut answer, &mut report) {
                into.append(from);
            }
        }
        Command::Cable { op, cable, value } => operate(service, op, cable, value)?,
        Command::Fault {
            set,
            clear,
            cable,
            seed,
        } => service.with(|fabric, now| {
            fabric.step(now);
            let count = fabric.cables().len();
            if cable.is_some_and(|cable| cable >= count) {
                return Err("no such cable".to_owned());
            }
            for index in 0..count {
                if cable.is_some_and(|cable| cable != index) {
                    continue;
                }
                let mut rules = if clear {
                    Rules::default()
                } else {
                    fabric.cables()[index].faults.rules()
                };
                if let Some(set) = &set {
                    set.apply(&mut rules)?;
                }
                fabric.set_faults(Some(index), rules, seed);
            }
            Ok(())
        })?,
        Command::Quit => return Ok((answer, true)),
    }
    Ok((answer, false))
}

fn operate(service: &Service, op: CableOp, cable: usize, value: Option<f64>) -> Result<(), String> {
    service.with(|fabric, now| {
        fabric.step(now);
        if cable >= fabric.cables().len() {
            return Err("no such cable".to_owned());
        }
        match op {
            CableOp::Pull => fabric.set_plugged(cable, false),
            CableOp::Plug => fabric.set_plugged(cable, true),
            CableOp::Downgrade => fabric.set_downgraded(cable, true),
            CableOp::Restore => fabric.set_downgraded(cable, false),
            CableOp::Rate => fabric.set_rate(cable, value.map(|rate| rate as u64).filter(|&rate| rate > 0)),
            CableOp::Latency => fabric.set_latency(cable, value.unwrap_or(0.0) as u64),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        for line in [
            r#"{"cmd":"stat"}"#,
            r#"{"cmd":"cable","op":"pull","cable":0}"#,
            r#"{"cmd":"cable","op":"rate","cable":0,"value":40e9}"#,
            r#"{"cmd":"cable","op":"latency","cable":1,"value":500}"#,
            r#"{"cmd":"fault","set":{"drop":1e-2,"lost_irq":0.5,"delay_ns":1000},"cable":null,"seed":7}"#,
            r#"{"cmd":"fault","clear":true}"#,
        ] {
            assert!(serde_json::from_str::<Command>(line).is_ok(), "{line}");
        }
        assert!(serde_json::from_str::<Command>(r#"{"cmd":"fault","set":{"drip":1}}"#).is_err());
    }

    #[test]
    fn probabilities_are_checked() {
        let set: FaultSet = serde_json::from_str(r#"{"drop":1.5}"#).unwrap();
        assert!(set.apply(&mut Rules::default()).is_err());
    }
}
