#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""What ends opens nothing: keys, numbers and handles after what they named is gone, on one device that is both ends.

    keys.py SCENE DEVICE GID_INDEX

Prints what was wrong as one JSON list.
"""
import ctypes
import json
import os
import struct
import sys
import time
import traceback

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr, GlobalRoute, GID
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR, MW, MWBindInfo
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import RecvWR, SendWR, SGE

ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
BINDABLE = ACCESS | e.IBV_ACCESS_MW_BIND
SUCCESS, LOC_QP_OP_ERR, REM_ACCESS_ERR = 0, 2, 10
QKEY = 0x11111111
PSN = 0x123456
SECRET = b"secret"
# So long a number that somebody wants again may take to come.
AGAIN = 150.0

wrong = []


def expect(what, truth):
    if not truth:
        wrong.append(what)


def fails(act):
    """The errno that `act` fails with, or 0."""
    try:
        act()
    except PyverbsRDMAError as error:
        return error.error_code
    return 0


def wait(cq, patience=10.0):
    """The status of the next completion; None if there is none."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        number, wcs = cq.poll(1)
        if number:
            return wcs[0].status
        time.sleep(0.001)
    return None


class End:
    """A reliable queue pair of a domain, with memory of its own."""

    def __init__(self, place, pd):
        self.place, self.pd = place, pd
        self.cq = CQ(place.context, 16)
        self.qp = place.pair(pd, self.cq)
        self.mr = MR(pd, 4096, ACCESS)

    def connect(self, number):
        self.qp.to_rts(self.place.attr(number))

    def reset(self):
        self.qp.modify(QPAttr(qp_state=e.IBV_QPS_RESET), e.IBV_QP_STATE)

    def again(self, number):
        """A new life of the same queue pair."""
        self.reset()
        self.connect(number)

    def post(self, wr):
        self.qp.post_send(wr)
        return wait(self.cq)

    def read(self, address, rkey):
        """What a READ from its peer comes to: the status and what was read."""
        self.mr.write(bytes(len(SECRET)), len(SECRET))
        sge = SGE(self.mr.buf, len(SECRET), self.mr.lkey)
        wr = SendWR(opcode=e.IBV_WR_RDMA_READ, num_sge=1, sg=[sge], send_flags=e.IBV_SEND_SIGNALED)
        wr.set_wr_rdma(rkey, address)
        return self.post(wr), self.mr.read(len(SECRET), 0)

    def close(self):
        self.qp.close()


class Place:
    """A device opened."""

    def __init__(self, device, gid_index):
        self.device, self.context, self.gid_index = device, Context(name=device), gid_index

    def pair(self, pd, cq):
        cap = QPCap(max_send_wr=16, max_recv_wr=16, max_send_sge=1, max_recv_sge=1)
        return QP(pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=cq, rcq=cq, cap=cap))

    def route(self):
        gid = self.context.query_gid(1, self.gid_index)
        route = GlobalRoute(dgid=GID(str(gid)), sgid_index=self.gid_index, hop_limit=64)
        return AHAttr(port_num=1, is_global=1, gr=route, dlid=0)

    def attr(self, number):
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = ACCESS
        attr.path_mtu = e.IBV_MTU_1024
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
        attr.min_rnr_timer = 12
        attr.timeout = 14
        attr.retry_cnt = attr.rnr_retry = 3
        attr.dest_qp_num = number
        attr.rq_psn = attr.sq_psn = PSN
        attr.ah_attr = self.route()
        return attr

    def connected(self, pd, other):
        """Two queue pairs connected, of these domains."""
        ends = End(self, pd), End(self, other)
        ends[0].connect(ends[1].qp.qp_num)
        ends[1].connect(ends[0].qp.qp_num)
        return ends


def secret(pd, access=BINDABLE):
    mr = MR(pd, 4096, access)
    mr.write(SECRET, len(SECRET))
    return mr


