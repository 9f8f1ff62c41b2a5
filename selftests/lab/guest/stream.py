#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Checksummed transfers over TCP.

stream.py serve PORT [COUNT]                accepts COUNT (1) connections, one after the other, compares what comes
stream.py send HOST PORT MIB MODE [FILE]    sends MIB mebibytes; MODE is send, sendfile or zerocopy (MSG_ZEROCOPY)

The payload is FILE (made of seeded random bytes, 64 MiB at most, if it is not there) over and over. The stream is 8 bytes
of length, the payload, and its SHA-256. Each side prints one JSON object.
"""
import hashlib
import json
import mmap
import os
import random
import select
import socket
import struct
import sys
import time

FILE_MIB = 64
SO_ZEROCOPY = 60
MSG_ZEROCOPY = 0x4000000
SO_EE_ORIGIN_ZEROCOPY = 5
SO_EE_CODE_ZEROCOPY_COPIED = 1


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def receive_exactly(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError(f"the stream ended {count - len(data)} bytes early")
        data += part
    return data


def serve(port, count):
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    for _ in range(count):
        connection, _ = listener.accept()
        (length,) = struct.unpack("!Q", receive_exactly(connection, 8))
        digest, left = hashlib.sha256(), length
        buffer = memoryview(bytearray(1 << 20))
        start = last = time.monotonic()
        gap = 0.0
        while left:
            got = connection.recv_into(buffer, min(left, len(buffer)))
            if not got:
                raise EOFError(f"the stream ended {left} bytes early")
            digest.update(buffer[:got])
            left -= got
            now = time.monotonic()
            gap, last = max(gap, now - last), now
        good = receive_exactly(connection, 32) == digest.digest()
        connection.sendall(b"1" if good else b"0")
        connection.close()
        seconds = last - start
        print(json.dumps({"bytes": length, "good": good, "seconds": seconds, "gap": gap}), flush=True)
        if not good:
            sys.exit(1)


def payload(path, length):
    """The file, made if it is not there, and the SHA-256 of `length` bytes of it over and over."""
    if not os.path.exists(path):
        with open(path, "wb") as out:
            dice = random.Random(1)
            for _ in range(min(length, FILE_MIB << 20) >> 20):
                out.write(dice.randbytes(1 << 20))
    size = os.path.getsize(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as view:
        for at in range(0, length, size):
            digest.update(memoryview(view)[: min(size, length - at)])
    return size, digest.digest()


class Zerocopy:
    """MSG_ZEROCOPY sends and their notices."""

    def __init__(self, connection):
        connection.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        self.connection, self.sent, self.done, self.copied = connection, 0, 0, 0
        self.poll = select.poll()
        self.poll.register(connection, select.POLLERR)

    def send(self, view):
        while view:
            try:
                count = self.connection.send(view, MSG_ZEROCOPY)
            except (BlockingIOError, OSError) as error:
                if error.errno not in (11, 105):
                    raise
                self.reap(True)
                continue
            self.sent += 1
            view = view[count:]
            if self.sent - self.done > 64:
                self.reap(True)

    def reap(self, wait):
        while self.poll.poll(10000 if wait else 0):
            try:
                _, notices, _, _ = self.connection.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for _, _, data in notices:
                _, origin, _, code, _, first, last = struct.unpack("IBBBBII", data[:16])[0:7]
                if origin == SO_EE_ORIGIN_ZEROCOPY:
                    self.done += last - first + 1
                    if code == SO_EE_CODE_ZEROCOPY_COPIED:
                        self.copied += last - first + 1
            wait = False

    def finish(self):
        until = time.monotonic() + 20
        while self.done < self.sent and time.monotonic() < until:
            self.reap(True)


def send(host, port, mib, mode, path):
    length = mib << 20
    size, digest = payload(path, length)
    connection = socket.create_connection((host, port))
    report = {"mode": mode, "bytes": length}
    start = time.monotonic()
    connection.sendall(struct.pack("!Q", length))
    with open(path, "rb") as file:
        if mode == "sendfile":
            left = length
            while left:
                at = (length - left) % size
                left -= os.sendfile(connection.fileno(), file.fileno(), at, min(left, size - at, 1 << 20))
        else:
            # Anonymous memory: what a program that builds its messages has.
            view = memoryview(mmap.mmap(-1, size))
            file.readinto(view)
            zerocopy = Zerocopy(connection) if mode == "zerocopy" else None
            for at in range(0, length, 1 << 20):
                part = view[at % size :][: min(1 << 20, length - at)]
                if zerocopy:
                    zerocopy.send(part)
                else:
                    connection.sendall(part)
            if zerocopy:
                zerocopy.finish()
                report.update(sends=zerocopy.sent, done=zerocopy.done, copied=zerocopy.copied)
    connection.sendall(digest)
    report["good"] = connection.recv(1) == b"1"
    report["seconds"] = time.monotonic() - start
    print(json.dumps(report), flush=True)
    sys.exit(0 if report["good"] else 1)


def main(argv):
    if argv[1] == "serve":
        serve(int(argv[2]), int(argv[3]) if len(argv) > 3 else 1)
    else:
        send(argv[2], int(argv[3]), int(argv[4]), argv[5], argv[6] if len(argv) > 6 else "/dev/shm/payload")


main(sys.argv)
