#!/usr/bin/env python3
"""Compile every kernel in kernels/cuda ahead of time: no GPU and no CUDA toolkit needed.

    tools/gpu/compile.py [-o target/cubins] [--arch 80 90a 100a] [--only NAME ...] [--emulate]

Writes <out>/<kernel>.sm_<arch>.cubin, <out>/report.json (registers, spills, shared memory per entry) and, when all kernels are compiled, <out>/sources: a
checksum of the sources, by which `fisec compile` sees that they are its own.
Fails on spills and on warpgroup products that the assembler serialises. nvcc comes from NVIDIA's wheels on PyPI, pinned below,
unpacked into .runtime/cuda (or the folder in FISEC_NVCC_HOME). --emulate also builds, with the host compiler,
<out>/emulated: the same sources for the CPU and a libcuda.so.1 that runs them; `--arch` without a value builds nothing else.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import pathlib
import re
import subprocess
import sys
import zlib
import tempfile
import zipfile

from emulate import build as emulate

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels" / "cuda"
WHEELS = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
]
ARCHS = ["80", "90a", "100a"]


def toolkit():
    """Folder that holds bin/nvcc, fetched if it is not there yet."""
    if os.environ.get("FISEC_NVCC_HOME"):
        return pathlib.Path(os.environ["FISEC_NVCC_HOME"])
    home = ROOT / ".runtime" / "cuda" / "nvidia" / "cu13"
    if (home / "complete").exists():
        return home
    unpacked = home.parents[1]
    unpacked.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=unpacked) as wheels:
        print("fetching nvcc from PyPI (105 MB)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, *WHEELS], check=True)
        for wheel in glob.glob(wheels + "/*.whl"):
            zipfile.ZipFile(wheel).extractall(unpacked)
    for tool in [*(home / "bin").iterdir(), *(home / "nvvm" / "bin").iterdir()]:
        if tool.is_file():
            tool.chmod(0o755)  # zip archives carry no permissions
    (home / "complete").touch()
    return home


def targets(source):
    """Architectures a kernel is for: `// only: sm_90a` in its first line, else all."""
    first = source.read_text().partition("\n")[0]
    return re.findall(r"sm_(\w+)", first) if first.startswith("// only:") else ARCHS


def entries(log):
    """ptxas -v output -> {entry: {registers, spill_stores, spill_loads, stack, shared}}"""
    found, name = {}, None
    for line in log.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            name = m[1]
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            found[name] = dict(stack=int(m[1]), spill_stores=int(m[2]), spill_loads=int(m[3]))
        elif m := re.search(r"Used (\d+) registers", line):
            found[name]["registers"] = int(m[1])
            shared = re.search(r"(\d+) bytes smem", line)
            found[name]["shared"] = int(shared[1]) if shared else 0
    return found


def checksum():
    """CRC-32 of all sources in the order of their names, each as name, zero, content, zero: as in kernels/build.rs."""
    sources = sorted((s.relative_to(KERNELS).as_posix(), s) for ending in ("cu", "cuh") for s in KERNELS.rglob(f"*.{ending}"))
    crc = 0
    for name, source in sources:
        crc = zlib.crc32(name.encode() + b"\0" + source.read_bytes() + b"\0", crc)
    return f"{crc:08x}"


def compile_one(home, source, arch, out):
    name = source.parent.name
    cubin = out / f"{name}.sm_{arch}.cubin"
    run = subprocess.run(
        [
            home / "bin" / "nvcc",
            "-std=c++17",
            "-O3",
            "-cubin",
            f"-gencode=arch=compute_{arch},code=sm_{arch}",
            "-Xptxas",
            "-v",
            "-I",
            KERNELS / "include",
            source,
            "-o",
            cubin,
        ],
        capture_output=True,
        text=True,
    )
    return cubin.name, run.returncode, run.stderr, entries(run.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=pathlib.Path, default=ROOT / "target" / "cubins")
    parser.add_argument("--arch", nargs="*", default=ARCHS)
    parser.add_argument("--only", nargs="+", help="names of kernel folders")
    parser.add_argument("--emulate", action="store_true")
    args = parser.parse_args()
    home = toolkit()
    args.out.mkdir(parents=True, exist_ok=True)
    sources = sorted(s for s in KERNELS.glob("*/kernel.cu") if not args.only or s.parent.name in args.only)
    if not sources:
        sys.exit(f"error: no kernels named {args.only} in {KERNELS}")

    known = args.out / "sources"
    if not args.only and not (known.is_file() and known.read_text() == checksum()):
        for old in args.out.glob("*.cubin"):  # of other sources, or nobody knows of which
            old.unlink()

    jobs = [(s, a) for s in sources for a in args.arch if a in targets(s)]
    report, failed = {}, False
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for cubin, status, log, found in pool.map(lambda job: compile_one(home, *job, args.out), jobs):
            report[cubin] = found
            spills = {k: v for k, v in found.items() if v["spill_stores"] or v["spill_loads"] or v["stack"]}
            slow = [line for line in log.splitlines() if "(C75" in line]  # the assembler waits for products too early
            for line in slow:
                print(f"error: {cubin}: {line}", file=sys.stderr)
            if status or "error" in log:
                print(f"error: {cubin} does not compile\n{log}", file=sys.stderr)
            for entry, use in spills.items():
                print(f"error: {entry} in {cubin} spills: {use}", file=sys.stderr)
            failed |= bool(status or spills or slow)
            print(f"{cubin}: " + ", ".join(f"{k} {v['registers']}r" for k, v in found.items()))
    (args.out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True))
    if not args.only and not failed:
        (args.out / "sources").write_text(checksum())
    if args.emulate:
        emulate.build(sources, KERNELS / "include", home, args.out / "emulated")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
