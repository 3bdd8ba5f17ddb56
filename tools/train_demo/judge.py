"""A small CLIP: an image tower and a text tower that score how well a picture fits a caption.

Images come as [n, 3, 512, 512] in 0..1 and are averaged down to 128x128 first. Trained on pairs of scenes that differ
by one edit, both in the same batch, so each is the other's hardest negative. As many pictures as there is time for also
come as the autoencoder gives them back, and all are blurred a little, so that a generated picture is judged fairly.
"""

import math
import time

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, EMBEDDING, INPUT = 128, 128, 128
PEAK_RATE = 1.5e-3


class Block(nn.Module):
    def __init__(self, width, heads=4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, blocked=None):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if blocked is not None:
            weights = weights + blocked
        x = x + self.out((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Down(nn.Module):
    """Halve the size, then look once more."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(x)))


class ImageTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(Down(3, 24), Down(24, 48), Down(48, 80), Down(80, WIDTH))
        self.places = nn.Parameter(torch.randn(64, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(2))
        self.norm, self.project = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, EMBEDDING, bias=False)

    def features(self, small):
        """[n, 3, 128, 128] in 0..1 to unit vectors."""
        x = self.stem(small * 4 - 2).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return F.normalize(self.project(self.norm(x).mean(1)), dim=-1)

    def forward(self, images):
        return self.features(F.avg_pool2d(images, 4))


class TextTower(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.padding = vocabulary - 1
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.places = nn.Parameter(torch.randn(77, WIDTH) * 0.02)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(2))
        self.norm, self.project = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, EMBEDDING, bias=False)
        nn.init.normal_(self.words.weight, std=0.05)

    def forward(self, ids):
        """Ids [n, 77] to unit vectors; padding is neither read nor counted."""
        kept = (ids != self.padding).to(self.places.dtype)
        x = self.words(ids) + self.places
        blocked = (kept - 1)[:, None, None] * 1e4
        for block in self.blocks:
            x = block(x, blocked)
        x = (self.norm(x) * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        return F.normalize(self.project(x), dim=-1)


class Judge(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.image, self.text = ImageTower(), TextTower(vocabulary)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def soften(images):
    """Slight blur, brightness and noise, differently for each picture."""
    n = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, torch.rand(n, 1, 1, 1, device=images.device) * 0.8)
    gain = 1 + 0.1 * torch.randn(n, 1, 1, 1, device=images.device)
    return (images * gain + 0.03 * torch.rand(n, 1, 1, 1, device=images.device) * torch.randn_like(images)).clamp(0, 1)


def train(judge, pictures, captions, seconds, batch, log, steps=None):
    """pictures: uint8 [pairs, 2 scenes, versions, 3, 128, 128]; captions: ids [pairs, 2 scenes, wordings, 77]."""
    judge.train()
    device = captions.device.type
    optimizer = torch.optim.AdamW(
        judge.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02, fused=device == "cuda"
    )
    began, step = time.time(), 0
    while (share := (time.time() - began) / seconds) < 1 and step != steps:
        rate = PEAK_RATE * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(captions), (batch // 2,), device=device)
        version = torch.randint(pictures.shape[2], (batch // 2, 2), device=device)
        wording = torch.randint(captions.shape[2], (batch // 2, 1), device=device).expand(-1, 2)
        side = torch.arange(2, device=device).expand(batch // 2, 2)
        images = soften(pictures[chosen[:, None], side, version].flatten(0, 1).float() / 255)
        ids = captions[chosen[:, None], side, wording].flatten(0, 1).long()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            seen, said = judge.image.features(images), judge.text(ids)
        scores = judge.scale.exp().clamp(max=100) * seen.float() @ said.float().T
        target = torch.arange(len(scores), device=device)
        loss = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0 or step == 1:
            right = (scores.argmax(1) == target).float().mean().item()
            log(f"judge step {step} loss {loss.item():.4f} right in {batch}: {right:.3f} rate {rate:.1e}")
    judge.eval()
    return step


@torch.no_grad()
def ranked_first(seen, said, among):
    """Of every picture, whether its own caption scores highest among it and `among` - 1 others drawn at random."""
    scores, n, right = seen @ said.T, len(seen), []
    generator = torch.Generator().manual_seed(0)
    for i in range(n):
        others = torch.randperm(n - 1, generator=generator)[: among - 1]
        others = others + (others >= i)
        right.append(bool(scores[i, i] > scores[i, others.to(scores.device)].max()))
    return right


def retrieval(seen, said, among):
    """Share of pictures whose own caption is ranked first."""
    return sum(ranked_first(seen, said, among)) / len(seen)
