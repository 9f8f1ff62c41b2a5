#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Eight queue pairs of one device that WRITE, READ and SEND in windows of time while somebody cuts cables.

    cuts.py serve PORT DEVICE GID_INDEX
    cuts.py call ADDRESS PORT DEVICE GID_INDEX [FROM-TO ...]    milliseconds of the kernel's clock

Each queue pair WRITEs a message, READs it back into another place and SENDs one, over and over, several under way. The
caller compares what it READs, so what was written too; the server what it is sent. Both compare every byte, with
sources that are random and the same on both hosts. Each prints one JSON object; the caller's has, for each window, its
start, the bytes that completed, the seconds to the last of them and the cables that had a carrier at the start, and for
each millisecond in which something completed the bytes of it. Waits for events: programs that poll make no time pass in
virtual time.
"""
import glob
import json
import socket
import sys
import time

import pyverbs.enums as e
from pyverbs.wr import RecvWR, SendWR

from verbs import PATIENT, Arena, Side

PAIRS = 8
LENGTH = 65536
# Places of a queue pair for what it READs or is SENT, and the same again for what is written to it.
PLACES = 8
# Requests of a queue pair under way. What they use of its places is compared before it is used again.
DEPTH = 3
MIB = 1 << 20


class Stream:
    """One queue pair's messages: number n is a WRITE, a READ of what it wrote, or a SEND, by n % 3."""

    def __init__(self, side, arena, index):
        self.arena, self.index = arena, index
        side.qp = side.pair()
        side.connect(mtu=4096, timeout=PATIENT, rkey_of=arena.mr, reads=16)
        self.qp, self.peer = side.qp, side.peer
        self.posted, self.done, self.came = 0, 0, 0

    def source(self, turn, sent):
        """Where in the sources the message of a turn is, on both hosts: anywhere in a page."""
        return (self.index * 104729 + turn * 4099 + sent * 15485863) % (MIB - LENGTH)

    def place(self, turn, written):
        """Where in the arena the message of a turn comes to."""
        return self.arena.sources + ((2 * self.index + written) * PLACES + turn % PLACES) * LENGTH

    def post(self):
        turn, kind = divmod(self.posted, 3)
        opcode = (e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_READ, e.IBV_WR_SEND)[kind]
        local = self.place(turn, False) if kind == 1 else self.source(turn, kind == 2)
        wr = SendWR(wr_id=self.posted, opcode=opcode, num_sge=1, sg=self.arena.sges([(local, LENGTH)]),
                    send_flags=e.IBV_SEND_SIGNALED)
        if kind < 2:
            wr.set_wr_rdma(self.peer["rkey"], self.peer["addr"] + self.place(turn, True))
        self.qp.post_send(wr)
        self.posted += 1

    def complete(self, wc):
        """What is wrong with a completion of the caller's, None if nothing."""
        turn, kind = divmod(self.done, 3)
        if (wc.wr_id, wc.status) != (self.done, 0):
            return f"queue pair {self.index}: request {self.done}: wr_id {wc.wr_id} status {wc.status}"
        self.done += 1
        if kind == 1 and not self.arena.same([(self.source(turn, False), LENGTH)], [(self.place(turn, False), LENGTH)]):
            return f"queue pair {self.index}: READ of turn {turn}: bytes"
        return None

    def receive(self):
        """Posts a receive for the next turn that has none."""
        sge = self.arena.sges([(self.place(self.posted, False), LENGTH)])
        self.qp.post_recv(RecvWR(wr_id=self.posted, num_sge=1, sg=sge))
        self.posted += 1

    def take(self, wc):
        """The same of the server's."""
        turn = self.came
        if (wc.wr_id, wc.status, wc.byte_len) != (turn, 0, LENGTH):
            return f"queue pair {self.index}: SEND {turn}: wr_id {wc.wr_id} status {wc.status} bytes {wc.byte_len}"
        self.came += 1
        if not self.arena.same([(self.source(turn, True), LENGTH)], [(self.place(turn, False), LENGTH)]):
            return f"queue pair {self.index}: SEND {turn}: bytes"
        return None


