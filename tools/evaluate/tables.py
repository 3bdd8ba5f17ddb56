"""Figures of many edits as markdown tables: means, and over how many where not over all."""

FIDELITY = (
    ("took sparse steps", "sparse_outcome", "percent"),
    ("PSNR in mask", "mask_psnr", "dB"),
    ("SSIM in mask", "mask_ssim", "ratio"),
    ("PSNR", "psnr", "dB"),
    ("SSIM", "ssim", "ratio4"),
)
SUCCESS = (
    ("success", "success", "percent"),
    ("`--dense`", "dense.success", "percent"),
    ("prefers new words", "prefers", "percent"),
    ("`--dense`", "dense.prefers", "percent"),
    ("directional", "directional", "ratio"),
    ("`--dense`", "dense.directional", "ratio"),
    ("image-image", "image", "ratio"),
    ("`--dense`", "dense.image", "ratio"),
)
MASK = (
    ("mask", "mask_share", "percent"),
    ("truth", "changed_share", "percent"),
    ("IoU", "iou", "ratio"),
    ("truth covered", "covered", "percent"),
    ("pixels changed outside mask", "outside_changed", "percent3"),
    ("PSNR to base elsewhere", "elsewhere_psnr", "dB"),
)
COST = (
    ("guided steps", "guide", "number"),
    ("s", "seconds", "number"),
    ("`--dense` s", "dense.seconds", "number"),
    ("s per step", "step_seconds", "ratio"),
    ("`--dense` s per step", "dense.step_seconds", "ratio"),
    ("work of dense", "work", "percent"),
)
BY_KIND = {"Fidelity": FIDELITY, "Success": SUCCESS, "Mask and background": MASK, "Cost": COST}
IN_SHORT = "mask_psnr ssim success prefers directional image".split()
IN_SHORT += "mask_share iou covered outside_changed elsewhere_psnr seconds work".split()
BY_VARIANT = [column for columns in BY_KIND.values() for column in columns if column[1] in IN_SHORT]
BY_CHOICE = (
    ("PSNR in mask", "mask_psnr", "dB"),
    ("against `edit`", "gain.mask_psnr", "gain"),
    ("SSIM", "ssim", "ratio4"),
    ("success", "success", "percent"),
    ("prefers new words", "prefers", "percent"),
    ("mask", "mask_share", "percent"),
    ("IoU", "iou", "ratio"),
    ("truth covered", "covered", "percent"),
    ("guided steps", "guide", "number"),
    ("s per step", "step_seconds", "ratio"),
    ("s", "seconds", "number"),
    ("time against `edit`", "ratio.seconds", "change"),
    ("work of dense", "work", "percent"),
)
BY_PLACE = (
    ("PSNR in mask", "mask_psnr", "dB"),
    ("SSIM in mask", "mask_ssim", "ratio"),
    ("SSIM", "ssim", "ratio4"),
    ("success", "success", "percent"),
    ("`--dense`", "dense_success", "percent"),
    ("prefers new words", "prefers", "percent"),
    ("`--dense`", "dense_prefers", "percent"),
    ("mask", "mask_share", "percent"),
    ("pixels changed outside mask", "outside_changed", "percent3"),
    ("s", "seconds", "number"),
)
FORMATS = {
    "percent": lambda x: f"{100 * x:.1f} %",
    "percent3": lambda x: f"{100 * x:.3f} %",
    "ratio": lambda x: f"{x:.3f}",
    "ratio4": lambda x: f"{x:.4f}",
    "number": lambda x: f"{x:.1f}",
    "dB": lambda x: f"{x:.1f} dB",
    "gain": lambda x: f"{x:+.1f} dB",
    "change": lambda x: f"{100 * (x - 1):+.0f} %",
}


def figure(figures, name):
    """One figure; those that follow from others included. None where it means nothing."""
    if name == "sparse_outcome":
        return figures["outcome"] == "sparse"
    if name == "work":
        return figures["macs"] / figures["macs_dense"] if figures["macs_dense"] else None
    if name in ("psnr", "mask_psnr", "ssim", "mask_ssim") and figures["outcome"] != "sparse":
        return None  # nothing is approximated, nothing to measure
    return figures.get(name)


def one(result, variant, name):
    """A figure of one edit, or None."""
    figures = result["figures"].get(variant, {"error": ""})
    return None if "error" in figures else figure(figures, name)


def values(results, variant, yardstick, name):
    """One value per edit that has one. `dense.NAME`: the yardstick's; `gain.NAME`, `ratio.NAME`: against `edit`."""
    against, _, name = name.rpartition(".")
    if against in ("", "dense"):
        found = (one(result, yardstick if against else variant, name) for result in results)
        return [value for value in found if value is not None]
    pairs = ((one(result, variant, name), one(result, "edit", name)) for result in results)
    pairs = [pair for pair in pairs if None not in pair]
    return [mine - its if against == "gain" else mine / its for mine, its in pairs]


def mean(numbers):
    return sum(numbers) / len(numbers) if numbers else None


def cell(numbers, form, count):
    if not numbers:
        return "–"
    text = FORMATS[form](mean(numbers))
    return text if len(numbers) == count else f"{text} ({len(numbers)})"


def line(cells):
    return "| " + " | ".join(cells) + " |"


def table(head, columns, rows):
    """`rows`: (name, results, variant, yardstick)"""
    lines = [line([head, "edits", *(title for title, _, _ in columns)])]
    lines.append(line(["---"] + ["---:"] * (len(columns) + 1)))
    for name, results, variant, yardstick in rows:
        count = len(values(results, variant, yardstick, "outcome"))
        cells = [cell(values(results, variant, yardstick, field), form, count) for _, field, form in columns]
        lines.append(line([name, str(count), *cells]))
    return "\n".join(lines)


def by_kind(results, variant):
    """All tables of one variant, {title: markdown}; the last row is over all edits."""
    yardstick = variant.yardstick.name if variant.yardstick else ""
    groups = {}
    for result in results:
        groups.setdefault(result["kind"].replace("_", " "), []).append(result)
    groups["**all**"] = results
    rows = [(name, group, variant.name, yardstick) for name, group in groups.items()]
    return {title: table("kind", columns, rows) for title, columns in BY_KIND.items()}


def by_variant(results, variants, columns=BY_VARIANT):
    """One row per variant that made any, over the edits that all of these made."""
    variants = [v for v in variants if any(one(r, v.name, "outcome") for r in results)]
    results = [r for r in results if all(one(r, v.name, "outcome") for v in variants)]
    rows = [(f"`{v.name}`", results, v.name, v.yardstick.name if v.yardstick else "") for v in variants]
    return table("variant", columns, rows)


def by_place(chains):
    """One row per place in a chain."""
    rows = []
    for place in range(max(map(len, chains), default=0)):
        at = [{"figures": {"edit": chain[place]}} for chain in chains if place < len(chain)]
        rows.append((str(place + 1), at, "edit", ""))
    return table("edit in the chain", BY_PLACE, rows)


def ranked(results, variant):
    """Edits with sparse steps, the one most like `--dense` inside the mask first."""
    scored = [(score, r) for r in results if (score := one(r, variant, "mask_psnr")) is not None]
    return [r for _, r in sorted(scored, key=lambda pair: -pair[0])]
