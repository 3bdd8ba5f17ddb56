"""Runs the list of edits through `fisec run` and says how good they are.

    python evaluate.py PLAN OUT [--limit N] [--kind K ...] [--part 1/4] [--steps 50] [--variant V ...]
    python evaluate.py PLAN OUT --only-report --doc ../../docs/benchmarks/quality.md

Every edit is made in a folder of its own, OUT/edits/ID; what is there is not made again, so a run can be stopped,
continued, and split over machines whose folders are put together afterwards. Then OUT gets

    results.json                     every figure of every edit
    report.md                        tables
    contact.jpg best.jpg worst.jpg   base, mask, edited, without sparsity, difference
"""

import argparse
import json
import os
import platform
import shlex
import sys
from pathlib import Path

import numpy as np

import regions
import results
import sheets
import tables
import variants
from clip import Clip
from fisec import Failed, Fisec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("output", type=Path)
    parser.add_argument("--edits", type=Path, default=HERE / "edits.json")
    parser.add_argument("--judge", type=Path, default=ROOT / "models/demo-judge", help="folder of a CLIP pair in ONNX")
    parser.add_argument("--fisec", default=ROOT / "target/release/fisec", help="the program")
    parser.add_argument("--home", type=Path, help="where images are remembered while they are needed [OUT/home]")
    parser.add_argument("--limit", type=int, help="only the first edits")
    parser.add_argument("--kind", action="append", help="only edits of this kind; may be repeated")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every Nth edit, from the Ith on")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--sampler")
    parser.add_argument(
        "--variant",
        action="append",
        help=f"{', '.join(variants.VARIANTS)}, or NAME=FLAGS of `fisec run`; may be repeated "
        f"[{', '.join(variants.DEFAULT)}]; what has sparsity is also made without it",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="NAME=OUT",
        help="first variant of another folder; may be repeated",
    )
    parser.add_argument("--only-report", action="store_true", help="make no images")
    parser.add_argument("--doc", type=Path, help="also write the report and its sheets here")
    return parser.parse_args(arguments)


def selected(rows, arguments):
    unknown = set(arguments.kind or ()) - {row["kind"] for row in rows}
    if unknown:
        raise SystemExit(f"no edit is of kind {', '.join(unknown)}: {', '.join(sorted({r['kind'] for r in rows}))}")
    rows = [row for row in rows if not arguments.kind or row["kind"] in arguments.kind][: arguments.limit]
    part, parts = (int(number) for number in arguments.part.split("/"))
    return rows[part - 1 :: parts]


def settings(arguments):
    flags = ["--steps", str(arguments.steps), "--guidance", str(arguments.guidance)]
    return flags + (["--sampler", arguments.sampler] if arguments.sampler else [])


def same_settings(path, now):
    """Images of different settings are never put together."""
    if path.exists() and (before := json.loads(path.read_text())) != now:
        raise SystemExit(f"{path.parent} was made with {before}, not {now}: take another folder")
    path.write_text(json.dumps(now, indent=1))


class Runner:
    def __init__(self, fisec, chosen, log):
        self.fisec, self.chosen, self.log = fisec, chosen, log

    def run(self, row, folder):
        """Makes what is missing; a failure is written down and tried again the next time."""
        missing = [variant for variant in self.chosen if not folder.done(variant.name)]
        if not missing and folder.done("base"):
            return
        changed = folder.file("changed.png")
        if "changed" in row:
            regions.save(regions.unpack(row["changed"]), changed)
        remembered = []
        try:
            base = self.attempt(folder, "base", row["base"], row["seed"], ["--base", "none"])
            if base is None:
                return
            remembered.append(base["id"])
            for variant in missing:
                flags = (["--base", base["id"]] if variant.edits else []) + variant.arguments(changed)
                record = self.attempt(folder, variant.name, row["prompt"], row["seed"], flags, base["id"])
                if record and record["id"] not in (None, *remembered):
                    remembered.append(record["id"])
        finally:
            self.fisec.forget(remembered)

    def attempt(self, folder, name, prompt, seed, flags, base=None):
        """Its record, or None when it failed."""
        try:
            record = self.fisec.run(prompt, seed, folder.file(f"{name}.png"), flags)
            if name == "base" and record["id"] is None:
                raise Failed(f"the base image is not remembered: {record['said']}")
            self.keep_mask(folder, name, record, base)
        except Failed as failure:
            self.log(f"  {name}: {failure}")
            folder.write(name, {"error": str(failure)})
            return None
        folder.write(name, record)
        share = "" if record["mask_share"] is None else f", mask {100 * record['mask_share']:.1f} %"
        self.log(f"  {name}: {record['outcome']}{share}, {record['seconds']['total']:.1f} s")
        return record

    def keep_mask(self, folder, name, record, base):
        path = folder.file(f"{name}.mask.png")
        if record["outcome"] in ("unchanged", "empty mask"):
            regions.save(np.zeros((regions.CELLS, regions.CELLS)), path)
        elif base and record["base"] == base and record["id"]:
            self.fisec.mask(record["id"], path)


