// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The program as its clients see it: a small guest on each front-end, and the control socket.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{json, Value};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const MEMORY_LEN: u64 = 1 << 20;

struct Fabricd {
    child: Child,
    dir: PathBuf,
}

impl Fabricd {
    fn start(name: &str, spec: &Value) -> Fabricd {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("spec.json");
        std::fs::write(&file, spec.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fabricd"));
        command
            .arg("--dir")
            .arg(&dir)
            .arg("--spec")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Fabricd { child, dir }
    }

    fn connect(&self, name: &str) -> UnixStream {
        let stream = UnixStream::connect(self.dir.join(name)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, command: &Value) -> Value {
        let mut stream = self.connect("ctl");
        writeln!(stream, "{command}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until the fabric has or has not a guest on NHI 0.
    fn wait_for_guest(&self, wanted: bool) {
        wait_until(|| self.ask(&json!({"cmd": "stat"}))["nhis"][0]["guest"] == wanted);
    }
}

impl Drop for Fabricd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        std::thread::yield_now();
    }
}

fn memfd() -> File {
    let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, MEMORY_LEN).unwrap();
    File::from(file)
}

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn send(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A guest on vhost-user: one command queue, driven by hand.
struct VhostGuest {
    stream: UnixStream,
    memory: File,
    kick: OwnedFd,
    used: u16,
}

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const COMMAND: u64 = 0x4000;
const ANSWER: u64 = 0x5000;
/// Guest addresses begin here, so that a mix-up with file offsets shows.
const BASE: u64 = 0x10_0000;

impl VhostGuest {
    fn start(stream: UnixStream) -> VhostGuest {
        let mut guest = VhostGuest {
            stream,
            memory: memfd(),
            kick: eventfd(),
            used: 0,
        };
        assert_eq!(guest.ask(1), 1 << 32 | 1 << 30);
        assert_eq!(guest.ask(15), 1 << 3);
        let table = [bytes_of(&[1, 0]), longs(&[BASE, MEMORY_LEN, BASE, 0])].concat();
        let memory = guest.memory.try_clone().unwrap();
        guest.tell(5, &table, &[memory.as_fd()]);
        guest.tell(8, &bytes_of(&[0, 8]), &[]);
        guest.tell(10, &bytes_of(&[0, 0]), &[]);
        let rings = longs(&[BASE + DESCRIPTORS, BASE + USED, BASE + AVAILABLE, 0]);
        guest.tell(9, &[bytes_of(&[0, 0]), rings].concat(), &[]);
        let kick = guest.kick.try_clone().unwrap();
        guest.tell(12, &longs(&[0]), &[kick.as_fd()]);
        guest.tell(18, &bytes_of(&[0, 1]), &[]);
        guest
    }

    /// A request that has an answer.
    fn ask(&mut self, request: u32) -> u64 {
        send(&self.stream, &bytes_of(&[request, 1, 0]), &[]);
        self.answer(request)
    }

    /// A request that is acknowledged.
    fn tell(&mut self, request: u32, payload: &[u8], files: &[BorrowedFd<'_>]) {
        let message = [&bytes_of(&[request, 1 | 8, payload.len() as u32]), payload].concat();
        send(&self.stream, &message, files);
        assert_eq!(self.answer(request), 0);
    }

    fn answer(&mut self, request: u32) -> u64 {
        let mut answer = [0; 20];
        self.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..12], bytes_of(&[request, 5, 8]));
        u64::from_le_bytes(answer[12..].try_into().unwrap())
    }

    /// Puts a command on the queue and waits for its end: {op, bar, size, address, data}.
    fn command(&mut self, op: u8, bar: u8, size: u32, address: u64, data: &[u8]) -> u32 {
        let head = [&[op, bar, 0, 0][..], &size.to_le_bytes(), &address.to_le_bytes(), data].concat();
        self.memory.write_all_at(&head, COMMAND).unwrap();
        let descriptor = |address: u64, length: u32, flags: u16, next: u16| {
            let last = u32::from(flags) | u32::from(next) << 16;
            [longs(&[BASE + address]), bytes_of(&[length, last])].concat()
        };
        let chain = [
            descriptor(COMMAND, head.len() as u32, 1, 1),
            descriptor(ANSWER, size, 2, 0),
        ]
        .concat();
        self.memory.write_all_at(&chain, DESCRIPTORS).unwrap();
        let slot = u64::from(self.used % 8);
        self.memory
            .write_all_at(&0_u16.to_le_bytes(), AVAILABLE + 4 + 2 * slot)
            .unwrap();
        self.used = self.used.wrapping_add(1);
        self.memory
            .write_all_at(&self.used.to_le_bytes(), AVAILABLE + 2)
            .unwrap();
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
        wait_until(|| self.word(USED) >> 16 == u32::from(self.used));
        self.word(ANSWER)
    }

    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }
}

fn pair(frontend: &str) -> Value {
    json!({"frontend": frontend, "hosts": [{}, {}], "cables": [{"a": [0, 0, 0], "b": [1, 0, 0]}]})
}

#[test]
fn vhost_user_guests_come_and_go() {
    let fabricd = Fabricd::start("vhost", &pair("vhost-user"));
    for _ in 0..3 {
        let mut guest = VhostGuest::start(fabricd.connect("h0n0.sock"));
        fabricd.wait_for_guest(true);
        assert_eq!(guest.command(1, 0, 4, 0, &[]), 0x158d_1022);
        assert_eq!(
            guest.command(3, 0, 4, 0x39640, &[]),
            0x40_0003,
            "version and three hops"
        );
        guest.command(4, 0, 4, 0x38c00, &bytes_of(&[500]));
        assert_eq!(guest.command(3, 0, 4, 0x38c00, &[]), 500);
        // The MSI-X table of BAR 2.
        guest.command(4, 2, 4, 0x10, &bytes_of(&[0xfee0_0000]));
        assert_eq!(guest.command(3, 2, 4, 0x10, &[]), 0xfee0_0000);
        drop(guest);
        fabricd.wait_for_guest(false);
    }
}

