"""What the trained model can do, in figures and in contact sheets.

    python evaluate.py FOLDER --sprites sprites.npz [--prompts 200] [--per-kind 8] [--device cuda]
    python evaluate.py ../../models/demo --judge ../../models/demo-judge --sprites sprites.npz --output out

FOLDER is what train.py wrote, or an export of it: then its packed weights are what is measured, in f32 (on a GPU tf32).
Writes metrics.json, samples.jpg, edits.jpg, reconstructions.jpg, and misses.jpg: the pictures that the judge finds
wrong. Scenes, prompts and seeds here are held out: training draws from other random seeds.
"""

import argparse
import contextlib
import json
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import denoiser
import edits
import folder as folders
import judge as judging
import vae as autoencoder
import wide
from onnx_judge import OnnxJudge
from render import Renderer
from wording import Speaker, loosely
from world import caption, load_casts, sample_many

HELD_OUT = 987_654  # random seed of everything here


def held_out(count, casts):
    scenes = sample_many(HELD_OUT, count, casts)
    return scenes, [caption(scene.tolist(), HELD_OUT + i, casts) for i, scene in enumerate(scenes)]


def said_freely(scenes, casts, seed=HELD_OUT + 1):
    """The scenes in words that are not world.py's: any order, synonyms, slips of the pen (wording.py)."""
    rng = random.Random(seed)
    speaker = Speaker(rng, casts, [])
    return [loosely(speaker.say(wide.of_world(row)), rng) for row in scenes.tolist()]


def frechet(a, b):
    """Frechet distance of two sets of vectors [n, d], each taken as a normal distribution."""
    a, b = a.double().cpu().numpy(), b.double().cpu().numpy()
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.linalg.eigvals(ca @ cb).real.clip(0)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * np.sqrt(roots).sum())


def save_sheet(path, images, columns, size=192):
    """Images [n, 3, h, w] in 0..1, row by row."""
    images = F.interpolate(images.float().cpu(), size=(size, size), mode="area").mul(255).round().byte()
    rows = [torch.cat(list(images[i : i + columns]), 2) for i in range(0, len(images), columns)]
    rows = [F.pad(row, (0, columns * size - row.shape[2])) for row in rows]
    Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy()).save(path, quality=88)


def outside_psnr(before, after, region):
    """PSNR over the pixels that the edit should leave alone."""
    return (-10 * torch.log10((before - after).square().mean(0)[~region].mean() + 1e-10)).item()


