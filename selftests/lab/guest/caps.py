#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The largest of everything and the attributes of queue pairs, on one device that is both ends.

    caps.py many|deep|attributes DEVICE GID_INDEX

Prints one JSON object: what was wrong, and figures.
"""
import json
import mmap
import os
import struct
import sys
import time

import pyverbs.enums as e
from pyverbs.addr import AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.srq import SRQ, SrqAttr, SrqInitAttr
from pyverbs.wr import RecvWR, SendWR, SGE

ACCESS = (e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
          | e.IBV_ACCESS_REMOTE_ATOMIC)
QPS, MRS = 2000, 20000
DEEP, CQE = 16384, 32768

wrong = []
figures = {}


def expect(what, truth):
    if not truth:
        wrong.append(what)


def used_kib():
    """Memory of the kernel's allocators that is nobody's cache."""
    values = {}
    with open("/proc/meminfo") as info:
        for line in info:
            name, value = line.split(":")
            values[name] = int(value.split()[0])
    return values["SUnreclaim"] + values["VmallocUsed"]


class Place:
    """A device opened, with a domain."""

    def __init__(self, device, gid_index):
        self.context = Context(name=device)
        self.pd = PD(self.context)
        self.gid_index = gid_index

    def qp(self, cq, cap=None, srq=None):
        cap = cap or QPCap(max_send_wr=16, max_recv_wr=16, max_send_sge=1, max_recv_sge=1)
        return QP(self.pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=cq, rcq=cq, srq=srq, cap=cap, sq_sig_all=0))

    def attr(self, dest=0, reads=1):
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = ACCESS
        attr.path_mtu = e.IBV_MTU_1024
        attr.max_dest_rd_atomic = reads
        attr.max_rd_atomic = reads
        attr.min_rnr_timer = 12
        attr.timeout = 14
        attr.retry_cnt = 6
        attr.rnr_retry = 5
        attr.dest_qp_num = dest
        attr.rq_psn = 0x123456
        attr.sq_psn = 0x123456
        gid = self.context.query_gid(1, self.gid_index)
        route = GlobalRoute(dgid=gid, sgid_index=self.gid_index, hop_limit=64)
        attr.ah_attr = AHAttr(port_num=1, is_global=1, gr=route, dlid=0)
        return attr

    def connected(self, cq, cap=None, reads=1, srq=None):
        """Two queue pairs that are each other's peer."""
        pair = [self.qp(cq, cap, srq), self.qp(cq, cap, srq)]
        for one, other in (pair, pair[::-1]):
            one.to_rts(self.attr(other.qp_num, reads))
        return pair


def completions(cq, count, patience=60):
    got = []
    until = time.monotonic() + patience
    while len(got) < count and time.monotonic() < until:
        number, wcs = cq.poll(min(256, count - len(got)))
        got.extend(wcs)
        if not number:
            time.sleep(0.005)
    return got


