"""Several processes, each on cores of its own."""

import multiprocessing
import os


def each(work, items, jobs, threads, prepare):
    """Yields work(prepare(job), item) of every item, in any order; `prepare` runs once in each process."""
    if jobs == 1:
        tools = prepare(0)
        yield from (work(tools, item) for item in items)
        return
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for job in range(jobs):
        free.put((job, cores[job * threads % len(cores) :][:threads]))
    with context.Pool(jobs, start, (free, prepare)) as pool:
        yield from pool.imap_unordered(Work(work), items)


TOOLS = None  # of this process


def start(free, prepare):
    global TOOLS
    job, cores = free.get()
    os.sched_setaffinity(0, cores)
    TOOLS = prepare(job)


class Work:
    """A function of (tools, item) as one of an item; pickled by name."""

    def __init__(self, work):
        self.work = work

    def __call__(self, item):
        return self.work(TOOLS, item)
