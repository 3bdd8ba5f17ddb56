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
IN_SHORT = "sparse_outcome mask_psnr ssim success prefers directional image".split()
IN_SHORT += "mask_share iou covered outside_changed elsewhere_psnr seconds work".split()
BY_VARIANT = [column for columns in BY_KIND.values() for column in columns if column[1] in IN_SHORT]
FORMATS = {
    "percent": lambda x: f"{100 * x:.1f} %",
    "percent3": lambda x: f"{100 * x:.3f} %",
    "ratio": lambda x: f"{x:.3f}",
    "ratio4": lambda x: f"{x:.4f}",
    "number": lambda x: f"{x:.1f}",
    "dB": lambda x: f"{x:.1f} dB",
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


def values(results, variant, yardstick, name):
    """One value per edit that has one."""
    source, _, name = name.rpartition(".")
    found = (result["figures"].get(yardstick if source else variant, {"error": ""}) for result in results)
    return [v for figures in found if "error" not in figures and (v := figure(figures, name)) is not None]


def cell(numbers, form, count):
    if not numbers:
        return "–"
    text = FORMATS[form](sum(numbers) / len(numbers))
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


def by_variant(results, variants, others=()):
    """One row per variant; `others`: further rows, as table() takes them."""
    rows = []
    for variant in variants:
        yardstick = variant.yardstick.name if variant.yardstick else ""
        rows.append((f"`{variant.name}`", results, variant.name, yardstick))
    return table("variant", BY_VARIANT, [*rows, *others])


def ranked(results, variant):
    """Edits with sparse steps, the one most like `--dense` inside the mask first."""
    scored = [
        (figure(f, "mask_psnr"), r) for r in results if "error" not in (f := r["figures"].get(variant, {"error": ""}))
    ]
    return [r for score, r in sorted(((s, r) for s, r in scored if s is not None), key=lambda pair: -pair[0])]
