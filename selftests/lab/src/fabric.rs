// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The `fabricd` process of a lab and its control socket.

use crate::control::connect;
use crate::{cpu, log, paths, spec::LabSpec};
use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Longest wait for an answer on the control socket.
const ANSWER: Duration = Duration::from_secs(10);

/// The running model of routers and cables.
pub struct Fabric {
    child: Mutex<Child>,
    control: Mutex<Option<UnixStream>>,
    dir: PathBuf,
    log: PathBuf,
}

impl Fabric {
    /// Starts `fabricd` with its sockets in `dir`; returns once they listen.
    pub fn start(spec: &LabSpec, dir: &Path, log: &Path) -> Result<Fabric> {
        let program = paths::fabricd()?;
        fs::create_dir_all(dir)?;
        let description = dir.join("spec.json");
        fs::write(&description, serde_json::to_string_pretty(&spec.fabric())?)?;
        let mut command = Command::new(&program);
        cpu::as_hardware(&mut command);
        let mut child = command
            .arg("--dir")
            .arg(dir)
            .arg("--spec")
            .arg(&description)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut word = String::new();
        let stdout = child.stdout.take().context("fabricd without output")?;
        BufReader::new(stdout).read_line(&mut word)?;
        if word.trim() != "ready" {
            bail!(
                "fabricd did not come up; its log {} ends:\n{}",
                log.display(),
                log::tail(log, 10)
            );
        }
        Ok(Fabric {
            child: Mutex::new(child),
            control: Mutex::new(None),
            dir: dir.to_path_buf(),
            log: log.to_path_buf(),
        })
    }

    /// Sends one command and returns the answer.
    pub fn ask(&self, body: &Value) -> Result<Value> {
        let mut held = self.control.lock().unwrap_or_else(|e| e.into_inner());
        let stream = match held.take() {
            Some(stream) => stream,
            None => connect(&self.dir.join("ctl"))?,
        };
        stream.set_read_timeout(Some(ANSWER))?;
        let where_to_look = || format!("fabricd does not answer: see {}", self.log.display());
        (&stream)
            .write_all(format!("{body}\n").as_bytes())
            .with_context(where_to_look)?;
        let mut line = String::new();
        BufReader::new(&stream)
            .read_line(&mut line)
            .with_context(where_to_look)?;
        let answer: Value = serde_json::from_str(&line).with_context(where_to_look)?;
        *held = Some(stream);
        if answer["ok"] != true {
            bail!(
                "the fabric refused {body}: {}",
                answer["error"].as_str().unwrap_or("no reason given")
            );
        }
        Ok(answer)
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(|e| e.into_inner()).id()
    }

    /// Ends the process.
    pub fn stop(&self) {
        let _ = self.ask(&json!({"cmd": "quit"}));
        let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        let _ = child.kill();
        let _ = child.wait();
    }
}
