"""A pipeline like Stable Diffusion 2, as small as it gets: random weights, for fast end-to-end tests.

    python nano.py TOKENIZER OUT [--weights int8] [--diffusers FOLDER]

128x128 images, 16x16 latents (levels 16, 8, 4, 2), channels (8,16,32,32), heads of 8, context 24, one layer per block.
TOKENIZER is a folder with tokenizer.json. `--diffusers` keeps the diffusers folder that OUT is exported from.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from export import export_pipeline

UNET = dict(
    sample_size=16,
    block_out_channels=(8, 16, 32, 32),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=(1, 2, 4, 4),
    cross_attention_dim=24,
    use_linear_projection=True,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
VAE = dict(
    sample_size=128,
    block_out_channels=(8, 8, 16, 16),
    norm_num_groups=4,
    layers_per_block=1,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
TEXT = dict(hidden_size=24, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, hidden_act="gelu")
SD2_SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    prediction_type="v_prediction",
)
NORMS = (nn.GroupNorm, nn.LayerNorm)


@torch.no_grad()
def perturb(model):
    """Makes norms and biases that exporters could otherwise drop or merge different from 1, 0 and each other."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.weight.add_(torch.randn_like(module.weight), alpha=0.2)
        if getattr(module, "bias", None) is not None:
            module.bias.add_(torch.randn_like(module.bias), alpha=0.1)
    return model.eval()


@torch.no_grad()
def heed_text(unet, gain=3.0):
    """Amplifies cross-attention, so that a changed word shows in the output of random weights."""
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_v", "attn2.to_out.0")):
            module.weight.mul_(gain)
    return unet


def build(tokenizer_folder, seed=0):
    """A `StableDiffusionPipeline` of seeded random weights over the tokenizer in `tokenizer_folder`."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    torch.manual_seed(seed)
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=77, **special, **TEXT)
    return StableDiffusionPipeline(
        vae=perturb(AutoencoderKL(**VAE)),
        text_encoder=perturb(CLIPTextModel(text)),
        tokenizer=tokenizer,
        unet=heed_text(perturb(UNet2DConditionModel(**UNET))),
        scheduler=DDIMScheduler(**SD2_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--weights", choices=("int8", "fp16", "fp32"), default="int8")
    args.add_argument("--diffusers", type=Path)
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.diffusers or Path(scratch)
        build(args.tokenizer).save_pretrained(folder)
        shutil.copyfile(args.tokenizer / "tokenizer.json", folder / "tokenizer" / "tokenizer.json")
        export_pipeline(folder, args.out, args.weights, min_elements=512)


if __name__ == "__main__":
    main()
