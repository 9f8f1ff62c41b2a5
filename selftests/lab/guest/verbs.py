#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Drives one RC queue pair on each of two hosts through a named scene.

    verbs.py serve PORT DEVICE GID_INDEX SCENE
    verbs.py call ADDRESS PORT DEVICE GID_INDEX SCENE

The two sides exchange addresses and keys over TCP, play the scene and print one JSON object: the work
completion statuses seen and the queue pair's final state. A wrong result is for the caller to judge; this
program fails only when it cannot play.
"""
import ctypes
import errno
import json
import random
import socket
import sys
import time

import pyverbs.enums as e
from pyverbs.addr import AHAttr, GlobalRoute, GID
from pyverbs.cq import CQ, CompChannel
from pyverbs.device import Context
from pyverbs.mem_alloc import MAP_ANONYMOUS_, MAP_PRIVATE_, madvise, mmap, munmap
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import RecvWR, SendWR, SGE

SIZE = 65536
ACCESS = (e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ)
MTU = {256: 1, 512: 2, 1024: 3, 2048: 4, 4096: 5}
PATIENCE = 30
# Requests of each of a queue pair's queues.
QUEUE = 64
# Most pieces of memory of one request.
PIECES = 8


class Side:
    """One end: device, memory, queue pair, and the line to the other end."""

    def __init__(self, line, device, gid_index, events=False):
        # Two files: one for both would forget at each write what it has read beyond a line.
        self.heard, self.line = line.makefile("r"), line.makefile("w")
        self.context = Context(name=device)
        self.pd = PD(self.context)
        self.mr = MR(self.pd, SIZE, ACCESS)
        self.channel = CompChannel(self.context) if events else None
        self.cq = CQ(self.context, 256, None, self.channel, 0) if events else CQ(self.context, 256)
        self.gid_index = gid_index
        self.seen = []
        self.qp = self.pair()

    def pair(self):
        """A queue pair of this end's."""
        cap = QPCap(max_send_wr=QUEUE, max_recv_wr=QUEUE, max_send_sge=PIECES, max_recv_sge=PIECES, max_inline_data=64)
        return QP(self.pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap, sq_sig_all=0))

    def exchange(self, **values):
        self.line.write(json.dumps(values) + "\n")
        self.line.flush()
        answer = self.heard.readline()
        if not answer:
            raise SystemExit("the other end went away")
        return json.loads(answer)

    def connect(self, rnr_retry=7, retry_cnt=7, timeout=14, mtu=1024, rkey_of=None, reads=1):
        """Exchanges addresses, takes the queue pair to RTS."""
        mr = rkey_of or self.mr
        gid = str(self.context.query_gid(1, self.gid_index))
        psn = 0x123456
        self.peer = self.exchange(qpn=self.qp.qp_num, psn=psn, gid=gid, rkey=mr.rkey, addr=mr.buf)
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = ACCESS
        attr.path_mtu = MTU[mtu]
        attr.max_dest_rd_atomic = reads
        attr.max_rd_atomic = reads
        attr.min_rnr_timer = 12
        attr.timeout = timeout
        attr.retry_cnt = retry_cnt
        attr.rnr_retry = rnr_retry
        attr.dest_qp_num = self.peer["qpn"]
        attr.rq_psn = self.peer["psn"]
        attr.sq_psn = psn
        route = GlobalRoute(dgid=GID(self.peer["gid"]), sgid_index=self.gid_index, hop_limit=64)
        attr.ah_attr = AHAttr(port_num=1, is_global=1, gr=route, dlid=0)
        self.qp.to_rts(attr)
        self.exchange(ready=True)

    def receive(self, length=SIZE, wr_id=1, offset=0):
        sge = SGE(self.mr.buf + offset, length, self.mr.lkey)
        self.qp.post_recv(RecvWR(wr_id=wr_id, num_sge=1, sg=[sge]))

    def send(self, opcode, length, wr_id=2, lkey=None, addr=None, rkey=None, remote=None, flags=0, imm=None, offset=0):
        sge = SGE(self.mr.buf + offset if addr is None else addr, length, self.mr.lkey if lkey is None else lkey)
        sges = [sge] if length else []
        wr = SendWR(wr_id=wr_id, opcode=opcode, num_sge=len(sges), sg=sges or None, imm_data=imm or 0,
                    send_flags=e.IBV_SEND_SIGNALED | flags)
        if opcode not in (e.IBV_WR_SEND, e.IBV_WR_SEND_WITH_IMM):
            wr.set_wr_rdma(self.peer["rkey"] if rkey is None else rkey, self.peer["addr"] if remote is None else remote)
        self.qp.post_send(wr)

    def completions(self, count, patience=PATIENCE):
        """Waits for `count` completions; what came by then."""
        got = []
        until = time.monotonic() + patience
        while len(got) < count and time.monotonic() < until:
            number, wcs = self.cq.poll(count - len(got))
            got.extend(wcs)
            if not number:
                time.sleep(0.001)
        self.seen.extend({"wr_id": w.wr_id, "status": w.status, "opcode": w.opcode, "bytes": w.byte_len} for w in got)
        return got

    def state(self):
        attr, _ = self.qp.query(e.IBV_QP_STATE)
        return attr.qp_state

    def wait_state(self, wanted, patience=5):
        until = time.monotonic() + patience
        while self.state() != wanted and time.monotonic() < until:
            time.sleep(0.01)
        return self.state()

    def report(self, **more):
        print(json.dumps({"completions": self.seen, "statuses": [c["status"] for c in self.seen],
                          "state": self.state(), **more}))


