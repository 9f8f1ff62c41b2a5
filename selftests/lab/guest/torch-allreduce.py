#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""torch.distributed over MPI: all_reduce, all_gather and broadcast of float32, every element checked.

    mpirun ... torch-allreduce.py BYTES...

Rank 0 prints `torch OK, N bytes in all` at the end; whoever finds a wrong element says so and fails.
"""
import sys

import torch
import torch.distributed as dist

dist.init_process_group("mpi")
rank, ranks = dist.get_rank(), dist.get_world_size()
assert ranks == 2, f"{ranks} ranks"


def values(of, turn, count):
    """What a rank gives: differs by element, by rank and by turn; sums of it are exact."""
    return (torch.arange(count, dtype=torch.float32) * 7 + of * 13 + turn * 31) % 1000


total = 0
for turn, size in enumerate(map(int, sys.argv[1:])):
    count = size // 4
    sum_ = values(rank, turn, count)
    dist.all_reduce(sum_)
    assert torch.equal(sum_, values(0, turn, count) + values(1, turn, count)), f"all_reduce of {size} bytes is wrong"
    parts = [torch.empty(count) for _ in range(ranks)]
    dist.all_gather(parts, values(rank, turn, count))
    assert all(torch.equal(parts[n], values(n, turn, count)) for n in range(ranks)), f"all_gather of {size} is wrong"
    told = values(rank, turn, count)
    dist.broadcast(told, src=1)
    assert torch.equal(told, values(1, turn, count)), f"broadcast of {size} bytes is wrong"
    total += 3 * size
dist.barrier()
if rank == 0:
    print(f"torch OK, {total} bytes in all", flush=True)
dist.destroy_process_group()
