"""All weights in f16, in files small enough to travel, and back.

A machine that is lent for minutes keeps nothing; what a piece of training leaves goes home in parts of at most
LARGEST bytes and is where the next piece begins.
"""

import glob
import os

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import folder as folders

LARGEST = 15 << 20


def save(folder, modules, scale):
    """`modules`: name -> network. FOLDER/NAME-0.safetensors and so on."""
    os.makedirs(folder, exist_ok=True)
    for name, module in modules.items():
        groups, size = [{}], 0
        for key, value in folders.half(module).items():
            size += value.nbytes
            if size > LARGEST:
                groups.append({})
                size = value.nbytes
            groups[-1][key] = value
        for i, group in enumerate(groups):
            path = f"{folder}/{name}-{i}.safetensors"
            save_file(group, path + ".new", metadata=dict(scale=str(scale)))
            os.replace(path + ".new", path)


def load(folder, name, module):
    """Fills `module`, and returns the autoencoder's scaling factor; None where the folder has no such parts."""
    found, scale = {}, None
    for path in sorted(glob.glob(f"{folder}/{name}-*.safetensors")):
        with safe_open(path, "pt") as part:
            scale = float(part.metadata()["scale"])
            found |= {key: part.get_tensor(key).float() for key in part.keys()}
    if found:
        module.load_state_dict(found)
    return scale


def load_all(sources, modules):
    """Every network from the last of `sources` that has it: folders of parts, or pipelines as folder.py reads them."""
    scale = None
    with torch.no_grad():
        for source in sources:
            if glob.glob(f"{source}/*-0.safetensors"):
                scales = [load(source, name, module) for name, module in modules.items()]
                scale = next((s for s in scales if s is not None), scale)
            else:
                scale = folders.load_vae(source, modules["vae"])
                folders.load_denoiser(source, modules["unet"], modules["text_encoder"])
    return scale


def lean_back(modules, origin, share):
    """Moves the U-Net and its text encoder by `share` of the way back to those of `origin`, another set of networks."""
    with torch.no_grad():
        for name in ("unet", "text_encoder"):
            for mine, theirs in zip(modules[name].parameters(), origin[name].parameters()):
                mine.lerp_(theirs, share)


def to_pipeline(modules, scale, tokenizer_folder, output):
    """The networks as the diffusers folder that ../export reads."""
    folders.save_vae(output, modules["vae"], scale)
    vocabulary = modules["text_encoder"].text_model["embeddings"]["token_embedding"].num_embeddings
    folders.save_denoiser(output, modules["unet"], modules["text_encoder"], tokenizer_folder, vocabulary)
