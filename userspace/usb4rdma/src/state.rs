// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What `up` has done since boot, so that `down` undoes that and nothing else.
//!
//! The file is in /run, as what it is about does not outlive a boot either. It is written after each step, whole, by a
//! rename: whatever interrupts `up`, `down` knows how far it came.

use crate::facts::Address;
use crate::plan::Step;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the tool keeps it.
const DIR: &str = "/run/usb4rdma";
/// Version of the file.
const VERSION: u32 = 1;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// What undoes all that was done, the first to be done last.
    undo: Vec<Step>,
    #[serde(skip)]
    dir: PathBuf,
}

impl State {
    /// What is there; empty if nothing has been done.
    ///
    /// # Errors
    ///
    /// A file that another version wrote, or nobody.
    pub fn load() -> Result<State> {
        State::load_from(Path::new(DIR))
    }

    fn load_from(dir: &Path) -> Result<State> {
        let empty = State {
            version: VERSION,
            undo: vec![],
            dir: dir.to_path_buf(),
        };
        let path = dir.join("state.json");
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(empty);
        };
        let state: State = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not of this version: undo by hand what it lists, then remove it",
                path.display()
            )
        })?;
        Ok(State {
            dir: empty.dir,
            ..state
        })
    }

    /// Notes that something has been done, which `undo`, in this order, undoes.
    pub fn note(&mut self, undo: Vec<Step>) -> Result<()> {
        self.undo.extend(undo.into_iter().rev());
        self.save()
    }

    /// What is to be undone next.
    pub fn last(&self) -> Option<&Step> {
        self.undo.last()
    }

    /// The addresses that were given since boot, each with its network device.
    pub fn given(&self) -> Vec<(String, Address)> {
        let given = self.undo.iter().filter_map(|step| match step {
            Step::DeleteAddress { netdev, address } => Some((netdev.clone(), *address)),
            _ => None,
        });
        given.collect()
    }

    /// The commands that undo it all, a line each.
    pub fn commands(&self) -> String {
        self.undo.iter().rev().map(|step| step.command() + "\n").collect()
    }

    /// Notes that the last one has been undone. With the first the file goes too.
    pub fn undone(&mut self) -> Result<()> {
        self.undo.pop();
        self.save()
    }

    fn save(&self) -> Result<()> {
        if self.undo.is_empty() {
            let _ = fs::remove_file(self.dir.join("state.json"));
            let _ = fs::remove_dir(&self.dir);
            return Ok(());
        }
        let what = || format!("what was done cannot be kept in {}", self.dir.display());
        fs::create_dir_all(&self.dir).with_context(what)?;
        let new = self.dir.join("state.json.new");
        fs::write(&new, serde_json::to_string_pretty(self)? + "\n").with_context(what)?;
        fs::rename(&new, self.dir.join("state.json")).with_context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_last_is_undone_first_and_nothing_stays() {
        let dir = std::env::temp_dir().join(format!("usb4rdma-state-{}", std::process::id()));
        let mut state = State::load_from(&dir).unwrap();
        state.note(vec![Step::DeleteBond("b".into())]).unwrap();
        state.note(vec![Step::Leave("p".into()), Step::Up("p".into())]).unwrap();
        let mut again = State::load_from(&dir).unwrap();
        assert_eq!(again, state);
        let mut order = vec![];
        while let Some(step) = again.last().cloned() {
            order.push(step);
            again.undone().unwrap();
        }
        assert_eq!(
            order,
            [
                Step::Leave("p".into()),
                Step::Up("p".into()),
                Step::DeleteBond("b".into())
            ]
        );
        assert!(!dir.exists());
    }

    #[test]
    fn a_file_of_nobody_is_an_error_that_says_what_to_do() {
        let dir = std::env::temp_dir().join(format!("usb4rdma-state-bad-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("state.json"), "{}").unwrap();
        let error = format!("{:#}", State::load_from(&dir).unwrap_err());
        fs::remove_dir_all(&dir).unwrap();
        assert!(error.contains("then remove it"), "{error}");
    }
}
