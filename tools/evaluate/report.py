"""Everything that evaluate.py writes of what was measured."""

import json
import shlex
from pathlib import Path

import figure
import results
import sheets
import tables

HERE = Path(__file__).parent
PART = " A part of the list: too few edits for a verdict."


def beside(texts, found):
    """Rows of other folders for the table by variant, over the same edits."""
    ids, rows = {result["id"] for result in found}, []
    for text in texts:
        name, _, folder = text.partition("=")
        other = json.loads((Path(folder) / "results.json").read_text())
        main, yardstick = other["about"]["first"]
        rows.append((name, [result for result in other["edits"] if result["id"] in ids], main, yardstick))
    return rows


def draw(rows, found, output, variant):
    """contact.jpg of all, best.jpg and worst.jpg of up to five each, never the same edit on both."""
    known = {row["id"]: row for row in rows}

    def strips(chosen, size, note=lambda result: ""):
        return [
            sheets.strip(known[r["id"]], results.Folder(output / "edits" / r["id"]), variant, size, note(r), size > 200)
            for r in chosen
        ]

    def decibels(result):
        return f", {result['figures'][variant.name]['mask_psnr']:.1f} dB in the mask"

    ran = [result for result in found if "error" not in result["figures"].get(variant.name, {"error": ""})]
    order = tables.ranked(ran, variant.name)
    few = min(5, len(order) // 2)
    sheets.save(output / "contact.jpg", strips(ran, 96), 3 if len(ran) > 12 else 1)
    sheets.save(output / "best.jpg", strips(order[:few], 224, decibels))
    sheets.save(output / "worst.jpg", strips(order[::-1][:few], 224, decibels))
    return few


def command(about, chosen):
    """What gave these figures, but for which edits and where things lie."""
    names = [f"--variant={v.name}" for v in chosen if not v.name.endswith("dense")]
    return shlex.join(["python", "evaluate.py", "demo.plan", "out", *shlex.split(about["settings"]), *names])


def report(rows, found, chosen, about, few, pictures, others=()):
    """Markdown. `pictures`: where the sheets lie, seen from it."""
    main = chosen[0]
    failed = [(r["id"], name) for r in found for name, f in r["figures"].items() if "error" in f]
    empty = [r["id"] for r in found if r["figures"].get(main.name, {}).get("outcome") in ("empty mask", "unchanged")]
    lines = [
        "# Edit quality",
        "",
        f"{len(found)} of {len(rows)} edits of `tools/evaluate/edits.json`; {about['fisec']},",
        f"plan {about['plan'][:16]}, judge `{about['judge']}`; {about['machine']}." + PART * (len(found) < len(rows)),
        "",
        f"    {command(about, chosen)}",
        "",
        "## Variants",
        "",
        tables.by_variant(found, chosen, others),
        "",
        *(f"- `{variant.name}`: `{variant.flags or 'no flags'}`" for variant in chosen),
        "",
        f"![image-image against directional similarity]({pictures}figure.svg)",
        "",
        f"## `{main.name}` by kind of edit",
        "",
    ]
    for title, table in tables.by_kind(found, main).items():
        lines += [f"### {title}", "", table, ""]
    if failed:
        lines += ["Failed: " + ", ".join(f"{edit} ({variant})" for edit, variant in failed) + ".", ""]
    if empty:
        lines += [f"No region found, so the base is the result: {', '.join(empty)}.", ""]
    lines += [f"![all edits]({pictures}contact.jpg)", ""]
    if few:
        lines += [f"The {few} most and the {few} least like `{main.yardstick.name if main.yardstick else ''}`:", ""]
        lines += [f"![best]({pictures}best.jpg)", "", f"![worst]({pictures}worst.jpg)", ""]
    return "\n".join([*lines, (HERE / "meaning.md").read_text()])


def write(rows, found, chosen, about, output, others, doc):
    """results.json, report.md, sheets; and the report once more as `doc`."""
    (output / "results.json").write_text(json.dumps({"about": about, "edits": found}, indent=1))
    few = draw(rows, found, output, chosen[0])
    compared = [(v.name, found, v.name) for v in chosen] + [(name, other, main) for name, other, main, _ in others]
    figure.save(output / "figure.svg", compared)
    (output / "report.md").write_text(report(rows, found, chosen, about, few, "", others))
    if doc:
        sheets_folder = doc.with_suffix("")
        sheets_folder.mkdir(parents=True, exist_ok=True)
        for name in ("figure.svg", "contact.jpg", "best.jpg", "worst.jpg"):
            if (output / name).exists():
                (sheets_folder / name).write_bytes((output / name).read_bytes())
        doc.write_text(report(rows, found, chosen, about, few, f"{sheets_folder.name}/", others))
    print(report(rows, found, chosen, about, few, "", others))
