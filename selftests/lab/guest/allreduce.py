#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Times MPI's all_reduce (sum of float32) and checks every element of it.

    mpirun ... allreduce.py SECONDS BYTES...

Each size runs for about SECONDS. Rank 0 prints one JSON object a line: {"bytes", "calls", "us": median of a call, the
slower rank's, "wrong": elements that were not the sum, in the first and in the last call}.
"""
import json
import statistics
import sys
from array import array

from mpi4py import MPI

WARM = 10
LEAST, MOST = 20, 20000
# Sums of small whole numbers are exact in float32.
PERIOD = 1000


def values(rank, turn, count):
    """What a rank gives in a turn: differs by element, by rank and by turn."""
    one = array("f", ((n * 7 + rank * 13 + turn * 31) % PERIOD for n in range(PERIOD)))
    whole = one * (count // PERIOD + 1)
    return whole[:count]


def reduce_checked(comm, turn, send, receive):
    """One call with values of its own; how many elements came out wrong."""
    count = len(send)
    send[:] = values(comm.rank, turn, count)
    comm.Allreduce([send, MPI.FLOAT], [receive, MPI.FLOAT], MPI.SUM)
    right = array("f", map(sum, zip(*(values(rank, turn, PERIOD) for rank in range(comm.size)))))
    right = (right * (count // PERIOD + 1))[:count]
    if receive.tobytes() == right.tobytes():
        return 0
    return sum(a != b for a, b in zip(receive, right))


def measure(comm, size, seconds):
    count = size // 4
    send, receive = array("f", bytes(size)), array("f", bytes(size))
    buffers = [send, MPI.FLOAT], [receive, MPI.FLOAT]
    wrong = reduce_checked(comm, 1, send, receive)
    start = MPI.Wtime()
    for _ in range(WARM):
        comm.Allreduce(*buffers, MPI.SUM)
    calls = int(seconds / max((MPI.Wtime() - start) / WARM, 1e-7))
    calls = comm.bcast(min(max(calls, LEAST), MOST))
    times = []
    comm.Barrier()
    before = MPI.Wtime()
    for _ in range(calls):
        comm.Allreduce(*buffers, MPI.SUM)
        now = MPI.Wtime()
        times.append(now - before)
        before = now
    wrong += reduce_checked(comm, 2, send, receive)
    slowest = comm.reduce(statistics.median(times), MPI.MAX)
    wrong = comm.reduce(wrong, MPI.SUM)
    if comm.rank == 0:
        print(json.dumps({"bytes": size, "calls": calls, "us": slowest * 1e6, "wrong": wrong}), flush=True)


for size in sys.argv[2:]:
    measure(MPI.COMM_WORLD, int(size), float(sys.argv[1]))
