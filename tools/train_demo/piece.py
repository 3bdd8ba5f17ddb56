"""Go on training for some minutes: the decoder, or the U-Net with its text encoder, on the old world and the wide one.

    python piece.py decoder --from ../../models/demo --sprites sprites.npz --output out --seconds 240
    torchrun --nproc-per-node 2 piece.py denoiser --from ../../models/demo out --sprites sprites.npz --output out …
    python piece.py warm …            (beside the decoder: compiles what the denoiser will run)
    python piece.py pipeline --from ../../models/demo out --output pipeline      (for ../export)

A piece begins with averaged weights, a fresh optimizer and a short warm-up, and leaves averaged weights in f16, in
parts (parts.py). --from names folders; later ones replace what earlier ones hold. --seconds is counted from the start
of the program, and compiling is in it.
"""

import argparse
import os
import time
import zlib

import parallel

parallel.hide_other_gpus()

import torch  # noqa: E402

import data  # noqa: E402
import denoiser  # noqa: E402
import parts  # noqa: E402
import text_encoder as text  # noqa: E402
import tokenizer  # noqa: E402
import vae as autoencoder  # noqa: E402
from evaluate import Evaluation, save_sheet  # noqa: E402
from render import Renderer, WideRenderer  # noqa: E402
from world import load_casts  # noqa: E402

BEGAN = time.time()
TOKENIZER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/demo/tokenizer")
SHOWN = (
    "a dog on the left and a tree on the right on grass under a blue sky",
    "a cat on the left and a tree on the right on grass under a blue sky",
    "a cat on snow at night",
    "a close-up of a cat on the beach",
    "there is a big red car on the left and a small blue house on the right, at sunset",
    "Two cats on grass.",
    "a tiny dog in the distance and a huge cat in the foreground on a road",
    "a yellow car in front of a city skyline, on the right a green umbrella",
    "at night, on snow, a fox and a pine tree",
    "a cta on the left and a balloon on the rihgt on gras",
    "a blue apple, a red chair and a purple tent on sand",
    "the face of a dog on grass with fireworks",
)


def log(*words):
    if parallel.RANK == 0:
        print(f"[{time.time() - BEGAN:6.1f}]", *words, flush=True)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("decoder", "denoiser", "warm", "pipeline"))
    parser.add_argument("--from", nargs="+", required=True, dest="sources")
    parser.add_argument("--lean-back", type=float, help="pipeline: share of the first source in the U-Net's weights")
    parser.add_argument("--sprites")
    parser.add_argument("--tokenizer", default=TOKENIZER)
    parser.add_argument("--output", required=True)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--last", action="store_true", help="let the rate fall to nothing at the end")
    parser.add_argument("--batch", type=int, default=128, help="per GPU; of the decoder an eighth")
    parser.add_argument("--fill", type=int, default=20_000, help="scenes per GPU to begin with")
    parser.add_argument("--chunks", type=int, default=250, help="of the mixture, per GPU")
    parser.add_argument("--part", type=int, default=64, help="scenes encoded at once")
    parser.add_argument("--save-seconds", type=float, default=120)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", default="piece", help="another for every piece")
    return parser.parse_args()


