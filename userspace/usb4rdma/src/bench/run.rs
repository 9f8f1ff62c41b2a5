// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The client's end of `bench`: runs the programs and reads what they have measured.

use super::agent::{words, Answer, Request};
use super::{How, Machine, Row, Test};
use crate::apps::Settings;
use crate::top::Cpu;
use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Round trips of a latency.
const ROUNDS: u32 = 1000;
/// Runs of nothing that are repeated.
const AGAIN: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(3);

/// One run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figure {
    pub value: f64,
    pub p99: f64,
    pub busy_here: f64,
    pub busy_there: f64,
}

/// Why there is no figure.
pub enum Failure {
    /// Something is not installed: no size will do.
    Missing(String),
    Failed(anyhow::Error),
    /// The agent does not answer any more.
    Gone(anyhow::Error),
}

/// The peer's agent.
pub struct Peer {
    stream: BufReader<TcpStream>,
    address: String,
    pub machine: Machine,
}

impl Peer {
    pub fn connect(settings: &Settings, how: &How) -> Result<Peer> {
        let address = how.address.clone().or(settings.peer_address.clone()).with_context(|| {
            format!(
                "where {} is on this cable is not known: say it with --address",
                settings.peer
            )
        })?;
        let ip = address.parse().with_context(|| format!("{address} is no IP address"))?;
        let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, how.port), PATIENCE).with_context(|| {
            format!(
                "nobody answers at {address}, port {}: run `usb4rdma bench --serve` on {}",
                how.port, settings.peer
            )
        })?;
        stream.set_nodelay(true)?;
        let mut peer = Peer {
            stream: BufReader::new(stream),
            address,
            machine: Machine::default(),
        };
        match peer.ask(&Request::Hello)? {
            Answer::Hello(machine) => peer.machine = machine,
            other => bail!("the agent answers {other:?}"),
        }
        Ok(peer)
    }

    fn ask(&mut self, request: &Request) -> Result<Answer> {
        let gone = "the agent of the other host does not answer any more";
        writeln!(self.stream.get_mut(), "{}", serde_json::to_string(request)?).context(gone)?;
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line).context(gone)? > 0, gone);
        serde_json::from_str(&line).context("an answer that makes no sense")
    }

    /// The median of some runs.
    pub fn figure(&mut self, test: Test, size: u64, here: &Machine, how: &How) -> Result<Row, Failure> {
        let mut figures = vec![];
        for _ in 0..how.runs {
            let mut figure = self.run(test, size, here, how)?;
            // perftest now and then says 0 of a run by time that has moved gigabytes (5 of 40 runs of ib_read_bw).
            for _ in 0..AGAIN {
                if figure.value <= 0.0 {
                    figure = self.run(test, size, here, how)?;
                }
            }
            if figure.value <= 0.0 {
                return Err(Failure::Failed(anyhow::anyhow!(
                    "nothing went over, {} times",
                    AGAIN + 1
                )));
            }
            figures.push(figure);
        }
        Ok(Row::of(test, size, &figures))
    }

    fn run(&mut self, test: Test, size: u64, here: &Machine, how: &How) -> Result<Figure, Failure> {
        let start = Request::Start {
            test,
            size,
            seconds: how.seconds,
            rounds: ROUNDS,
        };
        let port = match self.ask(&start).map_err(Failure::Gone)? {
            Answer::Ready { port } => port,
            Answer::Missing(what) => return Err(Failure::Missing(format!("{what} is not installed"))),
            Answer::Failed(why) => return Err(Failure::Failed(anyhow::anyhow!(why))),
            other => return Err(Failure::Gone(anyhow::anyhow!("the agent answers {other:?}"))),
        };
        let (before, begun) = (Cpu::now(), Instant::now());
        let measured = match test {
            Test::TcpLatency => ping_pong(&self.address, port, size),
            Test::Tcp => iperf(
                &words(test, size, how.seconds, ROUNDS, here, port),
                &self.address,
                size,
                how.seconds,
            ),
            _ => perftest(&words(test, size, how.seconds, ROUNDS, here, port), &self.address),
        };
        let busy_here = Cpu::now().busy_since(&before, begun.elapsed());
        let ended = self.ask(&Request::Ended).map_err(Failure::Gone)?;
        let (value, p99) = measured.map_err(|error| match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == ErrorKind::NotFound => Failure::Missing(format!("{error:#} here")),
            _ => Failure::Failed(error),
        })?;
        match ended {
            Answer::Done { busy } => Ok(Figure {
                value,
                p99,
                busy_here,
                busy_there: busy,
            }),
            Answer::Failed(why) => Err(Failure::Failed(anyhow::anyhow!(why))),
            other => Err(Failure::Gone(anyhow::anyhow!("the agent answers {other:?}"))),
        }
    }
}