#[test]
fn nonsense_on_a_socket_ends_that_session_only() {
    let fabricd = Fabricd::start("nonsense", &pair("vhost-user"));
    for bytes in [
        &[0xff; 64][..],
        &[5, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut stream = fabricd.connect("h0n0.sock");
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // Closed or reset, but not answered.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    VhostGuest::start(fabricd.connect("h0n0.sock"));
    assert_eq!(fabricd.ask(&json!({"cmd": "nonsense"}))["ok"], false);
    assert_eq!(
        fabricd.ask(&json!({"cmd": "cable", "op": "pull", "cable": 7}))["ok"],
        false
    );
    assert_eq!(
        fabricd.ask(&json!({"cmd": "cable", "op": "pull", "cable": 0}))["ok"],
        true
    );
    assert_eq!(fabricd.ask(&json!({"cmd": "stat"}))["cables"][0]["plugged"], false);
}

/// A client on vfio-user.
struct VfioClient {
    stream: UnixStream,
    id: u16,
}

impl VfioClient {
    fn message(&mut self, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
        self.id += 1;
        let first = u32::from(self.id) | u32::from(command) << 16;
        [&bytes_of(&[first, 16 + payload.len() as u32, flags, 0]), payload].concat()
    }

    fn ask(&mut self, command: u16, payload: &[u8], files: &[BorrowedFd<'_>]) -> Vec<u8> {
        let message = self.message(command, 0, payload);
        send(&self.stream, &message, files);
        self.answer()
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(
            (word(0) as u16, word(8), word(12)),
            (self.id, 1, 0),
            "a reply to the last message, no error"
        );
        let mut payload = vec![0; word(4) as usize - 16];
        self.stream.read_exact(&mut payload).unwrap();
        payload
    }

    fn access(region: u32, offset: u64, data: &[u8], count: u32) -> Vec<u8> {
        [&longs(&[offset]), &bytes_of(&[region, count]), data].concat()
    }

    fn read(&mut self, region: u32, offset: u64) -> u32 {
        let answer = self.ask(9, &Self::access(region, offset, &[], 4), &[]);
        u32::from_le_bytes(answer[16..20].try_into().unwrap())
    }
}

#[test]
fn vfio_user_clients_find_a_pci_function() {
    let fabricd = Fabricd::start("vfio", &pair("vfio-user"));
    for _ in 0..2 {
        let mut client = VfioClient {
            stream: fabricd.connect("h0n0.sock"),
            id: 0,
        };
        let version = client.ask(
            1,
            &[&[0, 0, 0, 0][..], br#"{"capabilities":{"max_msg_fds":8}}"#, &[0]].concat(),
            &[],
        );
        assert_eq!(version[..4], [0; 4]);
        let text = std::str::from_utf8(&version[4..version.len() - 1]).unwrap();
        assert!(serde_json::from_str::<Value>(text).unwrap()["capabilities"].is_object());
        assert_eq!(client.ask(4, &bytes_of(&[16, 0, 0, 0]), &[]), bytes_of(&[16, 3, 9, 5]));
        let region = client.ask(5, &bytes_of(&[32, 0, 0, 0, 0, 0, 0, 0]), &[]);
        assert_eq!(region[16..24], longs(&[0x4_0000]));
        assert_eq!(client.read(7, 0), 0x158d_1022);
        assert_eq!(client.read(0, 0x39640), 0x40_0003);
        // Memory, an interrupt, and a posted write with a read behind it in the same packet.
        let memory = memfd();
        let map = [bytes_of(&[32, 3]), longs(&[0, 0, MEMORY_LEN])].concat();
        assert!(client.ask(2, &map, &[memory.as_fd()]).is_empty());
        let event = eventfd();
        assert!(client
            .ask(8, &bytes_of(&[20, 0x24, 2, 3, 1]), &[event.as_fd()])
            .is_empty());
        let posted = VfioClient::access(0, 0x38c0c, &bytes_of(&[77]), 4);
        let write = client.message(10, 1 << 4, &posted);
        let read = client.message(9, 0, &VfioClient::access(0, 0x38c0c, &[], 4));
        send(&client.stream, &[write, read].concat(), &[]);
        assert_eq!(client.answer()[16..20], bytes_of(&[77]));
        // A packet on the control ring with vector 3: it is refused, but its descriptor completes.
        for (offset, value) in [
            (0x39864, 1 << 17),
            (0x38c40, 3),
            (0x38200, 1),
            (0xc, 16),
            (0x19800, 0xc000_0000_u32),
            (0x8, 1 << 16),
        ] {
            client.ask(10, &VfioClient::access(0, offset, &bytes_of(&[value]), 4), &[]);
        }
        let mut count = [0; 8];
        rustix::io::read(&event, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        let unmap = [bytes_of(&[24, 0]), longs(&[0, MEMORY_LEN])].concat();
        assert_eq!(client.ask(3, &unmap, &[]).len(), 24);
        drop(client);
        fabricd.wait_for_guest(false);
    }
}

#[test]
fn the_end_of_a_piped_standard_input_ends_the_program() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stdin-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("spec.json");
    std::fs::write(&file, pair("vhost-user").to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fabricd"));
    command
        .arg("--dir")
        .arg(&dir)
        .arg("--spec")
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    std::fs::remove_dir_all(&dir).unwrap();
}
