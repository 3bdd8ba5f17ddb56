"""Everything that evaluate.py writes of what was measured."""

import json
import shlex
from collections import Counter
from pathlib import Path

import figure
import results
import sheets
import tables
import variants
from verdict import verdict

HERE = Path(__file__).parent
PART = " A part of the list: too few edits for a verdict."
SHEETS = ("figure.svg", "contact.webp", "best.webp", "worst.webp", "variants.webp")


def keep(rows, found, chosen, about, output):
    """results.json and the sheets: all that write() needs."""
    (output / "results.json").write_text(json.dumps({"about": about, "edits": found}))
    draw(rows, found, output, chosen[0])
    draw_variants(rows, found, output, chosen)
    figure.save(output / "figure.svg", [(v.name, found, v.name) for v in chosen if "dense" not in v.name[1:]])


def draw(rows, found, output, variant):
    """contact.webp of two of every kind, best.webp and worst.webp of up to five each, never the same edit on both."""
    known = {row["id"]: row for row in rows}

    def strips(chosen, size, note=lambda result: ""):
        return [
            sheets.strip(known[r["id"]], results.Folder(output / "edits" / r["id"]), variant, size, note(r), size > 100)
            for r in chosen
        ]

    def decibels(result):
        return f", {result['figures'][variant.name]['mask_psnr']:.1f} dB in the mask"

    ran = [result for result in found if tables.one(result, variant.name, "outcome")]
    order = tables.ranked(ran, variant.name)
    few = min(5, len(order) // 2)
    shown = of_every_kind(ran, 2)
    sheets.save(output / "contact.webp", strips(shown, 80), 3 if len(shown) > 12 else 1)
    sheets.save(output / "best.webp", strips(order[:few], 176, decibels))
    sheets.save(output / "worst.webp", strips(order[::-1][:few], 176, decibels))


def of_every_kind(found, count):
    """The first so many of every kind, in order."""
    seen = Counter()
    return [r for r in found if seen.update([r["kind"]]) or seen[r["kind"]] <= count]


def draw_variants(rows, found, output, chosen, size=88):
    """variants.webp: the list's first edit of every kind, by every variant that is no yardstick but the first one's."""
    names = ["base", *(v.name for v in chosen if v.name == "dense" or not v.name.endswith("-dense"))]
    known, strips = {row["id"]: row for row in rows}, []
    for result in of_every_kind(found, 1):
        folder = results.Folder(output / "edits" / result["id"])
        pictures = [folder.image(name) if folder.done(name) else None for name in names]
        strips.append(sheets.labelled(known[result["id"]], pictures, size))
    sheets.save(output / "variants.webp", strips, names=names)


def read(output):
    """(about, edits, variants) of a folder's results.json, and of others beside it (results2.json) put together."""
    parts = [json.loads(path.read_text()) for path in sorted(output.glob("results*.json"))]
    edits, names = {}, {}
    for part in parts:
        for edit in part["edits"]:
            edits.setdefault(edit["id"], {**edit, "figures": {}})["figures"] |= edit["figures"]
        names |= dict.fromkeys(part["about"]["variants"])
    about = parts[0]["about"] | {"variants": list(names)}
    return about, list(edits.values()), variants.chosen(names)


def command(about):
    """What gave these figures, but for where things lie."""
    names = [word for text in about["variants"] for word in ("--variant", text)]
    return shlex.join(["python", "evaluate.py", "demo.plan", "out", *shlex.split(about["settings"]), *names])


def heading(about, count, listed):
    return [
        f"{count} of {listed} edits of `tools/evaluate/edits.json`; {about['fisec']},",
        f"plan {about['plan'][:16]}, judge `{about['judge']}`; {about['machine']}, {about['jobs']} images at a time."
        + PART * (count < 14),
        "",
        f"    {command(about)}",
        "",
    ]


def report(rows, output, chosen_by, chained, pictures, conclusions=""):
    """Markdown. `pictures`: where the sheets lie, seen from it; `conclusions`: what a person made of it."""
    about, found, chosen = read(output)
    main = chosen[0]
    found = [r for r in found if tables.one(r, main.name, "outcome")]
    lines = ["# Edit quality", "", *heading(about, len(found), len(rows)), verdict(found), "", conclusions]
    for title, table in tables.by_kind(found, main).items():
        lines += [f"## {title}", "", table, ""]
    if failed := [f"{r['id']} ({name})" for r in found for name, f in r["figures"].items() if "error" in f]:
        lines += ["Failed: " + ", ".join(failed) + ".", ""]
    empty = [r["id"] for r in found if tables.one(r, main.name, "outcome") in ("empty mask", "unchanged")]
    if empty:
        lines += [f"No region found, so the base is the result: {', '.join(empty)}.", ""]
    shown = [v for v in chosen if v.name == "dense" or not v.name.endswith("-dense")]
    lines += ["## Other ways to edit", "", tables.by_variant(found, shown), ""]
    lines += [*(f"- `{v.name}`: `{v.flags or 'no flags'}`" for v in shown), ""]
    lines += [f"![the same edits by all variants]({pictures}variants.webp)", ""]
    lines += [f"![image-image against directional similarity]({pictures}figure.svg)", ""]
    lines += ["## What each choice costs", ""] if chosen_by else []
    for folder in chosen_by:
        lines += choices(folder, len(rows))
    if chained:
        lines += ["## Edits in a row", "", chains(chained), ""]
    lines += [
        "## Best, worst, two of every kind",
        "",
        f"The most and the least like `--dense`:\n\n![best]({pictures}best.webp)",
        "",
    ]
    lines += [f"![worst]({pictures}worst.webp)", "", f"![two edits of every kind]({pictures}contact.webp)", ""]
    return "\n".join([*lines, (HERE / "meaning.md").read_text()])


def choices(output, listed):
    about, found, chosen = read(output)
    chosen = [v for v in chosen if not v.name.endswith("dense")]
    return [
        *heading(about, len(found), listed),
        tables.by_variant(found, chosen, tables.BY_CHOICE),
        "",
        *(f"- `{v.name}`: `{v.flags or 'no flags'}`" for v in chosen),
        "",
    ]


def keep_chains(rows, output):
    """chains.json of a folder made with --chains; returns its table."""
    found = [
        results.Folder(output / "edits" / row["id"]).figures()
        for row in rows
        if (output / "edits" / row["id"]).is_dir()
    ]
    held = {"about": json.loads((output / "settings.json").read_text()), "chains": [chain for chain in found if chain]}
    (output / "chains.json").write_text(json.dumps(held))
    return chains(output)


def chains(output):
    held = json.loads((output / "chains.json").read_text())
    still = all(edit["untouched_psnr"] is None for chain in held["chains"] for edit in chain)
    lines = [
        f"{len(held['chains'])} chains of `tools/evaluate/chains.json`: every edit is one of the image that the one",
        "before made, and `--dense` is the same edit of that image. Outside all masks of a chain so far,",
        "every pixel is still the first image's." if still else "some pixels are no longer the first image's.",
        "",
        f"    python evaluate.py demo.plan out --chains {held['about']['settings']}",
        "",
        tables.by_place(held["chains"]),
    ]
    return "\n".join(lines)


def write(rows, output, chosen_by=(), chained=None, doc=None):
    """report.md, and the same with its sheets as `doc`; returns it.

    The folder of the doc's sheets may hold conclusions.md, written by hand: it goes in below the verdict.
    """
    text = report(rows, output, chosen_by, chained, "")
    (output / "report.md").write_text(text)
    if doc:
        folder = doc.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHEETS:
            if (output / name).exists():
                (folder / name).write_bytes((output / name).read_bytes())
        written = folder / "conclusions.md"
        conclusions = written.read_text() if written.exists() else ""
        doc.write_text(report(rows, output, chosen_by, chained, f"{folder.name}/", conclusions))
    return text
