"""The four networks of a Stable Diffusion pipeline, with the inputs and outputs of the ONNX folder layout.

    unet          sample [B,4,H,W], timestep [] f32, encoder_hidden_states [B,T,C] -> out_sample [B,4,H,W]
    text_encoder  input_ids [B,T] i64                        -> last_hidden_state [B,T,C], pooler_output [B,C]
    vae_decoder   latent_sample [B,4,H,W]                    -> sample [B,3,8H,8W]
    vae_encoder   sample [B,3,H,W]                           -> latent_parameters [B,8,H/8,W/8] (mean, log variance)

Scaling of latents stays outside, as in diffusers.
"""

from dataclasses import dataclass

import torch
from torch import nn


class UNet(nn.Module):
    """Drops the output dictionary of `UNet2DConditionModel`."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class TextEncoder(nn.Module):
    """The last hidden state (after the final layer norm) and the pooled output of `CLIPTextModel`."""

    def __init__(self, text_encoder):
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids):
        out = self.text_encoder(input_ids=input_ids)
        return out.last_hidden_state, out.pooler_output


class Decoder(nn.Module):
    """Latents, already divided by the scaling factor, to an image in [-1, 1]."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample):
        return self.vae.decode(latent_sample, return_dict=False)[0]


class Encoder(nn.Module):
    """An image in [-1, 1] to the moments of its latent distribution."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, sample):
        hidden = self.vae.encoder(sample)
        return hidden if self.vae.quant_conv is None else self.vae.quant_conv(hidden)


@dataclass
class Component:
    """One network, an example input to trace it with, and its dynamic axes."""

    folder: str
    module: nn.Module
    config: dict
    inputs: dict
    outputs: list
    axes: dict

    @property
    def owner(self):
        """The diffusers or transformers model inside the wrapper."""
        return next(self.module.children())

    @property
    def prefix(self):
        """What the wrapper puts before the parameter names of its model."""
        return next(name for name, _ in self.module.named_children()) + "."


def _images(*names):
    return {0: "batch_size", 2: names[0], 3: names[1]}


def unet_component(unet, latents=8, sequence=77, timestep=1.0):
    """The U-Net with inputs of its own type; the timestep is f32."""
    channels = unet.config.in_channels
    inputs = {
        "sample": torch.zeros(2, channels, latents, latents, dtype=unet.dtype),
        "timestep": torch.tensor(timestep),
        "encoder_hidden_states": torch.zeros(2, sequence, unet.config.cross_attention_dim, dtype=unet.dtype),
    }
    axes = {
        "sample": _images("height", "width"),
        "encoder_hidden_states": {0: "batch_size", 1: "sequence_length"},
        "out_sample": _images("height", "width"),
    }
    return Component("unet", UNet(unet), dict(unet.config), inputs, ["out_sample"], axes)


def text_encoder_component(text_encoder, sequence=77):
    ids = torch.arange(2 * sequence).reshape(2, sequence) % text_encoder.config.vocab_size
    axes = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "last_hidden_state": {0: "batch_size", 1: "sequence_length"},
        "pooler_output": {0: "batch_size"},
    }
    outputs = ["last_hidden_state", "pooler_output"]
    config = text_encoder.config.to_dict()
    return Component("text_encoder", TextEncoder(text_encoder), config, {"input_ids": ids}, outputs, axes)


def vae_components(vae, latents=8):
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    decoder_in = {"latent_sample": torch.zeros(2, vae.config.latent_channels, latents, latents)}
    encoder_in = {"sample": torch.zeros(2, vae.config.in_channels, latents * scale, latents * scale)}
    decoder_axes = {
        "latent_sample": _images("latent_height", "latent_width"),
        "sample": _images("height", "width"),
    }
    encoder_axes = {
        "sample": _images("height", "width"),
        "latent_parameters": _images("latent_height", "latent_width"),
    }
    config = dict(vae.config)
    return [
        Component("vae_decoder", Decoder(vae), config, decoder_in, ["sample"], decoder_axes),
        Component("vae_encoder", Encoder(vae), config, encoder_in, ["latent_parameters"], encoder_axes),
    ]


def pipeline_components(pipe):
    """All four networks of a diffusers `StableDiffusionPipeline` (f32, evaluation mode)."""
    return [
        unet_component(pipe.unet.eval()),
        text_encoder_component(pipe.text_encoder.eval()),
        *vae_components(pipe.vae.eval()),
    ]
