#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""One host's part of a soak. Prints a JSON report at the end.

soak.py HOST WARM SECONDS EVERY_MS RECORD_KIB RECORDS_PER_S MTU XDOMAIN,IPV4/LEN,IPV6/LEN PEER

Configures the cable's network device whenever there is one, as a machine's network service would, and writes down when
its carrier comes and goes. Host 1 echoes datagrams and checks a stream of records; host 0 sends both. WARM seconds pass
before memory is counted for the first time, SECONDS until the second time, with no traffic at either.
"""
import glob
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

HEAD = struct.Struct("!QII")
POOL = random.Random(7).randbytes(4 << 20)
BEAT_PORT, STREAM_PORT = 7101, 7102
# What is written down as a gap, seconds.
GAP = 0.25


def memory():
    """Kernel memory after dropping what may be dropped: free KiB, objects of each slab cache, vmalloc areas."""
    for _ in range(2):
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as out:
            out.write("3")
        time.sleep(0.3)
    for shrink in glob.glob("/sys/kernel/slab/*/shrink"):
        try:
            with open(shrink, "w") as out:
                out.write("1")
        except OSError:
            pass
    result = {}
    for key, path in (("slabinfo", "slabinfo"), ("meminfo", "meminfo"), ("vmallocinfo", "vmallocinfo")):
        with open("/proc/" + path) as file:
            result[key] = file.read()
    return result


class Watch(threading.Thread):
    """Keeps the network device configured and its carrier's history."""

    def __init__(self, mtu, cable):
        super().__init__(daemon=True)
        self.mtu, (self.xdomain, self.ipv4, self.ipv6) = mtu, cable.split(",")
        self.events, self.index, self.up = [], None, None
        self.link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.link.bind((0, 1))

    def run(self):
        while True:
            try:
                self.look()
            except OSError as error:
                print("watch:", error, file=sys.stderr, flush=True)
            try:
                self.link.recv(65536)
            except OSError:
                pass

    def look(self):
        name, index, up = None, None, False
        for path in glob.glob("/sys/class/net/*/device"):
            device, net = os.path.basename(os.path.realpath(path)), path.split("/")[4]
            try:
                with open(f"/sys/class/net/{net}/phys_port_name") as file:
                    port = file.read().strip()
            except OSError:
                port = ""
            if port == self.xdomain or device.startswith(self.xdomain + "."):
                name = net
                with open(f"/sys/class/net/{name}/ifindex") as file:
                    index = int(file.read())
        if index is not None and index != self.index:
            commands = (
                f"link set {name} mtu {self.mtu}\naddr replace {self.ipv4} dev {name}\n"
                f"addr replace {self.ipv6} dev {name} nodad\nlink set {name} up\n"
            )
            subprocess.run(["ip", "-batch", "-"], input=commands.encode(), check=False)
        self.index = index
        if index is not None:
            try:
                with open(f"/sys/class/net/{name}/carrier") as file:
                    up = file.read().strip() == "1"
            except OSError:
                pass
        if up != self.up:
            self.up = up
            self.events.append((time.time(), up))


class Pulse(threading.Thread):
    """Notices when this guest's programs, or the guest as a whole, do not get the processor."""

    def __init__(self):
        super().__init__(daemon=True)
        self.starved = []

    def run(self):
        last = time.time()
        while True:
            time.sleep(0.05)
            now = time.time()
            if now - last > GAP:
                self.starved.append((last, now))
            last = now


def echo():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", BEAT_PORT))
    while True:
        try:
            data, peer = server.recvfrom(64)
            server.sendto(data, peer)
        except OSError:
            pass


class Beat(threading.Thread):
    """Datagrams at a steady pace, and the gaps between their echoes."""

    def __init__(self, peer, every):
        super().__init__(daemon=True)
        self.peer, self.every, self.gaps, self.sent, self.heard = peer, every, [], 0, 0
        self.last, self.on = None, True
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def hear(self):
        while True:
            try:
                self.socket.recv(64)
            except OSError:
                continue
            now = time.time()
            self.heard += 1
            if self.last is not None and now - self.last > GAP:
                self.gaps.append((self.last, now))
            self.last = now

    def run(self):
        self.socket.bind(("", 0))
        threading.Thread(target=self.hear, daemon=True).start()
        while True:
            if self.on:
                try:
                    self.socket.sendto(b"%d" % self.sent, (self.peer, BEAT_PORT))
                    self.sent += 1
                except OSError:
                    pass
            else:
                self.last = None
            time.sleep(self.every)


