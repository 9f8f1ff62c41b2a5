// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Messages between the `usb4lab` commands and a lab's holder, and the client side of them.
//!
//! One Unix stream connection carries one request and its answer, one JSON line each. The socket lies in the
//! lab's state directory and is reached through an open directory, because such paths exceed what a socket
//! address can hold.

use anyhow::{bail, Context, Result};
use base64::{engine::general_purpose::STANDARD, Engine};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Name of the socket in the state directory.
const SOCKET: &str = "ctl";

/// What a holder is asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
pub enum Request {
    /// Run a program in a guest.
    Exec {
        host: usize,
        argv: Vec<String>,
        timeout_s: u64,
    },
    /// Put a file into a guest; base64 content.
    Put {
        host: usize,
        path: String,
        content: String,
        mode: u32,
    },
    /// Pass a command to the fabric.
    Fabric { body: Value },
    /// CPU seconds of guests and fabric, with the fabric's counters.
    Stat,
    /// End a guest as a power cut would.
    Kill { host: usize },
    /// Start a guest that has ended.
    Boot { host: usize },
    /// End the lab.
    Down,
}

/// A holder's answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done(Value),
    Failed(String),
}

/// How a program in a guest ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Output {
    pub status: i32,
    #[serde(with = "bytes")]
    pub stdout: Vec<u8>,
    #[serde(with = "bytes")]
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Asks the holder of the lab in `state` and waits for its answer.
pub fn ask(state: &Path, request: &Request) -> Result<Value> {
    let stream = match near(state).and_then(|near| Ok(UnixStream::connect(near.path())?)) {
        Ok(stream) => stream,
        Err(_) => bail!("no lab is running in {}: start one with `usb4lab up`", state.display()),
    };
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    (&stream)
        .write_all(line.as_bytes())
        .context("the lab's holder went away")?;
    let mut answer = String::new();
    BufReader::new(&stream)
        .read_line(&mut answer)
        .context("the lab's holder went away")?;
    if answer.is_empty() {
        bail!("the lab's holder ended: see {}", state.join("holder.log").display());
    }
    match serde_json::from_str(&answer)? {
        Answer::Done(value) => Ok(value),
        Answer::Failed(error) => bail!("{error}"),
    }
}

/// Opens the holder's socket.
pub fn listen(state: &Path) -> Result<UnixListener> {
    let near = near(state)?;
    let _ = std::fs::remove_file(near.path());
    UnixListener::bind(near.path()).with_context(|| format!("socket in {}", state.display()))
}

/// Removes what `listen` made.
pub fn unlink(state: &Path) {
    let _ = std::fs::remove_file(state.join(SOCKET));
}

/// A short name for the socket, valid while the directory is held open.
struct Near(File);

impl Near {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()))
    }
}

fn near(state: &Path) -> Result<Near> {
    Ok(Near(File::open(state).with_context(|| format!("{}", state.display()))?))
}

/// A stream to a socket anywhere in the file system, however long its path.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let dir = path.parent().context("socket without a directory")?;
    let name = path.file_name().context("socket without a name")?;
    let dir = File::open(dir).with_context(|| format!("{}", dir.display()))?;
    let near = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    UnixStream::connect(near).with_context(|| format!("{}", path.display()))
}

/// Bytes as base64 in JSON.
mod bytes {
    use super::*;
    use serde::{de::Error, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_survives_the_wire_whatever_its_bytes() {
        let output = Output {
            status: 3,
            stdout: vec![0, 255, 10],
            stderr: b"e".to_vec(),
        };
        let back: Output = serde_json::from_str(&serde_json::to_string(&output).unwrap()).unwrap();
        assert_eq!((back.status, back.stdout), (3, vec![0, 255, 10]));
    }

    #[test]
    fn asking_where_no_lab_runs_names_the_command() {
        let error = ask(Path::new("/nonexistent"), &Request::Stat).unwrap_err().to_string();
        assert!(error.contains("usb4lab up"), "{error}");
    }
}
