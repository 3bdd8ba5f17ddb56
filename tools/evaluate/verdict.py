"""What was asked of edits, and what was measured."""

import tables

LOCAL = 0.25  # a local edit's true region is at most this share of the image


def verdict(found):
    """Markdown: a row per demand."""
    edit = {name: tables.mean(tables.values(found, "edit", "dense", name)) for name in ("mask_psnr", "ssim", "success")}
    dense = tables.mean(tables.values(found, "edit", "dense", "dense.success"))
    local = [r for r in found if (share := tables.one(r, "edit", "changed_share")) is not None and share <= LOCAL]
    overlap = tables.mean(tables.values(local, "edit", "", "iou"))
    covered = tables.mean(tables.values(local, "edit", "", "covered"))
    outside = tables.values(found, "edit", "", "outside_changed")
    gains = above_paper(found)
    rows = [
        ("likeness to `--dense` inside the mask", "≥ 30 dB", decibels(edit["mask_psnr"])),
        (f"the same above `--preset paper`, {len(gains)} edits", "≥ 5 dB", decibels(tables.mean(gains))),
        ("likeness to `--dense`, whole image", "SSIM ≥ 0.99", text(edit["ssim"], "{:.4f}")),
        (
            "edits that the judge finds closer to the new words",
            f"{text(dense, '{:.1%}')} ± 2 points",
            text(edit["success"], "{:.1%}"),
        ),
        (
            f"overlap of mask and truth, {len(local)} local edits",
            "IoU ≥ 0.6",
            f"{text(overlap, '{:.3f}')}, {text(covered, '{:.1%}')} of the truth covered",
        ),
        (
            "pixels changed outside the mask",
            "none",
            f"{text(max(outside, default=None), '{:.3%}') if any(outside) else 'none'} in {len(outside)} edits",
        ),
    ]
    return "\n".join(["| | asked | measured |", "| --- | --- | --- |", *map(tables.line, rows)])


def above_paper(found):
    """dB by edit."""
    both = [(tables.one(r, "edit", "mask_psnr"), tables.one(r, "paper", "mask_psnr")) for r in found]
    return [mine - its for mine, its in both if None not in (mine, its)]


def text(number, form):
    return "–" if number is None else form.format(number)


def decibels(number):
    return text(number, "{:.1f} dB")
