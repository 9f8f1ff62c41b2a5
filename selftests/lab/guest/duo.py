#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Plays a list of two-sided runs between two hosts: a server program here, its client there, one run after the other.

    duo.py serve PORT            on the server's host: takes one caller
    duo.py call ADDRESS PORT FILE   on the client's host: FILE has one JSON object a line, a run

A run: {"id", "server", "client": lines of shell, "listen": "tcp:18515" | "cm:7471" | "udp:5000" | "", "limit": seconds}.
The client starts when the server listens. Answers on standard output, a JSON object a line: {"id", "client",
"server": {"status", "out", "err"}, "seconds": the client's time}; status 124 is the time limit.
One connection and no agent in between: hundreds of short runs cost little more than themselves.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import time

# Bytes of a program's output that are kept: perftest lists each of its queue pairs before its table.
KEEP = 200000


def listening(kind, port):
    """Whether something listens on the port: TCP and UDP by /proc, rdma_cm by its own list."""
    if kind == "cm":
        shown = subprocess.run(["rdma", "res", "show", "cm_id"], capture_output=True, text=True).stdout
        words = [line.split() for line in shown.splitlines() if "LISTEN" in line]
        return any(word.endswith(f":{port}") for line in words for word in line)
    state = {"tcp": "0A", "udp": "07"}[kind]
    for table in (kind, kind + "6"):
        with open(f"/proc/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == state and fields[1].endswith(f":{port:04X}"):
                    return True
    return False


class Program:
    """A line of shell in a process group of its own, its output in files."""

    def __init__(self, line, name):
        self.files = [open(f"/run/duo-{name}.{end}", "w+b") for end in ("out", "err")]
        self.process = subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.DEVNULL, stdout=self.files[0],
                                        stderr=self.files[1], start_new_session=True)

    def end(self, seconds):
        """Waits, ends what still runs then; what it said."""
        status = None
        try:
            status = self.process.wait(max(seconds, 0.01))
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        said = []
        for file in self.files:
            file.seek(0)
            said.append(file.read(KEEP).decode(errors="replace"))
            file.close()
        status = 124 if status is None else status if status >= 0 else 128 - status
        return {"status": status, "out": said[0], "err": said[1]}


def serve(port):
    listener = socket.create_server(("", int(port)))
    line, _ = listener.accept()
    line = line.makefile("rw")
    for request in line:
        run = json.loads(request)
        program = Program(run["server"], "server")
        until = time.monotonic() + 20
        ready = True
        if run["listen"]:
            kind, number = run["listen"].split(":")
            ready = False
            while time.monotonic() < until and program.process.poll() is None and not ready:
                ready = listening(kind, int(number))
                if not ready:
                    time.sleep(0.01)
        line.write(json.dumps({"ready": ready}) + "\n")
        line.flush()
        ending = json.loads(line.readline())
        line.write(json.dumps(program.end(ending["end"])) + "\n")
        line.flush()


def call(address, port, file):
    line = socket.create_connection((address, int(port))).makefile("rw")

    def ask(value):
        line.write(json.dumps(value) + "\n")
        line.flush()
        return json.loads(line.readline())

    for text in open(file):
        run = json.loads(text)
        ready = ask(run)["ready"]
        start = time.monotonic()
        if ready:
            client = Program(run["client"], "client").end(run["limit"])
        else:
            client = {"status": 125, "out": "", "err": "the server did not listen\n"}
        seconds = time.monotonic() - start
        # A server whose client has ended well ends by itself, soon.
        server = ask({"end": run.get("after", 10) if client["status"] == 0 else 0.5})
        print(json.dumps({"id": run["id"], "client": client, "server": server, "seconds": round(seconds, 3)}), flush=True)


if sys.argv[1] == "serve":
    serve(*sys.argv[2:3])
else:
    call(*sys.argv[2:5])
