"""A U-Net that computes sparse edits literally: everything densely, then where(A, fresh, recorded).

No tiles and no gathers: a check of the semantics that shares nothing with an implementation that has them. Active
pixels A are given per level (feature maps of n x n); at a sparse level

- the outputs of convolutions, attentions and feed-forwards are fresh inside A and the recorded ones outside;
- group norms use, by `norm`,
    frozen        the statistics recorded at this step,
    live          new statistics, for pixels inside and outside A (a convolution's halo, keys and values see them),
    live-inside   new statistics for pixels inside A; outside, the recorded normalised values;
- self-attention sees, by `kv`, all tokens (`full`) or those of A (`masked`).

Levels with fewer rows than `min_rows` are dense. Everything else is per pixel or per token and needs no rule.

`record` also keeps the cross-attention probabilities of the conditioned image; `guide` is dense and mixes them with its
own by `control`: (blend * recorded @ mapper + (1 - blend) * own) * weight, per new token.
"""

from dataclasses import dataclass, field

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import nn

KINDS = ("plain", "record", "guide", "edit")


@dataclass
class Rules:
    """How the `edit` program treats sparse levels."""

    kv: str = "full"
    norm: str = "frozen"
    min_rows: int = 0


@dataclass
class MaskedUNet:
    """Wraps a U-Net; `program` says what a call does, `active` maps rows of a level to a boolean map [n, n]."""

    unet: nn.Module
    program: str = "plain"
    step: int = 0
    rules: Rules = field(default_factory=Rules)
    active: dict = field(default_factory=dict)
    slots: dict = field(default_factory=dict)
    control: tuple = ()  # mapper [T,T], blend [T], weight [T]

    def __post_init__(self):
        for name, module in self.unet.named_modules():
            if isinstance(module, nn.Conv2d | Attention | FeedForward):
                module.register_forward_hook(self._keep(name))
            if isinstance(module, nn.GroupNorm):
                module.forward = self._group_norm(name, module)
            if name.endswith("attn1"):
                module.forward = self._self_attention(module.forward)
            if name.endswith("attn2"):
                module.forward = self._cross_attention(name, module)

    def __call__(self, program, step, *inputs):
        assert program in KINDS
        self.program, self.step = program, step
        with torch.no_grad():
            return self.unet(*inputs, return_dict=False)[0]

    def _sparse(self, rows):
        return self.program == "edit" and rows >= self.rules.min_rows

    def _write(self, name, value):
        if self.program == "record":
            self.slots[self.step, name] = value

    def _inside_or_recorded(self, name, fresh):
        """where(A, fresh, recorded) for a map [N,C,n,n] or tokens [N,n*n,C]."""
        rows = rows_of(fresh)
        self._write(name, fresh)
        if not self._sparse(rows):
            return fresh
        active = self.active[rows]
        active = active[None, None] if fresh.dim() == 4 else active.reshape(1, -1, 1)
        return torch.where(active, fresh, self.slots[self.step, name])

    def _keep(self, name):
        return lambda _module, _inputs, fresh: self._inside_or_recorded(name, fresh)

    def _group_norm(self, name, norm):
        def forward(x):
            groups = x.reshape(x.shape[0], norm.num_groups, -1)
            statistics = groups.mean(-1, keepdim=True), groups.var(-1, unbiased=False, keepdim=True)
            self._write(f"{name}.statistics", statistics)
            if self._sparse(rows_of(x)) and self.rules.norm == "frozen":
                statistics = self.slots[self.step, f"{name}.statistics"]
            mean, variance = statistics
            y = ((groups - mean) * torch.rsqrt(variance + norm.eps)).reshape(x.shape)
            y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
            return self._inside_or_recorded(name, y) if self.rules.norm == "live-inside" else self._recorded(name, y)

        return forward

    def _recorded(self, name, value):
        self._write(name, value)
        return value

    def _cross_attention(self, name, attention):
        def split(x):
            return x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

        def forward(x, encoder_hidden_states, **_options):
            q = split(attention.to_q(x))
            k, v = (split(to(encoder_hidden_states)) for to in (attention.to_k, attention.to_v))
            shares = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1)
            self._write(f"{name}.maps", shares[1:])
            if self.program == "guide":
                mapper, blend, weight = self.control
                recorded = self.slots[self.step, f"{name}.maps"] @ mapper
                shares = torch.cat([shares[:1], (blend * recorded + (1 - blend) * shares[1:]) * weight])
            return attention.to_out[0]((shares @ v).transpose(1, 2).flatten(2))

        return forward

    def _self_attention(self, attend):
        def forward(x, encoder_hidden_states=None, **options):
            rows = rows_of(x)
            if self.rules.kv == "full" or not self._sparse(rows):
                return attend(x, encoder_hidden_states, **options)
            active = self.active[rows].flatten()
            out = torch.zeros_like(x)
            out[:, active] = attend(x[:, active], encoder_hidden_states, **options)
            return out

        return forward


def rows_of(x):
    """Rows of the square level that a map [N,C,n,n] or tokens [N,n*n,C] belong to."""
    return x.shape[-1] if x.dim() == 4 else round(x.shape[1] ** 0.5)


def pyramid(mask, levels=4):
    """{rows: active pixels} of a latent mask [n, n] and its any-hit poolings."""
    active = {}
    for _ in range(levels):
        active[mask.shape[0]] = mask
        mask = nn.functional.max_pool2d(mask[None].float(), 2)[0] > 0
    return active
