#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""A busy loop beside a storm that user space or a peer makes: how fast it runs, and how soon SIGKILL ends the storm.

    storms.py STORM DEVICE GID_INDEX SECONDS [PEER PORT]   prints one JSON object
    storms.py serve PORT DEVICE GID_INDEX                  makes the peer's side of storms, until it is killed
    storms.py list                                         the storms: name, where, how it counts

The loop runs alone, then beside a plain program that wants the processor as well (the rival), then beside the storm.
Each phase says when it began and ended by the clock of the day, so that the lab can tell how much of its own processor
the guest had meanwhile: iterations per second of that do not depend on what else the machine does.
"""
import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr, GlobalRoute, GID
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import RecvWR, SendWR, SGE

ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
QKEY = 0x11111111
# A queue pair number that nobody has: the tables are random, and small.
NOBODY = 0x8ABCDE
# 10 us, and 8 us: the shortest that there are.
RNR_TIMER, ACK_TIMEOUT = 1, 1
FOR_EVER = 7
MTU_256, MTU_4096 = 1, 5
BIG = 32 << 20
DISCARD = 9


class Port:
    """An open device."""

    def __init__(self, name, gid_index):
        self.context = Context(name=name)
        self.gid_index = gid_index
        self.gid = str(self.context.query_gid(1, gid_index))
        self.pd = PD(self.context)
        self.cq = CQ(self.context, 16384)
        self.memory = None

    def big(self):
        """A region that takes long to carry."""
        if not self.memory:
            self.memory = MR(self.pd, BIG, ACCESS)
        return self.memory

    def small(self):
        if not self.memory:
            self.memory = MR(self.pd, 4096, ACCESS)
        return self.memory

    def qp(self, kind=e.IBV_QPT_RC, sends=128, receives=16):
        cap = QPCap(max_send_wr=sends, max_recv_wr=receives, max_send_sge=1, max_recv_sge=1)
        attr = None
        if kind == e.IBV_QPT_UD:
            attr = QPAttr(port_num=1)
            attr.qkey = QKEY
        return QP(self.pd, QPInitAttr(qp_type=kind, scq=self.cq, rcq=self.cq, cap=cap), attr)

    def route(self, gid):
        return AHAttr(port_num=1, is_global=1, dlid=0,
                      gr=GlobalRoute(dgid=GID(gid), sgid_index=self.gid_index, hop_limit=64))

    def connect(self, qp, gid, number, mtu=MTU_4096, timeout=14, sq_psn=0):
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = ACCESS
        attr.path_mtu, attr.timeout, attr.min_rnr_timer = mtu, timeout, RNR_TIMER
        attr.retry_cnt, attr.rnr_retry = 7, FOR_EVER
        attr.dest_qp_num, attr.rq_psn, attr.sq_psn = number, 0, sq_psn
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 16
        attr.ah_attr = self.route(gid)
        qp.to_rts(attr)

    def pairs(self, count, **how):
        """Queue pairs that are connected to each other by twos."""
        made = []
        for _ in range(count):
            two = self.qp(), self.qp()
            for one, other in (two, two[::-1]):
                self.connect(one, self.gid, other.qp_num, **how)
            made.append(two)
        return made

    def drain(self):
        """Completions that are there."""
        number, got = self.cq.poll(256)
        return got if number else []


def chain(requests):
    for one, following in zip(requests, requests[1:]):
        one.next_wr = following
    return requests


def send(region, length=8, flags=0):
    return SendWR(opcode=e.IBV_WR_SEND, num_sge=1, sg=[SGE(region.buf, length, region.lkey)], send_flags=flags)


def access(opcode, region, remote, length=BIG):
    request = SendWR(opcode=opcode, num_sge=1, sg=[SGE(region.buf, length, region.lkey)], send_flags=0)
    request.set_wr_rdma(remote[1], remote[0])
    return request


# A storm is a function of a port and of what its peer said, if it has one. It calls `blowing` once it has begun and
# does not return.

def rest():
    while True:
        signal.pause()


def rnr(port, blowing, pairs):
    """Messages for which no receive is ever posted."""
    two = port.pairs(pairs)
    for sender, _ in two:
        sender.post_send(send(port.small()))
    blowing()
    rest()


def again(port, blowing, senders, connect):
    """Requests that end in an error: reset, connected and posted again."""
    by_number = {qp.qp_num: qp for qp in senders}
    for qp in senders:
        qp.post_send(send(port.small(), flags=e.IBV_SEND_SIGNALED))
    blowing()
    while True:
        for done in port.drain():
            qp = by_number[done.qp_num]
            qp.modify(QPAttr(qp_state=e.IBV_QPS_RESET), e.IBV_QP_STATE)
            connect(qp)
            qp.post_send(send(port.small(), flags=e.IBV_SEND_SIGNALED))


def naks(port, blowing):
    """Senders whose packets are ahead of what is expected: each is answered by a NAK that says so."""
    two = port.pairs(64, timeout=ACK_TIMEOUT, sq_psn=100)
    partner = {sender.qp_num: receiver.qp_num for sender, receiver in two}

    def connect(qp):
        port.connect(qp, port.gid, partner[qp.qp_num], timeout=ACK_TIMEOUT, sq_psn=100)

    again(port, blowing, [sender for sender, _ in two], connect)


def timeouts(port, blowing):
    """Nobody answers, and the timeout is the shortest."""
    senders = [port.qp() for _ in range(64)]

    def connect(qp):
        port.connect(qp, port.gid, NOBODY, timeout=ACK_TIMEOUT)

    for qp in senders:
        connect(qp)
    again(port, blowing, senders, connect)


def datagrams(port, blowing, gid, number, length=8):
    """Datagrams as fast as they can be posted."""
    qp = port.qp(e.IBV_QPT_UD, sends=2048)
    region, handle = port.small(), AH(port.pd, attr=port.route(gid))
    requests = []
    for n in range(1024):
        last = n % 512 == 511
        requests.append(send(region, length, e.IBV_SEND_SIGNALED if last else 0))
        requests[-1].set_wr_ud(handle, number, QKEY)
    halves = chain(requests[:512])[0], chain(requests[512:])[0]
    for half in halves:
        qp.post_send(half)
    blowing()
    turn = 0
    while True:
        for _ in port.drain():
            qp.post_send(halves[turn])
            turn = 1 - turn


def to_self(port, blowing):
    """To a queue pair of our own that has no receives."""
    datagrams(port, blowing, port.gid, port.qp(e.IBV_QPT_UD).qp_num)


def to_nobody(port, blowing):
    """To a number that nobody has."""
    datagrams(port, blowing, port.gid, NOBODY)


def flushes(port, blowing):
    """Requests for queue pairs in error: all are flushed."""
    qps = [qp for two in port.pairs(32) for qp in two]
    region = port.small()
    for qp in qps:
        qp.modify(QPAttr(qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)
    sends = chain([send(region) for _ in range(16)])[0]
    receives = chain([RecvWR(wr_id=n, num_sge=1, sg=[SGE(region.buf, 8, region.lkey)]) for n in range(8)])[0]
    blowing()
    while True:
        for qp in qps:
            for post, what in ((qp.post_send, sends), (qp.post_recv, receives)):
                try:
                    post(what)
                except PyverbsRDMAError:
                    pass  # Full, until they have been flushed.
        while port.drain():
            pass


def transfers(port, blowing, opcode, pairs, **how):
    """More than can be carried in the time, posted at once."""
    region = port.big()
    for sender, _ in port.pairs(pairs, **how):
        requests = [access(opcode, region, (region.buf, region.rkey)) for _ in range(max(4, 256 // pairs))]
        sender.post_send(chain(requests)[0])
    blowing()
    rest()


LOCAL = {
    # name: (what it is, its process wants the processor by itself, how)
    "rnr_1": ("RNR, 10 us, for ever: 1 pair", False, lambda port, go: rnr(port, go, 1)),
    "rnr_64": ("RNR, 10 us, for ever: 64 pairs", False, lambda port, go: rnr(port, go, 64)),
    "nak_64": ("PSNs that do not meet: 64 pairs, 8 us", True, naks),
    "timeout_64": ("nobody answers: 64 QPs, 8 us", True, timeouts),
    "ud_self": ("datagrams to a QP without receives", True, to_self),
    "ud_nobody": ("datagrams to no QP", True, to_nobody),
    "flush_64": ("posting to 64 QPs in ERR", True, flushes),
    "read_4": ("32 MiB READs at MTU 256: 4 pairs", False,
               lambda port, go: transfers(port, go, e.IBV_WR_RDMA_READ, 4, mtu=MTU_256)),
    "write_4": ("32 MiB WRITEs at MTU 256: 4 pairs", False,
                lambda port, go: transfers(port, go, e.IBV_WR_RDMA_WRITE, 4, mtu=MTU_256)),
    "write_64": ("32 MiB WRITEs: 64 pairs", False, lambda port, go: transfers(port, go, e.IBV_WR_RDMA_WRITE, 64)),
}


# The peer's storms: what the victim has for them, and what the peer does. They tell each other over a socket.

def victim_datagrams(port, talk):
    talk.say({"number": port.qp(e.IBV_QPT_UD).qp_num})


def victim_pairs(port, talk, count, region):
    qps = [port.qp() for _ in range(count)]
    talk.say({"numbers": [qp.qp_num for qp in qps], "memory": (region.buf, region.rkey)})
    theirs = talk.hear()
    for qp, number in zip(qps, theirs["numbers"]):
        port.connect(qp, theirs["gid"], number)
    talk.say({"ready": True})
    return qps


def peer_pairs(port, blowing, talk, request, posted):
    theirs = talk.hear()
    qps = [port.qp() for _ in theirs["numbers"]]
    talk.say({"gid": port.gid, "numbers": [qp.qp_num for qp in qps]})
    for qp, number in zip(qps, theirs["numbers"]):
        port.connect(qp, theirs["gid"], number)
    talk.hear()
    for qp in qps:
        qp.post_send(chain([request(port, theirs["memory"]) for _ in range(posted)])[0])
    blowing()
    rest()


def peer_datagrams(port, blowing, talk, number=None, length=8):
    theirs = talk.hear()
    datagrams(port, blowing, theirs["gid"], number or theirs["number"], length)


def peer_udp(_, blowing, talk):
    """For comparison: packets of another protocol over the same netdev, to a port that nobody hears."""
    address = talk.hear()["address"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        blowing()
        while True:
            try:
                out.sendto(bytes(64), (address, DISCARD))
            except OSError:
                pass  # The ICMP message that nobody hears there.


def big_read(port, memory):
    return access(e.IBV_WR_RDMA_READ, port.big(), memory)


def big_write(port, memory):
    return access(e.IBV_WR_RDMA_WRITE, port.big(), memory)


PEER = {
    # name: (what it is, the victim's part, the peer's part)
    "peer_ud": ("the peer's datagrams to a QP without receives", victim_datagrams, peer_datagrams),
    "peer_nobody": ("the peer's datagrams to no QP", victim_datagrams,
                    lambda port, go, talk: peer_datagrams(port, go, talk, NOBODY)),
    "peer_rnr_64": ("the peer's sends without a receive: 64 pairs, 10 us",
                    lambda port, talk: victim_pairs(port, talk, 64, port.small()),
                    lambda port, go, talk: peer_pairs(port, go, talk, lambda port, _: send(port.small()), 16)),
    "peer_read_16": ("the peer's 32 MiB READs: 16 pairs",
                     lambda port, talk: victim_pairs(port, talk, 16, port.big()),
                     lambda port, go, talk: peer_pairs(port, go, talk, big_read, 16)),
    "peer_write_64": ("the peer's 32 MiB WRITEs: 64 pairs",
                      lambda port, talk: victim_pairs(port, talk, 64, port.big()),
                      lambda port, go, talk: peer_pairs(port, go, talk, big_write, 4)),
    "peer_udp": ("for comparison: the peer's UDP packets to a closed port", lambda port, talk: talk.say({}), peer_udp),
}


class Talk:
    """Lines of JSON over a socket."""

    def __init__(self, connection):
        self.connection, self.lines = connection, connection.makefile("r")

    def say(self, what):
        self.connection.sendall((json.dumps(what) + "\n").encode())

    def hear(self):
        line = self.lines.readline()
        if not line:
            raise EOFError("the other side has ended")
        return json.loads(line)


def child(work):
    """A process that does `work` with a function to call when it has begun; its number, when it has."""
    there, here = os.pipe()
    number = os.fork()
    if number:
        os.close(here)
        begun = os.read(there, 1)
        os.close(there)
        if begun != b"1":
            raise RuntimeError(f"the storm did not begin: status {os.waitpid(number, 0)[1]}")
        return number
    try:
        os.close(there)
        work(lambda: os.write(here, b"1"))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def turn():
    for _ in range(8):
        sum(range(2000))


def packets(device):
    """What the device and its netdev have sent and heard so far."""
    port = f"/sys/class/infiniband/{device}/ports/1"
    with open(f"{port}/gid_attrs/ndevs/0") as file:
        netdev = file.read().strip()
    total = 0
    for path in (f"{port}/hw_counters/sent_pkts", f"{port}/hw_counters/rcvd_pkts",
                 f"/sys/class/net/{netdev}/statistics/rx_packets", f"/sys/class/net/{netdev}/statistics/tx_packets"):
        with open(path) as file:
            total += int(file.read())
    return total


def loop(until):
    """Turns until `until` says so: what was counted, and when."""
    before, start = time.time(), time.monotonic()
    last, turns, longest = start, 0, 0
    while True:
        turn()
        turns += 1
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if until(now - start):
            return {"from": before, "to": time.time(), "turns": turns, "seconds": now - start, "longest": longest}


def end(number):
    """Kills a process beside a busy loop, until nothing of it is left."""
    os.kill(number, signal.SIGKILL)
    phase = loop(lambda _: os.waitpid(number, os.WNOHANG)[0] == number)
    left = json.loads(subprocess.run(["rdma", "-j", "resource", "show", "qp"], capture_output=True).stdout or "[]")
    phase["left"] = sum(qp.get("pid") == number for qp in left)
    return phase


def burn(_):
    while True:
        turn()


def measure(storm, device, gid_index, seconds, peer):
    """The phases, and the ends of what made the storm."""
    for_a_while = lambda spent: spent >= seconds
    phases = {"alone": loop(for_a_while)}

    def rival(go):
        go()
        burn(go)

    other = child(rival)
    phases["rival"] = loop(for_a_while)
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)

    def local(go):
        LOCAL[storm][2](Port(device, gid_index), go)

    def victim(go):
        talk = Talk(socket.create_connection(peer))
        talk.say({"storm": storm})
        port = Port(device, gid_index)
        # What the victim has is alive as long as its process.
        class Greeting:
            say = staticmethod(lambda what: talk.say({**what, "gid": port.gid,
                                                      "address": talk.connection.getsockname()[0]}))
            hear = staticmethod(talk.hear)
        kept = PEER[storm][1](port, Greeting)
        talk.hear()
        go()
        rest()
        del kept

    cause = child(victim if peer else local)
    seen = packets(device)
    phases["storm"] = loop(for_a_while)
    seen = packets(device) - seen
    phases["end"] = end(cause)
    if peer:
        talk = Talk(socket.create_connection(peer))
        talk.say({"kill": True})
        phases["peer_end"] = talk.hear()
    phases["after"] = loop(for_a_while)
    print(json.dumps({"burns": not peer and LOCAL[storm][1], "packets": seen, "phases": phases}), flush=True)


def serve(port, device, gid_index):
    listener = socket.create_server(("", port))
    storm = None
    while True:
        connection, _ = listener.accept()
        talk = Talk(connection)
        asked = talk.hear()
        if "kill" in asked:
            talk.say(end(storm))
        else:
            def work(go):
                def blowing():
                    talk.say({"storm": "blows"})
                    go()
                PEER[asked["storm"]][2](Port(device, gid_index), blowing, talk)
            storm = child(work)
        connection.close()


def main():
    if sys.argv[1] == "list":
        print(json.dumps([(name, what) for name, (what, *_) in (*LOCAL.items(), *PEER.items())]))
    elif sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        peer = (sys.argv[5], int(sys.argv[6])) if len(sys.argv) > 5 else None
        measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), peer)


main()
