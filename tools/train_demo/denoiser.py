"""The U-Net and its text encoder: training on latents, and DDIM sampling with guidance."""

import copy

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

import parallel
from vae import autocast

CONFIG = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    block_out_channels=(64, 128, 192, 128),
    attention_head_dim=[1, 2, 3, 2],
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    layers_per_block=2,
    cross_attention_dim=256,
    use_linear_projection=True,
    norm_num_groups=32,
)
PEAK_RATE, FLAT_SHARE, DROPOUT, EMA = 8e-4, 0.35, 0.1, 0.9985


def build():
    return UNet2DConditionModel(**CONFIG)


def scheduler():
    """SD2's noise schedule, predicting v."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Trainer:
    def __init__(self, unet, text_encoder, empty_ids, device, compiled=True, rate=PEAK_RATE):
        self.unet, self.text_encoder, self.device, self.rate = unet, text_encoder, device, rate
        self.empty_ids = empty_ids
        self.parameters = list(unet.parameters()) + list(text_encoder.parameters())
        parallel.broadcast(self.parameters)
        self.gradients = parallel.Gradients(self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=device == "cuda"
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.alphas = scheduler().alphas_cumprod.to(device)
        self.predict = lambda noisy, t, context: unet(noisy, t, context, return_dict=False)[0]
        if compiled:
            self.predict = torch.compile(self.predict)
        self.steps, self.used = 0, 0.0

    def forward_backward(self, latents, ids):
        """One batch of scaled latents [n, 4, 64, 64] and their captions' ids [n, 77]; the mean squared error of v."""
        n = len(latents)
        ids = torch.where(torch.rand(n, 1, device=self.device) < DROPOUT, self.empty_ids, ids)
        t = torch.randint(1000, (n,), device=self.device)
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        v = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        with autocast(self.device):
            predicted = self.predict(noisy.contiguous(memory_format=torch.channels_last), t, self.text_encoder(ids))
        loss = (predicted.float() - v).square().mean()
        loss.backward()
        return loss.detach()

    def step(self, latents, ids, share):
        decay = 1.0 if share < FLAT_SHARE else (1 - share) / (1 - FLAT_SHARE)
        rate = self.rate * min(1, (self.steps + 1) / 300) * max(decay, 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.gradients.zero()
        loss = self.forward_backward(latents, ids)
        self.gradients.average_and_clip()
        self.optimizer.step()
        self.steps += 1
        torch._foreach_lerp_(
            self.average, [p.data for p in self.parameters], 1 - min(EMA, (1 + self.steps) / (10 + self.steps))
        )
        return loss

    def swap_average(self):
        """Exchange the weights being trained with their running average."""
        for p, a in zip(self.parameters, self.average):
            kept = p.data.clone()
            p.data.copy_(a)
            a.copy_(kept)

    def state(self):
        return dict(
            parameters=[p.detach().cpu() for p in self.parameters],
            average=[a.cpu() for a in self.average],
            optimizer=self.optimizer.state_dict(),
            steps=self.steps,
            used=self.used,
        )

    def load(self, state):
        for mine, theirs in ((self.parameters, state["parameters"]), (self.average, state["average"])):
            for a, b in zip(mine, theirs):
                a.data.copy_(b)
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.used = state["steps"], state["used"]


def noise(seeds, device):
    """Each seed's first latent, drawn on the CPU as diffusers does."""
    return torch.stack([torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(
        device
    )


@torch.no_grad()
def sample(unet, text_encoder, ids, empty_ids, seeds, steps=50, guidance=5.0, batch=50):
    """Scaled latents for token ids [n, 77], one seed each."""
    device, parts = ids.device, []
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        schedule = copy.deepcopy(scheduler())
        schedule.set_timesteps(steps)
        x = noise(seeds[start : start + batch], device)
        context = torch.cat([text_encoder(empty_ids.expand_as(part)), text_encoder(part)])
        for t in schedule.timesteps:
            v = unet(torch.cat([x, x]), t.to(device), context, return_dict=False)[0].float()
            without, given = v.chunk(2)
            x = schedule.step(without + guidance * (given - without), t, x).prev_sample
        parts.append(x)
    return torch.cat(parts)
