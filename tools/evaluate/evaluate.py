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
import signal
import sys
from pathlib import Path

import report
import results
import variants
from clip import Clip
from fisec import Fisec
from runner import Runner

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


def main():
    arguments = parse()
    rows, chosen = json.loads(arguments.edits.read_text()), variants.chosen(arguments.variant or variants.DEFAULT)
    about_path = arguments.output / "settings.json"
    if not arguments.only_report:
        run(rows, chosen, about_path, arguments)
    found = made(rows, arguments.output, chosen, Clip(arguments.judge))
    if not found:
        raise SystemExit("no edit was made")
    first = results.Folder(arguments.output / "edits" / found[0]["id"]).record("base")
    about = json.loads(about_path.read_text()) | {
        "plan": first["plan"],
        "judge": arguments.judge.name,
        "first": [chosen[0].name, chosen[0].yardstick.name if chosen[0].yardstick else ""],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    others = report.beside(arguments.beside, found)
    report.write(rows, found, chosen, about, arguments.output, others, arguments.doc)


def run(rows, chosen, about_path, arguments):
    arguments.output.mkdir(parents=True, exist_ok=True)
    home = (arguments.home or arguments.output / "home").absolute()
    fisec = Fisec(str(arguments.fisec), arguments.plan, home, settings(arguments))
    about = {"settings": shlex.join(settings(arguments)), "fisec": fisec.version(), "program": fisec.hash()}
    same_settings(about_path, about)
    runner = Runner(fisec, chosen, lambda text: print(text, file=sys.stderr, flush=True))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that remembered images are removed
    todo = selected(rows, arguments)
    for i, row in enumerate(todo):
        runner.log(f"{i + 1}/{len(todo)} {row['id']}: {row['base']} -> {row['prompt']}")
        runner.run(row, results.Folder(arguments.output / "edits" / row["id"]))


if __name__ == "__main__":
    main()
