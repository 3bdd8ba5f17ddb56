"""`fisec` as a program: images with what its --json says of them."""

import asyncio
import hashlib
import json
import os
import time


class Failed(Exception):
    """What it wrote to stderr."""


class Fisec:
    def __init__(self, program, plans, home, settings):
        """`plans`: {name: folder}, the first one's name is ""; `settings`: flags of every run, such as steps."""
        self.program, self.plans, self.settings = program, plans, settings
        # images are removed when they are no longer needed, not when there are many
        self.environment = {**os.environ, "FISEC_HOME": str(home), "FISEC_CACHE_LIMIT": "1000G"}

    async def call(self, *arguments, cores=None):
        """(stdout, stderr) of a run on `cores`, by default wherever this process runs."""
        process = await asyncio.create_subprocess_exec(
            self.program,
            *map(str, arguments),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=lambda: cores and os.sched_setaffinity(0, cores),
        )
        try:
            stdout, stderr = (stream.decode() for stream in await process.communicate())
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        if process.returncode:
            raise Failed(stderr.strip())
        return stdout, stderr

    async def run(self, prompt, seed, output, flags, plan="", cores=None):
        """Writes the image; returns the record, with seconds of the whole process and what was said on stderr."""
        began = time.monotonic()
        arguments = ["--prompt", prompt, "--seed", seed, *self.settings, *flags, "-o", output, "--json"]
        stdout, stderr = await self.call("run", self.plans[plan], *arguments, cores=cores)
        return {**json.loads(stdout), "wall": time.monotonic() - began, "said": stderr.strip()}

    async def forget(self, identities):
        if identities:
            await self.call("sessions", "remove", *identities)

    async def version(self):
        return (await self.call("--version"))[0].strip()

    def hash(self):
        with open(self.program, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