class Piece:
    def __init__(self, arguments):
        self.arguments = arguments
        self.encode_text = tokenizer.load(arguments.tokenizer)
        self.casts = load_casts(arguments.sprites)
        factory = data.Factory(arguments.sprites, arguments.tokenizer, arguments.processes)
        seed = f"{arguments.seed}/{parallel.RANK}"
        if arguments.what != "warm":
            self.mixture = factory.mixture(seed, arguments.chunks)  # forks before CUDA is touched
        self.device = parallel.start()
        torch.manual_seed(zlib.crc32(seed.encode()))
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        fast = torch.half if self.device == "cuda" else torch.float32
        self.renderer = Renderer(arguments.sprites, self.device, fast)
        self.wide_renderer = WideRenderer(arguments.sprites, self.renderer)
        self.modules = networks(self.encode_text)
        self.scale = parts.load_all(arguments.sources, self.modules)
        for module in self.modules.values():
            module.to(self.device)
        self.vae = self.modules["vae"].to(memory_format=torch.channels_last).eval()
        log(f"{parallel.RANKS} x {self.device}, scale {self.scale:.4f}")

    def left(self):
        return self.arguments.seconds - (time.time() - BEGAN)

    def evaluation(self):
        unet, text_encoder = self.modules["unet"], self.modules["text_encoder"]
        networks = (self.vae, self.scale, unet, text_encoder)
        return Evaluation(*networks, self.encode_text, self.casts, self.renderer, self.device, log, fast=True)

    def images(self):
        """Batches of (images, ids) without end."""
        kept = []
        while True:
            try:
                chunk = next(self.mixture)
                kept.append(chunk)
            except StopIteration:  # all made: begin again
                chunk = kept[torch.randint(len(kept), ()).item()]
            wide, rows, ids = chunk
            draw = self.wide_renderer if wide else self.renderer
            for i in range(0, len(rows) - self.arguments.part + 1, self.arguments.part):
                yield draw(rows[i : i + self.arguments.part]), ids[i : i + self.arguments.part]

    def save(self, names):
        if parallel.RANK == 0:
            parts.save(self.arguments.output, {name: self.modules[name] for name in names}, self.scale)

    def train_decoder(self):
        arguments, batch = self.arguments, max(1, self.arguments.batch // 8)
        drawn, waiting = self.images(), []

        def draw(n):
            if not waiting:
                mixed = torch.cat([next(drawn)[0] for _ in range(8)])
                waiting.extend(mixed[torch.randperm(len(mixed), device=mixed.device)].split(n))
            return waiting.pop()

        self.score(40)
        arguments_of = (draw, self.left() - 12, batch, self.device, log, arguments.max_steps, arguments.compile)
        steps = autoencoder.train_decoder(self.vae, *arguments_of)
        log(f"decoder: {steps} steps of {batch * parallel.RANKS}")
        self.save(["vae"])
        self.score(200)

    def score(self, count):
        if parallel.RANK == 0:
            count = count if self.device == "cuda" else 2
            self.evaluation().reconstructions(f"{self.arguments.output}/reconstructions.jpg", count, min(8, count))

    def encoded(self):
        """Batches of (scaled latents, ids) without end."""
        encode = autoencoder.fast_encoder(self.vae, self.arguments.compile)
        for images, ids in self.images():
            yield encode(images).mul(self.scale).half(), torch.from_numpy(ids).to(self.device)

    def fill(self, encoded):
        """The first scenes, and room for all."""
        room = self.arguments.chunks * data.MIXED
        self.latents = torch.empty(room, 4, 64, 64, dtype=torch.half, device=self.device)
        self.ids, self.filled, self.next = None, 0, 0
        while self.filled < self.arguments.fill:
            self.add(encoded)
        if self.device == "cuda":
            torch.cuda.synchronize()
        log(f"{self.filled} scenes per GPU to begin with")

    def add(self, encoded):
        latents, ids = next(encoded)
        if self.ids is None:
            self.ids = torch.empty(len(self.latents), *ids.shape[1:], dtype=ids.dtype, device=self.device)
        if self.next + len(latents) > len(self.latents):
            self.next = 0
        here = slice(self.next, self.next + len(latents))
        self.latents[here], self.ids[here] = latents, ids
        self.next += len(latents)
        self.filled = max(self.filled, self.next)

    def draw_batch(self):
        chosen = torch.randint(self.filled, (self.arguments.batch,), device=self.device)
        wording = torch.randint(self.ids.shape[1], (self.arguments.batch,), device=self.device)
        return self.latents[chosen].float(), self.ids[chosen, wording].long()

    def trainer(self):
        arguments = self.arguments
        empty = torch.tensor(self.encode_text([""]), device=self.device)
        networks = (self.modules["unet"], self.modules["text_encoder"])
        return denoiser.Trainer(*networks, empty, self.device, arguments.compile, arguments.rate)

    def train_warm(self):
        trainer, batch = self.trainer(), self.arguments.batch
        encode = autoencoder.fast_encoder(self.vae, self.arguments.compile)
        for _ in range(3):
            loss = trainer.step(
                torch.randn(batch, 4, 64, 64, device=self.device), trainer.empty_ids.repeat(batch, 1), 0
            )
            encode(torch.rand(self.arguments.part, 3, 512, 512, device=self.device).half())
        log(f"warm: {loss.item():.3f}")

    def train_denoiser(self):
        arguments, names = self.arguments, ("unet", "text_encoder")
        unet = self.modules["unet"]
        trainer, encoded = self.trainer(), self.encoded()
        self.fill(encoded)
        clock, losses = parallel.Clock(self.left() - 14, self.device), []
        saved = mark = time.time()
        while (share := clock.tick()) < 1 and trainer.steps != arguments.max_steps:
            losses.append(trainer.step(*self.draw_batch(), share if arguments.last else 0.0))
            if trainer.steps % 10 == 0:
                for _ in range(3):
                    self.add(encoded)
            if trainer.steps in (1, 50) or trainer.steps % 200 == 0:
                loss, pace = torch.stack(losses[-200:]).mean().item(), len(losses[-200:]) / (time.time() - mark)
                log(f"step {trainer.steps} loss {loss:.4f} steps/s {pace:.2f} share {share:.3f} scenes {self.filled}")
                mark = time.time()
                if mark - saved > arguments.save_seconds:
                    trainer.swap_average()
                    self.save(names)
                    trainer.swap_average()
                    saved = time.time()
        log(f"denoiser: {trainer.steps} steps of {arguments.batch * parallel.RANKS}")
        trainer.swap_average()
        self.save(names)
        unet.eval()
        if parallel.RANK == 0:
            self.show()
        parallel.barrier(self.device)

    def show(self):
        evaluation, steps = self.evaluation(), 30 if self.device == "cuda" else 1
        texts = SHOWN if self.device == "cuda" else SHOWN[:2]
        save_sheet(f"{self.arguments.output}/shown.png", evaluation.generate(texts, [3] * len(texts), steps), 4, 384)
        evaluation.preview(f"{self.arguments.output}/preview.jpg", 36 if self.device == "cuda" else 1, steps=steps)
        log("shown")


def networks(encode_text):
    vocabulary = encode_text([""])[0][-1] + 1
    return dict(vae=autoencoder.build(), unet=denoiser.build(), text_encoder=text.build(vocabulary))


def main():
    arguments = read_arguments()
    os.makedirs(arguments.output, exist_ok=True)
    if arguments.what == "pipeline":
        modules, origin = (networks(tokenizer.load(arguments.tokenizer)) for _ in range(2))
        scale = parts.load_all(arguments.sources, modules)
        if arguments.lean_back:
            parts.load_all(arguments.sources[:1], origin)
            parts.lean_back(modules, origin, arguments.lean_back)
        return parts.to_pipeline(modules, scale, arguments.tokenizer, arguments.output)
    piece = Piece(arguments)
    getattr(piece, f"train_{arguments.what}")()
    log("done")


if __name__ == "__main__":
    main()
