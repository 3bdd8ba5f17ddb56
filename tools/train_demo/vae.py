"""The autoencoder: 512x512 pixels to 64x64x4 latents and back."""

import math

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

import parallel

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    sample_size=512,
    layers_per_block=1,
    norm_num_groups=8,
    block_out_channels=(32, 64, 128, 160),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
PEAK_RATE, KL_WEIGHT = 8e-4, 1e-3
DECODER_RATE = 5e-4  # to go on with, the encoder kept
LATENT_NOISE = 0.06  # at most, beside latents' deviation of 1.4: the decoder also meets latents that are a little off


def build():
    return AutoencoderKL(**CONFIG)


def autocast(device):
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def prepare(images):
    return images.float().mul(2).sub(1).contiguous(memory_format=torch.channels_last)


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(decoded, target):
    """Pixels (L1, and MSE for flat colour) and their differences (crisp outlines)."""
    (gx, gy), (hx, hy) = edges(decoded), edges(target)
    return (
        (decoded - target).abs().mean()
        + 6 * (decoded - target).square().mean()
        + (gx - hx).abs().mean()
        + (gy - hy).abs().mean()
    )


def half_edges_loss(decoded, target):
    """The same of half the size: outlines two pixels wide."""
    (gx, gy), (hx, hy) = (edges(torch.nn.functional.avg_pool2d(x, 2)) for x in (decoded, target))
    return (gx - hx).abs().mean() + (gy - hy).abs().mean()


def train_decoder(vae, draw, seconds, batch, device, log, steps=None, compiled=True):
    """The decoder goes on by itself: latents stay what they were. `draw(n)`: images [n, 3, 512, 512] in 0..1."""
    encode, decoder = fast_encoder(vae, compiled), torch.compile(vae.decoder) if compiled else vae.decoder
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    parallel.broadcast(parameters)
    gradients = parallel.Gradients(parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=DECODER_RATE, betas=(0.9, 0.98), weight_decay=1e-4, fused=device == "cuda"
    )
    average = [p.detach().clone() for p in parameters]
    clock, step, errors = parallel.Clock(seconds, device), 0, []
    while (share := clock.tick()) < 1 and step != steps:
        for group in optimizer.param_groups:
            group["lr"] = DECODER_RATE * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share))
        images = draw(batch)
        target, latents = prepare(images), encode(images)
        spread = LATENT_NOISE * torch.rand(batch, 1, 1, 1, device=device)
        gradients.zero()
        with autocast(device):
            decoded = decoder(vae.post_quant_conv(latents + spread * torch.randn_like(latents)))
        decoded = decoded.float()
        loss = reconstruction_loss(decoded, target) + half_edges_loss(decoded, target)
        loss.backward()
        gradients.average_and_clip()
        optimizer.step()
        step += 1
        torch._foreach_lerp_(average, [p.data for p in parameters], 1 - min(0.998, (1 + step) / (10 + step)))
        errors.append((decoded.detach() - target).square().mean() / 4)
        if step % 250 == 0 or step in (1, 10):
            db = -10 * math.log10(torch.stack(errors[-250:]).mean().item())
            log(f"decoder step {step} loss {loss.item():.4f} psnr {db:.2f} share {share:.2f}")
    torch._foreach_copy_([p.data for p in parameters], average)
    for p in parameters:
        p.grad = None
    return step


def train(vae, renderer, scenes, seconds, batch, device, log, steps=None, compiled=True):
    """`scenes`: tensor of rows to draw from. Stops after `seconds`, or `steps` where given."""
    encoder, decoder = (torch.compile(part) if compiled else part for part in (vae.encoder, vae.decoder))
    vae.train()
    parameters = list(vae.parameters())
    parallel.broadcast(parameters)
    gradients = parallel.Gradients(parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-4, fused=device == "cuda"
    )
    average = [p.detach().clone() for p in parameters]
    clock, step = parallel.Clock(seconds, device), 0
    while (share := clock.tick()) < 1 and step != steps:
        rate = PEAK_RATE * min(1, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        target = prepare(renderer(scenes[torch.randint(len(scenes), (batch,), device=scenes.device)]))
        gradients.zero()
        with autocast(device):
            posterior = DiagonalGaussianDistribution(vae.quant_conv(encoder(target)))
            decoded = decoder(vae.post_quant_conv(posterior.sample()))
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        decoded = decoded.float()
        loss = reconstruction_loss(decoded, target) + KL_WEIGHT * kl
        loss.backward()
        gradients.average_and_clip()
        optimizer.step()
        step += 1
        torch._foreach_lerp_(average, [p.data for p in parameters], 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 200 == 0 or step in (1, 10, 50):
            db = -10 * math.log10((decoded - target).square().mean().item() / 4)
            log(
                f"vae step {step} loss {loss.item():.4f} psnr {db:.2f} kl {kl.item():.2f} "
                f"rate {rate:.1e} share {share:.2f}"
            )
    torch._foreach_copy_([p.data for p in parameters], average)
    for p in parameters:
        p.grad = None
    vae.eval()
    return step


def fast_encoder(vae, compiled=True):
    """encode() for many batches of one size."""
    encoder = torch.compile(vae.encoder) if compiled else vae.encoder

    @torch.no_grad()
    def encode(images):
        with autocast(images.device.type):
            return vae.quant_conv(encoder(prepare(images)))[:, :4].float()

    return encode


@torch.no_grad()
def encode(vae, images):
    return vae.encode(prepare(images)).latent_dist.mean.float()


@torch.no_grad()
def decode(vae, latents, batch=16):
    """Unscaled latents to images in 0..1."""
    decoded = (vae.decode(part.float()).sample for part in latents.split(batch))
    return torch.cat([part.float().add(1).div(2).clamp(0, 1) for part in decoded])


@torch.no_grad()
def psnr(vae, images, batch=16):
    """Per image, in dB."""
    return torch.cat(
        [
            -10 * torch.log10((decode(vae, encode(vae, part)) - part.float()).square().mean((1, 2, 3)))
            for part in images.split(batch)
        ]
    )
