#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""SENDs of an unreliable connection as ds4 and JACCL use it: both ends at once, up to 32 of one SGE outstanding.

    uc.py serve PORT DEVICE GID_INDEX MTU ROUNDS
    uc.py call ADDRESS PORT DEVICE GID_INDEX MTU ROUNDS

An end is at most 32 messages ahead of those it has received, and has 64 receives posted, so that every message finds
one. Each is of other bytes, and all of them are compared. What is lost stays lost on such a connection, so an end that
hears nothing looks at its port, and says in the end what that was. Prints one JSON object.
"""
import ctypes
import json
import socket
import struct
import sys
import time

import pyverbs.enums as e
from pyverbs.mem_alloc import MAP_ANONYMOUS_, MAP_PRIVATE_, mmap
from pyverbs.mr import MR
from pyverbs.qp import QP, QPCap, QPInitAttr
from pyverbs.wr import RecvWR, SendWR, SGE
from verbs import ACCESS, Side

OUTSTANDING = 32
# A message: its number, then what is compared.
HEADER = struct.Struct("=I")
SIZES = [4096, 16384, 65536]
# Seconds without a completion after which an end looks at its port, and gives up.
QUIET, PATIENCE = 0.05, 10


class Unreliable(Side):
    def pair(self):
        cap = QPCap(max_send_wr=OUTSTANDING, max_recv_wr=2 * OUTSTANDING, max_send_sge=1, max_recv_sge=1)
        return QP(self.pd, QPInitAttr(qp_type=e.IBV_QPT_UC, scq=self.cq, rcq=self.cq, cap=cap, sq_sig_all=0))


class Places:
    """Room for the messages of one direction, each in a place of its own."""

    def __init__(self, side, count):
        self.buf = mmap(length=count * SIZES[-1], flags=MAP_ANONYMOUS_ | MAP_PRIVATE_)
        self.mr = MR(side.pd, count * SIZES[-1], ACCESS, address=self.buf)
        self.count = count

    def at(self, number):
        return self.buf + number % self.count * SIZES[-1]

    def sge(self, number, length):
        return SGE(self.at(number), length, self.mr.lkey)


def length_of(number):
    return SIZES[number % len(SIZES)]


def play(side, mtu, rounds):
    side.connect(mtu=mtu)
    sources, targets = Places(side, OUTSTANDING), Places(side, 2 * OUTSTANDING)
    # What the messages say, twice, so that each begins elsewhere in it.
    text = bytes((n * 7 + (n >> 8) * 31) & 0xff for n in range(SIZES[-1] + 4096))
    body = lambda number: text[number * 13 % 4096:][:length_of(number) - HEADER.size]
    posted = 0

    def receive():
        nonlocal posted
        side.qp.post_recv(RecvWR(wr_id=posted, num_sge=1, sg=[targets.sge(posted, SIZES[-1])]))
        posted += 1

    for _ in range(2 * OUTSTANDING):
        receive()
    side.exchange(ready=True)
    sent, done, came, wrong, most, down = 0, 0, 0, [], 0, False
    begun = heard = time.monotonic()
    while (came < rounds or done < rounds) and not wrong:
        while sent < min(rounds, came + OUTSTANDING, done + OUTSTANDING):
            data = HEADER.pack(sent) + body(sent)
            ctypes.memmove(sources.at(sent), data, len(data))
            side.qp.post_send(SendWR(wr_id=sent, opcode=e.IBV_WR_SEND, num_sge=1, sg=[sources.sge(sent, len(data))],
                                     send_flags=e.IBV_SEND_SIGNALED))
            sent += 1
            most = max(most, sent - done)
        for wc in side.cq.poll(16)[1]:
            heard = time.monotonic()
            if wc.status:
                wrong.append(f"status {wc.status} of request {wc.wr_id}")
            elif wc.opcode & e.IBV_WC_RECV:
                number, = HEADER.unpack(ctypes.string_at(targets.at(came), HEADER.size))
                got = ctypes.string_at(targets.at(came) + HEADER.size, wc.byte_len - HEADER.size)
                if number != came:
                    wrong.append(f"message {number} came where {came} was due")
                elif wc.byte_len != length_of(came) or got != body(came):
                    wrong.append(f"message {came}: data")
                came += 1
                receive()
            else:
                done += 1
        silence = time.monotonic() - heard
        if silence > QUIET and not down:
            down = side.context.query_port(1).state != e.IBV_PORT_ACTIVE
        if silence > PATIENCE:
            wrong.append(f"nothing for {PATIENCE} s after message {came}; port of {side.context.name} "
                         f"{'was down' if down else 'was active'}")
    taken = time.monotonic() - begun
    print(json.dumps({"messages": came, "most": most, "seconds": taken, "wrong": wrong[:4]}), flush=True)


def main():
    if sys.argv[1] == "serve":
        port, device, gid_index, mtu, rounds = sys.argv[2:7]
        line, _ = socket.create_server(("", int(port))).accept()
    else:
        address, port, device, gid_index, mtu, rounds = sys.argv[2:8]
        line = socket.create_connection((address, int(port)))
    play(Unreliable(line, device, int(gid_index)), int(mtu), int(rounds))


if __name__ == "__main__":
    main()
