"""Random tensors on a backend, launches run twice on poisoned outputs, verdicts."""

import math

import torch

TOLERANCE = 2e-3
results = []


class Bench:
    """Random tensors on the backend, launches run twice on poisoned outputs, verdicts."""

    def __init__(self, backend, seed=0, only=""):
        self.backend, self.only = backend, only
        self.random = torch.Generator().manual_seed(seed)  # of choices
        self.noise = torch.Generator(backend.device).manual_seed(seed)

    def tensor(self, *shape, dtype=torch.float16, scale=1.0):
        return self.backend.place((self.randn(*shape) * scale).to(dtype))

    def randn(self, *shape):
        return torch.randn(shape, generator=self.noise, device=self.backend.device)

    def poison(self, *shape, dtype=torch.float16):
        return self.backend.place(torch.full(shape, float("nan"), dtype=dtype, device=self.backend.device))

    def place(self, tensor):
        return self.backend.place(tensor)

    def check(self, name, launches, outputs, tolerance=TOLERANCE):
        """outputs: list of (tensor, float64 reference). Launches write them; run twice."""
        if self.only not in name:
            return
        bits = []
        for _ in range(2):
            for tensor, _ in outputs:
                tensor.fill_(float("nan"))
            for one in launches:
                self.backend.launch(*one)
            self.backend.synchronize()
            bits.append([t.clone().contiguous().view(torch.uint8) for t, _ in outputs])
        same = all(torch.equal(a, b) for a, b in zip(*bits))
        error = max(relative(t, r) for t, r in outputs)
        good = error <= tolerance and same
        results.append((name, error, same, good))
        print(f"{'ok  ' if good else 'FAIL'} {name:58s} {error:.2e}{'' if same else '  bits differ'}", flush=True)


def relative(tensor, reference):
    tensor = tensor.double()
    reference = reference.double().to(tensor.device)
    error = ((tensor - reference).norm() / reference.norm().clamp_min(1e-30)).item()
    return error if math.isfinite(error) else math.inf  # NaN never passes


class Picked:
    """Some rows of a map, seen as a tensor by Bench.check."""

    def __init__(self, tensor, where):
        self.tensor, self.where = tensor, where

    def fill_(self, value):
        self.tensor.fill_(value)

    def clone(self):
        return self.tensor[:, self.where.to(self.tensor.device)].clone()

    def double(self):
        return self.clone().double()
