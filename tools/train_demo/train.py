"""Train the demo model under a time limit, on one GPU or, through torchrun, on several.

    python train.py --sprites sprites.npz --tokenizer TOKENIZER --output FOLDER --limit 1200
    torchrun --nproc-per-node 2 train.py …
    python train.py … --resume FOLDER --vae-seconds 0     (go on from a FOLDER written before)
    python train.py … --warm                              (only fill the compiler's cache)

Stages: autoencoder, latents of all scenes, U-Net with text encoder, then the judge on the last rank while the first
draws samples. FOLDER gets a diffusers pipeline (fp16), judge/, metrics.json and contact sheets; it is written again
every --save-seconds, and state.pt beside it holds what is needed to go on exactly.
"""

import argparse
import os
import time

import parallel

parallel.hide_other_gpus()

import torch  # noqa: E402

import data  # noqa: E402
import denoiser  # noqa: E402
import folder as folders  # noqa: E402
import judge as judging  # noqa: E402
import text_encoder as text  # noqa: E402
import tokenizer  # noqa: E402
import vae as autoencoder  # noqa: E402
from evaluate import Evaluation  # noqa: E402
from render import Renderer  # noqa: E402
from world import load_casts, sample_many  # noqa: E402

BEGAN = time.time()


def log(*words):
    if parallel.RANK == 0 or "judge" in str(words[0]):
        print(f"[{time.time() - BEGAN:7.1f}]", *words, flush=True)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--resume")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--limit", type=float, default=1200, help="seconds in all")
    parser.add_argument("--vae-seconds", type=float, default=240)
    parser.add_argument("--encode-seconds", type=float, default=45)
    parser.add_argument("--judge-seconds", type=float, default=55)
    parser.add_argument("--bank-seconds", type=float, default=20, help="for the judge's reconstructed pictures")
    parser.add_argument("--save-seconds", type=float, default=150)
    parser.add_argument("--scenes", type=int, default=200_000, help="per GPU")
    parser.add_argument("--pairs", type=int, default=40_000, help="edit pairs for the judge")
    parser.add_argument("--vae-batch", type=int, default=16, help="per GPU, as the next")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--judge-batch", type=int, default=768)
    parser.add_argument("--max-steps", type=int, help="per stage: to try the program out")
    parser.add_argument("--eval-prompts", type=int, default=200)
    parser.add_argument("--eval-per-kind", type=int, default=8)
    parser.add_argument("--eval-steps", type=int, default=50)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Run:
    def __init__(self, arguments):
        self.arguments = arguments
        os.makedirs(arguments.output, exist_ok=True)
        self.encode_text = tokenizer.load(arguments.tokenizer)
        self.casts = load_casts(arguments.sprites)
        self.vocabulary = self.encode_text([""])[0][-1] + 1
        factory = data.Factory(arguments.sprites, arguments.tokenizer, arguments.processes)
        seed = arguments.seed * 1000 + parallel.RANK
        self.scenes_order = (
            None if arguments.warm else factory.order(data.make_scenes, f"scenes {seed}", arguments.scenes)
        )
        self.judges = parallel.RANK == parallel.RANKS - 1
        self.pairs_order = (
            factory.order(data.make_edits, f"edits {seed}", arguments.pairs)
            if self.judges and not arguments.warm
            else None
        )
        self.factory = factory
        self.device = parallel.start()
        torch.manual_seed(1 + seed)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        fast = torch.half if self.device == "cuda" else torch.float32
        self.renderer = Renderer(arguments.sprites, self.device, fast)
        self.vae = autoencoder.build().to(self.device, memory_format=torch.channels_last)
        self.unet = denoiser.build().to(self.device)
        self.text_encoder = text.build(self.vocabulary).to(self.device)
        self.empty_ids = torch.tensor(self.encode_text([""]), device=self.device)
        self.scale = 1.0
        if arguments.resume:
            self.scale = folders.load_vae(arguments.resume, self.vae)
            self.vae.eval()
            if os.path.exists(f"{arguments.resume}/unet/config.json"):
                folders.load_denoiser(arguments.resume, self.unet, self.text_encoder)
        counts = {name: folders.parameters(getattr(self, name)) / 1e6 for name in ("unet", "vae", "text_encoder")}
        log(f"million parameters {counts} in all {sum(counts.values()):.2f}; {parallel.RANKS} x {self.device}")

    def elapsed(self):
        return parallel.agree(time.time() - BEGAN, self.device)

    def evaluation(self):
        networks = (self.vae, self.scale, self.unet, self.text_encoder)
        return Evaluation(*networks, self.encode_text, self.casts, self.renderer, self.device, log, fast=True)

    def train_vae(self):
        seconds = self.arguments.vae_seconds
        if seconds > 0:
            scenes = torch.from_numpy(
                sample_many(f"vae {parallel.RANK}", 20_000 if self.device == "cuda" else 50, self.casts)
            ).to(self.device)
            steps = autoencoder.train(
                self.vae,
                self.renderer,
                scenes,
                seconds,
                self.arguments.vae_batch,
                self.device,
                log,
                self.arguments.max_steps,
                self.arguments.compile,
            )
            log(f"vae trained: {steps} steps of {self.arguments.vae_batch * parallel.RANKS}")
        if parallel.RANK == 0:
            folders.save_vae(self.arguments.output, self.vae, self.scale)
            self.evaluation().reconstructions(
                f"{self.arguments.output}/reconstructions.jpg", 40 if self.device == "cuda" else 8
            )

    def make_latents(self, batch=64):
        scenes, ids = self.factory.collect(self.scenes_order)
        log(f"{len(scenes)} scenes with captions collected")
        self.latents = torch.empty(len(scenes), 4, 64, 64, dtype=torch.half, device=self.device)
        encode = autoencoder.fast_encoder(self.vae, self.arguments.compile)
        began, done = time.time(), 0
        while done + batch <= max(len(scenes), batch) and (
            time.time() - began < self.arguments.encode_seconds or done == 0
        ):
            part = self.renderer(scenes[done : done + batch])
            self.latents[done : done + len(part)] = encode(part).half()
            done += len(part)
        self.latents = self.latents[:done]
        self.ids = torch.from_numpy(ids[:done]).to(self.device)
        if self.scale == 1.0:
            self.scale = parallel.agree(1 / self.latents[:4000].float().std().item(), self.device)
        self.latents.mul_(self.scale)
        if parallel.RANK == 0:
            folders.save_vae(self.arguments.output, self.vae, self.scale)
        channels = [round(s, 2) for s in self.latents[:4000].float().std((0, 2, 3)).tolist()]
        log(
            f"{done} latents per rank in {time.time() - began:.0f} s, scale {self.scale:.4f}, "
            f"deviation per channel {channels}"
        )

    def make_trainer(self):
        return denoiser.Trainer(self.unet, self.text_encoder, self.empty_ids, self.device, self.arguments.compile)

    def draw_batch(self):
        chosen = torch.randint(len(self.latents), (self.arguments.batch,), device=self.device)
        wording = torch.randint(self.ids.shape[1], (self.arguments.batch,), device=self.device)
        return self.latents[chosen].float(), self.ids[chosen, wording].long()

    def save(self, trainer, name):
        """Rank 0: the averaged weights as a folder, the state, a contact sheet."""
        trainer.swap_average()
        self.unet.eval()
        folders.save_denoiser(
            self.arguments.output, self.unet, self.text_encoder, self.arguments.tokenizer, self.vocabulary
        )
        count = 36 if self.device == "cuda" else 2
        self.evaluation().preview(
            f"{self.arguments.output}/{name}.jpg", count, steps=min(self.arguments.eval_steps, 30)
        )
        self.unet.train()
        trainer.swap_average()
        torch.save(trainer.state(), f"{self.arguments.output}/state.pt")

    def train_denoiser(self):
        arguments = self.arguments
        trainer = self.make_trainer()
        if arguments.resume and os.path.exists(f"{arguments.resume}/state.pt"):
            trainer.load(torch.load(f"{arguments.resume}/state.pt", map_location=self.device))
        reserve = arguments.judge_seconds + arguments.bank_seconds + 25
        seconds = max(1.0, arguments.limit - reserve - self.elapsed())
        clock = parallel.Clock(trainer.used + seconds, self.device, trainer.used)
        saved, mark, mark_step, losses = time.time(), time.time(), trainer.steps, []
        log(f"denoiser: {seconds:.0f} s from step {trainer.steps}")
        while (share := clock.tick()) < 1 and trainer.steps != arguments.max_steps:
            losses.append(trainer.step(*self.draw_batch(), share))
            if trainer.steps in (1, 3, 10, 50) or trainer.steps % 200 == 0:
                loss, rate = (
                    torch.stack(losses[-200:]).mean().item(),
                    (trainer.steps - mark_step) / (time.time() - mark),
                )
                log(f"denoiser step {trainer.steps} loss {loss:.4f} steps/s {rate:.2f} share {share:.3f}")
                mark, mark_step = time.time(), trainer.steps
            if trainer.steps % 100 == 0 and parallel.agree(time.time() - saved, self.device) > arguments.save_seconds:
                trainer.used = time.time() - clock.began
                if parallel.RANK == 0:
                    self.save(trainer, "preview")
                    log("saved")
                parallel.barrier(self.device)
                saved = mark = time.time()
                mark_step = trainer.steps
        log(
            f"denoiser trained: {trainer.steps} steps of {arguments.batch * parallel.RANKS}, "
            f"last loss {torch.stack(losses[-400:]).mean():.4f}"
        )
        trainer.swap_average()
        self.unet.eval()
        for p in trainer.parameters:
            p.grad = None
        if parallel.RANK == 0:
            folders.save_denoiser(arguments.output, self.unet, self.text_encoder, arguments.tokenizer, self.vocabulary)

    @torch.no_grad()
    def make_pictures(self, scenes, batch=64):
        """Uint8 [pairs, 2, 2 versions, 3, 128, 128]: rendered, and (while time allows) reconstructed."""
        flat = torch.from_numpy(scenes).flatten(0, 1)

        def small(images):
            return torch.nn.functional.avg_pool2d(images.float(), 4).mul(255).round().byte()

        pictures = torch.empty(len(flat), 2, 3, 128, 128, dtype=torch.uint8, device=self.device)
        began, again = time.time(), 0
        for i in range(0, len(flat), batch):
            images = self.renderer(flat[i : i + batch])
            pictures[i : i + batch, 0] = pictures[i : i + batch, 1] = small(images)
            if time.time() - began < self.arguments.bank_seconds:
                with autoencoder.autocast(self.device):
                    latents = autoencoder.encode(self.vae, images)
                    pictures[i : i + batch, 1] = small(autoencoder.decode(self.vae, latents, batch))
                again = i + len(images)
        log(f"judge: {len(flat)} pictures, {again} of them also reconstructed, {time.time() - began:.0f} s")
        return pictures.unflatten(0, (-1, 2))

    def train_judge(self):
        scenes, ids = self.factory.collect(self.pairs_order)
        judge = judging.Judge(self.vocabulary).to(self.device)
        log(f"judge: million parameters {folders.parameters(judge) / 1e6:.3f}")
        pictures = self.make_pictures(scenes)
        captions = torch.from_numpy(ids).to(self.device)
        steps = judging.train(
            judge,
            pictures,
            captions,
            self.arguments.judge_seconds,
            self.arguments.judge_batch,
            log,
            self.arguments.max_steps,
        )
        folders.save_judge(self.arguments.output, judge)
        log(f"judge trained: {steps} steps of {self.arguments.judge_batch}")

    def finish(self):
        arguments, evaluation = self.arguments, self.evaluation()
        if parallel.RANK == 0:
            evaluation.reconstructions(f"{arguments.output}/reconstructions.jpg", arguments.eval_prompts)
            evaluation.draw_prompts(arguments.eval_prompts, arguments.eval_steps)
            from evaluate import save_sheet

            save_sheet(f"{arguments.output}/samples.jpg", evaluation.drawn[:36], 6)
            log("samples drawn")
            evaluation.draw_edits(arguments.eval_per_kind, arguments.eval_steps)
            log("edits drawn")
            evaluation.renderer = Renderer(arguments.sprites, self.device)
            evaluation.compare_edits(f"{arguments.output}/edits.jpg")
            evaluation.save(f"{arguments.output}/metrics.json")
        if self.judges:
            self.train_judge()
        parallel.barrier(self.device)
        if parallel.RANK == 0:
            evaluation.judge_all(
                folders.load_judge(arguments.output, self.vocabulary).to(self.device), arguments.eval_prompts * 5
            )
            evaluation.save(f"{arguments.output}/metrics.json")
        log("done")

    def warm(self):
        """Compile what train_denoiser will run."""
        trainer = self.make_trainer()
        latents = torch.randn(self.arguments.batch, 4, 64, 64, device=self.device)
        ids = self.empty_ids.expand(self.arguments.batch, -1).contiguous()
        for _ in range(3):
            began = time.time()
            trainer.step(latents, ids, 0.0)
            if self.device == "cuda":
                torch.cuda.synchronize()
            log(f"warm step {time.time() - began:.2f} s")
        began = time.time()
        for _ in range(10):
            trainer.step(latents, ids, 0.0).item()
        log(f"warm: {10 / (time.time() - began):.2f} steps/s")


def main():
    run = Run(read_arguments())
    if run.arguments.warm:
        return run.warm()
    run.train_vae()
    run.make_latents()
    run.train_denoiser()
    run.finish()


if __name__ == "__main__":
    main()
