"""Runs the list of edits through `fisec run` and says how good they are.

    python evaluate.py PLAN OUT [--limit N] [--kind K ...] [--part 1/4] [--steps 50] [--variant V ...] [--jobs 8]
    python evaluate.py PLAN OUT --chains [--limit N]
    python evaluate.py PLAN OUT --only-report --choices OUT2 --chained OUT3 --doc ../../docs/benchmarks/quality.md

Every edit is made in a folder of its own, OUT/edits/ID; what is there is not made again, so a run can be stopped,
continued, and split over machines whose folders are put together afterwards. Then OUT gets

    results.json                     every figure of every edit
    report.md                        tables
    contact.webp best.webp worst.webp   base, mask, edited, without sparsity, difference: two of every kind, five, five
    variants.webp                     one edit of every kind, by all variants

--only-report with the last four and no OUT/edits writes the report from them.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import shlex
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
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
    parser.add_argument("--jobs", type=int, default=1, help="images at a time")
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
    parser.add_argument(
        "--choices",
        type=Path,
        action="append",
        default=[],
        help="another folder, for a table of what each choice costs; may be repeated",
    )
    parser.add_argument("--machine", help="what the times were taken on, in words")
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


JUDGE = None  # of this process


def start_measuring(judge):
    global JUDGE
    JUDGE = Clip(judge, threads=1)


def measure_edit(row, path, chosen):
    results.measured(row, results.Folder(path), chosen, JUDGE)


def measure_chain(row, path):
    folder = results.Folder(path)
    folder.keep(results.measure_chain(row, folder, JUDGE))


async def run(rows, chosen, arguments):
    """Makes and measures all edits."""
    home = (arguments.home or arguments.output / "home").absolute()
    fisec = Fisec(str(arguments.fisec), plans(arguments, chosen), home, settings(arguments))
    about = {"settings": shlex.join(settings(arguments)), "fisec": await fisec.version(), "program": fisec.hash()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    same_settings(arguments.output / "settings.json", about)
    cores = workers.Cores(arguments.jobs, arguments.threads)
    log = partial(print, file=sys.stderr, flush=True)
    runner = Runner(fisec, chosen, cores, log, time.monotonic() + arguments.seconds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, start_measuring, (arguments.judge,)) as measuring:

        async def make(item):
            index, row = item
            folder = results.Folder(arguments.output / "edits" / row["id"])
            try:
                await (runner.run_chain(row, folder) if arguments.chains else runner.run(index, row, folder))
            except Late:
                log(f"{row['id']}: no time is left")
            work = (measure_chain, row, folder.path) if arguments.chains else (measure_edit, row, folder.path, chosen)
            async with cores.place():
                await asyncio.get_running_loop().run_in_executor(measuring, *work)

        await workers.each(make, selected(rows, arguments), arguments.jobs)
    shutil.rmtree(home, ignore_errors=True)


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
        "machine": arguments.machine or f"{os.cpu_count()} cores, {platform.machine()}",
        "jobs": arguments.jobs,
    }


def main():
    arguments = parse()
    chosen = [] if arguments.chains else variants.chosen(arguments.variant or variants.DEFAULT)
    name = "chains.json" if arguments.chains else "edits.json"
    rows = json.loads((arguments.edits or HERE / name).read_text())
    if not arguments.only_report:
        asyncio.run(run(rows, chosen, arguments))
    made_here = (arguments.output / "edits").is_dir()
    if arguments.chains:
        print(report.keep_chains(rows, arguments.output) if made_here else report.chains(arguments.output))
        return
    if made_here:
        found = made(rows, arguments.output, chosen, Clip(arguments.judge))
        if not found:
            raise SystemExit("no edit was made")
        report.keep(rows, found, chosen, about(found, chosen, arguments), arguments.output)
    print(report.write(rows, arguments.output, arguments.choices, arguments.chained, arguments.doc))


if __name__ == "__main__":
    main()
