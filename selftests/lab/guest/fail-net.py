#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Allocations of the cable's driver fail, the first ones and by chance. Prints one JSON object: what was wrong, figures, or why
there is nothing to do.

    fail-net.py NETDEV PEER             up and down, ring sizes, settings, packets
    fail-net.py arm PERCENT TIMES       from now on so many fail: who called does something to the cable
    fail-net.py judge TIMES             the end of that: `failed`, and what was `wrong` meanwhile

The rings, pages, slots and vectors are allocated by the link's worker, and what a plugged cable needs by the core's, where the
counter of one task (fail-nth) does not reach: they fail under the module's code alone, whoever runs it, for as long as an act
and a second and a half last. The act itself must succeed, and the cable must carry again by itself.
"""
import failnth
import json
import subprocess
import sys
import time

MODULE = "usb4_rdma"
# Where `arm` keeps the level of the console, and what it says in the log.
LEVEL = "/run/fail-net.level"
MARK = "usb4lab: allocations fail from here on"


def tool(*argv):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def reaches(peer, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if tool("ping", "-q", "-c", "1", "-W", "1", peer).returncode == 0:
            return True
    return False


def down_up(netdev):
    for way in ("down", "up"):
        done = tool("ip", "link", "set", netdev, way)
        if done.returncode:
            return f"{way}: {done.stderr.strip()}"
    return None


def heard(complaints):
    lines = complaints.heard()
    # The core warns of every error of a control request but a timeout, and here it lacks memory under our call.
    if len(lines) > 1 and "drivers/thunderbolt/ctl.c" in lines[0] and lines[1].endswith(": -12"):
        return []
    return lines


def arm(percent, times):
    level = failnth.Failing().complaints.level
    with open(LEVEL, "w") as file:
        file.write(level)
    failnth.put("/dev/kmsg", f"<7>{MARK}")
    failnth.Seldom(MODULE, percent, times).__enter__()


def judge(times):
    some = failnth.Seldom(MODULE, 0, times)
    some.__exit__()
    complaints = failnth.Complaints(MARK)
    wrong = heard(complaints)
    with open(LEVEL) as file:
        complaints.level = file.read()
    complaints.end()
    print(json.dumps({"wrong": wrong, "failed": some.failed}))


def network(netdev, peer):
    # Also sets the knobs: allocations that may sleep fail as well, and quietly.
    complaints, wrong, figures = failnth.Failing().complaints, [], {}

    def seldom(name, percent, times, act):
        """`act` meanwhile, and then the cable must carry again by itself."""
        with failnth.Seldom(MODULE, percent, times) as some:
            trouble = act()
            time.sleep(1.5)
        figures[name] = [some.failed, 0, some.failed]
        trouble = trouble or (None if reaches(peer) else "the cable does not carry afterwards")
        wrong.extend(f"{name}: {line}" for line in ([trouble] if trouble else []) + heard(complaints))

    # All from the first on, as many as `times` says: each round the link is made a little further.
    for times in (1, 2, 3, 5, 8, 13, 21):
        seldom(f"up, first {times}", 100, times, lambda: down_up(netdev))
    for percent in (1, 3, 10, 30):
        seldom(f"up, {percent} %", percent, 200, lambda: down_up(netdev))
    for size in (64, 1024, 512):
        def sized():
            done = tool("ethtool", "-G", netdev, "rx", str(size), "tx", str(size))
            return done.stderr.strip() if done.returncode else None
        seldom(f"rings of {size}", 20, 100, sized)

    def settings():
        with open(f"/sys/class/net/{netdev}/mtu") as file:
            mtu = file.read().strip()
        for argv in (("ethtool", "-C", netdev, "rx-usecs", "16"), ("ip", "link", "set", netdev, "mtu", "1400"),
                     ("ip", "link", "set", netdev, "mtu", mtu), ("ip", "link", "set", netdev, "address", "02:00:00:00:00:77")):
            done = tool(*argv)
            if done.returncode:
                return f"{argv}: {done.stderr.strip()}"
        return None
    seldom("settings", 30, 100, settings)

    def packets():
        # It sends more slowly where it is told of a lack of memory.
        tool("ping", "-q", "-i", "0.01", "-c", "200", "-w", "15", "-s", "30000", peer)
        return None
    seldom("packets", 5, 500, packets)
    complaints.end()
    print(json.dumps({"wrong": wrong, "figures": figures}))


def main():
    if not failnth.available():
        print(json.dumps({"absent": "this kernel has no fault injection"}))
    elif sys.argv[1] == "arm":
        arm(int(sys.argv[2]), int(sys.argv[3]))
        print(json.dumps({}))
    elif sys.argv[1] == "judge":
        judge(int(sys.argv[2]))
    else:
        network(*sys.argv[1:3])


main()
