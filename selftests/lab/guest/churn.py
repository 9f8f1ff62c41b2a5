#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""A user in a loop, until SIGTERM: prints how often it went round.

    churn.py regions DEVICE   registers a page and deregisters it
    churn.py qps DEVICE       makes a queue pair and destroys it
    churn.py calls            as many system calls that are nobody's device: maps a page and unmaps it
"""
import mmap
import signal
import sys

going = True


def stop(*_):
    global going
    going = False


def regions(device):
    import pyverbs.enums as e
    from pyverbs.device import Context
    from pyverbs.mr import MR
    from pyverbs.pd import PD
    import one
    pd = PD(Context(name=device))
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[0] = 1
    access = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE
    # The closure names `memory`, and so keeps it mapped.
    return lambda: MR(pd, len(memory), access, address=one.address_of(memory)).close()


def qps(device):
    import pyverbs.enums as e
    from pyverbs.cq import CQ
    from pyverbs.device import Context
    from pyverbs.pd import PD
    from pyverbs.qp import QP, QPCap, QPInitAttr
    context = Context(name=device)
    pd, cq = PD(context), CQ(context, 16)
    cap = QPCap(max_send_wr=1, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
    return lambda: QP(pd, QPInitAttr(qp_type=e.IBV_QPT_RC, scq=cq, rcq=cq, cap=cap)).close()


def calls():
    def once():
        memory = mmap.mmap(-1, mmap.PAGESIZE)
        memory[0] = 1
        memory.close()
    return once


def main():
    once = {"regions": regions, "qps": qps, "calls": calls}[sys.argv[1]](*sys.argv[2:])
    signal.signal(signal.SIGTERM, stop)
    once()
    open("/run/churning", "w").close()
    count = 1
    while going:
        once()
        count += 1
    print(count, flush=True)


main()
