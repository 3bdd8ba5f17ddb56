"""What was run of an edit, in its folder, and the figures of it.

changed.png                          the ground-truth region
base.png    base.json                the base image and what fisec said of it
NAME.png    NAME.json   NAME.mask.png   the same of a variant; the mask where it is known
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

import clip
import measures
import regions


class Folder:
    def __init__(self, path):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def file(self, name):
        return self.path / name

    def record(self, name):
        """None when it was not run; with "error" when it failed."""
        path = self.file(f"{name}.json")
        return json.loads(path.read_text()) if path.exists() else None

    def done(self, name):
        """Whether it ran well."""
        return "error" not in (self.record(name) or {"error": ""})

    def plans(self, names):
        return {record["plan"] for name in names if (record := self.record(name)) and "plan" in record}

    def write(self, name, record):
        """Last of a variant's files, under its name only when whole."""
        path = self.file(f"{name}.json")
        path.with_suffix(".part").write_text(json.dumps(record, indent=1))
        path.with_suffix(".part").rename(path)

    def image(self, name):
        return np.asarray(Image.open(self.file(f"{name}.png")).convert("RGB"))

    def mask(self, variant):
        """Its own, or for a variant that has none the one of the edit; None when no edit found one."""
        sources = [variant.removesuffix("-dense"), "edit"]
        path = next((p for name in sources if (p := self.file(f"{name}.mask.png")).exists()), None)
        return regions.load(path) if path else None


def measure(row, folder, variants, judge):
    """Figures of one edit, {variant: figures}; {} while its base is missing."""
    if not folder.done("base"):
        return {}
    ran = [variant for variant in variants if folder.done(variant.name)]
    pictures = {"base": folder.image("base"), **{variant.name: folder.image(variant.name) for variant in ran}}
    seen = dict(zip(pictures, judge.images([Image.fromarray(picture) for picture in pictures.values()])))
    old, new = judge.texts([row["base"], row["prompt"]])
    figures = {}
    for variant in ran:
        record = folder.record(variant.name)
        mask = folder.mask(variant.name)
        picture, base = pictures[variant.name], pictures["base"]
        figures[variant.name] = {
            "outcome": record["outcome"],
            **cost(record),
            **clip.similarities(seen["base"], seen[variant.name], old, new),
            **found(mask, row),
            **background(picture, base, mask if variant.edits else None, row),
        }
        if variant.yardstick and variant.yardstick.name in pictures:
            figures[variant.name] |= fidelity(picture, pictures[variant.yardstick.name], mask)
    for variant in variants:
        if "error" in (record := folder.record(variant.name) or {}):
            figures[variant.name] = {"error": record["error"]}
    return figures


def cost(record):
    return {
        "seconds": record["seconds"]["total"],
        "wall": record["wall"],
        "macs": record["macs"],
        "macs_dense": record["macs_dense"],
        "bytes_read": record["bytes_read"],
        **{name: record[f"steps_{name}"] for name in ("guide", "sparse", "dense")},
        **per_step(record),
    }


def per_step(record):
    """Seconds of a step after the region is known."""
    steps = record["steps_sparse"] + record["steps_dense"]
    return {"step_seconds": record["seconds"]["edit"] / steps if steps else None}


def found(mask, row):
    if mask is None:
        return {}
    figures = {"mask_share": float(mask.mean())}
    if "changed" not in row:
        return figures
    truth = regions.unpack(row["changed"])
    return figures | {
        "changed_share": float(truth.mean()),
        "iou": regions.overlap(mask, truth),
        "covered": regions.covered(mask, truth),
    }


def background(picture, base, mask, row):
    """Against the base: changed bytes outside the mask, and likeness where the edit has no business."""
    figures = {}
    if "allowed" in row:
        elsewhere = ~regions.to_pixels(regions.unpack(row["allowed"]), base.shape[:2])
        figures["elsewhere_psnr"] = measures.psnr(picture, base, elsewhere)
    if mask is not None:
        outside = ~regions.to_pixels(mask, base.shape[:2])
        figures["outside_changed"] = measures.changed_share(picture, base, outside)
    return figures


def fidelity(picture, dense, mask):
    """Against the same edit without sparsity."""
    figures = {"psnr": measures.psnr(picture, dense), "ssim": measures.ssim(picture, dense)}
    if mask is not None:
        inside = regions.to_pixels(mask, picture.shape[:2])
        figures["mask_psnr"] = measures.psnr(picture, dense, inside)
        figures["mask_ssim"] = measures.ssim(picture, dense, inside)
    return figures
