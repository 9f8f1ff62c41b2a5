// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The peer's end of `bench`: starts a program of a short list when the client asks, and tells what it cost here.
//!
//! A request and its answer are a line of JSON each. The agent listens on the addresses of RDMA devices' own links
//! only, serves one client at a time, and ends with Ctrl-C; it runs nothing that a client could choose freely.

use super::{machine, Machine, Test};
use crate::facts::{text, Facts};
use crate::top::Cpu;
use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program listens within this, and ends within this after its client has.
const SOON: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// What a client asks for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Hello,
    /// Start the server of a test; `seconds` of bandwidth, or so many `rounds` of latency.
    Start {
        test: Test,
        size: u64,
        seconds: u32,
        rounds: u32,
    },
    /// The client has ended.
    Ended,
}

/// What the agent answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Hello(Machine),
    /// The server listens here.
    Ready {
        port: u16,
    },
    /// Busy cores while it ran.
    Done {
        busy: f64,
    },
    /// Something is not installed.
    Missing(String),
    Failed(String),
}

/// Programs of perftest, and iperf3, with the words that both ends have.
pub fn words(test: Test, size: u64, seconds: u32, rounds: u32, machine: &Machine, port: u16) -> Vec<String> {
    let program = match test {
        Test::RdmaWrite => "ib_write_bw",
        Test::RdmaSend => "ib_send_bw",
        Test::RdmaRead => "ib_read_bw",
        Test::RdmaWriteLatency => "ib_write_lat",
        Test::RdmaSendLatency => "ib_send_lat",
        Test::Tcp => return vec!["iperf3".into(), "-p".into(), port.to_string()],
        Test::TcpLatency => return vec![],
    };
    let mut words: Vec<String> = [
        program,
        "-F",
        "-d",
        &machine.device,
        "-x",
        &machine.gid_index.to_string(),
        "-s",
        &size.to_string(),
        "-p",
        &port.to_string(),
    ]
    .map(String::from)
    .to_vec();
    match test.is_latency() {
        true => words.extend(["-n".to_string(), rounds.to_string()]),
        false => words.extend(["--report_gbits".to_string(), "-D".to_string(), seconds.to_string()]),
    }
    words
}

/// Serves clients, one after the other, for ever or for one.
///
/// # Errors
///
/// No link to serve on.
pub fn serve(mut look: impl FnMut() -> Result<Facts>, port: u16, once: bool) -> Result<()> {
    let facts = look()?;
    let addresses: Vec<IpAddr> = facts
        .netdevs
        .iter()
        .filter(|netdev| facts.link_over(&netdev.name).is_some())
        .flat_map(|netdev| netdev.global().map(|address| address.address))
        .collect();
    ensure!(
        !addresses.is_empty(),
        "no RDMA device with an address is here: `usb4rdma up`, and `usb4rdma doctor` says what is wrong"
    );
    let mut listeners = vec![];
    for address in &addresses {
        let listener = TcpListener::bind(SocketAddr::new(*address, port))
            .with_context(|| format!("{address}, port {port}, cannot be listened on"))?;
        listener.set_nonblocking(true)?;
        listeners.push(listener);
    }
    let told: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    eprintln!(
        "waiting for `usb4rdma bench` of the other host on {}, port {port}; Ctrl-C ends it",
        told.join(", ")
    );
    loop {
        for listener in &listeners {
            let Ok((stream, from)) = listener.accept() else {
                continue;
            };
            stream.set_nonblocking(false)?;
            match client(&look()?, &stream, port) {
                Ok(()) => {}
                Err(error) => eprintln!("{from}: {error:#}"),
            }
            if once {
                return Ok(());
            }
        }
        std::thread::sleep(POLL);
    }
}