def many(place):
    """Objects by the thousand: what they cost, and that it all comes back."""
    said = place.context.query_device()
    for name, least in (("max_qp", 1 << 16), ("max_qp_wr", DEEP), ("max_cqe", CQE), ("max_srq_wr", DEEP), ("max_mr", 1 << 20),
                        ("max_qp_rd_atom", 128), ("max_qp_init_rd_atom", 128), ("max_sge", 8)):
        figures[name] = getattr(said, name)
        expect(f"{name} is {getattr(said, name)}", getattr(said, name) >= least)
    cq = CQ(place.context, 16)
    # What the first of each sort allocates for good is not counted.
    place.qp(cq).close()
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    address = place_of(memory)
    MR(place.pd, 4096, ACCESS, address=address).close()
    start = used_kib()
    qps = [place.qp(cq) for _ in range(QPS)]
    figures["KiB a QP"] = round((used_kib() - start) / QPS, 1)
    expect("numbers of QPs come twice", len({qp.qp_num for qp in qps}) == QPS)
    for qp in qps:
        qp.close()
    # Allocators keep pages that are partly used; what is lost would be lost every time.
    start = used_kib()
    for qp in [place.qp(cq) for _ in range(QPS)]:
        qp.close()
    after = used_kib()
    expect(f"{after - start} KiB stay after {QPS} QPs", after - start < 3 * 1024)

    start, mrs, took = used_kib(), [], []
    for _ in range(10):
        begun = time.monotonic()
        mrs.extend(MR(place.pd, 4096, ACCESS, address=address) for _ in range(MRS // 10))
        took.append(time.monotonic() - begun)
    figures["KiB an MR"] = round((used_kib() - start) / MRS, 2)
    figures["us an MR, first and last tenth"] = [round(t * 1e7 / MRS, 1) for t in (took[0], took[-1])]
    # A table that is searched would be 19 times slower at the end; the machine may be busy.
    expect(f"registering grows slow: {took}", min(took[-3:]) < 4 * max(took[:3]))
    expect("keys come twice", len({mr.rkey for mr in mrs}) == MRS)
    # One among many is found.
    a, b = place.connected(cq)
    memory[:8] = b"original"
    for mr in (mrs[0], mrs[MRS // 2], mrs[-1]):
        wr = SendWR(wr_id=1, opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[SGE(address, 8, mr.lkey)], send_flags=e.IBV_SEND_SIGNALED)
        wr.set_wr_rdma(mr.rkey, address + 64)
        a.post_send(wr)
        expect("a write by one key of many", [w.status for w in completions(cq, 1)] == [0] and memory[64:72] == b"original")
        memory[64:72] = bytes(8)
    begun = time.monotonic()
    for mr in mrs:
        mr.close()
    figures["us to deregister"] = round((time.monotonic() - begun) * 1e6 / MRS, 1)
    after = used_kib()
    expect(f"{after - start} KiB stay after {MRS} MRs", after - start < 3 * 1024)
    a.close(), b.close()


def place_of(memory):
    """The address of a mapping."""
    import ctypes
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def deep(place):
    """Queues as deep as may be asked for at least, filled and emptied; a region of many pages; 128 READs at once."""
    cq = CQ(place.context, CQE)
    cap = QPCap(max_send_wr=DEEP, max_recv_wr=DEEP, max_send_sge=8, max_recv_sge=8, max_inline_data=256)
    a, b = place.connected(cq, cap, reads=128)
    mr = MR(place.pd, 4096, ACCESS)
    sge = SGE(mr.buf, 8, mr.lkey)
    for n in range(DEEP):
        b.post_recv(RecvWR(wr_id=n, num_sge=1, sg=[sge]))
    # One completion at the end for all of them.
    for n in range(DEEP - 1):
        a.post_send(SendWR(wr_id=n, opcode=e.IBV_WR_SEND, num_sge=1, sg=[sge], send_flags=0))
    a.post_send(SendWR(wr_id=DEEP, opcode=e.IBV_WR_SEND, num_sge=1, sg=[sge], send_flags=e.IBV_SEND_SIGNALED))
    got = completions(cq, DEEP + 1)
    expect(f"{len(got)} of {DEEP + 1} completions", len(got) == DEEP + 1)
    expect("not all good", all(w.status == 0 for w in got))
    expect("receives out of order", [w.wr_id for w in got if w.opcode == e.IBV_WC_RECV] == list(range(DEEP)))
    # Receives that stay are flushed, all of them, with nobody ringing a bell.
    for n in range(DEEP):
        b.post_recv(RecvWR(wr_id=n, num_sge=1, sg=[sge]))
    b.modify(QPAttr(qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)
    got = completions(cq, DEEP)
    flushed = [w.wr_id for w in got if w.status == e.IBV_WC_WR_FLUSH_ERR]
    expect(f"{len(flushed)} of {DEEP} flushed", flushed == list(range(DEEP)))
    a.close(), b.close()

    srq = SRQ(place.pd, SrqInitAttr(SrqAttr(max_wr=DEEP, max_sge=1)))
    for n in range(DEEP):
        srq.post_recv(RecvWR(wr_id=n, num_sge=1, sg=[sge]))
    a, b = place.connected(cq, srq=srq)
    for round_ in range(2):
        a.post_send(SendWR(wr_id=round_, opcode=e.IBV_WR_SEND, num_sge=1, sg=[sge], send_flags=e.IBV_SEND_SIGNALED))
    got = completions(cq, 4)
    expect("a deep SRQ", sorted(w.wr_id for w in got if w.opcode == e.IBV_WC_RECV) == [0, 1])
    a.close(), b.close(), srq.close()

    # Eight pieces each way, then 256 bytes inline.
    a, b = place.connected(cq, QPCap(max_send_wr=200, max_recv_wr=8, max_send_sge=8, max_recv_sge=8, max_inline_data=256), reads=128)
    text = os.urandom(800)
    mr.write(text, 800)
    gather = [SGE(mr.buf + 100 * n, 100, mr.lkey) for n in range(8)]
    scatter = [SGE(mr.buf + 2048 + 100 * n, 100, mr.lkey) for n in range(8)]
    b.post_recv(RecvWR(wr_id=1, num_sge=8, sg=scatter))
    a.post_send(SendWR(wr_id=2, opcode=e.IBV_WR_SEND, num_sge=8, sg=gather, send_flags=e.IBV_SEND_SIGNALED))
    expect("eight pieces", all(w.status == 0 for w in completions(cq, 2)) and mr.read(800, 2048) == text)
    b.post_recv(RecvWR(wr_id=1, num_sge=8, sg=scatter))
    flags = e.IBV_SEND_SIGNALED | e.IBV_SEND_INLINE
    a.post_send(SendWR(wr_id=2, opcode=e.IBV_WR_SEND, num_sge=1, sg=[SGE(mr.buf + 300, 256, 0)], send_flags=flags))
    expect("inline", all(w.status == 0 for w in completions(cq, 2)) and mr.read(256, 2048) == text[300:556])

    # A large region: its last bytes are as near as its first.
    size = 128 << 20
    large = mmap.mmap(-1, size)
    address = place_of(large)
    begun = time.monotonic()
    region = MR(place.pd, size, ACCESS, address=address)
    figures["s to register 128 MiB"] = round(time.monotonic() - begun, 2)
    large[0:8], large[size - 8:] = b"at first", b"the last"
    times = []
    for at, there in ((0, b"at first"), (size - 8, b"the last")):
        begun = time.monotonic()
        for n in range(150):
            wr = SendWR(wr_id=n, opcode=e.IBV_WR_RDMA_READ, num_sge=1, sg=[SGE(mr.buf, 8, mr.lkey)],
                        send_flags=e.IBV_SEND_SIGNALED)
            wr.set_wr_rdma(region.rkey, address + at)
            a.post_send(wr)
        got = completions(cq, 150)
        times.append(round((time.monotonic() - begun) * 1e6 / 150, 1))
        expect("READs", len(got) == 150 and all(w.status == 0 for w in got) and mr.read(8, 0) == there)
    figures["us a READ at the region's begin and end"] = times
    # One byte past the end is refused.
    wr = SendWR(wr_id=1, opcode=e.IBV_WR_RDMA_READ, num_sge=1, sg=[SGE(mr.buf, 8, mr.lkey)], send_flags=e.IBV_SEND_SIGNALED)
    wr.set_wr_rdma(region.rkey, address + size - 7)
    a.post_send(wr)
    expect("past the end", [w.status for w in completions(cq, 1)] == [e.IBV_WC_REM_ACCESS_ERR])


def refused(act):
    try:
        act()
    except PyverbsRDMAError:
        return True
    return False


def attributes(place):
    """What a modify may change and when, what a query says, and draining."""
    cq = CQ(place.context, 64)
    qp = place.qp(cq)
    to = lambda state, **more: QPAttr(qp_state=state, **more)
    expect("RESET to RTS", refused(lambda: qp.modify(to(e.IBV_QPS_RTS), e.IBV_QP_STATE)))
    expect("INIT without its attributes", refused(lambda: qp.modify(to(e.IBV_QPS_INIT), e.IBV_QP_STATE)))
    init = e.IBV_QP_STATE | e.IBV_QP_PKEY_INDEX | e.IBV_QP_PORT | e.IBV_QP_ACCESS_FLAGS

    def step(state, mask, **changes):
        attr = place.attr(qp.qp_num)
        attr.qp_state = state
        attr.port_num = 1
        for name, value in changes.items():
            setattr(attr, name, value)
        qp.modify(attr, mask)

    expect("port 2", refused(lambda: step(e.IBV_QPS_INIT, init, port_num=2)))
    expect("P_Key 1", refused(lambda: step(e.IBV_QPS_INIT, init, pkey_index=1)))
    expect("a Q_Key for RC", refused(lambda: step(e.IBV_QPS_INIT, init | e.IBV_QP_QKEY)))
    step(e.IBV_QPS_INIT, init)
    rtr = (e.IBV_QP_STATE | e.IBV_QP_AV | e.IBV_QP_PATH_MTU | e.IBV_QP_DEST_QPN | e.IBV_QP_RQ_PSN
           | e.IBV_QP_MAX_DEST_RD_ATOMIC | e.IBV_QP_MIN_RNR_TIMER)
    expect("RTR without a path", refused(lambda: step(e.IBV_QPS_RTR, rtr & ~e.IBV_QP_AV)))
    expect("RTR with a timeout", refused(lambda: step(e.IBV_QPS_RTR, rtr | e.IBV_QP_TIMEOUT)))
    expect("129 READs", refused(lambda: step(e.IBV_QPS_RTR, rtr, max_dest_rd_atomic=129)))
    expect("RNR timer 32", refused(lambda: step(e.IBV_QPS_RTR, rtr, min_rnr_timer=32)))
    expect("an MTU of 9", refused(lambda: step(e.IBV_QPS_RTR, rtr, path_mtu=9)))
    step(e.IBV_QPS_RTR, rtr, max_dest_rd_atomic=16)
    rts = (e.IBV_QP_STATE | e.IBV_QP_TIMEOUT | e.IBV_QP_RETRY_CNT | e.IBV_QP_RNR_RETRY | e.IBV_QP_SQ_PSN
           | e.IBV_QP_MAX_QP_RD_ATOMIC)
    expect("retries 8", refused(lambda: step(e.IBV_QPS_RTS, rts, retry_cnt=8)))
    expect("RTS without a PSN", refused(lambda: step(e.IBV_QPS_RTS, rts & ~e.IBV_QP_SQ_PSN)))
    step(e.IBV_QPS_RTS, rts)
    expect("a new MTU in RTS", refused(lambda: step(e.IBV_QPS_RTS, e.IBV_QP_STATE | e.IBV_QP_PATH_MTU)))
    step(e.IBV_QPS_RTS, e.IBV_QP_STATE | e.IBV_QP_MIN_RNR_TIMER | e.IBV_QP_CUR_STATE, min_rnr_timer=9, cur_qp_state=e.IBV_QPS_RTS)

    everything = (1 << 21) - 1
    attr, init_attr = qp.query(everything)
    wanted = dict(qp_state=e.IBV_QPS_RTS, cur_qp_state=e.IBV_QPS_RTS, path_mtu=e.IBV_MTU_1024, dest_qp_num=qp.qp_num,
                  rq_psn=0x123456, sq_psn=0x123456, max_rd_atomic=1, max_dest_rd_atomic=16, min_rnr_timer=9, timeout=14,
                  retry_cnt=6, rnr_retry=5, qp_access_flags=ACCESS, port_num=1, pkey_index=0, sq_draining=0)
    for name, value in wanted.items():
        expect(f"query: {name} is {getattr(attr, name)}, not {value}", getattr(attr, name) == value)
    route = attr.ah_attr
    expect("query: the path", route.is_global == 1 and route.sgid_index == place.gid_index and route.hop_limit == 64)
    expect("query: depth", init_attr.cap.max_send_wr >= 16 and init_attr.cap.max_recv_wr >= 16)
    expect("query: type", init_attr.qp_type == e.IBV_QPT_RC)

    # Draining: the event comes if it is asked for.
    event = place.context.get_async_event if hasattr(place.context, "get_async_event") else None
    attr = to(e.IBV_QPS_SQD)
    attr.en_sqd_async_notify = 1
    qp.modify(attr, e.IBV_QP_STATE | e.IBV_QP_EN_SQD_ASYNC_NOTIFY)
    attr, _ = qp.query(e.IBV_QP_STATE)
    expect("SQD", attr.qp_state == e.IBV_QPS_SQD and attr.sq_draining == 0)
    if event:
        raised = event()
        expect(f"event {raised.event_type}", raised.event_type == e.IBV_EVENT_SQ_DRAINED)
        raised.ack()
    mr = MR(place.pd, 4096, ACCESS)
    wr = SendWR(wr_id=7, opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[SGE(mr.buf, 8, mr.lkey)], send_flags=e.IBV_SEND_SIGNALED)
    wr.set_wr_rdma(mr.rkey, mr.buf + 64)
    qp.post_send(wr)
    expect("SQD sends", completions(cq, 1, patience=0.3) == [])
    step(e.IBV_QPS_SQD, e.IBV_QP_STATE | e.IBV_QP_MAX_DEST_RD_ATOMIC | e.IBV_QP_RETRY_CNT, max_dest_rd_atomic=128, retry_cnt=3)
    qp.modify(to(e.IBV_QPS_RTS), e.IBV_QP_STATE)
    expect("resumed", [w.status for w in completions(cq, 1)] == [0])
    attr, _ = qp.query(everything)
    expect("changed in SQD", attr.max_dest_rd_atomic == 128 and attr.retry_cnt == 3)
    expect("PSNs moved on", attr.sq_psn == 0x123457 and attr.rq_psn == 0x123457)
    qp.modify(to(e.IBV_QPS_ERR), e.IBV_QP_STATE)
    expect("ERR to RTS", refused(lambda: qp.modify(to(e.IBV_QPS_RTS), e.IBV_QP_STATE)))
    qp.modify(to(e.IBV_QPS_RESET), e.IBV_QP_STATE)
    attr, _ = qp.query(everything)
    left = {name: getattr(attr, name) for name in ("qp_state", "dest_qp_num", "rq_psn", "sq_psn", "retry_cnt", "max_dest_rd_atomic",
                                                   "qp_access_flags", "timeout") if getattr(attr, name)}
    expect(f"RESET leaves {left}", not left)


def main():
    scene, device, gid_index = sys.argv[1:]
    {"many": many, "deep": deep, "attributes": attributes}[scene](Place(device, int(gid_index)))
    print(json.dumps({"wrong": wrong, "figures": figures}))


main()
