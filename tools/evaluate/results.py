"""What was run of an edit, in its folder, and the figures of it.

changed.png                             the ground-truth region
base.png    base.json                   the base image and what fisec said of it; base@PLAN of another plan
NAME.png    NAME.json   NAME.mask.png   the same of a variant; the mask where it has one
figures.json                            all figures, once measured
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
        """The variant's own; None where it has none."""
        names = (variant, variant.removesuffix("-dense"), "edit" if variant == "dense" else variant)
        path = next((p for name in names if (p := self.file(f"{name}.mask.png")).exists()), None)
        return regions.load(path) if path else None

    def figures(self):
        """What keep() was given, unless something was run since; else None."""
        path = self.file("figures.json")
        runs = (p.stat().st_mtime_ns for p in self.path.glob("*.json") if p != path)
        return (
            json.loads(path.read_text()) if path.exists() and path.stat().st_mtime_ns > max(runs, default=0) else None
        )

    def keep(self, figures):
        self.file("figures.json").write_text(json.dumps(figures, indent=1))
        return figures


def measured(row, folder, variants, judge):
    """Figures of one edit, {variant: figures}, from where they were kept or measured now; {} without a base."""
    found = folder.figures()
    if found is None or any(folder.record(v.name) and v.name not in found for v in variants):
        found = folder.keep(measure(row, folder, variants, judge))
    return {v.name: found[v.name] for v in variants if v.name in found}


def measure(row, folder, variants, judge):
    if not folder.done("base"):
        return {}
    ran = [variant for variant in variants if folder.done(variant.name)]
    pictures = {"base": folder.image("base"), **{variant.name: folder.image(variant.name) for variant in ran}}
    seen = dict(zip(pictures, judge.images([Image.fromarray(picture) for picture in pictures.values()])))
    words = judge.texts([row["base"], row["prompt"]])
    figures = {}
    for variant in ran:
        record, mask, picture = folder.record(variant.name), folder.mask(variant.name), pictures[variant.name]
        figures[variant.name] = {
            "outcome": record["outcome"],
            **cost(record),
            **clip.similarities(seen["base"], seen[variant.name], *words),
            **found(mask, row),
            **background(picture, pictures["base"], mask, row),
        }
        if variant.yardstick and variant.yardstick.name in pictures:
            figures[variant.name] |= fidelity(picture, pictures[variant.yardstick.name], mask)
    for variant in variants:
        if "error" in (record := folder.record(variant.name) or {}):
            figures[variant.name] = {"error": record["error"]}
    return figures


def measure_chain(row, folder, judge):
    """A list of the chain's edits: figures of each against the same edit of the same image without sparsity."""
    if not folder.done("base"):
        return []
    found, before, words = [], folder.image("base"), judge.texts(row["prompts"])
    first = before
    for i in range(1, len(row["prompts"])):
        names = [f"edit-{i}", f"dense-{i}"]
        if not all(map(folder.done, names)):
            break
        record, mask = folder.record(names[0]), folder.mask(names[0])
        picture, dense = map(folder.image, names)
        seen = judge.images([Image.fromarray(image) for image in (before, picture, dense)])
        found.append(
            {
                "outcome": record["outcome"],
                **cost(record),
                **clip.similarities(seen[0], seen[1], words[i - 1], words[i]),
                **{f"dense_{k}": v for k, v in clip.similarities(seen[0], seen[2], words[i - 1], words[i]).items()},
                **found_share(mask),
                **background(picture, before, mask, {}),
                **fidelity(picture, dense, mask),
                "untouched_psnr": measures.psnr(picture, first, untouched(folder, i, first.shape[:2])),
            }
        )
        before = picture
    return found


def found_share(mask):
    return {} if mask is None else {"mask_share": float(mask.mean())}


def untouched(folder, count, size):
    """Pixels outside the masks of a chain's first `count` edits."""
    masks = [mask for i in range(1, count + 1) if (mask := folder.mask(f"edit-{i}")) is not None]
    outside = np.ones(size, bool)
    for mask in masks:
        outside &= ~regions.to_pixels(mask, size)
    return outside


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
    if "changed" not in row or mask.all():  # all of it: no region was looked for
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