def made(rows, output, chosen, judge):
    """Figures of every edit that was run."""
    found, plans = [], set()
    for row in rows:
        if (path := output / "edits" / row["id"]).is_dir():
            folder = results.Folder(path)
            figures = results.measure(row, folder, chosen, judge)
            plans |= folder.plans(["base", *figures])
            if figures:
                found.append(
                    {**{name: row[name] for name in ("id", "kind", "base", "prompt", "seed")}, "figures": figures}
                )
    return found


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


def report(rows, found, chosen, about, few, pictures, others=()):
    """Markdown. `pictures`: where the sheets lie, seen from it."""
    main = chosen[0]
    failed = [(r["id"], name) for r in found for name, f in r["figures"].items() if "error" in f]
    empty = [r["id"] for r in found if r["figures"].get(main.name, {}).get("outcome") in ("empty mask", "unchanged")]
    lines = [
        "# Edit quality",
        "",
        f"{len(found)} of {len(rows)} edits of `tools/evaluate/edits.json`, {about['settings']}; {about['fisec']}; "
        f"plan {about['plan'][:16]}; judge `{about['judge']}`; {about['machine']}.",
        "",
        f"    {about['command']}",
        "",
        "## Variants",
        "",
        tables.by_variant(found, chosen, others),
        "",
        *(f"- `{variant.name}`: `{variant.flags or 'no flags'}`" for variant in chosen),
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


def write(rows, found, chosen, about, arguments):
    output, others = arguments.output, beside(arguments.beside, found)
    (output / "results.json").write_text(json.dumps({"about": about, "edits": found}, indent=1))
    few = draw(rows, found, output, chosen[0])
    (output / "report.md").write_text(report(rows, found, chosen, about, few, "", others))
    if arguments.doc:
        sheets_folder = arguments.doc.with_suffix("")
        sheets_folder.mkdir(parents=True, exist_ok=True)
        for name in ("contact.jpg", "best.jpg", "worst.jpg")[: 3 if few else 1]:
            (sheets_folder / name).write_bytes((output / name).read_bytes())
        arguments.doc.write_text(report(rows, found, chosen, about, few, f"{sheets_folder.name}/", others))
    print(report(rows, found, chosen, about, few, "", others))


def main():
    arguments = parse()
    rows, chosen = json.loads(arguments.edits.read_text()), variants.chosen(arguments.variant or variants.DEFAULT)
    arguments.output.mkdir(parents=True, exist_ok=True)
    home = (arguments.home or arguments.output / "home").absolute()
    fisec = Fisec(str(arguments.fisec), arguments.plan, home, settings(arguments))
    about = {"settings": " ".join(settings(arguments)), "fisec": fisec.version(), "program": fisec.hash()}
    same_settings(arguments.output / "settings.json", about)
    todo = [] if arguments.only_report else selected(rows, arguments)
    runner = Runner(fisec, chosen, lambda text: print(text, file=sys.stderr, flush=True))
    for i, row in enumerate(todo):
        runner.log(f"{i + 1}/{len(todo)} {row['id']}: {row['base']} -> {row['prompt']}")
        runner.run(row, results.Folder(arguments.output / "edits" / row["id"]))
    found = made(rows, arguments.output, chosen, Clip(arguments.judge))
    if not found:
        raise SystemExit("no edit was made")
    first = results.Folder(arguments.output / "edits" / found[0]["id"]).record("base")
    about |= {
        "plan": first["plan"],
        "judge": arguments.judge.name,
        "first": [chosen[0].name, chosen[0].yardstick.name if chosen[0].yardstick else ""],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "command": shlex.join(["python", *sys.argv]),
    }
    write(rows, found, chosen, about, arguments)


if __name__ == "__main__":
    main()
