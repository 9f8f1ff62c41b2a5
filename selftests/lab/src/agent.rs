// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Client of the QEMU guest agent, the channel into guests of both tiers.
//!
//! The agent speaks one JSON object per line over a byte stream: a User-mode Linux serial line or a
//! virtio-serial port. It answers one command at a time; `guest-exec` returns at once, so programs run
//! side by side all the same. Interface: QEMU's guest agent protocol reference.

use anyhow::{bail, Context, Result};
use base64::{engine::general_purpose::STANDARD, Engine};
use serde_json::{json, Value};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest wait for one answer from a live guest.
const ANSWER: Duration = Duration::from_secs(60);
/// Byte that makes the agent's parser forget what came before.
const RESET: u8 = 0xff;

/// Wait for the agent to get in step again before a question, after one that it left unanswered.
const RESYNC: Duration = Duration::from_secs(5);

/// A connection to one guest's agent.
///
/// Answers carry no mark of their question. One that comes after its question was given up would be taken for the
/// answer to the next, and all that follow would be one off: after a question without answer the agent is asked to
/// synchronise, and what it says before that is dropped.
pub struct Agent {
    stream: UnixStream,
    pending: Vec<u8>,
    next_id: u64,
    /// The last question has had no answer yet.
    behind: bool,
    /// Longest wait for an answer, and for synchronisation.
    answer: Duration,
    resync: Duration,
}

