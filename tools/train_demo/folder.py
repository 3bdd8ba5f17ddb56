"""The trained pipeline as a diffusers folder, fp16, and back; back also from an export of it (`../export`)."""

import json
import os
import shutil

from safetensors.torch import load_file, save_file

import denoiser
import exported
import judge as judging
import text_encoder as text
import tokenizer
import vae as autoencoder


def half(module):
    return {name: value.detach().half().contiguous().cpu() for name, value in module.state_dict().items()}


def save_weights(module, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file(half(module), path + ".new", metadata=dict(format="pt"))
    os.replace(path + ".new", path)


def save_vae(folder, vae, scale):
    vae.register_to_config(scaling_factor=scale)
    vae.save_config(f"{folder}/vae")
    save_weights(vae, f"{folder}/vae/diffusion_pytorch_model.safetensors")


def save_denoiser(folder, unet, text_encoder, tokenizer_folder, vocabulary):
    unet.save_config(f"{folder}/unet")
    save_weights(unet, f"{folder}/unet/diffusion_pytorch_model.safetensors")
    text.save_config(f"{folder}/text_encoder", vocabulary)
    save_weights(text_encoder, f"{folder}/text_encoder/model.safetensors")
    denoiser.scheduler().save_config(f"{folder}/scheduler")
    shutil.copytree(tokenizer_folder, f"{folder}/tokenizer", dirs_exist_ok=True)
    index = dict(
        _class_name="StableDiffusionPipeline",
        _diffusers_version="0.35.2",
        feature_extractor=[None, None],
        safety_checker=[None, None],
        image_encoder=[None, None],
        requires_safety_checker=False,
        scheduler=["diffusers", "DDIMScheduler"],
        text_encoder=["transformers", "CLIPTextModel"],
        tokenizer=["transformers", "CLIPTokenizer"],
        unet=["diffusers", "UNet2DConditionModel"],
        vae=["diffusers", "AutoencoderKL"],
    )
    json.dump(index, open(f"{folder}/model_index.json", "w"), indent=1)


def load_vae(folder, vae):
    """Fills the autoencoder; returns its scaling factor."""
    if exported.is_export(folder):
        exported.fill(vae, folder, "vae_encoder", "vae_decoder")
        return json.load(open(f"{folder}/vae_decoder/config.json"))["scaling_factor"]
    vae.load_state_dict(
        {k: v.float() for k, v in load_file(f"{folder}/vae/diffusion_pytorch_model.safetensors").items()}
    )
    return json.load(open(f"{folder}/vae/config.json"))["scaling_factor"]


def load_denoiser(folder, unet, text_encoder):
    if exported.is_export(folder):
        exported.fill(unet, folder, "unet")
        exported.fill(text_encoder, folder, "text_encoder")
        return
    for module, path in ((unet, "unet/diffusion_pytorch_model"), (text_encoder, "text_encoder/model")):
        module.load_state_dict({k: v.float() for k, v in load_file(f"{folder}/{path}.safetensors").items()})


def load(folder, device):
    """(autoencoder, scaling factor, U-Net, text encoder, tokenizer: texts -> ids), ready to run."""
    encode = tokenizer.load(f"{folder}/tokenizer")
    vae, unet, text_encoder = autoencoder.build(), denoiser.build(), text.build(encode([""])[0][-1] + 1)
    scale = load_vae(folder, vae)
    load_denoiser(folder, unet, text_encoder)
    vae, unet, text_encoder = (module.to(device).eval() for module in (vae, unet, text_encoder))
    return vae, scale, unet, text_encoder, encode


def save_judge(folder, judge):
    save_weights(judge, f"{folder}/judge/model.safetensors")


def load_judge(folder, vocabulary):
    judge = judging.Judge(vocabulary)
    weights = load_file(f"{folder}/judge/model.safetensors")
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return judge.eval()


def parameters(module):
    return sum(p.numel() for p in module.parameters())