def bind(end, mr, kind=e.IBV_MW_TYPE_2):
    """A window over all of a region, bound by `end`: the window and its key."""
    mw = MW(end.pd, kind)
    info = MWBindInfo(mr, mr.buf, 4096, e.IBV_ACCESS_REMOTE_READ)
    if kind == e.IBV_MW_TYPE_1:
        from pyverbs.mr import MWBind
        end.qp.bind_mw(mw, MWBind(info, e.IBV_SEND_SIGNALED))
        expect("bind of type 1", wait(end.cq) == SUCCESS)
        return mw, mw.rkey
    wr = SendWR(opcode=e.IBV_WR_BIND_MW, send_flags=e.IBV_SEND_SIGNALED)
    wr.set_bind_wr(mw, info)
    expect("bind of type 2", end.post(wr) == SUCCESS)
    return mw, wr.rkey


def refused(what, end, mr, rkey):
    status, got = end.read(mr.buf, rkey)
    expect(f"{what}: status {status}, read {got}", status == REM_ACCESS_ERR and got == bytes(len(SECRET)))


def granted(what, end, mr, rkey):
    status, got = end.read(mr.buf, rkey)
    expect(f"{what}: status {status}, read {got}", status == SUCCESS and got == SECRET)


def windows(place):
    """Windows of type 2 end with the queue pair that bound them, by destruction or RESET; those of type 1 do not."""
    pd, other = PD(place.context), PD(place.context)

    peer, owner = place.connected(pd, pd)
    mr = secret(pd)
    mw, rkey = bind(owner, mr)
    granted("its own", peer, mr, rkey)
    expect("a region with a window goes", fails(mr.close) != 0)
    peer.again(owner.qp.qp_num)
    owner.again(peer.qp.qp_num)
    refused("after RESET", peer, mr, rkey)
    expect("after RESET the region stays", fails(mr.close) == 0)

    peer, owner = place.connected(pd, pd)
    mr = secret(pd)
    mw, rkey = bind(owner, mr)
    owner.close()
    third, fourth = place.connected(pd, pd)
    refused("another queue pair of the domain", third, mr, rkey)
    expect("after destruction the region stays", fails(mr.close) == 0)

    # Type 1 is the domain's, whoever bound it, and nobody else's.
    peer, owner = place.connected(pd, pd)
    mr = secret(pd)
    mw, rkey = bind(owner, mr, e.IBV_MW_TYPE_1)
    owner.close()
    third, fourth = place.connected(pd, pd)
    granted("type 1, another queue pair of the domain", third, mr, rkey)
    stranger, host = place.connected(other, other)
    refused("type 1, another domain", stranger, mr, rkey)
    expect("a region with a window of type 1 goes", fails(mr.close) != 0)
    mw.close()
    expect("the region stays", fails(mr.close) == 0)


def number(place):
    """A queue pair's number comes again, in another domain: what the first one had bound does not open for it."""
    victim, attacker = PD(place.context), PD(place.context)
    peer, owner = place.connected(victim, victim)
    mr = secret(victim)
    mw, rkey = bind(owner, mr)
    wanted = owner.qp.qp_num
    owner.close()
    cq, until, made = CQ(place.context, 16), time.monotonic() + AGAIN, 0
    while True:
        taken = place.pair(attacker, cq)
        made += 1
        if taken.qp_num == wanted:
            break
        taken.close()
        if time.monotonic() > until:
            expect(f"the number did not come again in {made} queue pairs", False)
            return
    mine = End(place, attacker)
    mine.connect(wanted)
    taken.to_rts(place.attr(mine.qp.qp_num))
    refused(f"the number came again after {made}", mine, mr, rkey)


def regions(place):
    """A key opens nothing for another domain, after deregistration, or after its process."""
    pd, other = PD(place.context), PD(place.context)
    peer, owner = place.connected(pd, pd)
    mr = secret(pd)
    granted("its own", peer, mr, mr.rkey)
    stranger, host = place.connected(other, other)
    refused("another domain", stranger, mr, mr.rkey)
    rkey, address = mr.rkey, mr.buf
    mr.close()

    class Gone:
        buf = address
    refused("deregistered", peer, Gone, rkey)

    # Of a process that has ended.
    told, tell = os.pipe()
    if os.fork() == 0:
        context = Context(name=place.device)
        theirs = secret(PD(context))
        os.write(tell, struct.pack("=QI", theirs.buf, theirs.rkey))
        os._exit(0)
    Gone.buf, rkey = struct.unpack("=QI", os.read(told, 12))
    os.wait()
    peer, owner = place.connected(pd, pd)
    refused("of a process that has ended", peer, Gone, rkey)