def pattern(seed, length):
    return bytes((seed * 31 + n * 7 + (n >> 8)) & 0xff for n in range(length))


def failing_write(side, calling, rkey_of=None, **wrong):
    """The caller writes where it may not, then posts once more to see the flush."""
    side.connect(rkey_of=rkey_of)
    if calling:
        side.send(e.IBV_WR_RDMA_WRITE, 64, **{k: f(side) for k, f in wrong.items()})
        side.completions(1)
        side.send(e.IBV_WR_RDMA_WRITE, 64, wr_id=3)
        side.completions(1)
    else:
        # A receive shows the responder's state: it is flushed once the queue pair is in ERR.
        side.receive()
    side.exchange(done=True)
    if not calling:
        side.completions(1, patience=3)
    side.report()


def bad_rkey(side, calling):
    failing_write(side, calling, rkey=lambda s: s.peer["rkey"] ^ 0x5a5a00)


def out_of_bounds(side, calling):
    failing_write(side, calling, remote=lambda s: s.peer["addr"] + SIZE - 32)


def wrong_pd(side, calling):
    other = MR(PD(side.context), SIZE, ACCESS)
    failing_write(side, calling, rkey_of=None if calling else other)


def no_remote_right(side, calling):
    local = MR(side.pd, SIZE, e.IBV_ACCESS_LOCAL_WRITE)
    failing_write(side, calling, rkey_of=None if calling else local)


def bad_read_rkey(side, calling):
    side.connect()
    if calling:
        side.send(e.IBV_WR_RDMA_READ, 64, rkey=side.peer["rkey"] ^ 0x5a5a00)
        side.completions(1)
    side.exchange(done=True)
    side.report()


def wrong_local_pd(side, calling):
    other = MR(PD(side.context), SIZE, ACCESS)
    side.connect()
    if calling:
        side.send(e.IBV_WR_RDMA_WRITE, 64, lkey=other.lkey, addr=other.buf)
        side.completions(1)
    side.exchange(done=True)
    side.report()


def bad_lkey(side, calling):
    side.connect()
    if calling:
        side.send(e.IBV_WR_SEND, 64, lkey=side.mr.lkey ^ 0x5a5a00)
        side.completions(1)
    else:
        side.receive()
    side.exchange(done=True)
    side.report()


def missing_receive(side, calling):
    """The receiver never posts: the sender gives up after two RNR retries."""
    side.connect(rnr_retry=2)
    if calling:
        side.send(e.IBV_WR_SEND, 64)
        side.completions(1)
    side.exchange(done=True)
    side.report()


def late_receive(side, calling):
    """The receiver posts late: the sender waits as rnr_retry 7 says."""
    side.connect(rnr_retry=7)
    if calling:
        side.mr.write(pattern(9, 64), 64)
        side.send(e.IBV_WR_SEND, 64)
        side.completions(1)
    else:
        time.sleep(1)
        side.receive()
        side.completions(1)
    side.exchange(done=True)
    side.report(data_ok=calling or side.mr.read(64, 0) == pattern(9, 64))


def short_receive(side, calling):
    """The message is longer than the posted receive."""
    side.connect()
    if calling:
        time.sleep(0.2)
        side.send(e.IBV_WR_SEND, 4096)
        side.completions(1)
    else:
        side.receive(length=64)
        side.completions(1)
    side.exchange(done=True)
    side.report()


def dead_peer(side, calling):
    """The caller writes until the other end is gone; the harness kills that end."""
    side.connect(timeout=12, retry_cnt=3)
    if not calling:
        time.sleep(600)
    open("/run/writing", "w").close()
    try:
        while True:
            side.send(e.IBV_WR_RDMA_WRITE, 4096)
            if any(w.status for w in side.completions(1, patience=10)):
                break
            side.seen.clear()
        side.send(e.IBV_WR_RDMA_WRITE, 64, wr_id=3)
        side.completions(1)
        side.report()
    except PyverbsRDMAError as error:
        # A host that dies takes the link with it, and the link takes the device.
        if error.error_code != errno.EIO:
            raise
        print(json.dumps({"removed": True}))


