#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Runs rdma-core's own test suite over one device, each module in a process of its own.

    rdma-tests.py DEVICE GID_INDEX SECONDS [MODULE...]

The suite is the one that the distribution ships beside python3-pyverbs; it is unpacked, not changed. A module of its
own process, because libibverbs crashes in some tests of other makers' devices. Prints one JSON object:
{module: {"tests": [[name, outcome, text]...], "status": exit status, "seconds": time}}, outcomes passed, skipped,
failed, and crashed for the test that a process died or was ended in.
"""
import gzip
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
import unittest

PACKED = "/usr/share/doc/rdma-core/tests"
SUITE = "/run/pyverbs/tests"


def unpack():
    os.makedirs(SUITE, exist_ok=True)
    for name in os.listdir(PACKED):
        path = os.path.join(PACKED, name)
        if name.endswith(".gz"):
            with gzip.open(path, "rb") as packed, open(os.path.join(SUITE, name[:-3]), "wb") as plain:
                shutil.copyfileobj(packed, plain)
        elif name.endswith(".py"):
            shutil.copy(path, SUITE)
    names = (name[:-3] for name in os.listdir(SUITE) if name.startswith("test_") and name.endswith(".py"))
    return sorted(names)


def one(module, device, gid, log):
    """In a process of its own: run_tests.py for one module, each test's outcome a line of `log`."""
    out, me = open(log, "w", buffering=1), os.getpid()

    def note(test, outcome, text=""):
        # A test that forks must not report twice.
        if os.getpid() == me:
            out.write(json.dumps([test.id().removeprefix("tests."), outcome, str(text).strip()]) + "\n")

    class Recorder(unittest.TextTestResult):
        def startTest(self, test):
            super().startTest(test)
            note(test, "started")

        def addSuccess(self, test):
            super().addSuccess(test)
            note(test, "passed")

        def addSkip(self, test, reason):
            super().addSkip(test, reason)
            note(test, "skipped", reason)

        def addFailure(self, test, err):
            super().addFailure(test, err)
            note(test, "failed", self.failures[-1][1])

        def addError(self, test, err):
            super().addError(test, err)
            note(test, "failed", self.errors[-1][1])

        def addSubTest(self, test, subtest, err):
            super().addSubTest(test, subtest, err)
            if err is not None:
                note(test, "failed", self._exc_info_to_string(err, test))

    unittest.TextTestRunner.resultclass = Recorder
    sys.path.insert(0, SUITE)
    sys.argv = [os.path.join(SUITE, "run_tests.py"), "--dev", device, "--gid", gid, "-v", f"tests.{module}"]
    if gid == "-":
        del sys.argv[3:5]
    runpy.run_path(sys.argv[0], run_name="__main__")


def outcomes(log):
    """The last word on each test; one that was only started died."""
    last = {}
    try:
        for line in open(log):
            name, outcome, text = json.loads(line)
            if last.get(name, ["", ""])[0] != "failed":
                last[name] = [outcome, text]
    except FileNotFoundError:
        pass
    return [[name, "crashed" if o == "started" else o, text] for name, (o, text) in last.items()]


def main():
    device, gid, seconds = sys.argv[1:4]
    modules = unpack()
    report = {}
    for module in sys.argv[4:] or modules:
        log = f"/run/pyverbs/{module}.json"
        start = time.monotonic()
        child = subprocess.Popen([sys.executable, __file__, "--one", module, device, gid, log],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(log + ".err", "w"))
        try:
            status = child.wait(float(seconds))
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        tests = outcomes(log)
        report[module] = {"tests": tests, "status": status, "seconds": round(time.monotonic() - start, 1)}
        if not tests:
            report[module]["said"] = open(log + ".err").read()[-2000:]
    print(json.dumps(report))


if sys.argv[1] == "--one":
    one(*sys.argv[2:6])
else:
    main()
