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
import struct
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
from pyverbs.wr import RecvWR, SendWR, SGE

ACCESS = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ
GRH = 40
QKEY = 0x11111111
MULTICAST_QPN = 0xFFFFFF
# enum ib_uverbs_write_cmds
CMD_REREG_MR, CMD_ATTACH_MCAST, CMD_DETACH_MCAST, CMD_OPEN_XRCD = 11, 30, 31, 37

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

    def group(self, command, gid):
        return fails(lambda: ask(self.context, command, gid_bytes(gid) + struct.pack("=IHH", self.handle, 0, 0)))

    def attach(self, gid):
        return self.group(CMD_ATTACH_MCAST, gid)

    def detach(self, gid):
        return self.group(CMD_DETACH_MCAST, gid)

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


SCENES = {f.__name__: f for f in (mcast,)}


def main():
    scene, device, gid_index = sys.argv[1:4]
    SCENES[scene](Context(name=device), int(gid_index), sys.argv[4] if len(sys.argv) > 4 else None)
    print(json.dumps(wrong), flush=True)


try:
    main()
    status = 0
except BaseException:
    traceback.print_exc()
    status = 1
os._exit(status)