/// What `guest-exec-status` says about a program.
pub struct Finished {
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Agent {
    pub fn new(stream: UnixStream) -> Agent {
        Agent {
            stream,
            pending: Vec::new(),
            next_id: 1,
            behind: false,
            answer: ANSWER,
            resync: RESYNC,
        }
    }

    /// Tries once to get in step with the agent; false if it did not answer within `wait`.
    pub fn sync(&mut self, wait: Duration) -> Result<bool> {
        self.next_id += 1;
        let id = self.next_id;
        let mut line = vec![RESET];
        line.extend(
            json!({"execute": "guest-sync-delimited", "arguments": {"id": id}})
                .to_string()
                .bytes(),
        );
        line.push(b'\n');
        self.stream.write_all(&line).context("the guest's channel is closed")?;
        let until = Instant::now() + wait;
        while let Some(line) = self.line(until)? {
            let text = line.rsplit(|&b| b == RESET).next().unwrap_or_default();
            if serde_json::from_slice::<Value>(text).is_ok_and(|v| v["return"] == id) {
                self.behind = false;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Runs one agent command and returns its result.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        if self.behind && !self.sync(self.resync)? {
            bail!(
                "the guest's agent left a question unanswered and does not synchronise within {} s: the guest hangs; \
                 end it with `usb4lab down`",
                self.resync.as_secs()
            );
        }
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.behind = true;
        self.stream
            .write_all(line.as_bytes())
            .context("the guest's channel is closed")?;
        let Some(answer) = self.line(Instant::now() + self.answer)? else {
            bail!(
                "the guest's agent did not answer {command} within {} s",
                self.answer.as_secs()
            );
        };
        self.behind = false;
        let text = answer.rsplit(|&b| b == RESET).next().unwrap_or_default();
        let answer: Value = serde_json::from_slice(text)
            .with_context(|| format!("the agent answered {command} with {:?}", String::from_utf8_lossy(text)))?;
        if let Some(error) = answer.get("error") {
            bail!("{command}: {}", error["desc"].as_str().unwrap_or("refused"));
        }
        Ok(answer["return"].clone())
    }

    /// Starts a program in the guest; its agent handle.
    pub fn start(&mut self, argv: &[String], capture: bool) -> Result<i64> {
        let (path, args) = argv.split_first().context("empty command")?;
        let made = self.call(
            "guest-exec",
            json!({"path": path, "arg": args, "capture-output": capture}),
        )?;
        made["pid"].as_i64().context("guest-exec gave no pid")
    }

    /// Asks after a program once; None while it runs. A finished program can be asked after once only.
    pub fn poll(&mut self, pid: i64) -> Result<Option<Finished>> {
        let state = self.call("guest-exec-status", json!({"pid": pid}))?;
        if state["exited"] != true {
            return Ok(None);
        }
        let bytes = |key: &str| -> Result<Vec<u8>> {
            match state[key].as_str() {
                Some(text) => Ok(STANDARD.decode(text)?),
                None => Ok(Vec::new()),
            }
        };
        let status = match (state["exitcode"].as_i64(), state["signal"].as_i64()) {
            (Some(code), _) => code as i32,
            (None, Some(signal)) => 128 + signal as i32,
            (None, None) => bail!("guest-exec-status gave neither exit code nor signal"),
        };
        Ok(Some(Finished {
            status,
            stdout: bytes("out-data")?,
            stderr: bytes("err-data")?,
        }))
    }

    /// Writes a file in the guest.
    pub fn write_file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let handle = self.call("guest-file-open", json!({"path": path, "mode": "w"}))?;
        for part in bytes.chunks(48 << 10) {
            self.call(
                "guest-file-write",
                json!({"handle": handle, "buf-b64": STANDARD.encode(part)}),
            )?;
        }
        self.call("guest-file-close", json!({"handle": handle}))?;
        Ok(())
    }

    /// The next line, or None at the deadline.
    fn line(&mut self, until: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Ok(Some(line));
            }
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(until - now))?;
            let mut buffer = [0u8; 16384];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the guest's channel is closed"),
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e).context("reading the guest's channel"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::thread;

    /// Answers each received line with the next of `answers`.
    fn agent(answers: Vec<Vec<u8>>) -> (Agent, thread::JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = thread::spawn(move || {
            let mut reader = BufReader::new(theirs.try_clone().unwrap());
            let mut seen = Vec::new();
            for answer in answers {
                let mut line = Vec::new();
                reader.read_until(b'\n', &mut line).unwrap();
                seen.push(String::from_utf8_lossy(&line).into_owned());
                (&theirs).write_all(&answer).unwrap();
            }
            seen
        });
        (Agent::new(ours), served)
    }

    #[test]
    fn sync_skips_what_an_echoing_line_returned() {
        let (mut agent, served) = agent(vec![b"{\"execute\":\"junk\"}\n\xff{\"return\": 2}\n".to_vec()]);
        assert!(agent.sync(Duration::from_secs(5)).unwrap());
        assert!(served.join().unwrap()[0].contains("guest-sync-delimited"));
    }

    #[test]
    fn a_finished_program_has_status_and_output() {
        let (mut agent, _) = agent(vec![
            b"{\"return\": {\"pid\": 7}}\n".to_vec(),
            b"{\"return\": {\"exited\": false}}\n".to_vec(),
            b"{\"return\": {\"exited\": true, \"exitcode\": 3, \"out-data\": \"aGk=\"}}\n".to_vec(),
        ]);
        let pid = agent.start(&["true".into()], true).unwrap();
        assert!(agent.poll(pid).unwrap().is_none());
        let done = agent.poll(pid).unwrap().unwrap();
        assert_eq!(
            (done.status, done.stdout.as_slice(), done.stderr.len()),
            (3, &b"hi"[..], 0)
        );
    }

    /// An agent that leaves the first question unanswered, and answers both when it is asked another, if it `wakes`.
    fn late_agent(wakes: bool) -> (Agent, thread::JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = thread::spawn(move || {
            let (mut owed, mut pid, mut first) = (Vec::new(), 6, true);
            for line in BufReader::new(theirs.try_clone().unwrap()).split(b'\n') {
                let line = line.unwrap();
                let asked: Value = serde_json::from_slice(line.rsplit(|&b| b == RESET).next().unwrap()).unwrap();
                let answer = match asked["execute"].as_str() {
                    Some("guest-exec") => {
                        pid += 1;
                        json!({"return": {"pid": pid}})
                    }
                    Some("guest-sync-delimited") => {
                        owed.push(RESET);
                        json!({"return": asked["arguments"]["id"]})
                    }
                    _ => json!({"return": {"exited": false}}),
                };
                owed.extend(answer.to_string().bytes().chain([b'\n']));
                if wakes && !std::mem::take(&mut first) {
                    (&theirs).write_all(&std::mem::take(&mut owed)).unwrap();
                }
            }
        });
        let mut agent = Agent::new(ours);
        (agent.answer, agent.resync) = (Duration::from_millis(50), Duration::from_millis(500));
        (agent, served)
    }

    #[test]
    fn an_answer_that_comes_late_is_not_taken_for_the_next() {
        let (mut agent, served) = late_agent(true);
        let error = agent.start(&["hangs".into()], false).unwrap_err().to_string();
        assert!(error.contains("did not answer guest-exec"), "{error}");
        agent.answer = Duration::from_secs(5);
        assert_eq!(agent.start(&["true".into()], false).unwrap(), 8);
        assert!(agent.poll(8).unwrap().is_none());
        assert_eq!(agent.start(&["true".into()], false).unwrap(), 9);
        drop(agent);
        served.join().unwrap();
    }

    #[test]
    fn an_agent_that_stays_silent_is_told_from_one_that_was_late() {
        let (mut agent, _served) = late_agent(false);
        assert!(agent.start(&["hangs".into()], false).is_err());
        let error = agent.start(&["true".into()], false).unwrap_err().to_string();
        assert!(error.contains("does not synchronise"), "{error}");
    }

    #[test]
    fn an_agent_error_is_told() {
        let (mut agent, _) = agent(vec![
            b"{\"error\": {\"class\": \"X\", \"desc\": \"no such file\"}}\n".to_vec()
        ]);
        assert!(agent
            .call("guest-file-open", json!({}))
            .unwrap_err()
            .to_string()
            .contains("no such file"));
    }
}
