#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""FSDP2 (fully_shard) between hosts on processors, equal to one process, timed.

    mpirun ... torch-fsdp.py SECONDS

torch 2.6 has no back end for it that goes by RDMA on a processor: its MPI has neither `_allgather_base` nor
`_reduce_scatter_base`, gloo is TCP. A back end of one's own is what torch offers (`Backend.register_backend`): MpiGroup is
one over mpi4py. Nor have 2.6's streams of a processor, which do nothing, all methods of which FSDP2 makes use: `torch.cpu`
gets them here. Rank 0 prints one JSON object: the milliseconds of a step, its median at the slower rank, and by how much
losses and parameters differed from one process.
"""
import json
import statistics
import sys
import time

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import nn
from torch._C._distributed_c10d import _create_work_from_future
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from torch_training import train

WIDTH, LAYERS, BATCH, STEPS = 512, 4, 16, 5
# Sums of another order: what float32 makes of it in some hundred additions.
TOLERANCE = 1e-4


def over(result):
    """Work that is done, as MPI's calls return when it is."""
    future = torch.futures.Future()
    future.set_result(result)
    return _create_work_from_future(future)


class MpiGroup(dist.ProcessGroup):
    """What FSDP2 asks of a process group, by MPI: arrays of numpy that share the tensors' memory."""

    def __init__(self, rank, size):
        super().__init__(rank, size)
        self.comm, self.ranks = MPI.COMM_WORLD.Dup(), size

    def getBackendName(self):
        return "mpi4py"

    @property
    def group_name(self):
        """A mesh asks its group for the name under which torch has it; the name of the base class is that of its back ends,
        of which there are none here."""
        return dist.distributed_c10d._world.pg_names[self]

    def summed(self, tensor, opts):
        """The sum is there; what was asked for may be the average."""
        if opts.reduceOp == dist.ReduceOp.AVG:
            tensor /= self.ranks
        elif opts.reduceOp != dist.ReduceOp.SUM:
            raise NotImplementedError(opts.reduceOp)

    def allreduce(self, tensors, opts):
        for tensor in tensors:
            self.comm.Allreduce(MPI.IN_PLACE, tensor.numpy(), MPI.SUM)
            self.summed(tensor, opts)
        return over(tensors)

    def broadcast(self, tensors, opts):
        for tensor in tensors:
            self.comm.Bcast(tensor.numpy(), opts.rootRank)
        return over(tensors)

    def _allgather_base(self, output, given, opts):
        self.comm.Allgather(given.numpy(), output.numpy())
        return over(output)

    def _reduce_scatter_base(self, output, given, opts):
        self.comm.Reduce_scatter_block(given.numpy(), output.numpy(), MPI.SUM)
        self.summed(output, opts)
        return over(output)

    def barrier(self, opts):
        self.comm.Barrier()
        return over(None)


def complete_streams():
    """What a processor is told to do is done when the call returns, so there is nothing to record nor to wait for."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        torch.cpu.Stream.record_event = lambda self, event=None: event or torch.cpu.Event()
        torch.cpu.Stream.wait_event = lambda self, event: None


def make():
    torch.manual_seed(3)
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(LAYERS)))


def main():
    torch.set_num_threads(1)
    complete_streams()
    dist.Backend.register_backend("mpi4py", lambda store, rank, size, timeout: MpiGroup(rank, size), devices=["cpu"])
    comm = MPI.COMM_WORLD
    # No rank asks another by the store: they know each other by MPI.
    dist.init_process_group("mpi4py", store=dist.HashStore(), rank=comm.rank, world_size=comm.size)
    dice = torch.Generator().manual_seed(2)
    batches = [tuple(torch.randn(BATCH, WIDTH, generator=dice) for _ in range(2)) for _ in range(STEPS)]
    alone, shared = make(), make()
    mesh = init_device_mesh("cpu", (comm.size,))
    for layer in shared:
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    fully_shard(shared, mesh=mesh, reshard_after_forward=False)
    alone_losses, alone_times = train(alone, batches, 0, 1)
    losses, _ = train(shared, batches, comm.rank, comm.size)
    dist.all_reduce(losses)
    off = (losses / comm.size - alone_losses).abs().max().item()
    sharded = 0
    for a, b in zip(alone.parameters(), shared.parameters()):
        sharded += b.to_local().numel()
        gathered = torch.empty_like(a)
        dist.all_gather_into_tensor(gathered, b.to_local().detach())
        off = max(off, (a - gathered).abs().max().item())
    whole = sum(a.numel() for a in alone.parameters())
    assert sharded * comm.size == whole, f"{sharded} of {whole} parameters here"
    times, until = [], time.perf_counter() + float(sys.argv[1])
    while comm.bcast(time.perf_counter() < until):
        times += train(shared, batches, comm.rank, comm.size)[1]
    ms, off = comm.allreduce(statistics.median(times) * 1e3, MPI.MAX), comm.allreduce(off, MPI.MAX)
    assert off < TOLERANCE, f"off by {off} from one process"
    if comm.rank == 0:
        print(json.dumps({"fsdp": {"ms": ms, "alone_ms": statistics.median(alone_times) * 1e3, "steps": len(times),
                                   "off": off}}), flush=True)
    dist.destroy_process_group()


main()