/// A program's output, where it ends well.
fn output(words: &[String]) -> Result<String> {
    let (program, arguments) = words.split_first().context("no program")?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| program.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or_default();
    ensure!(
        output.status.success(),
        "{program} ended with {}: {said}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn perftest(words: &[String], address: &str) -> Result<(f64, f64)> {
    let file = std::env::temp_dir().join(format!("usb4rdma-bench-{}.json", std::process::id()));
    let mut words = words.to_vec();
    words.extend([
        "--out_json".into(),
        format!("--out_json_file={}", file.display()),
        address.into(),
    ]);
    output(&words)?;
    let text = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    of_perftest(&text.context("perftest wrote no file: it is older than 4.5")?)
}

/// Gbit/s, or microseconds with their 99th percentile.
fn of_perftest(text: &str) -> Result<(f64, f64)> {
    // What it cannot compute it writes as no JSON has it.
    let text = text.replace(": -nan", ": null").replace(": nan", ": null");
    let value: Value = serde_json::from_str(&text).context("perftest's JSON")?;
    let results = &value["results"];
    let number = |name: &str| results[name].as_f64();
    if let Some(rate) = number("BW_average") {
        return Ok((rate, 0.0));
    }
    let typical = number("t_typical").with_context(|| format!("perftest says {results}"))?;
    Ok((typical, number("percentile_99").unwrap_or(0.0)))
}

fn iperf(words: &[String], address: &str, size: u64, seconds: u32) -> Result<(f64, f64)> {
    let mut words = words.to_vec();
    // Short writes cost a system call each, as short messages do.
    let more = ["-c", address, "-J", "-l", &size.to_string(), "-t", &seconds.to_string()];
    words.extend(more.map(String::from));
    of_iperf(&output(&words)?)
}

fn of_iperf(text: &str) -> Result<(f64, f64)> {
    let value: Value = serde_json::from_str(text).context("iperf3's JSON")?;
    let rate = value["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok((
        rate.with_context(|| format!("iperf3 says {}", value["error"]))? * 1e-9,
        0.0,
    ))
}

/// Half of round trips over one connection: the median and the 99th percentile, as perftest has it.
fn ping_pong(address: &str, port: u16, size: u64) -> Result<(f64, f64)> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address.parse()?, port), PATIENCE)?;
    stream.set_nodelay(true)?;
    let mut message = vec![0; usize::try_from(size)?];
    let mut times = vec![];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(start.elapsed().as_secs_f64() * 1e6 / 2.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(0.0);
    Ok((at(50), at(99)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_write_is_read() {
        assert_eq!(
            of_perftest(r#"{"results":{"MsgSize":64,"BW_average":3.5}}"#).unwrap(),
            (3.5, 0.0)
        );
        let latency = r#"{"results":{"t_min":42.41,"t_typical":54.98,"percentile_99":1846.88}}"#;
        assert_eq!(of_perftest(latency).unwrap(), (54.98, 1846.88));
        let odd = "{\"test_info\": {\"a\": \"b\"}, \"results\": {\"t_typical\": 5.5, \"t_stdev\": -nan, \"percentile_99\": 7}}";
        assert_eq!(of_perftest(odd).unwrap(), (5.5, 7.0));
        assert!(of_perftest("{}").is_err());
        assert_eq!(
            of_iperf(r#"{"end":{"sum_received":{"bits_per_second":2e9}}}"#).unwrap(),
            (2.0, 0.0)
        );
        assert!(of_iperf(r#"{"error":"refused"}"#)
            .unwrap_err()
            .to_string()
            .contains("refused"));
    }
}