def handles(place):
    """An address handle is for the queue pairs of its domain."""
    pd, other = PD(place.context), PD(place.context)
    cq = CQ(place.context, 16)
    cap = QPCap(max_send_wr=4, max_recv_wr=4, max_send_sge=1, max_recv_sge=1)
    attr = QPAttr(port_num=1)
    attr.qkey = QKEY
    qp = QP(pd, QPInitAttr(qp_type=e.IBV_QPT_UD, scq=cq, rcq=cq, cap=cap), attr)
    mr = MR(pd, 4096, ACCESS)
    for whose, status in ((pd, SUCCESS), (other, LOC_QP_OP_ERR)):
        ah = AH(whose, attr=place.route())
        sge = SGE(mr.buf, 8, mr.lkey)
        wr = SendWR(opcode=e.IBV_WR_SEND, num_sge=1, sg=[sge], send_flags=e.IBV_SEND_SIGNALED)
        wr.set_wr_ud(ah, 0xFFFFFE, QKEY)
        qp.post_send(wr)
        got = wait(cq)
        expect(f"sent with a handle of {'its own' if whose is pd else 'another'} domain: {got}", got == status)


def parked(place):
    """A packet that waits for a page is not handled in the queue pair's next life."""
    pd = PD(place.context)
    peer, owner = place.connected(pd, pd)
    old, new = b"old life", b"new life"
    ctypes.CDLL(None).mmap.restype = ctypes.c_void_p
    length = 1 << 20
    memory = ctypes.CDLL(None).mmap(None, length, 3, 0x22, -1, 0)
    region = MR(pd, length, ACCESS | e.IBV_ACCESS_ON_DEMAND, address=memory)

    def write(data, at):
        peer.mr.write(data, len(data))
        sge = SGE(peer.mr.buf, len(data), peer.mr.lkey)
        wr = SendWR(opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[sge], send_flags=e.IBV_SEND_SIGNALED)
        wr.set_wr_rdma(region.rkey, memory + at)
        peer.qp.post_send(wr)

    # The errand that brings the page is a work item: it seldom comes to run before this process sleeps. Where it did,
    # the message had its turn before the RESET, as it may, and nothing was tried.
    for at in range(0, length // 2, 16384):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
        write(old, at)
        owner.reset()
        in_time = ctypes.string_at(memory + at, len(old)) == old
        peer.again(owner.qp.qp_num)
        owner.connect(peer.qp.qp_num)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if not in_time:
            break
        ctypes.CDLL(None).madvise(ctypes.c_void_p(memory), ctypes.c_size_t(length), 4)
    expect("the page was always there before the RESET", not in_time)
    time.sleep(0.2)
    write(new, at + 4096)
    status = wait(peer.cq)
    expect(f"the next life's first message: {status}", status == SUCCESS)
    got = ctypes.string_at(memory + at, len(old))
    expect(f"a message of the life before: {got}", got == bytes(len(old)))
    got = ctypes.string_at(memory + at + 4096, len(new))
    expect(f"the next life's first message: {got}", got == new)
    # Once more, and destroyed while the errand is under way; its memory goes as well.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    ctypes.CDLL(None).madvise(ctypes.c_void_p(memory), ctypes.c_size_t(length), 4)
    write(old, 8192)
    owner.close()
    region.close()
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    time.sleep(0.2)
    got = ctypes.string_at(memory + 8192, len(old))
    expect(f"after the end: {got}", got == bytes(len(old)))


SCENES = {f.__name__: f for f in (windows, number, regions, handles, parked)}


def main():
    scene, device, gid_index = sys.argv[1:4]
    SCENES[scene](Place(device, int(gid_index)))
    print(json.dumps(wrong), flush=True)


try:
    main()
    status = 0
except BaseException:
    traceback.print_exc()
    status = 1
os._exit(status)