def wait(side):
    """The next completions, however long they take."""
    while True:
        number, wcs = side.cq.poll(64)
        if not number:
            side.cq.req_notify()
            number, wcs = side.cq.poll(64)
        if number:
            return wcs
        side.channel.get_cq_event(side.cq)
        side.cq.ack_events(1)


def carriers():
    """Cables that carry."""
    count = 0
    for path in glob.glob("/sys/class/net/usb4net*/carrier"):
        try:
            with open(path) as file:
                count += file.read().strip() == "1"
        except OSError:
            pass
    return count


def call(side, arena, streams, windows):
    by_number = {stream.qp.qp_num: stream for stream in streams}
    rows, by_ms, wrong = [], {}, []
    for start, end in windows:
        late = time.monotonic() - start
        if late < 0:
            time.sleep(-late)
        elif not rows and late > 0.5:
            raise SystemExit(f"the first window began {late:.3f} s ago: the hosts were not ready in time")
        begun, last, moved, cables = time.monotonic(), None, 0, carriers()
        while not wrong:
            now = time.monotonic()
            for stream in streams if now < end else ():
                while stream.posted < stream.done + DEPTH:
                    stream.post()
            if all(stream.posted == stream.done for stream in streams):
                break
            wcs = wait(side)
            last = time.monotonic()
            for wc in wcs:
                problem = by_number[wc.qp_num].complete(wc)
                if problem:
                    wrong.append(problem)
            ms = int(last * 1000)
            by_ms[ms] = by_ms.get(ms, 0) + len(wcs) * LENGTH
            moved += len(wcs) * LENGTH
        # A window that was over before the one before it had ended has no traffic.
        if last:
            rows.append([round(begun * 1000, 3), moved, last - begun, cables])
        if wrong:
            break
    # Tells the server that nothing more comes.
    for stream in streams if not wrong else ():
        stream.qp.post_send(SendWR(opcode=e.IBV_WR_SEND, num_sge=1, sg=arena.sges([(0, 1)]),
                                   send_flags=e.IBV_SEND_SIGNALED))
    side.exchange(wrong=len(wrong))
    print(json.dumps({"bad": len(wrong), "wrong": wrong[:8], "messages": sum(s.done for s in streams), "windows": rows,
                      "by_ms": sorted(by_ms.items())}))


def serve(side, streams):
    by_number = {stream.qp.qp_num: stream for stream in streams}
    wrong, ended = [], 0
    while ended < PAIRS and not wrong:
        for wc in wait(side):
            stream = by_number[wc.qp_num]
            if wc.status == 0 and wc.byte_len == 1:
                ended += 1
                continue
            problem = stream.take(wc)
            if problem:
                wrong.append(problem)
                break
            stream.receive()
    side.exchange(wrong=len(wrong))
    print(json.dumps({"bad": len(wrong), "wrong": wrong[:8], "messages": sum(s.came for s in streams)}))


def main():
    calling = sys.argv[1] == "call"
    if calling:
        address, port, device, gid_index = sys.argv[2:6]
        line = socket.create_connection((address, int(port)))
    else:
        port, device, gid_index = sys.argv[2:5]
        line, _ = socket.create_server(("", int(port))).accept()
    side = Side(line, device, int(gid_index), events=True)
    arena = Arena(side, MIB, 2 * PAIRS * PLACES * LENGTH)
    streams = [Stream(side, arena, index) for index in range(PAIRS)]
    for stream in streams if not calling else ():
        for _ in range(PLACES):
            stream.receive()
    side.exchange(ready=True)
    if calling:
        windows = [[float(ms) / 1000 for ms in window.split("-")] for window in sys.argv[6:]]
        call(side, arena, streams, windows)
    else:
        serve(side, streams)


main()