def record(sequence, size):
    at = sequence * 4099 % (len(POOL) - size)
    return POOL[at : at + size]


class Send(threading.Thread):
    """Records with a checksum over one TCP connection, at a steady pace."""

    def __init__(self, peer, size, rate):
        super().__init__(daemon=True)
        self.peer, self.size, self.pause = peer, size, 1.0 / rate
        self.breaks, self.sent, self.on = [], 0, True

    def run(self):
        while True:
            try:
                with socket.create_connection((self.peer, STREAM_PORT), timeout=30) as connection:
                    connection.settimeout(None)
                    self.stream(connection)
            except OSError as error:
                if self.sent:
                    self.breaks.append((time.time(), str(error)))
                time.sleep(0.2)

    def stream(self, connection):
        due = time.monotonic()
        while True:
            if self.on:
                data = record(self.sent, self.size)
                connection.sendall(HEAD.pack(self.sent, len(data), zlib.crc32(data)) + data)
                self.sent += 1
            due = max(due + self.pause, time.monotonic())
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)


class Check(threading.Thread):
    """Receives the records; what is wrong with them, and the gaps between them."""

    def __init__(self):
        super().__init__(daemon=True)
        self.wrong, self.got, self.bytes, self.gaps, self.last = [], 0, 0, [], None

    def run(self):
        server = socket.create_server(("", STREAM_PORT))
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb", 1 << 20) as stream:
                try:
                    self.check(stream)
                except OSError:
                    pass

    def check(self, stream):
        expected = None
        while True:
            head = stream.read(HEAD.size)
            if len(head) < HEAD.size:
                return
            sequence, size, crc = HEAD.unpack(head)
            good_head = size <= len(POOL) and (expected is None or sequence == expected)
            data = stream.read(size) if good_head else b""
            if good_head and len(data) < size:
                return
            if not good_head or zlib.crc32(data) != crc or data != record(sequence, size):
                self.wrong.append(f"record {sequence}, expected {expected}, {size} bytes")
                if not good_head or len(self.wrong) > 20:
                    return
            now = time.time()
            if self.last is not None and now - self.last > GAP + 0.25:
                self.gaps.append((self.last, now))
            self.last, expected = now, sequence + 1
            self.got += 1
            self.bytes += len(data)


def main():
    host, warm, seconds, every_ms, kib, rate = (float(word) for word in sys.argv[1:7])
    mtu, cable, peer = sys.argv[7:10]
    for setting, value in (
        # TCP doubles its patience while the cable is away. What is measured here is the driver, so the limit is low.
        ("tcp_rto_max_ms", "1000"),
        ("tcp_retries2", "255"),
        ("tcp_max_tw_buckets", "0"),
    ):
        try:
            with open("/proc/sys/net/ipv4/" + setting, "w") as out:
                out.write(value)
        except OSError as error:
            print(setting, error, file=sys.stderr)
    watch = Watch(mtu, cable)
    watch.start()
    pulse = Pulse()
    pulse.start()
    report = {"host": int(host)}
    deadline = time.monotonic() + 60
    while not watch.up:
        if time.monotonic() > deadline:
            sys.exit("no carrier within a minute")
        time.sleep(0.1)
    if host == 1:
        threading.Thread(target=echo, daemon=True).start()
        check = Check()
        check.start()
        talkers = []
    else:
        beat, send = Beat(peer, every_ms / 1000), Send(peer, int(kib) << 10, rate)
        talkers = [beat, send]
        for talker in talkers:
            talker.start()

    def quiet():
        for talker in talkers:
            talker.on = False
        time.sleep(4)
        snapshot = memory()
        for talker in talkers:
            talker.on = True
        return snapshot

    start = time.monotonic()
    time.sleep(warm)
    report["before"] = quiet()
    report["begin"] = time.time()
    time.sleep(max(0.0, start + warm + seconds - time.monotonic()))
    report["end"] = time.time()
    report["after"] = quiet()
    report.update(events=watch.events, starved=pulse.starved)
    if host == 1:
        report.update(wrong=check.wrong, records=check.got, bytes=check.bytes, gaps=check.gaps)
    else:
        report.update(gaps=beat.gaps, beats=beat.sent, echoes=beat.heard, records=send.sent, breaks=send.breaks)
    print(json.dumps(report), flush=True)
    os._exit(0)


main()
