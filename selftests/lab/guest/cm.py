# SPDX-License-Identifier: GPL-2.0 OR MIT
"""rdma_cm by librdmacm, asynchronously: pyverbs holds Python's lock while it waits for an answer, so that both ends would need a
process each.
"""
import ctypes
import errno
import os
import select
import socket
import struct

PS_TCP, QPT_RC = 0x0106, 2
ADDR_RESOLVED, ROUTE_RESOLVED, CONNECT_REQUEST, ESTABLISHED, DISCONNECTED = 0, 2, 4, 9, 10
TIMEWAIT_EXIT = 15


class QpInitAttr(ctypes.Structure):
    """struct ibv_qp_init_attr"""
    _fields_ = [("qp_context", ctypes.c_void_p), ("send_cq", ctypes.c_void_p), ("recv_cq", ctypes.c_void_p), ("srq", ctypes.c_void_p),
                ("cap", ctypes.c_uint32 * 5), ("qp_type", ctypes.c_int), ("sq_sig_all", ctypes.c_int)]


class ConnParam(ctypes.Structure):
    """struct rdma_conn_param"""
    _fields_ = [("private_data", ctypes.c_void_p), ("private_data_len", ctypes.c_uint8), ("responder_resources", ctypes.c_uint8),
                ("initiator_depth", ctypes.c_uint8), ("flow_control", ctypes.c_uint8), ("retry_count", ctypes.c_uint8),
                ("rnr_retry_count", ctypes.c_uint8), ("srq", ctypes.c_uint8), ("qp_num", ctypes.c_uint32)]


class Event(ctypes.Structure):
    """struct rdma_cm_event, its beginning"""
    _fields_ = [("id", ctypes.c_void_p), ("listen_id", ctypes.c_void_p), ("event", ctypes.c_int), ("status", ctypes.c_int)]


lib = ctypes.CDLL("librdmacm.so.1", use_errno=True)
lib.rdma_create_event_channel.restype = ctypes.c_void_p


class Failed(OSError):
    """An event that was not the one waited for."""


class Silent(OSError):
    """No event."""


def must(result):
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Channel:
    """Where the events of some ids come."""

    def __init__(self):
        self.raw = lib.rdma_create_event_channel()
        if not self.raw:
            must(1)
        self.fd = struct.unpack("=i", ctypes.string_at(self.raw, 4))[0]

    def event(self, patience):
        """The next one: what, its status, its id. None if none comes."""
        if not select.select([self.fd], [], [], patience)[0]:
            return None
        raw = ctypes.c_void_p()
        must(lib.rdma_get_cm_event(ctypes.c_void_p(self.raw), ctypes.byref(raw)))
        event = Event.from_address(raw.value)
        said = event.event, event.status, event.id
        must(lib.rdma_ack_cm_event(raw))
        return said

    def expect(self, wanted, patience=20):
        """The id of an event, which must be that one. Those of ends that are over by themselves are passed over."""
        while True:
            said = self.event(patience)
            if said is None:
                raise Silent(errno.ETIMEDOUT, f"no event {wanted} in {patience} s")
            if said[0] == wanted and said[1] == 0:
                return said[2]
            if said[0] != TIMEWAIT_EXIT:
                raise Failed(said[1] if said[1] == -1 else abs(said[1]), f"event {said[0]} with status {said[1]}, wanted {wanted}")

    def id(self):
        raw = ctypes.c_void_p()
        must(lib.rdma_create_id(ctypes.c_void_p(self.raw), ctypes.byref(raw), None, PS_TCP))
        return End(raw.value)

    def close(self):
        lib.rdma_destroy_event_channel(ctypes.c_void_p(self.raw))


def sockaddr(address, port):
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8)


class End:
    """An rdma_cm_id."""

    def __init__(self, raw):
        self.raw, self.has_qp = ctypes.c_void_p(raw), False

    def listen(self, address, port):
        must(lib.rdma_bind_addr(self.raw, sockaddr(address, port)))
        must(lib.rdma_listen(self.raw, 64))

    def resolve_address(self, address, port):
        must(lib.rdma_resolve_addr(self.raw, None, sockaddr(address, port), 5000))

    def resolve_route(self):
        must(lib.rdma_resolve_route(self.raw, 5000))

    def qp(self):
        attr = QpInitAttr(qp_type=QPT_RC)
        attr.cap[:] = [4, 4, 1, 1, 0]
        must(lib.rdma_create_qp(self.raw, None, ctypes.byref(attr)))
        self.has_qp = True

    def connect(self):
        must(lib.rdma_connect(self.raw, ctypes.byref(ConnParam(responder_resources=1, initiator_depth=1, retry_count=7, rnr_retry_count=7))))

    def accept(self):
        must(lib.rdma_accept(self.raw, ctypes.byref(ConnParam(responder_resources=1, initiator_depth=1, rnr_retry_count=7))))

    def disconnect(self):
        must(lib.rdma_disconnect(self.raw))

    def close(self):
        if self.raw is None:
            return
        if self.has_qp:
            lib.rdma_destroy_qp(self.raw)
            self.has_qp = False
        must(lib.rdma_destroy_id(self.raw))
        self.raw = None