def idle(side, calling):
    """Connected and silent until the device is taken away."""
    side.connect()
    open("/run/writing", "w").close()
    try:
        for _ in range(600):
            side.state()
            time.sleep(0.1)
        side.report()
    except PyverbsRDMAError as error:
        if error.error_code != errno.EIO:
            raise
        print(json.dumps({"removed": True}))


def operations(side, calling):
    """Every operation of the first slice with its data checked on the receiving side."""
    side.connect(mtu=1024)
    wrong = []

    def expect(what, truth):
        if not truth:
            wrong.append(what)

    for length in (1, 63, 64, 1024, 1025, 4096, 65535):
        data = pattern(length, length)
        for opcode in (e.IBV_WR_SEND, e.IBV_WR_SEND_WITH_IMM, e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_WRITE_WITH_IMM,
                       e.IBV_WR_RDMA_READ):
            with_imm = opcode in (e.IBV_WR_SEND_WITH_IMM, e.IBV_WR_RDMA_WRITE_WITH_IMM)
            receives = with_imm or opcode == e.IBV_WR_SEND
            name = f"opcode {opcode} length {length}"
            if calling:
                side.mr.write(bytes(SIZE) if opcode == e.IBV_WR_RDMA_READ else data, length)
                side.exchange(ready=True)
                inline = e.IBV_SEND_INLINE if length <= 64 and opcode != e.IBV_WR_RDMA_READ else 0
                side.send(opcode, length, flags=inline, imm=0x01020304 if with_imm else None)
                got = side.completions(1)
                expect(f"{name}: status", got and got[0].status == 0)
                if opcode == e.IBV_WR_RDMA_READ:
                    expect(f"{name}: data", side.mr.read(length, 0) == data)
                side.exchange(done=True)
            else:
                side.mr.write(data if opcode == e.IBV_WR_RDMA_READ else bytes(length), length)
                if receives:
                    side.receive()
                side.exchange(ready=True)
                if receives:
                    got = side.completions(1)
                    expect(f"{name}: status", got and got[0].status == 0)
                    expect(f"{name}: byte_len", got and got[0].byte_len == length)
                    if with_imm:
                        expect(f"{name}: imm", got and got[0].imm_data == 0x01020304)
                        expect(f"{name}: imm flag", got and got[0].wc_flags & e.IBV_WC_WITH_IMM)
                side.exchange(done=True)
                expect(f"{name}: data", side.mr.read(length, 0) == data)
    side.seen.clear()
    side.report(wrong=wrong)


class Arena:
    """One region of two parts. The sources are random and the same on both hosts, so either end knows what a message
    carries; the targets are GUARD wherever no message has been placed."""

    GUARD = 0xa5
    CHUNK = 1 << 20

    def __init__(self, side, sources, targets):
        self.sources, self.size = sources, sources + targets
        self.buf = mmap(length=self.size, flags=MAP_ANONYMOUS_ | MAP_PRIVATE_)
        dice = random.Random(11)
        for at in range(0, sources, self.CHUNK):
            length = min(self.CHUNK, sources - at)
            ctypes.memmove(self.buf + at, dice.randbytes(length), length)
        self.guard = bytes([self.GUARD]) * self.CHUNK
        self.memcmp = ctypes.CDLL(None).memcmp
        self.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.mr = MR(side.pd, self.size, ACCESS, address=self.buf)

    def clear(self, end):
        """Makes the targets before `end` GUARD again."""
        ctypes.memset(self.buf + self.sources, self.GUARD, end - self.sources)

    def guarded(self, start, end):
        """Whether nothing has been placed there."""
        for at in range(start, end, self.CHUNK):
            if self.memcmp(self.buf + at, self.guard, min(self.CHUNK, end - at)):
                return False
        return True

    def same(self, sources, targets):
        """Whether the bytes of one list of pieces are those of the other."""
        sources, targets = list(sources), list(targets)
        while sources:
            (source, left), (target, room) = sources.pop(), targets.pop()
            length = min(left, room)
            # From the last byte on, as what is left over stays at the front.
            if self.memcmp(self.buf + source + left - length, self.buf + target + room - length, length):
                return False
            if left > length:
                sources.append((source, left - length))
            if room > length:
                targets.append((target, room - length))
        return not targets

    def sges(self, pieces):
        return [SGE(self.buf + at, length, self.mr.lkey) for at, length in pieces]