class Evaluation:
    """`fast`: compute in bf16 where the device is a GPU."""

    def __init__(self, vae, scale, unet, text_encoder, encode, casts, renderer, device, log=print, fast=False):
        self.vae, self.scale, self.unet, self.text_encoder = vae, scale, unet, text_encoder
        self.encode, self.casts, self.renderer, self.device, self.log = encode, casts, renderer, device, log
        self.metrics, self.fast = {}, fast
        self.free_texts = []

    def ids(self, texts):
        return torch.tensor(self.encode(texts), device=self.device)

    def generate(self, texts, seeds, steps=50, batch=100):
        with self.precision():
            latents = denoiser.sample(
                self.unet, self.text_encoder, self.ids(texts), self.ids([""]), seeds, steps, batch=batch
            )
            return autoencoder.decode(self.vae, latents / self.scale)

    def reconstructed(self, images):
        with self.precision():
            return autoencoder.decode(self.vae, autoencoder.encode(self.vae, images))

    def precision(self):
        return autoencoder.autocast(self.device) if self.fast else contextlib.nullcontext()

    def preview(self, path, count=36, columns=6, steps=50):
        _, texts = held_out(count, self.casts)
        save_sheet(path, self.generate(texts, list(range(count)), steps), columns)

    def reconstructions(self, path, count=200, sheet=8):
        scenes, _ = held_out(count, self.casts)
        with self.precision():
            parts = np.array_split(scenes, max(1, count // 20))
            scores = torch.cat([autoencoder.psnr(self.vae, self.renderer(part)) for part in parts])
        self.metrics["vae_psnr_mean"], self.metrics["vae_psnr_min"] = scores.mean().item(), scores.min().item()
        self.log(f"vae psnr over {count} held-out scenes: mean {scores.mean():.2f} min {scores.min():.2f}")
        images = self.renderer(scenes[:sheet]).float()
        save_sheet(path, torch.cat([images, self.reconstructed(images)]), sheet // 2, 256)

    def draw_prompts(self, count, steps=50):
        _, self.texts = held_out(count, self.casts)
        self.drawn = self.generate(self.texts, list(range(count)), steps)

    def draw_freely(self, count, steps=50):
        """Scenes of their own, said freely; `judge_all` ranks world.py's captions of them, which the judge can read."""
        scenes = sample_many(HELD_OUT + 1, count, self.casts)
        self.free_texts = said_freely(scenes, self.casts)
        self.free_captions = [caption(row, HELD_OUT + i, self.casts) for i, row in enumerate(scenes.tolist())]
        self.free_drawn = self.generate(self.free_texts, [5000 + i for i in range(count)], steps)

    def draw_edits(self, per_kind, steps=50):
        self.edits = [
            e
            for i, kind in enumerate(edits.KINDS)
            for e in edits.sample_edits(HELD_OUT + i, per_kind, self.casts, kind)
        ]
        self.said = [edits.captions(edit, self.casts) for edit in self.edits]
        seeds = [1000 + i for i in range(len(self.edits))]
        self.before = self.generate([pair[0] for pair in self.said], seeds, steps)
        self.after = self.generate([pair[1] for pair in self.said], seeds, steps)

    def compare_edits(self, path, sheet=2):
        """Same seed, one change, everything computed anew: what stays where it should."""
        by_kind = {}
        for edit, before, after in zip(self.edits, self.before, self.after):
            region = edits.region(edit, self.renderer).to(before.device)
            if (~region).float().mean() > 0.02:
                by_kind.setdefault(edit[0], []).append(outside_psnr(before, after, region))
        self.metrics["outside_psnr"] = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
        self.metrics["outside_psnr_mean"] = float(np.mean([v for values in by_kind.values() for v in values]))
        self.log(
            f"outside psnr {self.metrics['outside_psnr_mean']:.2f}",
            {k: round(v, 1) for k, v in self.metrics["outside_psnr"].items()},
        )
        per_kind = len(self.edits) // len(edits.KINDS)
        shown = [k * per_kind + i for k in range(len(edits.KINDS)) for i in range(min(sheet, per_kind))]
        save_sheet(path, torch.stack([image for i in shown for image in (self.before[i], self.after[i])]), 8, 176)

    @torch.no_grad()
    def judge_all(self, judge, retrieval=1000, among=20):
        """The judge's own accuracy on held-out renders, then what it says of the generated pictures."""
        self.see = lambda images: torch.cat([judge.image(part.float()) for part in images.split(50)])
        self.read = lambda texts: judge.text(self.ids(texts))
        self.judge_itself(retrieval)
        drawn, said = self.see(self.drawn), self.read(self.texts)
        self.right = judging.ranked_first(drawn, said, min(among, len(drawn)))
        self.metrics[f"prompts_right_among_{among}"] = float(np.mean(self.right))
        self.metrics["score"] = (drawn * said).sum(1).mean().item()
        self.metrics["frechet_to_renders"] = frechet(drawn, self.seen_renders)
        if self.free_texts:
            right = judging.ranked_first(self.see(self.free_drawn), self.read(self.free_captions), among)
            self.metrics[f"free_wordings_right_among_{among}"] = float(np.mean(right))
        self.judge_edits()
        self.log({k: round(v, 4) for k, v in self.metrics.items() if isinstance(v, float)})

    def judge_itself(self, retrieval):
        scenes, texts = held_out(retrieval, self.casts)
        said, seen, seen_again = self.read(texts), [], []
        for part in np.array_split(scenes, max(1, retrieval // 40)):
            images = self.renderer(part).float()
            seen.append(self.see(images))
            seen_again.append(self.see(self.reconstructed(images)))
        self.seen_renders = torch.cat(seen)
        for name, vectors in (("renders", seen), ("reconstructions", seen_again)):
            share = judging.retrieval(torch.cat(vectors), said, min(100, retrieval))
            self.metrics[f"judge_among_100_{name}"] = share

    def judge_edits(self):
        old, new = (self.read([pair[i] for pair in self.said]) for i in range(2))
        before, after = self.see(self.before), self.see(self.after)
        rendered = [self.see(self.renderer([e[side] for e in self.edits])) for side in (1, 2)]
        of_edits = dict(
            edits_closer_to_new_words=((after - before) * new).sum(1) > 0,
            edited_prefers_new_words=(after * (new - old)).sum(1) > 0,
            base_prefers_old_words=(before * (old - new)).sum(1) > 0,
            renders_prefer_own_words=torch.stack(
                [(rendered[0] * (old - new)).sum(1) > 0, (rendered[1] * (new - old)).sum(1) > 0]
            )
            .float()
            .mean(0),
            directional_similarity=F.cosine_similarity(after - before, new - old),
            image_similarity=(after * before).sum(1),
        )
        self.preferring = of_edits["edited_prefers_new_words"]
        self.metrics["edits_by_kind"] = {kind: {} for kind in edits.KINDS}
        for name, values in of_edits.items():
            self.metrics[name] = values.float().mean().item()
            for kind in edits.KINDS:
                mine = torch.tensor([edit[0] == kind for edit in self.edits], device=values.device)
                self.metrics["edits_by_kind"][kind][name] = values[mine].float().mean().item()

    def show_misses(self, path):
        """Prompts whose caption was not ranked first, then edits (before, after) that prefer the old words."""
        prompts = [i for i, right in enumerate(self.right) if not right]
        missed = [i for i, right in enumerate(self.preferring.tolist()) if not right]
        self.metrics["misses"] = [self.texts[i] for i in prompts] + [" -> ".join(self.said[i]) for i in missed]
        pictures = [self.drawn[i] for i in prompts] + [p for i in missed for p in (self.before[i], self.after[i])]
        if pictures:
            save_sheet(path, torch.stack(pictures), 4, 256)

    def save(self, path):
        json.dump(self.metrics, open(path, "w"), indent=1)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder")
    arguments.add_argument("--sprites", required=True)
    arguments.add_argument("--output", help="where the figures go [FOLDER]")
    arguments.add_argument("--judge", help="folder that export_judge.py wrote [FOLDER/judge, in torch]")
    arguments.add_argument("--prompts", type=int, default=200)
    arguments.add_argument("--per-kind", type=int, default=8)
    arguments.add_argument("--free", type=int, default=100, help="prompts in wordings that are not world.py's")
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--retrieval", type=int, default=1000)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = arguments.parse_args()
    began, output = time.time(), arguments.output or arguments.folder
    os.makedirs(output, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    casts, renderer = load_casts(arguments.sprites), Renderer(arguments.sprites, arguments.device)
    *networks, encode = folders.load(arguments.folder, arguments.device)
    if arguments.judge:
        judge = OnnxJudge(arguments.judge)
    else:
        judge = folders.load_judge(arguments.folder, encode([""])[0][-1] + 1).to(arguments.device)
    evaluation = Evaluation(*networks, encode, casts, renderer, arguments.device)
    evaluation.reconstructions(f"{output}/reconstructions.jpg", arguments.prompts)
    evaluation.draw_prompts(arguments.prompts, arguments.steps)
    save_sheet(f"{output}/samples.jpg", evaluation.drawn[:36], 6)
    if arguments.free:
        evaluation.draw_freely(arguments.free, arguments.steps)
    evaluation.draw_edits(arguments.per_kind, arguments.steps)
    evaluation.compare_edits(f"{output}/edits.jpg")
    evaluation.judge_all(judge, arguments.retrieval)
    evaluation.show_misses(f"{output}/misses.jpg")
    evaluation.save(f"{output}/metrics.json")
    print(f"{time.time() - began:.0f} s")
