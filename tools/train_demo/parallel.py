"""One process per GPU: equal weights everywhere, gradients averaged, decisions taken by rank 0."""

import os
import time

import torch
import torch.distributed as dist

RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def start():
    """Join the other ranks; the device to work on."""
    if RANKS > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return "cuda" if torch.cuda.is_available() else "cpu"


def hide_other_gpus():
    """Every process sees its own GPU alone, as cuda:0, so that they share compiled code. Before the first CUDA call."""
    if RANKS > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["LOCAL_RANK"]


def barrier(device):
    """Wait for all ranks; .item() because a collective on a GPU returns before it is done."""
    if RANKS > 1:
        flag = torch.zeros(1, device=device)
        dist.all_reduce(flag)
        flag.item()


def agree(value, device):
    """Rank 0's number, on every rank."""
    if RANKS == 1:
        return value
    shared = torch.tensor([value], device=device, dtype=torch.float32)
    dist.broadcast(shared, 0)
    return shared.item()


def broadcast(tensors):
    if RANKS > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


class Gradients:
    """The gradients of a list of parameters in one buffer, so that one all-reduce averages them."""

    def __init__(self, parameters):
        self.buffer = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        offset = 0
        for p in parameters:
            p.grad = torch.as_strided(self.buffer, p.shape, p.stride(), offset)
            offset += p.numel()

    def zero(self):
        self.buffer.zero_()

    def average_and_clip(self, limit=1.0):
        if RANKS > 1:
            dist.all_reduce(self.buffer)
        norm = self.buffer.norm() / RANKS
        self.buffer.mul_(torch.clamp(limit / (norm + 1e-6), max=1.0) / RANKS)
        return norm


class Clock:
    """Share of a stage's time that is used up, the same on every rank, refreshed every few steps."""

    def __init__(self, seconds, device, used=0.0, every=10):
        self.now, self.seconds, self.device, self.every = time.time, seconds, device, every
        self.began, self.steps, self.share = time.time() - used, 0, used / seconds

    def tick(self):
        if self.steps % self.every == 0:
            self.share = agree((self.now() - self.began) / self.seconds, self.device)
        self.steps += 1
        return self.share
