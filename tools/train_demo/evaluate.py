"""What the trained model can do, in figures and in contact sheets.

    python evaluate.py FOLDER --sprites sprites.npz [--prompts 200] [--per-kind 8] [--device cuda]

Writes FOLDER/metrics.json, samples.jpg, edits.jpg, reconstructions.jpg. Scenes, prompts and seeds here are held out:
training draws from other random seeds.
"""

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import denoiser
import edits
import folder as folders
import judge as judging
import text_encoder as text
import tokenizer
import vae as autoencoder
from render import Renderer
from world import caption, load_casts, sample_many

HELD_OUT = 987_654  # random seed of everything here


def held_out(count, casts):
    scenes = sample_many(HELD_OUT, count, casts)
    return scenes, [caption(scene.tolist(), HELD_OUT + i, casts) for i, scene in enumerate(scenes)]


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
    def __init__(self, vae, scale, unet, text_encoder, encode, casts, renderer, device, log=print):
        self.vae, self.scale, self.unet, self.text_encoder = vae, scale, unet, text_encoder
        self.encode, self.casts, self.renderer, self.device, self.log = encode, casts, renderer, device, log
        self.metrics = {}

    def ids(self, texts):
        return torch.tensor(self.encode(texts), device=self.device)

    def generate(self, texts, seeds, steps=50, batch=100):
        latents = denoiser.sample(
            self.unet, self.text_encoder, self.ids(texts), self.ids([""]), seeds, steps, batch=batch
        )
        return autoencoder.decode(self.vae, latents / self.scale)

    def preview(self, path, count=36, columns=6, steps=50):
        _, texts = held_out(count, self.casts)
        save_sheet(path, self.generate(texts, list(range(count)), steps), columns)

    def reconstructions(self, path, count=200, sheet=8):
        scenes, _ = held_out(count, self.casts)
        scores = torch.cat(
            [autoencoder.psnr(self.vae, self.renderer(part)) for part in np.array_split(scenes, max(1, count // 20))]
        )
        self.metrics["vae_psnr_mean"], self.metrics["vae_psnr_min"] = scores.mean().item(), scores.min().item()
        self.log(f"vae psnr over {count} held-out scenes: mean {scores.mean():.2f} min {scores.min():.2f}")
        images = self.renderer(scenes[:sheet]).float()
        again = autoencoder.decode(self.vae, autoencoder.encode(self.vae, images))
        save_sheet(path, torch.cat([images, again]), sheet // 2, 256)

    def draw_prompts(self, count, steps=50):
        _, self.texts = held_out(count, self.casts)
        self.drawn = self.generate(self.texts, list(range(count)), steps)

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

        def see(images):
            return torch.cat([judge.image(part.float()) for part in images.split(50)])

        scenes, texts = held_out(retrieval, self.casts)
        said = judge.text(self.ids(texts))
        seen, seen_again = [], []
        for part in np.array_split(scenes, max(1, retrieval // 40)):
            images = self.renderer(part).float()
            seen.append(see(images))
            seen_again.append(see(autoencoder.decode(self.vae, autoencoder.encode(self.vae, images))))
        self.metrics["judge_among_100_renders"] = judging.retrieval(torch.cat(seen), said, min(100, retrieval))
        self.metrics["judge_among_100_reconstructions"] = judging.retrieval(
            torch.cat(seen_again), said, min(100, retrieval)
        )
        drawn = see(self.drawn)
        self.metrics[f"prompts_right_among_{among}"] = judging.retrieval(
            drawn, judge.text(self.ids(self.texts)), min(among, len(drawn))
        )
        old, new = (judge.text(self.ids([pair[i] for pair in self.said])) for i in range(2))
        before, after = see(self.before), see(self.after)
        self.metrics["edits_closer_to_new_words"] = ((after * new).sum(1) > (before * new).sum(1)).float().mean().item()
        self.metrics["edited_prefers_new_words"] = ((after * new).sum(1) > (after * old).sum(1)).float().mean().item()
        self.metrics["base_prefers_old_words"] = ((before * old).sum(1) > (before * new).sum(1)).float().mean().item()
        rendered = [see(self.renderer([e[side] for e in self.edits])) for side in (1, 2)]
        self.metrics["renders_prefer_own_words"] = (
            ((rendered[0] * old).sum(1) > (rendered[0] * new).sum(1)).float().mean()
            + ((rendered[1] * new).sum(1) > (rendered[1] * old).sum(1)).float().mean()
        ).item() / 2
        self.log({k: round(v, 4) for k, v in self.metrics.items() if isinstance(v, float)})

    def save(self, path):
        json.dump(self.metrics, open(path, "w"), indent=1)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder")
    arguments.add_argument("--sprites", required=True)
    arguments.add_argument("--prompts", type=int, default=200)
    arguments.add_argument("--per-kind", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--retrieval", type=int, default=1000)
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = arguments.parse_args()
    began = time.time()
    encode, casts = tokenizer.load(f"{arguments.folder}/tokenizer"), load_casts(arguments.sprites)
    vocabulary = encode([""])[0][-1] + 1
    vae, unet, text_encoder = autoencoder.build(), denoiser.build(), text.build(vocabulary)
    scale = folders.load_vae(arguments.folder, vae)
    folders.load_denoiser(arguments.folder, unet, text_encoder)
    modules = [module.to(arguments.device).eval() for module in (vae, unet, text_encoder)]
    evaluation = Evaluation(
        modules[0], scale, *modules[1:], encode, casts, Renderer(arguments.sprites, arguments.device), arguments.device
    )
    evaluation.reconstructions(f"{arguments.folder}/reconstructions.jpg", arguments.prompts)
    evaluation.preview(f"{arguments.folder}/samples.jpg", min(36, arguments.prompts), steps=arguments.steps)
    evaluation.draw_prompts(arguments.prompts, arguments.steps)
    evaluation.draw_edits(arguments.per_kind, arguments.steps)
    evaluation.compare_edits(f"{arguments.folder}/edits.jpg")
    evaluation.judge_all(folders.load_judge(arguments.folder, vocabulary).to(arguments.device), arguments.retrieval)
    evaluation.save(f"{arguments.folder}/metrics.json")
    print(f"{time.time() - began:.0f} s")
