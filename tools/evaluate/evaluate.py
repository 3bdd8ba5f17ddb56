"""Runs the list of edits through `fisec run` and says how good they are.

    python evaluate.py PLAN OUT [--limit N] [--kind K ...] [--part 1/4] [--steps 50] [--variant V ...] [--jobs 8]
    python evaluate.py PLAN OUT --chains [--limit N]
    python evaluate.py PLAN OUT --only-report --choices OUT2 --chained OUT3 --doc ../../docs/benchmarks/quality.md

Every edit is made in a folder of its own, OUT/edits/ID; what is there is not made again, so a run can be stopped,
continued, and split over machines whose folders are put together afterwards. Then OUT gets

    results.json                     every figure of every edit
    report.md                        tables
    contact.jpg best.jpg worst.jpg   base, mask, edited, without sparsity, difference
    variants.jpg                     one edit of every kind, by all variants

--only-report with the last four and no OUT/edits writes the report from them.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import report
import results
import variants
import workers
from clip import Clip
from fisec import Fisec
from runner import Late, Runner

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("output", type=Path)
    parser.add_argument("--plan", dest="plans", action="append", default=[], metavar="NAME=PLAN", help="for @NAME")
    parser.add_argument("--edits", type=Path, help="the list [edits.json, chains.json]")
    parser.add_argument("--chains", action="store_true", help="edits in a row: every one starts from the one before")
    parser.add_argument("--judge", type=Path, default=ROOT / "models/demo-judge", help="folder of a CLIP pair in ONNX")
    parser.add_argument("--fisec", default=ROOT / "target/release/fisec", help="the program")
    parser.add_argument("--home", type=Path, help="where images are remembered while they are needed [OUT/home]")
    parser.add_argument("--limit", type=int, help="only the first edits")
    parser.add_argument("--kind", action="append", help="only edits of this kind; may be repeated")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every Nth edit, from the Ith on")
    parser.add_argument("--jobs", type=int, default=1, help="edits at a time")
    parser.add_argument("--threads", type=int, default=2, help="cores of each, where several run")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing new afterwards")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--sampler")
    parser.add_argument(
        "--variant",
        action="append",
        help=f"{', '.join(variants.VARIANTS)}, or NAME=FLAGS of `fisec run`; NAME:N only for the list's first N edits; "
        f"may be repeated [{', '.join(variants.DEFAULT)}]; what has sparsity is also made without it",
    )
    parser.add_argument("--choices", type=Path, help="another folder, for the table of what each choice costs")
    parser.add_argument("--chained", type=Path, help="another folder, made with --chains")
    parser.add_argument("--only-report", action="store_true", help="make no images")
    parser.add_argument("--doc", type=Path, help="also write the report and its sheets here")
    return parser.parse_args(arguments)


def selected(rows, arguments):
    """(place in the whole list, edit) of those to make."""
    kinds = {row.get("kind") for row in rows}
    if unknown := set(arguments.kind or ()) - kinds:
        raise SystemExit(f"no edit is of kind {', '.join(unknown)}: {', '.join(sorted(kinds))}")
    rows = [(i, row) for i, row in enumerate(rows) if not arguments.kind or row["kind"] in arguments.kind]
    part, parts = (int(number) for number in arguments.part.split("/"))
    return rows[: arguments.limit][part - 1 :: parts]


def settings(arguments):
    flags = ["--steps", str(arguments.steps), "--guidance", str(arguments.guidance)]
    return flags + (["--sampler", arguments.sampler] if arguments.sampler else [])


def same_settings(path, now):
    """Images of different settings are never put together."""
    if path.exists() and (before := json.loads(path.read_text())) != now:
        raise SystemExit(f"{path.parent} was made with {before}, not {now}: take another folder")
    path.write_text(json.dumps(now, indent=1))


def plans(arguments, chosen):
    """{name: plan} of all that the variants need."""
    given = {"": arguments.plan, **dict(text.split("=", 1) for text in arguments.plans)}
    if missing := {variant.plan for variant in chosen} - set(given):
        raise SystemExit(f"give --plan for {', '.join(sorted(missing))}")
    return given


class Tools:
    """What one process makes and measures edits with."""

    def __init__(self, arguments, chosen, until, job):
        home = (arguments.home or arguments.output / "home").absolute() / str(job)
        fisec = Fisec(str(arguments.fisec), plans(arguments, chosen), home, settings(arguments))
        self.runner = Runner(fisec, chosen, lambda text: print(text, file=sys.stderr, flush=True), until)
        self.judge, self.chosen, self.output, self.home = Clip(arguments.judge), chosen, arguments.output, home
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that remembered images are removed


def make_edit(tools, item):
    index, row = item
    folder = results.Folder(tools.output / "edits" / row["id"])
    tools.runner.log(f"{row['id']}: {row['base']} -> {row['prompt']}")
    try:
        tools.runner.run(index, row, folder)
    except Late:
        tools.runner.log(f"  {row['id']}: no time is left")
    results.measured(row, folder, tools.chosen, tools.judge)


def make_chain(tools, item):
    _, row = item
    folder = results.Folder(tools.output / "edits" / row["id"])
    tools.runner.log(f"{row['id']}: {row['prompts'][0]}")
    try:
        tools.runner.run_chain(row, folder)
    except Late:
        tools.runner.log(f"  {row['id']}: no time is left")
    folder.keep(results.measure_chain(row, folder, tools.judge))


def run(rows, chosen, arguments):
    arguments.output.mkdir(parents=True, exist_ok=True)
    fisec = Fisec(str(arguments.fisec), {}, arguments.output, [])
    about = {"settings": shlex.join(settings(arguments)), "fisec": fisec.version(), "program": fisec.hash()}
    same_settings(arguments.output / "settings.json", about)
    prepare = partial(Tools, arguments, chosen, time.monotonic() + arguments.seconds)
    make = make_chain if arguments.chains else make_edit
    for _ in workers.each(make, selected(rows, arguments), arguments.jobs, arguments.threads, prepare):
        pass
    shutil.rmtree(arguments.home or arguments.output / "home", ignore_errors=True)


def made(rows, output, chosen, judge):
    """Figures of every edit that was run."""
    found = []
    for row in rows:
        if (path := output / "edits" / row["id"]).is_dir():
            if figures := results.measured(row, results.Folder(path), chosen, judge):
                kept = {name: row[name] for name in ("id", "kind", "base", "prompt", "seed")}
                found.append({**kept, "figures": figures})
    return found


def about(found, chosen, arguments):
    first = results.Folder(arguments.output / "edits" / found[0]["id"]).record("base")
    return json.loads((arguments.output / "settings.json").read_text()) | {
        "plan": first["plan"],
        "judge": arguments.judge.name,
        "variants": arguments.variant or list(variants.DEFAULT),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {arguments.jobs} edits at a time",
    }


def main():
    arguments = parse()
    chosen = [] if arguments.chains else variants.chosen(arguments.variant or variants.DEFAULT)
    name = "chains.json" if arguments.chains else "edits.json"
    rows = json.loads((arguments.edits or HERE / name).read_text())
    if not arguments.only_report:
        run(rows, chosen, arguments)
    if arguments.chains:
        print(report.write_chains(rows, arguments.output))
        return
    if (arguments.output / "edits").is_dir():
        found = made(rows, arguments.output, chosen, Clip(arguments.judge))
        if not found:
            raise SystemExit("no edit was made")
        report.keep(rows, found, chosen, about(found, chosen, arguments), arguments.output)
    print(report.write(rows, arguments.output, arguments.choices, arguments.chained, arguments.doc))


if __name__ == "__main__":
    main()