class Message:
    """A SEND, WRITE or READ: pieces, (offset in the arena, length) each, it takes its bytes from and puts them to."""

    def __init__(self, dice, arena, opcode, length, at):
        self.opcode, self.length = opcode, length
        self.reads = opcode == e.IBV_WR_RDMA_READ
        pieces = [self.cut(dice, length, 1 if remote else dice.randint(1, PIECES))
                  for remote in (self.reads, opcode == e.IBV_WR_RDMA_WRITE)]
        self.sources = [(dice.randint(0, arena.sources - part), part) for part in pieces[0]]
        self.targets = []
        for part in pieces[1]:
            # Guards of all lengths between pieces, and any place in a page.
            at += dice.randint(1, 97)
            self.targets.append((at, part))
            at += part
        self.end = at

    @staticmethod
    def cut(dice, length, count):
        borders = sorted(dice.sample(range(1, length), min(count, length) - 1))
        return [b - a for a, b in zip([0] + borders, borders + [length])]

    def post(self, side, arena, wr_id):
        local, remote = (self.targets, self.sources) if self.reads else (self.sources, self.targets)
        sges = arena.sges(local)
        wr = SendWR(wr_id=wr_id, opcode=self.opcode, num_sge=len(sges), sg=sges, send_flags=e.IBV_SEND_SIGNALED)
        if self.opcode != e.IBV_WR_SEND:
            wr.set_wr_rdma(side.peer["rkey"], side.peer["addr"] + remote[0][0])
        side.qp.post_send(wr)

    def __repr__(self):
        name = {e.IBV_WR_SEND: "SEND", e.IBV_WR_RDMA_WRITE: "WRITE", e.IBV_WR_RDMA_READ: "READ"}[self.opcode]
        return f"{name} from {self.sources} to {self.targets}"


MIB = 1 << 20
# Around what is inline or lent (2 KiB), an MTU, a page, a run (60 KiB), a train (64 KiB), the window and more.
SIZES = [1, 2, 3, 7, 64, 65, 255, 257, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8193, 12289, 32769,
         61439, 61440, 61441, 65535, 65536, 65537, 131071, 131073, 262147, MIB - 1, MIB, MIB + 3, 4 * MIB + 1,
         16 * MIB - 5, 64 * MIB]
# A local ACK timeout of 8.6 s: a host that does not get the processor so long is no lost train.
PATIENT = 21
# Messages in flight at most, and their bytes.
FLIGHT, ROOM = 24, 130 * MIB


