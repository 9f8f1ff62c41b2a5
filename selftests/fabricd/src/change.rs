// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Changes an operator makes to the fabric: cables and faults, now or at a set time.

use serde::Deserialize;
use serde_json::Value;
use usb4_model::{Fabric, Instant, Memory, Rules};

/// A command that changes the fabric.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase", deny_unknown_fields)]
pub enum Change {
    Cable {
        op: CableOp,
        cable: usize,
        #[serde(default)]
        value: Option<f64>,
    },
    Fault {
        #[serde(default)]
        set: Option<FaultSet>,
        /// All other rules go to zero.
        #[serde(default)]
        clear: bool,
        #[serde(default)]
        cable: Option<usize>,
        #[serde(default)]
        seed: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CableOp {
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
pub struct FaultSet {
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

/// A change and when to make it, if not at once.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    pub at: Option<Instant>,
    pub change: Change,
}

impl Timed {
    /// Reads a change with its optional `at_ns` (nanoseconds of the fabric's clock).
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(mut value: Value) -> Result<Timed, String> {
        let at = value.as_object_mut().and_then(|object| object.remove("at_ns"));
        let at = match at {
            None | Some(Value::Null) => None,
            Some(at) => Some(Instant(at.as_f64().ok_or("at_ns: a number is wanted")? as u64)),
        };
        let change = serde_json::from_value(value).map_err(|error| error.to_string())?;
        Ok(Timed { at, change })
    }
}

impl Change {
    /// Checks what can be checked before it is time: cables and probabilities.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, cables: usize) -> Result<(), String> {
        let cable = match *self {
            Change::Cable { cable, .. } => Some(cable),
            Change::Fault { cable, .. } => cable,
        };
        if cable.is_some_and(|cable| cable >= cables) {
            return Err(format!("no such cable, there are {cables}"));
        }
        match self {
            Change::Fault { set: Some(set), .. } => set.apply(&mut Rules::default()),
            _ => Ok(()),
        }
    }

    /// Makes the change, which was checked.
    pub fn apply<M: Memory>(&self, fabric: &mut Fabric<M>) {
        match *self {
            Change::Cable { op, cable, value } => match op {
                CableOp::Pull => fabric.set_plugged(cable, false),
                CableOp::Plug => fabric.set_plugged(cable, true),
                CableOp::Downgrade => fabric.set_downgraded(cable, true),
                CableOp::Restore => fabric.set_downgraded(cable, false),
                CableOp::Rate => fabric.set_rate(cable, value.map(|rate| rate as u64).filter(|&rate| rate > 0)),
                CableOp::Latency => fabric.set_latency(cable, value.unwrap_or(0.0) as u64),
            },
            Change::Fault {
                set,
                clear,
                cable,
                seed,
            } => {
                for index in 0..fabric.cables().len() {
                    if cable.is_some_and(|cable| cable != index) {
                        continue;
                    }
                    let mut rules = if clear {
                        Rules::default()
                    } else {
                        fabric.cables()[index].faults.rules()
                    };
                    // Checked before: it cannot fail now.
                    if set.is_none_or(|set| set.apply(&mut rules).is_ok()) {
                        fabric.set_faults(Some(index), rules, seed);
                    }
                }
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Timed, String> {
        Timed::parse(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn changes_are_understood() {
        for line in [
            r#"{"cmd":"cable","op":"pull","cable":0}"#,
            r#"{"cmd":"cable","op":"rate","cable":0,"value":40e9}"#,
            r#"{"cmd":"cable","op":"latency","cable":0,"value":500}"#,
            r#"{"cmd":"fault","set":{"drop":1e-2,"lost_irq":0.5,"delay_ns":1000},"cable":null,"seed":7}"#,
            r#"{"cmd":"fault","clear":true}"#,
        ] {
            assert_eq!(parse(line).unwrap().change.check(1), Ok(()), "{line}");
        }
        let timed = parse(r#"{"cmd":"cable","op":"pull","cable":0,"at_ns":3e9}"#).unwrap();
        assert_eq!(timed.at, Some(Instant(3_000_000_000)));
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(parse(r#"{"cmd":"fault","set":{"drip":1}}"#).is_err());
        assert!(parse(r#"{"cmd":"cable","op":"pull","cable":0,"at_ns":"noon"}"#).is_err());
        assert!(parse(r#"{"cmd":"fault","set":{"drop":1.5}}"#)
            .unwrap()
            .change
            .check(1)
            .is_err());
        assert!(parse(r#"{"cmd":"cable","op":"pull","cable":1}"#)
            .unwrap()
            .change
            .check(1)
            .is_err());
    }
}
