"""`fisec` as a program: images with what its --json says of them."""

import hashlib
import json
import os
import subprocess
import time


class Failed(Exception):
    """What it wrote to stderr."""


class Fisec:
    def __init__(self, program, plans, home, settings):
        """`plans`: {name: folder}, the first one's name is ""; `settings`: flags of every run, such as steps."""
        self.program, self.plans, self.settings = program, plans, settings
        self.environment = {**os.environ, "FISEC_HOME": str(home)}

    def call(self, *arguments):
        done = subprocess.run(
            [self.program, *map(str, arguments)], env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise Failed(done.stderr.strip())
        return done.stdout, done.stderr

    def run(self, prompt, seed, output, flags, plan=""):
        """Writes the image; returns the record, with seconds of the whole process and what was said on stderr."""
        began = time.monotonic()
        arguments = ["--prompt", prompt, "--seed", seed, *self.settings, *flags, "-o", output, "--json"]
        stdout, stderr = self.call("run", self.plans[plan], *arguments)
        return {**json.loads(stdout), "wall": time.monotonic() - began, "said": stderr.strip()}

    def forget(self, identities):
        if identities:
            self.call("sessions", "remove", *identities)

    def version(self):
        return self.call("--version")[0].strip()

    def hash(self):
        with open(self.program, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