def sizes(side, calling, turns, mixed):
    """Messages of every size of the ladder `turns` times, then `mixed` flights of any sizes: SEND, WRITE and READ in
    flight at once, from and to up to 8 pieces at any place. Every byte of the targets is looked at, the guards between
    and behind them too."""
    arena = Arena(side, 64 * MIB + 4096, ROOM + MIB)
    side.connect(mtu=4096, timeout=PATIENT, rkey_of=arena.mr, reads=16)
    wrong, count, total, slowest = [], 0, 0, (0,)
    dice = random.Random(12)
    flights = [[size] * min(FLIGHT, ROOM // size) for _ in range(turns) for size in SIZES]
    flights += [[int(2 ** dice.uniform(0, 20)) for _ in range(FLIGHT)] for _ in range(mixed)]
    for turn, flight in enumerate(flights):
        messages, end = [], arena.sources
        for index, length in enumerate(flight):
            opcode = (e.IBV_WR_SEND, e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_READ)[(turn + index) % 3]
            messages.append(Message(dice, arena, opcode, length, end))
            end = messages[-1].end
        end += 4096
        arena.clear(end)
        sends = [m for m in messages if m.opcode == e.IBV_WR_SEND]
        if not calling:
            for index, message in enumerate(sends):
                sges = arena.sges(message.targets)
                side.qp.post_recv(RecvWR(wr_id=index, num_sge=len(sges), sg=sges))
        side.exchange(ready=True)
        if calling:
            for index, message in enumerate(messages):
                message.post(side, arena, index)
        awaited = messages if calling else sends
        since = time.monotonic()
        got = side.completions(len(awaited))
        slowest = max(slowest, (time.monotonic() - since, turn, flight[0]))
        side.exchange(done=True)
        side.seen.clear()
        if [(w.wr_id, w.status) for w in got] != [(n, 0) for n in range(len(awaited))]:
            wrong.append(f"completions {[(w.wr_id, w.status) for w in got]} of {awaited}")
        elif not calling:
            wrong += [f"{m}: byte_len {w.byte_len}" for m, w in zip(sends, got) if w.byte_len != m.length]
        clean = arena.sources
        for message in messages:
            if message.reads == calling:
                if not arena.same(message.sources, message.targets):
                    wrong.append(f"{message}: data")
                for at, length in message.targets:
                    if not arena.guarded(clean, at):
                        wrong.append(f"{message}: before {at}")
                    clean = at + length
        if not arena.guarded(clean, end):
            wrong.append(f"behind {messages[-1]}")
        count, total = count + len(messages), total + sum(flight)
        if side.exchange(wrong=len(wrong))["wrong"] or wrong:
            break
    side.report(wrong=wrong[:8], messages=count, bytes=total, slowest=slowest)


def windows(side, calling, rounds=60):
    """Streams of WRITEs of whole pages and a bit, 24 in flight, over each other's targets: the last one of each place
    is what is there, to the byte, and the guard pages around all places are as they were. Between them short WRITEs,
    and such as begin anywhere in a page, which must not be overtaken, nor overtake."""
    page, place, places = 4096, 320 * 4096, 8
    room = (places * (place + page)) + page
    arena = Arena(side, 64 * MIB, room + page)
    # The buffer begins with a page, so places do.
    assert arena.buf % page == 0 and arena.sources % page == 0
    side.connect(mtu=4096, timeout=PATIENT, rkey_of=arena.mr, reads=16)
    wrong, total, dice = [], 0, random.Random(14)
    start = lambda n: arena.sources + page + n * (place + page)
    for turn in range(rounds):
        arena.clear(arena.sources + room)
        requests = []
        for index in range(FLIGHT):
            pages = dice.choice((1, 8, 17, 32, 33, 47, 48, 64, 100, 255, 256, 300))
            length = pages * page + dice.choice((0, 0, 0, 1, 7, 4095, -1))
            target = start(dice.randrange(places))
            # Now and then not aligned here, or there.
            source = dice.randrange(64 * MIB // page - 320) * page + dice.choice((0, 0, 0, 0, 12))
            target += dice.choice((0, 0, 0, 0, 8))
            if dice.random() < 0.25:
                length = dice.choice((1, 8, 64, 2049, 4096, 12289))
            requests.append((source, target, length))
        if not calling:
            side.qp.post_recv(RecvWR(wr_id=1, num_sge=1, sg=arena.sges([(0, 1)])))
        side.exchange(ready=True)
        if calling:
            for index, (source, target, length) in enumerate(requests):
                wr = SendWR(wr_id=index, opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=arena.sges([(source, length)]),
                            send_flags=e.IBV_SEND_SIGNALED)
                wr.set_wr_rdma(side.peer["rkey"], side.peer["addr"] + target)
                side.qp.post_send(wr)
            # Everything before it is there when it is received. It is the byte that the other end has too.
            side.qp.post_send(SendWR(wr_id=FLIGHT, opcode=e.IBV_WR_SEND, num_sge=1, sg=arena.sges([(0, 1)]),
                                     send_flags=e.IBV_SEND_SIGNALED))
        got = side.completions(FLIGHT + 1 if calling else 1)
        if any(w.status for w in got):
            wrong.append(f"turn {turn}: {[(w.wr_id, w.status) for w in got if w.status]}")
        side.seen.clear()
        total += sum(length for _, _, length in requests)
        if not calling:
            # As they are posted, so they are there.
            wanted = ctypes.create_string_buffer(room)
            ctypes.memset(wanted, arena.GUARD, room)
            for source, target, length in requests:
                ctypes.memmove(ctypes.addressof(wanted) + target - arena.sources, arena.buf + source, length)
            if arena.memcmp(ctypes.addressof(wanted), arena.buf + arena.sources, room):
                here = ctypes.string_at(arena.buf + arena.sources, room)
                there = wanted.raw
                at = next(n for n in range(room) if here[n] != there[n])
                wrong.append(f"turn {turn}: byte {at} is {here[at]}, not {there[at]}: {requests}")
        side.exchange(done=True)
        if side.exchange(wrong=len(wrong))["wrong"] or wrong:
            break
    side.report(wrong=wrong[:3], messages=rounds * FLIGHT, bytes=total, slowest=0)


def reads(side, calling, count=200000, flight=16, chain=8):
    """READs of 64 B to 2 KiB, `flight` of them under way and `chain` more posted: each into a place that had other
    bytes before."""
    place, places = 2048 + 128, flight + chain
    arena = Arena(side, MIB, places * place)
    side.connect(mtu=4096, timeout=PATIENT, rkey_of=arena.mr, reads=flight)
    wrong, done, slowest = [], 0, (0, 0)
    if calling:
        dice = random.Random(13)
        requests = []
        for index in range(places * 100):
            length = dice.randint(64, 2048)
            source, target = dice.randint(0, MIB - length), arena.sources + index % places * place + dice.randint(1, 127)
            wr = SendWR(wr_id=index, opcode=e.IBV_WR_RDMA_READ, num_sge=1, sg=arena.sges([(target, length)]),
                        send_flags=e.IBV_SEND_SIGNALED)
            wr.set_wr_rdma(side.peer["rkey"], side.peer["addr"] + source)
            if index % chain:
                requests[-1][0].next_wr = wr
            requests.append((wr, source, target, length))
        posted = 0
        while done < count and not wrong:
            while posted < count and posted + chain <= done + places:
                side.qp.post_send(requests[posted % len(requests)][0])
                posted += chain
            since = time.monotonic()
            got = side.completions(chain)
            slowest = max(slowest, (time.monotonic() - since, done))
            side.seen.clear()
            if len(got) != chain:
                wrong.append(f"READ {done}: {len(got)} of {chain} in time")
            for wc in got:
                _, source, target, length = requests[done % len(requests)]
                if (wc.wr_id, wc.status) != (done % len(requests), 0):
                    wrong.append(f"READ {done}: wr_id {wc.wr_id} status {wc.status}")
                elif arena.memcmp(arena.buf + source, arena.buf + target, length):
                    wrong.append(f"READ {done}: data")
                done += 1
    side.exchange(done=True)
    side.report(wrong=wrong, reads=done, slowest=slowest)


# One packet or less, a run, a train and more, in odd lengths and in whole pages.
LAST_SIZES = [1, 64, 1000, 4096, 5000, 16384, 61441, 65536, 200_003, MIB]


def last(side, calling, rounds=600):
    """The ends WRITE to each other by turns, and neither looks for a completion to know that something has come: it reads
    the last byte until that is there, and then all others have to be."""
    arena = Arena(side, 2 * MIB, 2 * MIB)
    side.connect(mtu=4096, timeout=PATIENT, rkey_of=arena.mr)
    dice = random.Random(13)
    wrong, posted, done, looks = [], 0, 0, 0

    def turn():
        length = dice.choice(LAST_SIZES)
        while True:
            source = dice.randint(0, arena.sources - length)
            if ctypes.c_ubyte.from_address(arena.buf + source + length - 1).value != Arena.GUARD:
                return source, arena.sources + dice.randint(0, arena.size - arena.sources - length), length

    def write(source, target, length):
        nonlocal posted, done
        wr = SendWR(opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=arena.sges([(source, length)]),
                    send_flags=e.IBV_SEND_SIGNALED)
        wr.set_wr_rdma(side.peer["rkey"], side.peer["addr"] + target)
        side.qp.post_send(wr)
        posted += 1
        number, wcs = side.cq.poll(QUEUE)
        done += number
        wrong.extend(f"status {w.status}" for w in wcs if w.status)

    def wait(source, target, length):
        nonlocal looks
        last_byte, until = ctypes.c_ubyte.from_address(arena.buf + target + length - 1), time.monotonic() + PATIENCE
        while last_byte.value == Arena.GUARD:
            looks += 1
            if looks % 1024 == 0 and time.monotonic() > until:
                raise SystemExit(f"nothing has come of {length} bytes after {PATIENCE} s, {posted} posted, {wrong}")
        if not arena.same([(source, length)], [(target, length)]):
            wrong.append(f"the last of {length} bytes was there before the others")
        ctypes.memset(arena.buf + target, Arena.GUARD, length)

    arena.clear(arena.size)
    side.exchange(ready=True)
    for _ in range(rounds):
        there, back = turn(), turn()
        if calling:
            write(*there)
            wait(*back)
        else:
            wait(*there)
            write(*back)
    while done < posted and not wrong:
        got = side.completions(1)
        done += len(got)
        wrong.extend([] if got and not got[0].status else ["no completion"])
    side.exchange(done=True)
    side.seen.clear()
    side.report(wrong=wrong[:8], rounds=rounds, looks=looks)


def stream(side, calling, length, both, opcode=e.IBV_WR_RDMA_WRITE):
    """WRITEs, READs or SENDs of `length`, more of them posted than any window has room for, until 128 MiB have gone; from
    both ends at once if `both`. Waits for events, and measures with the clock of the guest: in virtual time no cycle counter
    says anything."""
    depth, count = min(QUEUE, 8 * MIB // length), 128 * MIB // length
    arena = Arena(side, length, length)
    side.connect(mtu=4096, timeout=18, rkey_of=arena.mr, reads=16)
    sge = arena.sges([(0, length)])
    wr = SendWR(opcode=opcode, num_sge=1, sg=sge, send_flags=e.IBV_SEND_SIGNALED)
    receive = RecvWR(num_sge=1, sg=arena.sges([(arena.sources, length)]))
    sends, receives = (calling or both) * count, 0
    if opcode == e.IBV_WR_SEND:
        receives = (both or not calling) * count
        for _ in range(min(QUEUE, receives)):
            side.qp.post_recv(receive)
    else:
        wr.set_wr_rdma(side.peer["rkey"], side.peer["addr"] + arena.sources)
    side.exchange(ready=True)
    begun, posted, done, came, bad = time.monotonic(), 0, 0, 0, 0
    while (done < sends or came < receives) and not bad:
        while posted < min(done + depth, sends):
            side.qp.post_send(wr)
            posted += 1
        number, wcs = side.cq.poll(depth)
        if not number:
            side.cq.req_notify()
            number, wcs = side.cq.poll(depth)
        if not number:
            side.channel.get_cq_event(side.cq)
            side.cq.ack_events(1)
        for w in wcs:
            bad += w.status != 0
            if w.opcode & e.IBV_WC_RECV:
                came += 1
                if came + QUEUE <= receives:
                    side.qp.post_recv(receive)
            else:
                done += 1
    taken = time.monotonic() - begun
    side.exchange(done=True)
    side.report(bytes=done * length, seconds=taken, bad=bad)


OPCODES = {"write": e.IBV_WR_RDMA_WRITE, "read": e.IBV_WR_RDMA_READ, "send": e.IBV_WR_SEND}
STREAMS = {f"stream_{name}_{length}_{'both' if both else 'one'}":
           lambda side, calling, length=length, both=both, opcode=opcode: stream(side, calling, length, both, opcode)
           for name, opcode in OPCODES.items() for length in (65536, MIB) for both in (False, True)}


def rounds(side, calling, length, count=1000):
    """WRITEs with immediate data there and back, one at a time; waits for the event of what comes in, and for no other.
    Nothing in a round reads the clock, which takes time where nothing else does."""
    arena = Arena(side, length, length)
    side.connect(mtu=4096, timeout=18, rkey_of=arena.mr)
    wr = SendWR(opcode=e.IBV_WR_RDMA_WRITE_WITH_IMM, num_sge=1, sg=arena.sges([(0, length)]), imm_data=1,
                send_flags=e.IBV_SEND_SIGNALED | e.IBV_SEND_SOLICITED)
    wr.set_wr_rdma(side.peer["rkey"], side.peer["addr"] + arena.sources)
    receive = RecvWR(num_sge=1, sg=arena.sges([(arena.sources, length)]))
    for _ in range(QUEUE):
        side.qp.post_recv(receive)
    side.exchange(ready=True)
    begun, came, bad = time.monotonic(), 0, 0
    for turn in range(1, count + 1):
        if calling:
            side.qp.post_send(wr)
        while came < turn and not bad:
            number, wcs = side.cq.poll(QUEUE)
            if not number:
                side.cq.req_notify(True)
                number, wcs = side.cq.poll(QUEUE)
            if not number:
                side.channel.get_cq_event(side.cq)
                side.cq.ack_events(1)
            for w in wcs:
                bad += w.status != 0
                came += w.opcode & e.IBV_WC_RECV != 0
        side.qp.post_recv(receive)
        if not calling:
            side.qp.post_send(wr)
    taken = time.monotonic() - begun
    same = arena.same([(0, length)], [(arena.sources, length)])
    side.exchange(done=True)
    side.report(rounds=count, seconds=taken, bad=bad + (not same))


ROUNDS = {f"rounds_{length}": lambda side, calling, length=length: rounds(side, calling, length)
          for length in (64, 16384)}


class Paged:
    """A region of memory that is not pinned, all of whose pages can be taken away."""

    def __init__(self, side, size):
        self.size = size
        self.buf = mmap(length=size, flags=MAP_ANONYMOUS_ | MAP_PRIVATE_)
        self.mr = MR(side.pd, size, ACCESS | e.IBV_ACCESS_ON_DEMAND, address=self.buf)

    def drop(self):
        madvise(self.buf, self.size)


def paged(side, calling):
    """Regions whose pages come on demand: SEND, WRITE and READ find them absent at either end."""
    size = 1 << 20
    near, far = Paged(side, size), Paged(side, size)
    side.connect(rkey_of=far.mr, mtu=4096)
    wrong = []
    for turn, length in enumerate((1, 4096, 5000, 65536, size)):
        data = pattern(turn, length)
        for opcode in (e.IBV_WR_SEND, e.IBV_WR_RDMA_WRITE, e.IBV_WR_RDMA_READ):
            near.drop()
            far.drop()
            sends = opcode == e.IBV_WR_SEND
            reads = opcode == e.IBV_WR_RDMA_READ
            if calling and not reads:
                near.mr.write(data, length)
            if not calling and reads:
                far.mr.write(data, length)
            if not calling and sends:
                side.qp.post_recv(RecvWR(wr_id=1, num_sge=1, sg=[SGE(far.buf, length, far.mr.lkey)]))
            side.exchange(ready=True)
            if calling:
                side.send(opcode, length, lkey=near.mr.lkey, addr=near.buf)
            if calling or sends:
                got = side.completions(1)
                if not got or got[0].status:
                    wrong.append(f"opcode {opcode} length {length}: status {got and got[0].status}")
            side.exchange(done=True)
            if calling and reads and near.mr.read(length, 0) != data:
                wrong.append(f"READ of {length}: data")
            if not calling and not reads and far.mr.read(length, 0) != data:
                wrong.append(f"opcode {opcode} length {length}: data")
    side.seen.clear()
    # What cannot be brought is an error of its owner's, and ends in time.
    if not calling:
        munmap(far.buf, size)
    side.exchange(ready=True)
    if calling:
        side.send(e.IBV_WR_RDMA_WRITE, 4096, lkey=near.mr.lkey, addr=near.buf)
        side.completions(1)
    side.exchange(done=True)
    if not calling:
        side.wait_state(e.IBV_QPS_ERR)
    side.report(wrong=wrong)


def unmapped_source(side, calling):
    """A send from a paged region whose memory has been given back."""
    near = Paged(side, SIZE)
    side.connect()
    if calling:
        munmap(near.buf, SIZE)
        side.send(e.IBV_WR_RDMA_WRITE, 4096, lkey=near.mr.lkey, addr=near.buf)
        side.completions(1)
    side.exchange(done=True)
    side.report()


def lent(side, calling, end, reads=False):
    """The caller's frames wait below the queue pair. `end` ends what they belong to; what the caller writes into the
    memory after that is nobody's business: the other end gets what was there before, or nothing."""
    length = 16384
    buffer = mmap(length=SIZE, flags=MAP_ANONYMOUS_ | MAP_PRIVATE_)
    region = MR(side.pd, SIZE, ACCESS, address=buffer)
    before, after = pattern(1, length), pattern(2, length)
    side.mr.write(bytes(length), length)
    side.connect(mtu=4096, timeout=18, rkey_of=region)
    if calling:
        ctypes.memmove(buffer, before, length)
        side.exchange(ready=True)
        if reads:
            # Until the request is here and answered, the answer not yet gone.
            time.sleep(0.1)
        else:
            side.send(e.IBV_WR_SEND, length, lkey=region.lkey, addr=buffer)
        end(side, region)
        ctypes.memmove(buffer, after, length)
        side.exchange(done=True)
        print("{}")
        return
    if not reads:
        side.receive(length=length)
    side.exchange(ready=True)
    if reads:
        side.send(e.IBV_WR_RDMA_READ, length)
    side.exchange(done=True)
    got = side.completions(1, patience=3)
    arrived = side.mr.read(length, 0)
    wrong = [n for n in range(length) if arrived[n] != before[n]]
    side.report(came=bool(got) and got[0].status == 0, wrong=wrong[:1] if any(arrived) else [])


def error(side, region):
    side.qp.modify(QPAttr(qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)
    side.completions(1)


def reset(side, region):
    side.qp.modify(QPAttr(qp_state=e.IBV_QPS_RESET), e.IBV_QP_STATE)


def destroy(side, region):
    side.qp.close()


def deregister(side, region):
    region.close()


LENT = {f"lent_{f.__name__}": lambda side, calling, f=f: lent(side, calling, f)
        for f in (error, reset, destroy, deregister)}
LENT |= {f"lent_read_{f.__name__}": lambda side, calling, f=f: lent(side, calling, f, reads=True)
         for f in (reset, destroy, deregister)}

SIZES_SCENES = {"sizes": lambda side, calling: sizes(side, calling, turns=1, mixed=20),
                "sizes_long": lambda side, calling: sizes(side, calling, turns=12, mixed=2000)}

SCENES = LENT | SIZES_SCENES | STREAMS | ROUNDS | {f.__name__: f for f in (
    bad_rkey, out_of_bounds, wrong_pd, no_remote_right, bad_read_rkey, wrong_local_pd, bad_lkey, missing_receive,
    late_receive, short_receive, dead_peer, idle, operations, paged, unmapped_source, reads, windows, last)}


def main():
    if sys.argv[1] == "serve":
        port, device, gid_index, scene = sys.argv[2:6]
        listener = socket.create_server(("", int(port)))
        line, _ = listener.accept()
    else:
        address, port, device, gid_index, scene = sys.argv[2:7]
        line = socket.create_connection((address, int(port)))
    side = Side(line, device, int(gid_index), events=scene in STREAMS | ROUNDS)
    SCENES[scene](side, sys.argv[1] == "call")


if __name__ == "__main__":
    main()
