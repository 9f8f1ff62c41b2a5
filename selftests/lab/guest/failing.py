#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Every allocation of every verb fails once.

    failing.py DEVICE GID_INDEX [PART...]   prints one JSON object: what was wrong, and for each act how many allocations it has,
                                            how many of their failures were errors, and how many it bore
    failing.py NETDEV link KIND             makes and removes links of that type over the netdev

With --dry nothing fails: every act is played once, on any kernel.
"""
import errno
import fcntl
import gc
import ipaddress
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr, GlobalRoute, GID
from pyverbs.cq import CQ, CompChannel
from pyverbs.device import Context
from pyverbs.mr import MR, MW, MWBindInfo
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.srq import SRQ, SrqAttr, SrqInitAttr
from pyverbs.wr import RecvWR, SendWR, SGE

import cm
import failnth
import one

ACCESS = (e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ | e.IBV_ACCESS_REMOTE_ATOMIC
          | e.IBV_ACCESS_MW_BIND)
SIGNALED = e.IBV_SEND_SIGNALED
SUCCESS, REM_OP_ERR = 0, 11
GROUP = "::ffff:239.1.2.3"
# Seconds in which rdma_cm gives up: it sends 16 times, 4.3 s apart (CMA_MAX_CM_RETRIES, CMA_CM_RESPONSE_TIMEOUT).
PATIENCE = 90
# By the first letters of a device's name.
MODULES = {"usb4": "usb4_rdma", "rxer": "rdma_rxe"}
# rdma/ib_user_ioctl_cmds.h
METHOD_ADVISE_MR, PREFETCH, FLUSH, CMD_DEREG_MR = 2, 0, 1, 13
# rdma/rdma_netlink.h
NETLINK_RDMA, NLDEV = 20, 5
CMD_NEWLINK, CMD_DELLINK, CMD_RES_QP, CMD_RES_CQ, CMD_RES_MR, CMD_RES_PD = 3, 4, 10, 12, 13, 14
ATTR_DEV_INDEX, ATTR_DEV_NAME, ATTR_NDEV_NAME, ATTR_LINK_TYPE = 1, 2, 51, 65
REQUEST, ACK, DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3


class Netlink:
    """RDMA's configuration, asked by this process itself."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_RDMA)
        self.socket.settimeout(20)
        self.number = 0

    def ask(self, command, flags, attributes):
        body = b""
        for kind, value in attributes:
            data = struct.pack("=I", value) if isinstance(value, int) else value.encode() + b"\0"
            body += struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
        self.number += 1
        self.socket.send(struct.pack("=IHHII", 16 + len(body), NLDEV << 10 | command, REQUEST | flags, self.number, 0) + body)

    def answer(self):
        """Waits for the end of what was asked."""
        while True:
            data = self.socket.recv(1 << 17)
            while data:
                length, kind, _, number, _ = struct.unpack_from("=IHHII", data)
                if number == self.number and kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, 16)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                if number == self.number and kind == NLMSG_DONE:
                    return
                data = data[(length + 3) & ~3:]

    def do(self, command, attributes, flags=ACK):
        self.ask(command, flags, attributes)
        self.answer()


