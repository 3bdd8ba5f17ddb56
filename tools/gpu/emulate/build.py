"""Build the kernels' sources for the CPU, and a libcuda.so.1 that runs them: needs g++ and CUDA's headers, no GPU."""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
FLAGS = ["g++", "-std=c++17", "-O3", "-march=native", "-g1", "-fPIC", "-fno-strict-aliasing", "-fno-gnu-unique"]


def run(command, **more):
    return subprocess.run([str(part) for part in command], check=True, **more)


def prepared(source, include, toolkit):
    """The preprocessed source, parameters by reference so that any entry can be called with a pointer, and a list of its entries."""
    paths = ["-DFISEC_EMULATE", "-I", include, "-I", HERE, "-isystem", toolkit / "include"]
    text = run([*FLAGS, "-w", *paths, "-x", "c++", "-E", source], capture_output=True, text=True).stdout
    text = re.sub(r"const EMULATE_PARAMETER (\w+) p\b", r"const \1& p", text)
    rows = []

    def entry(match):
        bounds, name, parameters = match.groups()
        rows.append(
            f'{{"{name}", reinterpret_cast<void (*)(const void*)>({name}), sizeof({parameters}), emulate_first({bounds})}}'
        )
        return f"void {name}(const {parameters}& p)"

    text = re.sub(r"void\s+EMULATE_BOUNDS\s?\(((?:(?!EMULATE).)*?)\)\s+(\w+)\(const (\w+)& p\)", entry, text, flags=re.S)
    if "EMULATE_BOUNDS" in text or not rows:
        raise SystemExit(f"error: {source} has an entry in a form that emulate/build.py does not know")
    return text + f'\nextern "C" const EmulatedEntry emulated_entries[] = {{{", ".join(rows)}, {{}}}};\n'


def build_kernel(source, include, toolkit, out):
    with tempfile.TemporaryDirectory() as folder:
        host = pathlib.Path(folder) / "kernel.ii"
        host.write_text(prepared(source, include, toolkit))
        run([*FLAGS, "-w", "-fpreprocessed", "-shared", host, "-o", out / f"{source.parent.name}.so"])


def build_driver(toolkit, out):
    sources = sorted((HERE / "driver").glob("*.cpp"))
    run([*FLAGS, "-Wall", "-fvisibility=hidden", "-shared", "-isystem", toolkit / "include", *sources]
        + ["-ldl", "-lpthread", "-Wl,-soname,libcuda.so.1", "-o", out / "libcuda.so.1"])  # fmt: skip


def build(sources, include, toolkit, out):
    """<out>/NAME.so for every kernel and <out>/libcuda.so.1, which looks for entries in the files beside it."""
    out.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(build_kernel, s, include, toolkit, out) for s in sources]
        jobs.append(pool.submit(build_driver, toolkit, out))
        for job in jobs:
            job.result()
