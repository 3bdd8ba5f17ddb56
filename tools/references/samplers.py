"""Records what diffusers' samplers do, step by step.

    python samplers.py OUT_FOLDER

Writes samplers.json.gz and samplers.f32.gz (little-endian f32). A tiny latent [1,4,2,2] (`initial`) is multiplied by
init_noise_sigma and denoised by a model that is no network:

    output of call i = 0.8 * noise[i] + 0.2 * scaled input          (f32)

`initial` [16] and `noise` [60,16] come first in samplers.f32, at the offsets that samplers.json gives (in elements).
Each case has its scheduler class and configuration (the rest is at diffusers' default), timesteps as the model
gets them, sigmas (Euler and DPM-Solver++; one more than timesteps), init_noise_sigma, and `offset` of its record: for
every call the scaled input [16], then the latent after the call [16]. PNDM makes one call more than it has steps: its
second timestep comes twice.
"""

import argparse
import gzip
import itertools
import json
from pathlib import Path

import diffusers
import numpy as np
import torch

SD2 = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
)
FAMILIES = {
    "DDIMScheduler": dict(clip_sample=False),
    "EulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": dict(algorithm_type="dpmsolver++", solver_order=2),
    "PNDMScheduler": dict(skip_prk_steps=True),
}
VARIANTS = {
    "DDIMScheduler": [dict(set_alpha_to_one=False), dict(set_alpha_to_one=True)],
    "EulerDiscreteScheduler": [{}],
    "DPMSolverMultistepScheduler": [dict(final_sigmas_type="zero"), dict(final_sigmas_type="sigma_min")],
    "PNDMScheduler": [dict(set_alpha_to_one=False), dict(set_alpha_to_one=True)],
}
PREDICTIONS = ("epsilon", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")
STEPS = (4, 7, 10, 20)
LONG = 50  # steps; with leading spacing, the default of Stable Diffusion, alone
EXTRAS = [
    ("DDIMScheduler", dict(steps_offset=0, prediction_type="epsilon", timestep_spacing="leading"), 10),
    ("DDIMScheduler", dict(steps_offset=0, prediction_type="epsilon", timestep_spacing="leading"), 7),
    (
        "DDIMScheduler",
        dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
        10,
    ),
    ("DDIMScheduler", dict(beta_schedule="linear", prediction_type="epsilon", timestep_spacing="leading"), 10),
    ("EulerDiscreteScheduler", dict(steps_offset=0, prediction_type="epsilon", timestep_spacing="leading"), 10),
    (
        "EulerDiscreteScheduler",
        dict(use_karras_sigmas=True, prediction_type="epsilon", timestep_spacing="linspace"),
        10,
    ),
    ("DPMSolverMultistepScheduler", dict(steps_offset=0, prediction_type="epsilon", timestep_spacing="leading"), 20),
    ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True, prediction_type="epsilon"), 20),
    ("DPMSolverMultistepScheduler", dict(euler_at_final=True, prediction_type="epsilon"), 20),
    ("DPMSolverMultistepScheduler", dict(solver_type="heun", prediction_type="epsilon"), 20),
    ("DPMSolverMultistepScheduler", dict(lower_order_final=False, prediction_type="v_prediction"), 10),
    ("DPMSolverMultistepScheduler", dict(prediction_type="v_prediction", timestep_spacing="linspace"), 1),
    ("DPMSolverMultistepScheduler", dict(prediction_type="v_prediction", timestep_spacing="linspace"), 2),
    ("PNDMScheduler", dict(steps_offset=0, prediction_type="epsilon", timestep_spacing="leading"), 10),
    ("PNDMScheduler", dict(prediction_type="epsilon", timestep_spacing="leading"), 2),
    ("DDIMInverseScheduler", dict(clip_sample=False, prediction_type="epsilon", timestep_spacing="leading"), 10),
    ("DDIMInverseScheduler", dict(clip_sample=False, prediction_type="v_prediction", timestep_spacing="leading"), 25),
    ("DDIMInverseScheduler", dict(clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"), 10),
]
SHAPE = (1, 4, 2, 2)
CALLS = 60


def cases():
    """(class name, configuration, steps) of everything that is recorded."""
    for family, variants in VARIANTS.items():
        for variant, prediction, spacing, steps in itertools.product(variants, PREDICTIONS, SPACINGS, STEPS):
            yield family, dict(prediction_type=prediction, timestep_spacing=spacing, **variant), steps
        for prediction in PREDICTIONS:
            yield family, dict(prediction_type=prediction, timestep_spacing="leading", **variants[0]), LONG
    yield from EXTRAS


def record(family, config, steps, initial, noise):
    """One denoising run: (description, [scaled input, latent] of every call)."""
    config = SD2 | FAMILIES.get(family, {}) | config
    scheduler = getattr(diffusers, family).from_config(config)
    scheduler.set_timesteps(steps)
    latent = torch.from_numpy(initial).reshape(SHAPE) * scheduler.init_noise_sigma
    rows = []
    for call, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latent, timestep)
        output = 0.8 * torch.from_numpy(noise[call]).reshape(SHAPE) + 0.2 * scaled
        latent = scheduler.step(output, timestep, latent).prev_sample
        rows += [scaled, latent]
    case = {
        "class": family,
        "config": config,
        "steps": steps,
        "init_noise_sigma": float(scheduler.init_noise_sigma),
        "timesteps": [float(t) for t in scheduler.timesteps],
    }
    if hasattr(scheduler, "sigmas"):
        case["sigmas"] = [float(s) for s in scheduler.sigmas]
    values = torch.stack(rows).numpy()
    assert values.dtype == np.float32 and np.isfinite(values).all(), case
    return case, values


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    out = args.parse_args().out
    generator = np.random.default_rng(0)
    initial = generator.standard_normal(16, np.float32)
    noise = generator.standard_normal((CALLS, 16), np.float32)
    blobs, described, offset = [initial, noise.ravel()], [], 16 + CALLS * 16
    for family, config, steps in cases():
        case, values = record(family, config, steps, initial, noise)
        described.append(case | {"offset": offset})
        blobs.append(values.ravel())
        offset += values.size
    out.mkdir(parents=True, exist_ok=True)
    values = np.concatenate(blobs).astype("<f4").tobytes()
    (out / "samplers.f32.gz").write_bytes(gzip.compress(values, mtime=0))
    lines = ",\n".join(json.dumps(c) for c in described)
    head = json.dumps({"diffusers": diffusers.__version__, "initial": 0, "noise": 16, "calls": CALLS, "shape": SHAPE})
    text = f'{head[:-1]}, "cases": [\n{lines}\n]}}\n'
    (out / "samplers.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(described)} cases, {offset * 4} bytes")


if __name__ == "__main__":
    main()