class Scene:
    """A device opened, and the acts on it."""

    def __init__(self, failing, device, gid_index):
        self.failing, self.device, self.gid_index = failing, device, gid_index
        self.context = Context(name=device)
        self.gid = str(self.context.query_gid(1, gid_index))
        self.pd = PD(self.context)
        self.cq = CQ(self.context, 256)
        self.mr = MR(self.pd, 1 << 16, ACCESS)

    def end(self, made):
        if made is not None:
            made.close()

    def create(self, name, act, allowed=failnth.CODES):
        """Making it, and ending it."""
        self.failing.each(name, act, self.end, allowed=allowed)
        self.failing.each_end(f"{name}, its end", act, self.end)

    def qp(self, kind=e.IBV_QPT_RC, srq=None):
        cap = QPCap(max_send_wr=16, max_recv_wr=16, max_send_sge=2, max_recv_sge=2)
        attr = None
        if kind == e.IBV_QPT_UD:
            attr = QPAttr(port_num=1)
            attr.qkey = one.QKEY
        # The state is asked for by itself: made with attributes, a QP's creation is several verbs.
        return QP(self.pd, QPInitAttr(qp_type=kind, scq=self.cq, rcq=self.cq, srq=srq, cap=cap), attr)

    def address(self):
        return AHAttr(port_num=1, is_global=1, dlid=0,
                      gr=GlobalRoute(dgid=GID(self.gid), sgid_index=self.gid_index, hop_limit=64))

    def attr(self, dest=0):
        attr = QPAttr(port_num=1)
        attr.qp_access_flags = ACCESS
        attr.path_mtu = e.IBV_MTU_1024
        # The memory for the peer's READs is made when it is asked for.
        attr.max_dest_rd_atomic = attr.max_rd_atomic = 16
        attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 1, 10, 7, 7
        attr.dest_qp_num, attr.rq_psn, attr.sq_psn = dest, 0, 0
        attr.ah_attr = self.address()
        return attr

    def pair(self, srq=None):
        two = [self.qp(srq=srq), self.qp(srq=srq)]
        for mine, other in (two, two[::-1]):
            mine.to_rts(self.attr(other.qp_num))
        return two

    def statuses(self, count, patience=10.0):
        return [done.status for done in one.wait(self.cq, count, patience)]

    # Parts.

    def objects(self):
        """What is made and ended by one verb."""
        # libibverbs looks for the device in sysfs and /dev, and says that there is none, whatever was wrong.
        self.create("context", lambda: Context(name=self.device), (*failnth.CODES, errno.ENOENT, -1))
        self.create("PD", lambda: PD(self.context))
        self.create("CQ", lambda: CQ(self.context, 256))
        self.create("completion channel", lambda: CompChannel(self.context))
        channel = CompChannel(self.context)
        self.create("CQ with a channel", lambda: CQ(self.context, 64, None, channel))
        self.create("region", lambda: MR(self.pd, 1 << 20, ACCESS))
        self.create("on-demand region", lambda: MR(self.pd, 1 << 20, ACCESS | e.IBV_ACCESS_ON_DEMAND))
        self.create("window 1", lambda: MW(self.pd, e.IBV_MW_TYPE_1))
        self.create("window 2", lambda: MW(self.pd, e.IBV_MW_TYPE_2))
        self.create("SRQ", lambda: SRQ(self.pd, SrqInitAttr(SrqAttr(max_wr=64))))
        self.create("address handle", lambda: AH(self.pd, attr=self.address()))
        for name, kind in (("RC", e.IBV_QPT_RC), ("UC", e.IBV_QPT_UC), ("UD", e.IBV_QPT_UD)):
            self.create(f"QP {name}", lambda: self.qp(kind))
        srq = SRQ(self.pd, SrqInitAttr(SrqAttr(max_wr=64)))
        self.create("QP on an SRQ", lambda: self.qp(srq=srq))
        self.create("connected QPs", self.connected)

    def connected(self):
        """Two queue pairs that end as one, whichever of them could not be made."""
        gone = self.failing.gone

        class Two(list):
            def close(self):
                while self:
                    try:
                        self[-1].close()
                    except PyverbsRDMAError as error:
                        if error.error_code != errno.ENOENT:  # See `each_end`.
                            raise
                        gone.append(self[-1])
                    self.pop()
        two = Two()
        try:
            two.append(self.qp())
            two.append(self.qp())
            for mine, other in (two, two[::-1]):
                mine.to_rts(self.attr(other.qp_num))
        except BaseException:
            two.close()
            raise
        return two

    def regions(self):
        """dma-bufs, advice, and regions registered anew."""
        if os.path.exists("/dev/udmabuf"):
            fd, _ = one.udmabuf(1 << 20)

            keys = bytearray(8)

            def dmabuf():
                # librxe knows no such region: the kernel is asked, and says its handle.
                attrs = bytearray(b"".join(struct.pack("=HHHHq", number, size, 1, 0, value) for number, size, value in (
                    (0, 0, 0), (1, 0, self.pd.handle), (2, 8, 0), (3, 8, 1 << 20), (4, 8, 0x7000_0000_0000), (5, 4, fd),
                    (6, 4, one.ACCESS), (7, 4, one.address_of(keys)), (8, 4, one.address_of(keys) + 4))))
                header = struct.pack("=HHHHQII", 24 + len(attrs), one.UVERBS_OBJECT_MR, one.UVERBS_METHOD_REG_DMABUF_MR, 9, 0,
                                     one.RDMA_DRIVER_RXE, 0)
                request = bytearray(header + attrs)
                fcntl.ioctl(self.context.cmd_fd, one.RDMA_VERBS_IOCTL, request)
                return struct.unpack_from("=I", request, 24 + 8)[0]

            def forget(handle):
                one.ask(self.context, CMD_DEREG_MR, struct.pack("=I", handle))

            # udmabuf says EINVAL when it cannot map its pages.
            self.failing.each("region of a dma-buf", dmabuf, forget, allowed=(*failnth.CODES, errno.EINVAL))
            self.failing.each_end("region of a dma-buf, its end", dmabuf, forget)
        paged = MR(self.pd, 1 << 20, ACCESS | e.IBV_ACCESS_ON_DEMAND)
        memory = mmap.mmap(-1, 1 << 20)
        onto = MR(self.pd, 1 << 20, ACCESS | e.IBV_ACCESS_ON_DEMAND, address=one.address_of(memory))

        sge = bytearray(struct.pack("=QII", onto.buf, 1 << 20, onto.lkey))

        def advice():
            # librxe has no call for it.
            attrs = b"".join(struct.pack("=HHHHq", number, size, 1, 0, value) for number, size, value in (
                (0, 0, self.pd.handle), (1, 8, PREFETCH), (2, 4, FLUSH), (3, 16, one.address_of(sge))))
            header = struct.pack("=HHHHQII", 24 + len(attrs), one.UVERBS_OBJECT_MR, METHOD_ADVISE_MR, 4, 0, one.RDMA_DRIVER_RXE, 0)
            fcntl.ioctl(self.context.cmd_fd, one.RDMA_VERBS_IOCTL, bytearray(header + attrs))

        self.failing.each("advice", advice, before=lambda: memory.madvise(mmap.MADV_DONTNEED))
        mr, second = MR(self.pd, 16384, ACCESS), MR(self.pd, 16384, ACCESS)

        def anew(flags, start=0, length=0, access=0, domain=0):
            one.ask(self.context, one.CMD_REREG_MR,
                    struct.pack("=IIQQQII", mr.handle, flags, start, length, start, domain, access), 8)

        # uverbs says ENOSPC when it cannot read the command (uverbs_request in uverbs_cmd.c).
        allowed = (*failnth.CODES, errno.ENOSPC)
        for name, change in (("memory", lambda: anew(one.REREG_TRANS, start=second.buf, length=8192)),
                             ("rights", lambda: anew(one.REREG_ACCESS, access=ACCESS)),
                             ("domain", lambda: anew(one.REREG_PD, domain=self.pd.handle))):
            self.failing.each(f"region anew, {name}", change, allowed=allowed)
        paged.close()
        onto.close()

    def changes(self):
        """What changes and asks."""
        cq = CQ(self.context, 64)
        sizes = iter(range(100, 100000))
        self.failing.each("resize CQ", lambda: cq.resize(next(sizes)))
        srq = SRQ(self.pd, SrqInitAttr(SrqAttr(max_wr=64)))
        self.failing.each("SRQ limit", lambda: srq.modify(SrqAttr(srq_limit=2), e.IBV_SRQ_LIMIT))
        larger = iter(range(65, 100000))
        self.failing.each("resize SRQ", lambda: srq.modify(SrqAttr(max_wr=next(larger)), e.IBV_SRQ_MAX_WR))
        self.failing.each("query SRQ", srq.query)
        self.failing.each("arm CQ", lambda: self.cq.req_notify())
        self.failing.each("query device", lambda: self.context.query_device())
        self.failing.each("query port", lambda: self.context.query_port(1))
        # libibverbs reads a file of sysfs and says -1, whatever was wrong.
        self.failing.each("query GID", lambda: self.context.query_gid(1, self.gid_index), allowed=(*failnth.CODES, -1))
        qp, other = self.qp(), self.qp()
        attr = lambda: self.attr(other.qp_num)
        state = lambda name: qp.modify(QPAttr(qp_state=name), e.IBV_QP_STATE)
        reset = lambda: state(e.IBV_QPS_RESET)

        def at(step):
            def before():
                reset()
                if step:
                    getattr(qp, step)(attr())
            return before

        for name, before, act in (("INIT", at(""), lambda: qp.to_init(attr())), ("RTR", at(""), lambda: qp.to_rtr(attr())),
                                  ("RTS", at(""), lambda: qp.to_rts(attr())),
                                  ("SQD", at("to_rts"), lambda: state(e.IBV_QPS_SQD)),
                                  ("ERR", at("to_rts"), lambda: state(e.IBV_QPS_ERR)), ("RESET", at("to_rts"), reset)):
            self.failing.each(f"QP to {name}", act, before=before)
        self.failing.each("query QP", lambda: qp.query(e.IBV_QP_STATE | e.IBV_QP_AV))
        for closed in (qp, other, srq, cq):
            closed.close()

    def groups(self):
        side = one.Datagrams(self.context, self.pd, receives=0)

        def must(code):
            if code:
                raise OSError(code, os.strerror(code))

        self.failing.each("attach to a group", lambda: must(side.attach(GROUP)), lambda _: must(side.detach(GROUP)))
        self.failing.each_end("detach from a group", lambda: must(side.attach(GROUP)), lambda _: must(side.detach(GROUP)))
        one.kept.remove(side)

    def listings(self):
        """What others may ask about the device."""
        kept = self.pair(), MW(self.pd, e.IBV_MW_TYPE_1)
        device = [(ATTR_DEV_INDEX, index_of(self.device))]

        def listing(command):
            # A listing that was not read to its end is under way, so the next one has a socket of its own.
            netlink = Netlink()
            try:
                netlink.do(command, device, DUMP)
            finally:
                netlink.socket.close()

        for name, command in (("QPs", CMD_RES_QP), ("CQs", CMD_RES_CQ), ("regions", CMD_RES_MR), ("PDs", CMD_RES_PD)):
            self.failing.each(f"list of {name}", lambda: listing(command),
                              # A socket says that there are too many files.
                              allowed=(*failnth.CODES, errno.EMSGSIZE, errno.ENFILE))
        for path in (f"/sys/kernel/debug/usb4_rdma/{self.device}/qps", f"/sys/class/infiniband/{self.device}/ports/1/hw_counters"):
            files = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
            for file in files[:3]:
                if os.path.exists(file):
                    self.failing.each(f"reading {os.path.basename(file)}", lambda: read(file))
        del kept

    def messages(self):
        """Posting: what does not leave for want of memory is sent again, and arrives."""
        two = self.pair()
        data = one.pattern(3, 3000)
        place = self.mr.buf
        # Requests in the rings. librxe writes them there first, so one whose doorbell failed is posted all the same,
        # and goes with the next.
        owed = 0

        def receive():
            nonlocal owed
            owed += 1
            two[1].post_recv(RecvWR(wr_id=1, num_sge=1, sg=[SGE(place + 32768, 4096, self.mr.lkey)]))

        def post(opcode, remote=False, length=len(data), flags=SIGNALED):
            nonlocal owed
            owed += 1
            request = SendWR(wr_id=2, opcode=opcode, num_sge=1, sg=[SGE(place, length, self.mr.lkey)], send_flags=flags)
            if remote:
                request.set_wr_rdma(self.mr.rkey, place + 32768)
            two[0].post_send(request)

        def all_done():
            nonlocal owed
            statuses, wanted, owed = self.statuses(owed), [SUCCESS] * owed, 0
            return None if statuses == wanted else f"completions {statuses}, wanted {len(wanted)}"

        def arrived(where=32768):
            return lambda _: all_done() or (None if self.mr.read(len(data), where) == data else "other bytes")

        def fresh(at=0):
            def before():
                self.mr.write(bytes(40000), 40000)
                self.mr.write(data, len(data), at)
            return before

        both = lambda: (fresh()(), receive())
        self.failing.each("SEND", lambda: post(e.IBV_WR_SEND), before=both, check=arrived())
        self.failing.each("receive, then SEND", lambda: (receive(), post(e.IBV_WR_SEND)), before=fresh(), check=arrived())
        self.failing.each("WRITE", lambda: post(e.IBV_WR_RDMA_WRITE, True), before=fresh(), check=arrived())
        self.failing.each("READ", lambda: post(e.IBV_WR_RDMA_READ, True), before=fresh(32768), check=arrived(0))
        lone, handle = self.qp(e.IBV_QPT_UD), AH(self.pd, attr=self.address())

        def datagram():
            nonlocal owed
            owed += 1
            request = SendWR(opcode=e.IBV_WR_SEND, num_sge=1, sg=[SGE(place, 64, self.mr.lkey)], send_flags=SIGNALED)
            request.set_wr_ud(handle, lone.qp_num, one.QKEY)
            lone.post_send(request)

        # One that is lost is lost, as datagrams may be: its send completes.
        self.failing.each("datagram", datagram, check=lambda _: all_done())
        window = MW(self.pd, e.IBV_MW_TYPE_2)

        def bind():
            nonlocal owed
            owed += 1
            request = SendWR(opcode=e.IBV_WR_BIND_MW, send_flags=SIGNALED)
            request.set_bind_wr(window, MWBindInfo(self.mr, place, 4096, e.IBV_ACCESS_REMOTE_READ))
            two[0].post_send(request)

        def anew():
            nonlocal window
            if owed:
                # The last one's doorbell failed; the window must live until it is bound.
                post(e.IBV_WR_RDMA_WRITE, True)
                all_done()
            window.close()
            window = MW(self.pd, e.IBV_MW_TYPE_2)

        self.failing.each("bind", bind, before=anew, check=lambda _: all_done())
        window.close()

    def events(self):
        """An event for which there is no memory is lost, and nothing else."""
        srq = SRQ(self.pd, SrqInitAttr(SrqAttr(max_wr=8)))
        files = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}
        heard = [int(fd) for fd, link in files.items() if link == "anon_inode:[infinibandevent]"]

        def lone():
            self.two = self.pair(srq)

        def fail():
            self.two[1].modify(QPAttr(qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)

        def done(_):
            while select.select(heard, [], [], 0.02)[0]:
                self.context.get_async_event().ack()
            for qp in self.two:
                qp.close()

        self.failing.each("last event of a QP", fail, done, lone)

    def exits(self):
        """A process ends whose objects the kernel must end; its allocations fail."""
        for number in range(1, 120):
            child = os.fork()
            if not child:
                try:
                    scene = Scene(self.failing, self.device, self.gid_index)
                    kept = [scene.pair(), MW(scene.pd, e.IBV_MW_TYPE_1), MR(scene.pd, 1 << 20, ACCESS | e.IBV_ACCESS_ON_DEMAND),
                            SRQ(scene.pd, SrqInitAttr(SrqAttr(max_wr=8)))]
                    scene.messages_for_exit(kept[0])
                    if self.failing.file is not None:
                        os.write(os.open(failnth.NTH, os.O_WRONLY), b"%d" % number)
                    os._exit(0)
                except BaseException as error:
                    os.write(2, repr(error).encode())
                    os._exit(1)
            end = time.monotonic() + 20
            while (gone := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
                time.sleep(0.005)
            if gone[0] == 0:
                self.failing.blame("exit", number, "hangs")
                break
            if gone[1]:
                self.failing.blame("exit", number, f"status {gone[1]}")
            self.failing.listen("exit", number)
            if self.failing.file is None:
                break
        self.failing.figures["exit of a process"] = [number, 0, number]

    def messages_for_exit(self, two):
        for n in range(4):
            two[0].post_send(SendWR(opcode=e.IBV_WR_SEND, num_sge=1, sg=[SGE(self.mr.buf, 64, self.mr.lkey)], send_flags=SIGNALED))

    def connections(self):
        """rdma_cm: each step of either side, the other undisturbed in a thread of its own; then whole connections while
        allocations under the module fail by chance, those of the work items that carry the messages too."""
        address, port = str(ipaddress.ip_address(self.gid).ipv4_mapped), 7471
        service = cm.Channel()
        listening = service.id()
        listening.listen(address, port)
        mine, theirs = cm.Channel(), cm.Channel()

        def serve():
            """Takes what comes, until the channel says that its listener is no more."""
            while not over.is_set():
                said = service.event(0.2)
                if said is None:
                    continue
                what, _, raw = said
                if what == cm.CONNECT_REQUEST:
                    end = taken[raw] = cm.End(raw)
                    try:
                        end.qp()
                        end.accept()
                    except OSError:
                        # No memory for it, or the caller is gone already. Its end refuses the connection; unanswered,
                        # the caller would wait for minutes.
                        taken.pop(raw).close()
                elif what != cm.ESTABLISHED and what != cm.TIMEWAIT_EXIT and raw in taken:
                    taken.pop(raw).close()

        def ready(channel, at=port):
            """An end that may connect."""
            end = channel.id()
            try:
                end.resolve_address(address, at)
                channel.expect(cm.ADDR_RESOLVED)
                end.resolve_route()
                channel.expect(cm.ROUTE_RESOLVED)
                end.qp()
            except BaseException:
                end.close()
                raise
            return end

        def resolved(end):
            end.resolve_address(address, port)
            mine.expect(cm.ADDR_RESOLVED)

        def routed(end):
            end.resolve_route()
            mine.expect(cm.ROUTE_RESOLVED)

        def connected(end, patience=20):
            end.connect()
            mine.expect(cm.ESTABLISHED, patience)

        def another(make):
            """Another one each time; the last one goes."""
            def before():
                if self.live is not None:
                    self.live.close()
                self.live = make()
                while mine.event(0):
                    pass
            return before

        def prepared(*steps):
            def make():
                end = mine.id()
                for step in steps:
                    step(end)
                return end
            return make

        self.live, taken, over = None, {}, threading.Event()
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            self.create("CM id", mine.id)
            for name, before, act in (("address", prepared(), resolved), ("route", prepared(resolved), routed),
                                      ("QP", prepared(resolved, routed), cm.End.qp), ("connect", lambda: ready(mine), connected)):
                # librdmacm asks the kernel more when it has an event, and hands on one of status -1 if it is refused.
                self.failing.each(f"CM {name}", lambda: act(self.live), before=another(before), allowed=(*failnth.CODES, -1))

            def whole(patience=20):
                end = ready(mine)
                try:
                    connected(end, patience)
                except BaseException:
                    end.close()
                    raise
                return end

            def apart(end):
                end.disconnect()
                mine.expect(cm.DISCONNECTED)
                end.close()

            self.failing.each_end("CM disconnect", lambda: (another(whole)(), self.live)[1], cm.End.disconnect)
            self.live.close()
            self.live = None

            # The other side. A client connects by itself, to another port, where this thread answers.
            passive = theirs.id()
            passive.listen(address, port + 1)

            def call():
                try:
                    end = ready(mine, port + 1)
                    end.connect()
                    said = mine.event(20)
                    while said and said[0] == cm.TIMEWAIT_EXIT:
                        said = mine.event(20)
                    if said and said[0] == cm.ESTABLISHED:
                        mine.event(20)  # The other end's disconnection.
                    end.close()
                except OSError:
                    pass  # The other end failed, which is asked there.

            def rung():
                hung_up()
                self.caller = threading.Thread(target=call)
                self.caller.start()
                while True:
                    said = theirs.event(20)
                    if said is None:
                        raise OSError(errno.ETIMEDOUT, "no request")
                    if said[0] == cm.CONNECT_REQUEST:
                        break
                self.live = cm.End(said[2])

            def hung_up():
                if self.live is not None:
                    try:
                        self.live.disconnect()
                    except OSError:
                        pass  # It was never established.
                    self.live.close()
                    self.live = None
                if self.caller is not None:
                    self.caller.join(60)
                    if self.caller.is_alive():
                        self.failing.blame("CM client", 0, "hangs")
                    self.caller = None
                while theirs.event(0):
                    pass

            def accepted():
                if not self.live.has_qp:
                    self.live.qp()
                self.live.accept()
                theirs.expect(cm.ESTABLISHED)

            self.caller = None
            self.failing.each("CM accept", accepted, before=rung)
            hung_up()
            passive.close()
            self.chances(whole, apart, mine)
        finally:
            over.set()
            serving.join(10)
            for end in taken.values():
                end.close()
            if self.live is not None:
                self.live.close()
            listening.close()
            for channel in (service, mine, theirs):
                channel.close()

    def chances(self, whole, apart, channel):
        """Whole connections while allocations under the module fail by chance. A message that was lost is asked for again,
        after some seconds."""
        rounds = failed = refused = 0
        end = time.monotonic() + 20
        while time.monotonic() < end:
            seldom = failnth.Seldom(MODULES[self.device[:4]], (1, 3, 10)[rounds % 3], 1000)
            if not seldom.places:
                self.failing.figures["CM, now and then: no filter by stack in this kernel"] = [0, 0, 0]
                return
            rounds += 1
            with seldom:
                try:
                    apart(whole(PATIENCE))
                except OSError as error:
                    refused += 1
                    print(f"round {rounds}: {error!r}", file=sys.stderr)
                    if isinstance(error, cm.Silent):
                        self.failing.blame("CM, now and then", rounds, repr(error))
            failed += seldom.failed
            while channel.event(0):
                pass
            self.failing.listen("CM, now and then", rounds)
        try:
            apart(whole())
        except OSError as error:
            self.failing.blame("CM, now and then", 0, f"it does not work the next time: {error!r}")
        self.failing.figures[f"CM, now and then, {rounds} rounds"] = [rounds, refused, failed]

    def contexts(self):
        """Allocations under the module fail now and then, in softirqs and work items too, while data goes and pages are taken
        away: what is asked ends well, as the peer and the timer ask again."""
        module = MODULES[self.device[:4]]
        memory = mmap.mmap(-1, 1 << 20)
        paged = MR(self.pd, 1 << 20, ACCESS | e.IBV_ACCESS_ON_DEMAND, address=one.address_of(memory))
        two = self.pair()
        rounds = failed = ended = 0
        end = time.monotonic() + 5
        while time.monotonic() < end:
            seldom = failnth.Seldom(module, 10, 1000)
            if not seldom.places:
                self.failing.figures["now and then: no filter by stack in this kernel"] = [0, 0, 0]
                return
            rounds += 1
            data = one.pattern(rounds, 20000)
            self.mr.write(data, len(data))
            memory.madvise(mmap.MADV_DONTNEED)
            with seldom:
                write = SendWR(opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[SGE(self.mr.buf, len(data), self.mr.lkey)], send_flags=SIGNALED)
                write.set_wr_rdma(paged.rkey, paged.buf + 4096 * (rounds % 16))
                two[0].post_send(write)
                statuses = self.statuses(1, 30)
                read = SendWR(opcode=e.IBV_WR_RDMA_READ, num_sge=1, sg=[SGE(self.mr.buf + 32768, len(data), self.mr.lkey)], send_flags=SIGNALED)
                read.set_wr_rdma(paged.rkey, paged.buf + 4096 * (rounds % 16))
                two[0].post_send(read)
                statuses += self.statuses(1, 30)
            failed += seldom.failed
            if statuses == [SUCCESS] * 2:
                if self.mr.read(len(data), 32768) != data:
                    self.failing.blame("now and then", rounds, "other bytes")
            elif set(statuses) <= {REM_OP_ERR, one.FLUSH_ERR, one.SUCCESS} and len(statuses) == 2:
                # A page that could not be brought ends the connection; the next one works.
                for qp in two:
                    qp.close()
                two, ended = self.pair(), ended + 1
            else:
                self.failing.blame("now and then", rounds, f"completions {statuses}")
                break
            self.failing.listen("now and then", rounds)
        # The last round, undisturbed.
        write = SendWR(opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[SGE(self.mr.buf, 20000, self.mr.lkey)], send_flags=SIGNALED)
        write.set_wr_rdma(paged.rkey, paged.buf)
        two[0].post_send(write)
        if self.statuses(1) != [SUCCESS]:
            self.failing.blame("now and then", 0, "it does not work the next time")
        self.failing.figures[f"now and then, {rounds} rounds"] = [rounds, ended, failed]


PARTS = ("objects", "regions", "changes", "groups", "listings", "messages", "events", "exits", "connections", "contexts")


def read(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(65536):
            pass


def index_of(device):
    """The number by which netlink knows a device."""
    for line in os.popen("rdma dev").read().splitlines():
        number, name = line.split()[:2]
        if name.rstrip(":") == device:
            return int(number.rstrip(":"))
    raise OSError(errno.ENODEV, device)


def link(failing, netdev, kind):
    """Links come and go, asked by this process."""
    name = f"n{netdev}"[:15]
    netlink = Netlink()

    def add():
        netlink.do(CMD_NEWLINK, [(ATTR_DEV_NAME, name), (ATTR_LINK_TYPE, kind), (ATTR_NDEV_NAME, netdev)])
        return name

    def delete(_):
        netlink.do(CMD_DELLINK, [(ATTR_DEV_INDEX, index_of(name))])

    # The module and its link type are there.
    delete(add())
    failing.each("link add", add, delete)

    def made():
        add()
        return index_of(name)

    failing.each_end("link del", made, lambda index: netlink.do(CMD_DELLINK, [(ATTR_DEV_INDEX, index)]))


def main():
    dry = "--dry" in sys.argv
    if dry:
        sys.argv.remove("--dry")
    if not failnth.available() and not dry:
        print(json.dumps({"absent": "this kernel cannot have allocations fail: CONFIG_FAULT_INJECTION, FAILSLAB"}))
        return
    failing = failnth.Failing()
    if sys.argv[2] == "link":
        link(failing, sys.argv[1], sys.argv[3])
    else:
        scene = Scene(failing, sys.argv[1], int(sys.argv[2]))
        for part in sys.argv[3:] or PARTS:
            print(part, file=sys.stderr, flush=True)
            getattr(scene, part)()
            gc.collect()
    print(json.dumps(failing.finish()), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
