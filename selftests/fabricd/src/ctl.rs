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
//! A cable or fault command may carry `"at_ns"`: it is carried out then, by the fabric's clock, instead of now.
//! Answers are `{"ok":true,...}` or `{"ok":false,"error":"..."}`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use serde_json::{json, Value};

use crate::change::Timed;
use crate::report;
use crate::service::Service;

/// Longest line that is read.
const LINE_LEN: u64 = 64 * 1024;

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
        let command: Result<Value, String> = serde_json::from_str(&line).map_err(|error| error.to_string());
        let quit = command.as_ref().is_ok_and(|command| command["cmd"] == "quit");
        let answer = match command.and_then(|command| execute(service, command)) {
            Ok(answer) => answer,
            Err(error) => json!({"ok": false, "error": error}),
        };
        writeln!(stream, "{answer}")?;
        if quit {
            std::process::exit(0);
        }
    }
}

fn execute(service: &Service, command: Value) -> Result<Value, String> {
    match command["cmd"].as_str() {
        Some("quit") => Ok(json!({"ok": true})),
        Some("stat") => {
            let mut report = report::stat(service);
            report["ok"] = Value::Bool(true);
            Ok(report)
        }
        _ => {
            service.change(Timed::parse(command)?)?;
            Ok(json!({"ok": true}))
        }
    }
}
