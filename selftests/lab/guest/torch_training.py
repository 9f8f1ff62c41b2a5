# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The training that torch-steps.py and torch-fsdp.py do, by one process and by several."""
import time

import torch
from torch.nn import functional as f

RATE = 0.05


def train(model, batches, part, parts):
    """One step for each batch, by this rank's `part` of it. The losses, and the seconds of each step."""
    optimizer, losses, times = torch.optim.SGD(model.parameters(), RATE), [], []
    for x, y in batches:
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = f.mse_loss(model(x.chunk(parts)[part]), y.chunk(parts)[part])
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - begun)
        losses.append(loss.detach())
    return torch.stack(losses), times
