"""Cores to work on: so many places, each with cores of its own."""

import asyncio
import contextlib
import os


class Cores:
    def __init__(self, jobs, threads):
        """`jobs` places of `threads` cores; a single place has all."""
        own = sorted(os.sched_getaffinity(0))
        self.free = asyncio.Queue()
        for job in range(jobs):
            cores = [own[(job * threads + i) % len(own)] for i in range(threads)]
            self.free.put_nowait(None if jobs == 1 else cores)

    @contextlib.asynccontextmanager
    async def place(self):
        """Waits for a place; first come, first served."""
        cores = await self.free.get()
        try:
            yield cores
        finally:
            self.free.put_nowait(cores)


async def each(work, items, at_a_time):
    """Awaits work(item) of every item, so many at a time, in order."""
    places = asyncio.Semaphore(at_a_time)

    async def one(item):
        async with places:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(one(item))
