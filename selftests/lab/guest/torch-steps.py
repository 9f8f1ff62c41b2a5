#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Two ways to share a model between hosts by torch.distributed over MPI, each equal to one process, each timed.

    mpirun ... torch-steps.py SECONDS

Tensor parallel: a transformer's decoding at batch 1, heads and inner columns of each layer divided among the ranks, two
all_reduces a layer. Data parallel: DistributedDataParallel trains a model, each rank with its part of each batch. Every
rank also computes all of it alone, and compares: outputs, losses, parameters. Rank 0 prints one JSON object: the
milliseconds of a step, its median at the slower rank, and by how much anything differed from one process.
"""
import json
import statistics
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as f
from torch.nn.parallel import DistributedDataParallel

from torch_training import train

WIDTH, HEADS, LAYERS, CONTEXT = 256, 8, 8, 256
TRAINED, BATCH, STEPS = 512, 16, 5
# Sums of another order: what float32 makes of it in some hundred additions.
TOLERANCE = 1e-4


class Layer:
    """One layer's weights, or a rank's part of them: its heads, and its columns of the inner width."""

    def __init__(self, whole, part, parts):
        self.parts = parts
        cut = lambda weight, dim: weight.chunk(parts, dim)[part].contiguous()
        self.qkv = [cut(w, 0) for w in whole["qkv"]]
        self.out, self.up, self.down = cut(whole["out"], 1), cut(whole["up"], 0), cut(whole["down"], 1)
        self.heads = HEADS // parts
        self.keys = torch.empty(CONTEXT, self.heads, WIDTH // HEADS)
        self.values = torch.empty_like(self.keys)

    def sum(self, x):
        if self.parts > 1:
            dist.all_reduce(x)
        return x

    def step(self, x, at):
        q, k, v = ((w @ f.layer_norm(x, (WIDTH,))).view(self.heads, -1) for w in self.qkv)
        self.keys[at], self.values[at] = k, v
        scores = torch.einsum("hd,thd->ht", q, self.keys[:at + 1]) / (WIDTH / HEADS) ** 0.5
        mixed = torch.einsum("ht,thd->hd", scores.softmax(1), self.values[:at + 1])
        x = x + self.sum(self.out @ mixed.flatten())
        return x + self.sum(self.down @ f.gelu(self.up @ f.layer_norm(x, (WIDTH,))))


def weights():
    torch.manual_seed(15)
    make = lambda *shape: torch.randn(shape) / shape[-1] ** 0.5
    return [{"qkv": [make(WIDTH, WIDTH) for _ in range(3)], "out": make(WIDTH, WIDTH), "up": make(4 * WIDTH, WIDTH),
             "down": make(WIDTH, 4 * WIDTH)} for _ in range(LAYERS)]


def decode(layers, steps, start):
    """The last layer's output of each step, which is the next one's input, as a token's would be."""
    x, seen, times = start, [], []
    for at in range(steps):
        begun = time.perf_counter()
        for layer in layers:
            x = layer.step(x, at)
        x = f.layer_norm(x, (WIDTH,))
        times.append(time.perf_counter() - begun)
        seen.append(x)
    return torch.stack(seen), times


def tensor_parallel(rank, ranks, seconds):
    whole, start = weights(), torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    alone, alone_times = decode([Layer(w, 0, 1) for w in whole], 32, start)
    layers = [Layer(w, rank, ranks) for w in whole]
    dist.barrier()
    shared, _ = decode(layers, 32, start)
    off = (shared - alone).abs().max().item()
    times, until = [], time.perf_counter() + seconds
    more = torch.ones(1)
    while more.item():
        dist.barrier()
        times += decode(layers, CONTEXT // 2, start)[1]
        more[0] = float(time.perf_counter() < until)
        dist.broadcast(more, 0)
    return times, alone_times, off


def data_parallel(rank, ranks, seconds):
    dice = torch.Generator().manual_seed(2)
    batches = list(zip(*(torch.randn(STEPS, BATCH, TRAINED, generator=dice) for _ in range(2))))

    def make():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(TRAINED, 2 * TRAINED), nn.GELU(), nn.Linear(2 * TRAINED, TRAINED))

    alone, shared = make(), DistributedDataParallel(make())
    alone_losses, alone_times = train(alone, batches, 0, 1)
    losses, times = train(shared, batches, rank, ranks)
    dist.all_reduce(losses)
    off = (losses / ranks - alone_losses).abs().max().item()
    for a, b in zip(alone.parameters(), shared.module.parameters()):
        off = max(off, (a - b).abs().max().item())
    until, more = time.perf_counter() + seconds, torch.ones(1)
    while more.item():
        times += train(shared, batches, rank, ranks)[1]
        more[0] = float(time.perf_counter() < until)
        dist.broadcast(more, 0)
    return times[STEPS:], alone_times, off


def main():
    torch.set_num_threads(1)
    dist.init_process_group("mpi")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    said = {"ranks": ranks}
    for name, way in (("tp", tensor_parallel), ("ddp", data_parallel)):
        times, alone, off = way(rank, ranks, float(sys.argv[1]))
        slower = torch.tensor([statistics.median(times), off])
        dist.all_reduce(slower, dist.ReduceOp.MAX)
        said[name] = {"ms": slower[0].item() * 1e3, "alone_ms": statistics.median(alone) * 1e3, "steps": len(times),
                      "off": slower[1].item()}
        assert slower[1] < TOLERANCE, f"{name}: off by {slower[1]} from one process"
    dist.barrier()
    if rank == 0:
        print(json.dumps(said), flush=True)
    dist.destroy_process_group()


main()
