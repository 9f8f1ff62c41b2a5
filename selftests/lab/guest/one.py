#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Plays a scene on one device, which is both ends, and prints what went wrong as one JSON list.

    one.py SCENE DEVICE GID_INDEX [ARGUMENT]

Where librxe has no call for what the kernel can do, the kernel is asked directly.
"""
import errno
import fcntl
import json
import mmap
import os
import select
import struct
import subprocess
import sys
import time
import traceback

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr, GlobalRoute, GID
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.srq import SRQ, SrqAttr, SrqInitAttr
from pyverbs.wr import RecvWR, SendWR, SGE

ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
GRH = 40
QKEY = 0x11111111
MULTICAST_QPN = 0xFFFFFF
# enum ib_uverbs_write_cmds
CMD_REREG_MR, CMD_ATTACH_MCAST, CMD_DETACH_MCAST, CMD_OPEN_XRCD = 11, 30, 31, 37
REREG_TRANS, REREG_PD, REREG_ACCESS = 1, 2, 4
RDMA_VERBS_IOCTL, UVERBS_OBJECT_MR, UVERBS_METHOD_REG_DMABUF_MR, RDMA_DRIVER_RXE = 0xC0181B01, 7, 4, 14
UDMABUF_CREATE, DMA_HEAP_IOCTL_ALLOC = 0x40187542, 0xC0184800
SUCCESS, LOC_PROT_ERR, FLUSH_ERR, REM_ACCESS_ERR = 0, 4, 5, 10

wrong = []
# Objects whose end is the kernel's to see to, with the process.
kept = []


def expect(what, truth):
    if not truth:
        wrong.append(what)


def fails(act):
    """The errno that `act` fails with, or 0."""
    try:
        act()
    except PyverbsRDMAError as error:
        return error.error_code
    except OSError as error:
        return error.errno
    except PyverbsError as error:
        return str(error)
    return 0


def ask(context, command, body, answer=0):
    """A command of the uverbs write() interface: what the kernel answered."""
    place = bytearray(answer)
    if answer:
        pointer = mmap.mmap(-1, mmap.PAGESIZE)
        place = memoryview(pointer)
        body = struct.pack("=Q", address_of(pointer)) + body
    header = struct.pack("=IHH", command, (8 + len(body)) // 4, answer // 4)
    os.write(context.cmd_fd, header + body)
    return bytes(place[:answer])


def address_of(memory):
    import ctypes
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def pattern(seed, length):
    return bytes((seed * 31 + n * 7 + (n >> 8)) & 0xFF for n in range(length))


def wait(cq, count, patience=10.0):
    """Up to `count` completions."""
    got, until = [], time.monotonic() + patience
    while len(got) < count and time.monotonic() < until:
        number, wcs = cq.poll(count - len(got))
        got.extend(wcs)
        if not number:
            time.sleep(0.001)
    return got


class Datagrams:
    """A UD queue pair with its completion queue, and the handle that the kernel knows it by."""

    def __init__(self, context, pd, receives=8):
        self.context, self.pd = context, pd
        kept.append(self)
        self.cq = CQ(context, 64)
        cap = QPCap(max_send_wr=16, max_recv_wr=16, max_send_sge=1, max_recv_sge=1)
        before = MR(pd, 4096, ACCESS)
        attr = QPAttr(port_num=1)
        attr.qkey = QKEY
        self.qp = QP(pd, QPInitAttr(qp_type=e.IBV_QPT_UD, scq=self.cq, rcq=self.cq, cap=cap), attr)
        self.mr = MR(pd, 4096, ACCESS)
        # Handles are given in order; pyverbs does not say a queue pair's.
        expect("handles in order", self.mr.handle - before.handle == 2)
        self.handle = before.handle + 1
        for n in range(receives):
            self.qp.post_recv(RecvWR(wr_id=n, num_sge=1, sg=[SGE(self.mr.buf + 256 * n, 256, self.mr.lkey)]))

    def group(self, command, gid, lid):
        return fails(lambda: ask(self.context, command, gid_bytes(gid) + struct.pack("=IHH", self.handle, lid, 0)))

    def attach(self, gid, lid=0):
        return self.group(CMD_ATTACH_MCAST, gid, lid)

    def detach(self, gid, lid=0):
        return self.group(CMD_DETACH_MCAST, gid, lid)

    def send(self, gid, gid_index, data, qpn=MULTICAST_QPN):
        route = GlobalRoute(dgid=GID(gid_text(gid)), sgid_index=gid_index, hop_limit=8)
        handle = AH(self.pd, attr=AHAttr(port_num=1, is_global=1, gr=route, dlid=0))
        self.mr.write(data, len(data), 3072)
        wr = SendWR(wr_id=100, opcode=e.IBV_WR_SEND, num_sge=1, send_flags=e.IBV_SEND_SIGNALED,
                    sg=[SGE(self.mr.buf + 3072, len(data), self.mr.lkey)])
        wr.set_wr_ud(handle, qpn, QKEY)
        self.qp.post_send(wr)

    def heard(self, patience):
        """The datagrams that came, as bytes, in order."""
        receives = [wc for wc in wait(self.cq, 16, patience) if wc.opcode & 128]
        expect("a receive fails", all(wc.status == 0 for wc in receives))
        expect("a receive has a GRH", all(wc.wc_flags & e.IBV_WC_GRH for wc in receives))
        return [self.mr.read(wc.byte_len - GRH, 256 * wc.wr_id + GRH) for wc in receives]


def gid_bytes(text):
    import ipaddress
    return ipaddress.IPv6Address(text).packed


def gid_text(text):
    """The spelling that pyverbs reads."""
    raw = gid_bytes(text).hex()
    return ":".join(raw[n:n + 4] for n in range(0, 32, 4))


def mcast(context, gid_index, gid6_index):
    """Groups on one device: each member hears a datagram once, the sender too; others do not."""
    pd = PD(context)
    for group, source in (("::ffff:239.1.2.3", gid_index), ("ff0e::4:5:6", int(gid6_index))):
        mcast_group(context, pd, group, source)
    left = [line.split()[-1] for line in open("/proc/net/dev_mcast")]
    expect("the netdev still filters for a group", "01005e010203" not in left and "333300050006" not in left)
    side = Datagrams(context, pd)
    expect("attach to no group", side.attach("::ffff:10.0.0.1") == errno.EINVAL)
    mixed = fails(lambda: side.send("::ffff:239.1.2.3", int(gid6_index), b""))
    expect("IPv6 to an IPv4 group is refused", mixed == errno.EINVAL)
    # With another LID it is another attachment to the core, which a queue pair must not keep to be destroyed.
    lids = (1, 2)
    expect("attach with two LIDs", [side.attach("ff0e::7", lid) for lid in lids] == [0, 0])
    side.send("ff0e::7", int(gid6_index), b"once")
    expect("with two LIDs it is heard once", side.heard(0.5) == [b"once"])
    expect("detach with two LIDs", [side.detach("ff0e::7", lid) for lid in lids] == [0, 0])
    expect("attach with two LIDs and leave", [side.attach("ff0e::7", lid) for lid in lids] == [0, 0])
    # What stays attached goes with the process.
    expect("attach and leave", side.attach("::ffff:239.9.9.9") == 0)


def mcast_group(context, pd, group, gid_index):
    first, second, stranger = (Datagrams(context, pd) for _ in range(3))
    expect(f"{group}: attach", first.attach(group) == 0 and second.attach(group) == 0)
    expect(f"{group}: attach twice", second.attach(group) == 0)
    first.send(group, gid_index, b"to all members")
    for name, side, count in (("first", first, 1), ("second", second, 1), ("stranger", stranger, 0)):
        got = side.heard(0.5)
        expect(f"{group}: {name} heard {got}", got == [b"to all members"] * count)
    # Twice by uverbs is one attachment.
    expect(f"{group}: detach", second.detach(group) == 0)
    stranger.send(group, gid_index, b"fewer")
    for name, side, count in (("first", first, 1), ("second", second, 0), ("stranger", stranger, 0)):
        got = side.heard(0.5)
        expect(f"{group}: without second, {name} heard {got}", got == [b"fewer"] * count)
    expect(f"{group}: detach once more", second.detach(group) == errno.EINVAL)
    expect(f"{group}: detach the last", first.detach(group) == 0)


class Connected:
    """Two RC queue pairs of one device, connected to each other."""

    def __init__(self, context, pd, gid_index, depth=64, srq=None, peer_ready=True):
        self.context, self.pd = context, pd
        self.cqs = [CQ(context, depth), CQ(context, depth)]
        self.mr = MR(pd, 1 << 16, ACCESS)
        cap = QPCap(max_send_wr=32, max_recv_wr=32, max_send_sge=1, max_recv_sge=1)
        self.qps = [QP(pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=cq, rcq=cq, cap=cap, srq=srq, sq_sig_all=1))
                    for cq in self.cqs]
        kept.append(self)
        gid = str(context.query_gid(1, gid_index))
        for mine, (qp, other) in enumerate(zip(self.qps, self.qps[::-1])):
            attr = QPAttr(port_num=1)
            attr.qp_access_flags = ACCESS
            attr.path_mtu = 3
            attr.max_dest_rd_atomic = attr.max_rd_atomic = 1
            attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 12, 14, 7, 7
            attr.dest_qp_num, attr.rq_psn, attr.sq_psn = other.qp_num, 7, 7
            route = GlobalRoute(dgid=GID(gid), sgid_index=gid_index, hop_limit=64)
            attr.ah_attr = AHAttr(port_num=1, is_global=1, gr=route, dlid=0)
            if mine == 1 and not peer_ready:
                qp.to_rtr(attr)
            else:
                qp.to_rts(attr)

    def receive(self, length=4096):
        self.qps[1].post_recv(RecvWR(wr_id=9, num_sge=1, sg=[SGE(self.mr.buf + 32768, length, self.mr.lkey)]))

    def post(self, opcode, local, remote=None):
        """From the first queue pair: local is (address, length, lkey), remote (address, rkey)."""
        wr = SendWR(wr_id=2, opcode=opcode, num_sge=1, sg=[SGE(*local)], send_flags=e.IBV_SEND_SIGNALED)
        if remote:
            wr.set_wr_rdma(remote[1], remote[0])
        self.qps[0].post_send(wr)

    def status(self):
        got = wait(self.cqs[0], 1)
        return got[0].status if got else None

    def write(self, data, remote):
        self.mr.write(data, len(data))
        self.post(e.IBV_WR_RDMA_WRITE, (self.mr.buf, len(data), self.mr.lkey), remote)
        return self.status()

    def read(self, length, remote):
        """The bytes, or the status it failed with."""
        self.post(e.IBV_WR_RDMA_READ, (self.mr.buf + 16384, length, self.mr.lkey), remote)
        status = self.status()
        return status or self.mr.read(length, 16384)


def reg_dmabuf(context, pd, fd, offset, length, iova, access):
    """lkey and rkey of a region of a dma-buf: librxe has no call for it."""
    keys = mmap.mmap(-1, mmap.PAGESIZE)
    place = address_of(keys)
    attrs = b"".join(struct.pack("=HHHHq", number, size, 1, 0, int(data)) for number, size, data in (
        (0, 0, 0), (1, 0, pd.handle), (2, 8, offset), (3, 8, length), (4, 8, iova), (5, 4, fd), (6, 4, access),
        (7, 4, place), (8, 4, place + 4)))
    header = struct.pack("=HHHHQII", 24 + len(attrs), UVERBS_OBJECT_MR, UVERBS_METHOD_REG_DMABUF_MR, 9, 0,
                         RDMA_DRIVER_RXE, 0)
    fcntl.ioctl(context.cmd_fd, RDMA_VERBS_IOCTL, bytearray(header + attrs))
    kept.append(keys)
    return struct.unpack_from("=II", keys)


def udmabuf(length):
    memory = os.memfd_create("one", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, length)
    fcntl.fcntl(memory, 1033, 2)  # F_ADD_SEALS, F_SEAL_SHRINK
    with open("/dev/udmabuf", "rb") as device:
        fd = fcntl.ioctl(device, UDMABUF_CREATE, bytearray(struct.pack("=IIQQ", memory, 0, 0, length)))
    return fd, mmap.mmap(memory, length)


def heap(length):
    request = bytearray(struct.pack("=QIIQ", length, 0, os.O_RDWR | os.O_CLOEXEC, 0))
    with open("/dev/dma_heap/system", "rb") as device:
        fcntl.ioctl(device, DMA_HEAP_IOCTL_ALLOC, request)
    fd = struct.unpack_from("=QII", request)[1]
    return fd, mmap.mmap(fd, length)


def dmabuf(context, gid_index, _):
    """Regions of dma-bufs of two exporters: WRITE, READ, as local memory, bounds; what cannot be one."""
    pd = PD(context)
    length, offset, iova = 1 << 20, 8192, 0x7000_0000_0000
    for name, make in (("udmabuf", udmabuf), ("heap", heap)):
        fd, seen = make(length)
        lkey, rkey = reg_dmabuf(context, pd, fd, offset, length - offset, iova, ACCESS | e.IBV_ACCESS_RELAXED_ORDERING)
        os.close(fd)
        pair = Connected(context, pd, gid_index)
        data = pattern(len(name), 9000)
        expect(f"{name}: WRITE", pair.write(data, (iova + 5000, rkey)) == SUCCESS)
        expect(f"{name}: written", seen[offset + 5000:offset + 14000] == data)
        expect(f"{name}: nothing else", seen[offset:offset + 5000] == bytes(5000))
        seen[offset + 100000:offset + 109000] = data[::-1]
        expect(f"{name}: READ", pair.read(9000, (iova + 100000, rkey)) == data[::-1])
        # As the local side.
        pair.post(e.IBV_WR_RDMA_WRITE, (iova + 5000, 9000, lkey), (pair.mr.buf + 32768, pair.mr.rkey))
        expect(f"{name}: from it", pair.status() == SUCCESS and pair.mr.read(9000, 32768) == data)
        end = iova + length - offset
        expect(f"{name}: to its end", pair.write(b"the end!", (end - 8, rkey)) == SUCCESS and seen[-8:] == b"the end!")
        expect(f"{name}: beyond", pair.write(data, (end - 8999, rkey)) == REM_ACCESS_ERR)
        expect(f"{name}: longer than the buffer",
               fails(lambda: reg_dmabuf(context, pd, make(4096)[0], 0, 8192, iova, ACCESS)) == errno.EINVAL)
    expect("a file is no dma-buf",
           fails(lambda: reg_dmabuf(context, pd, context.cmd_fd, 0, 4096, iova, ACCESS)) == errno.EINVAL)


def rereg(context, gid_index, _):
    """A region is registered anew under its key: other memory, other rights, another domain."""
    pd, other_pd = PD(context), PD(context)
    pair = Connected(context, pd, gid_index)
    mr, second = MR(pd, 16384, ACCESS), MR(pd, 16384, ACCESS)

    def change(flags, start=0, length=0, access=0, domain=0):
        answer = ask(context, CMD_REREG_MR, struct.pack("=IIQQQII", mr.handle, flags, start, length, start, domain, access), 8)
        expect("the key stays", struct.unpack("=II", answer) == (mr.lkey, mr.rkey))

    expect("at first", pair.write(b"first", (mr.buf, mr.rkey)) == SUCCESS and mr.read(5, 0) == b"first")
    change(REREG_TRANS, start=second.buf, length=8192)
    expect("other memory", pair.write(b"other", (second.buf, mr.rkey)) == SUCCESS and second.read(5, 0) == b"other")
    expect("the first memory is let go", mr.read(5, 0) == b"first")
    change(REREG_ACCESS, access=e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_READ)
    expect("READ with the right for it", pair.read(5, (second.buf, mr.rkey)) == b"other")
    expect("WRITE without", pair.write(b"wrong", (second.buf, mr.rkey)) == REM_ACCESS_ERR)
    change(REREG_ACCESS, access=ACCESS)
    pair = Connected(context, pd, gid_index)
    expect("the old address", pair.write(b"wrong", (mr.buf, mr.rkey)) == REM_ACCESS_ERR)
    change(REREG_PD, domain=other_pd.handle)
    pair = Connected(context, pd, gid_index)
    expect("from the domain left", pair.write(b"wrong", (second.buf, mr.rkey)) == REM_ACCESS_ERR)
    pair = Connected(context, other_pd, gid_index)
    expect("from the domain come to", pair.write(b"there", (second.buf, mr.rkey)) == SUCCESS)
    expect("nothing wrong was written", second.read(5, 0) == b"there" and mr.read(5, 0) == b"first")
    bad = fails(lambda: change(REREG_TRANS, start=4096, length=4096))
    expect(f"memory that is not there: {bad}", bad == errno.EFAULT)
    expect("as it was after a failure", pair.write(b"still", (second.buf, mr.rkey)) == SUCCESS)
    no = fails(lambda: change(REREG_ACCESS, access=e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_FLUSH_PERSISTENT))
    expect(f"persistent memory: {no}", no == errno.EOPNOTSUPP)
    # pyverbs ends it under the old handle, which the new object has.
    mr.close()


def absent(context, gid_index, _):
    """What is not there says so."""
    pd = PD(context)
    pair = Connected(context, pd, gid_index)

    def region(access):
        return fails(lambda: kept.append(MR(pd, 4096, access)))

    local = e.IBV_ACCESS_LOCAL_WRITE
    for name, access in (("relaxed ordering", local | e.IBV_ACCESS_RELAXED_ORDERING),
                         ("atomics", local | e.IBV_ACCESS_REMOTE_ATOMIC), ("windows", local | e.IBV_ACCESS_MW_BIND),
                         ("global flush", local | e.IBV_ACCESS_FLUSH_GLOBAL), ("reading", 0)):
        expect(f"a region for {name}", region(access) == 0)
    got = region(local | e.IBV_ACCESS_FLUSH_PERSISTENT)
    expect(f"a region for persistent flush: {got}", got == errno.EOPNOTSUPP)
    got = region(e.IBV_ACCESS_REMOTE_WRITE)
    expect(f"remote write without local: {got}", got == errno.EINVAL)
    # The lists of so long a range, 16 bytes a page, fit the memory that there is, but not what users may take of it.
    with open("/proc/meminfo") as file:
        memory = next(int(line.split()[1]) for line in file if line.startswith("MemTotal")) * 1024
    page, length = mmap.mmap(-1, 4096), memory // 10 * 8 // 16 * 4096
    got = fails(lambda: kept.append(MR(pd, length, local | e.IBV_ACCESS_ON_DEMAND, address=address_of(page))))
    expect(f"paging of {length} bytes: {got}", got == errno.ENOMEM)
    # IB_USER_VERBS_CMD_OPEN_XRCD without a file: an XRC domain of this process.
    got = fails(lambda: ask(context, CMD_OPEN_XRCD, struct.pack("=III", 0xFFFFFFFF, os.O_CREAT, 0) + bytes(4), 4))
    expect(f"an XRC domain: {got}", got == errno.EOPNOTSUPP)
    alternate = QPAttr(port_num=1)
    alternate.alt_ah_attr = AHAttr(port_num=1, is_global=1, dlid=0,
                                   gr=GlobalRoute(dgid=context.query_gid(1, gid_index), sgid_index=gid_index))
    alternate.alt_port_num = 1
    got = fails(lambda: pair.qps[0].modify(alternate, e.IBV_QP_ALT_PATH))
    expect(f"an alternate path: {got}", got in (errno.EOPNOTSUPP, errno.EINVAL))
    expect("no GID beyond the table", fails(lambda: context.query_gid(1, 5000)) != 0)
    expect("one partition", context.query_pkey(1, 0) & 0xFFFF == 0xFFFF and fails(lambda: context.query_pkey(1, 1)) != 0)


class Events:
    """The asynchronous events of a context, as they come."""

    def __init__(self, context):
        self.context, self.seen = context, []
        # pyverbs does not say which file they come from, and its call holds up all threads.
        links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if
                 os.path.lexists(f"/proc/self/fd/{fd}")}
        self.file, = (int(fd) for fd, link in links.items() if link == "anon_inode:[infinibandevent]")

    def came(self, wanted, patience=5.0):
        self.seen = []
        until = time.monotonic() + patience
        while wanted not in self.seen and time.monotonic() < until:
            if select.select([self.file], [], [], 0.2)[0]:
                event = self.context.get_async_event()
                self.seen.append(event.event_type)
                event.ack()
        return wanted in self.seen


def events(context, gid_index, netdev):
    """Every asynchronous event that there is a cause for."""
    heard = Events(context)

    def after(name, wanted):
        came = heard.came(wanted)
        expect(f"{name}: event {int(wanted)} among {[int(event) for event in heard.seen]}", came)

    pd = PD(context)
    pair = Connected(context, pd, gid_index, peer_ready=False)
    pair.receive()
    pair.post(e.IBV_WR_SEND, (pair.mr.buf, 64, pair.mr.lkey))
    after("a packet before RTS", e.IBV_EVENT_COMM_EST)
    pair = Connected(context, pd, gid_index)
    expect("a bad key", pair.write(b"x", (pair.mr.buf, pair.mr.rkey ^ 0x5A5A00)) == REM_ACCESS_ERR)
    after("a bad key", e.IBV_EVENT_QP_ACCESS_ERR)
    pair = Connected(context, pd, gid_index)
    drain = QPAttr(qp_state=e.IBV_QPS_SQD)
    drain.en_sqd_async_notify = 1
    pair.qps[0].modify(drain, e.IBV_QP_STATE | e.IBV_QP_EN_SQD_ASYNC_NOTIFY)
    after("a drained queue", e.IBV_EVENT_SQ_DRAINED)
    # Receives of two, limit 2: one that is taken is below it.
    srq = SRQ(pd, SrqInitAttr(SrqAttr(max_wr=8, max_sge=1)))
    pair = Connected(context, pd, gid_index, srq=srq)
    for n in range(2):
        srq.post_recv(RecvWR(wr_id=n, num_sge=1, sg=[SGE(pair.mr.buf, 64, pair.mr.lkey)]))
    srq.modify(SrqAttr(srq_limit=2), e.IBV_SRQ_LIMIT)
    pair.post(e.IBV_WR_SEND, (pair.mr.buf, 64, pair.mr.lkey))
    after("the limit of a shared queue", e.IBV_EVENT_SRQ_LIMIT_REACHED)
    pair.qps[1].modify(QPAttr(qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)
    after("the end of a queue pair on it", e.IBV_EVENT_QP_LAST_WQE_REACHED)
    # Two completion entries at least, and many writes.
    pair = Connected(context, pd, gid_index, depth=1)
    for _ in range(20):
        pair.post(e.IBV_WR_RDMA_WRITE, (pair.mr.buf, 8, pair.mr.lkey), (pair.mr.buf + 64, pair.mr.rkey))
    after("more completions than fit", e.IBV_EVENT_CQ_ERR)
    subprocess.run(["ip", "addr", "add", "10.79.0.1/24", "dev", netdev], check=True)
    after("a new address", e.IBV_EVENT_GID_CHANGE)
    subprocess.run(["ip", "link", "set", netdev, "down"], check=True)
    after("the netdev goes down", e.IBV_EVENT_PORT_ERR)
    subprocess.run(["ip", "link", "set", netdev, "up"], check=True)
    after("the netdev comes up", e.IBV_EVENT_PORT_ACTIVE)
    subprocess.run(["rdma", "link", "del", context.name], check=True)
    after("the device is taken away", e.IBV_EVENT_DEVICE_FATAL)


def address(context, gid_index, netdev):
    """The netdev's Ethernet address changes: a queue pair and an address handle made before still reach the device."""
    pd = PD(context)
    pair, side = Connected(context, pd, gid_index), Datagrams(context, pd)
    gid = str(context.query_gid(1, gid_index))
    route = GlobalRoute(dgid=GID(gid), sgid_index=gid_index, hop_limit=8)
    handle = AH(pd, attr=AHAttr(port_num=1, is_global=1, gr=route, dlid=0))

    def datagram(data):
        side.mr.write(data, len(data), 3072)
        wr = SendWR(wr_id=100, opcode=e.IBV_WR_SEND, num_sge=1, send_flags=e.IBV_SEND_SIGNALED,
                    sg=[SGE(side.mr.buf + 3072, len(data), side.mr.lkey)])
        wr.set_wr_ud(handle, side.qp.qp_num, QKEY)
        side.qp.post_send(wr)
        return side.heard(0.5)

    for data in (b"before", b"after"):
        expect(f"{data}: WRITE", pair.write(data, (pair.mr.buf + 32768, pair.mr.rkey)) == SUCCESS)
        got = datagram(data)
        expect(f"{data}: heard {got}", got == [data])
        subprocess.run(["ip", "link", "set", netdev, "address", "02:00:00:00:77:99"], check=True)
        time.sleep(0.3)


SCENES = {f.__name__: f for f in (mcast, dmabuf, rereg, absent, events, address)}


def main():
    scene, device, gid_index = sys.argv[1:4]
    SCENES[scene](Context(name=device), int(gid_index), sys.argv[4] if len(sys.argv) > 4 else None)
    print(json.dumps(wrong), flush=True)


if __name__ == "__main__":
    try:
        main()
        status = 0
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)