/// Serves one client to its end.
fn client(facts: &Facts, stream: &TcpStream, port: u16) -> Result<()> {
    let own = stream.local_addr()?.ip();
    let netdev = facts
        .netdevs
        .iter()
        .find(|netdev| netdev.addresses.iter().any(|a| a.address == own));
    let netdev = netdev.with_context(|| format!("no device has {own}"))?;
    let machine = machine(facts, &netdev.name).context("no RDMA device")?;
    let mut lines = BufReader::new(stream).lines();
    let mut running: Option<(Server, Cpu, Instant)> = None;
    while let Some(line) = lines.next().transpose()? {
        let request: Request = serde_json::from_str(&line).context("a request that makes no sense")?;
        let answer = match request {
            Request::Hello => Answer::Hello(machine.clone()),
            Request::Start {
                test,
                size,
                seconds,
                rounds,
            } => {
                // The port beside ours, another each time: one that has just been used may still be waiting.
                let port = free_port(own, port)?;
                match start(
                    test,
                    size.min(1 << 24),
                    seconds.min(60),
                    rounds.min(1 << 20),
                    &machine,
                    own,
                    port,
                ) {
                    Ok(server) => {
                        running = Some((server, Cpu::now(), Instant::now()));
                        Answer::Ready { port }
                    }
                    Err(error) => match error.downcast_ref::<std::io::Error>() {
                        Some(io) if io.kind() == std::io::ErrorKind::NotFound => {
                            Answer::Missing(format!("{error:#} on {}", machine.host))
                        }
                        _ => Answer::Failed(format!("{error:#}")),
                    },
                }
            }
            Request::Ended => match running.take() {
                Some((server, before, start)) => {
                    let busy = Cpu::now().busy_since(&before, start.elapsed());
                    match server.end() {
                        Ok(()) => Answer::Done { busy },
                        Err(error) => Answer::Failed(format!("{error:#}")),
                    }
                }
                None => Answer::Failed("nothing runs".into()),
            },
        };
        writeln!(&mut &*stream, "{}", serde_json::to_string(&answer)?)?;
    }
    Ok(())
}

/// What serves a test.
enum Server {
    Program(Child),
    /// A thread, which ends when its client does.
    Echo,
}

impl Server {
    fn end(mut self) -> Result<()> {
        match &mut self {
            Server::Echo => Ok(()),
            Server::Program(child) => {
                let start = Instant::now();
                loop {
                    if let Some(status) = child.try_wait()? {
                        let mut said = String::new();
                        if let Some(mut errors) = child.stderr.take() {
                            errors.read_to_string(&mut said)?;
                        }
                        ensure!(status.success(), "the server ended with {status}: {}", said.trim());
                        return Ok(());
                    }
                    if start.elapsed() > SOON {
                        child.kill()?;
                        child.wait()?;
                        bail!("the server did not end");
                    }
                    std::thread::sleep(POLL);
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A client that went away leaves its server.
        if let Server::Program(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(
    test: Test,
    size: u64,
    seconds: u32,
    rounds: u32,
    machine: &Machine,
    own: IpAddr,
    port: u16,
) -> Result<Server> {
    if test == Test::TcpLatency {
        let listener = TcpListener::bind(SocketAddr::new(own, port))?;
        let size = usize::try_from(size)?;
        std::thread::spawn(move || {
            // The client sees that it ends.
            let _ = echo(&listener, size);
        });
        return Ok(Server::Echo);
    }
    let mut words = words(test, size, seconds, rounds, machine, port);
    if test == Test::Tcp {
        words.extend(["-s".to_string(), "-1".to_string()]);
    }
    let (program, arguments) = words.split_first().context("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.clone())?;
    let start = Instant::now();
    while !listens(port) {
        if let Some(status) = child.try_wait()? {
            let mut said = String::new();
            if let Some(mut errors) = child.stderr.take() {
                errors.read_to_string(&mut said)?;
            }
            bail!("{program} ended with {status}: {}", said.trim());
        }
        if start.elapsed() > SOON {
            child.kill()?;
            child.wait()?;
            bail!("{program} does not listen");
        }
        std::thread::sleep(POLL);
    }
    Ok(Server::Program(child))
}

/// Sends back what comes, a message at a time, until the client goes.
fn echo(listener: &TcpListener, size: usize) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut message = vec![0; size];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message)?;
    }
    Ok(())
}

/// A port that nobody has.
fn free_port(own: IpAddr, after: u16) -> Result<u16> {
    for port in after.saturating_add(1)..=after.saturating_add(200) {
        if TcpListener::bind(SocketAddr::new(own, port)).is_ok() && !listens(port) {
            return Ok(port);
        }
    }
    bail!("no free port after {after}")
}

/// Whether somebody listens on a port, by the kernel's own list: a connection to try it would be taken for the
/// client's.
fn listens(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    let of = |file: &str| {
        let list = text(file).unwrap_or_default();
        list.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|local| local.ends_with(&wanted)) && fields.get(3) == Some(&"0A")
        })
    };
    of("/proc/net/tcp") || of("/proc/net/tcp6")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_and_nothing_else_is_taken() {
        let start = Request::Start {
            test: Test::RdmaWrite,
            size: 64,
            seconds: 1,
            rounds: 0,
        };
        let line = serde_json::to_string(&start).unwrap();
        assert_eq!(
            line,
            r#"{"start":{"test":"rdma_write","size":64,"seconds":1,"rounds":0}}"#
        );
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), start);
        for bad in [
            r#"{"start":{"test":"sh","size":64,"seconds":1,"rounds":0}}"#,
            r#"{"exec":"sh"}"#,
            "x",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_listens_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listens(port));
        drop(listener);
        assert!(!listens(port));
    }
}
