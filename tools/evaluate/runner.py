"""Makes the images of an edit, and of a chain of edits."""

import time

import regions
from fisec import Failed


class Late(Exception):
    """No time is left."""


class Runner:
    def __init__(self, fisec, chosen, log, until=float("inf")):
        """`until`: time.monotonic() after which nothing new is begun."""
        self.fisec, self.chosen, self.log, self.until = fisec, chosen, log, until

    def run(self, index, row, folder):
        """Makes what is missing; a failure is written down and tried again the next time."""
        missing = [v for v in self.chosen if v.covers(index) and not folder.done(v.name)]
        changed = folder.file("changed.png")
        if "changed" in row:
            regions.save(regions.unpack(row["changed"]), changed)
        for plan in sorted({variant.plan for variant in missing}):
            with Remembered(self.fisec, self.log) as remembered:
                name = f"base@{plan}" if plan else "base"
                base = remembered.add(self.attempt(folder, name, row["base"], row["seed"], ["--base", "none"], plan))
                if base is None:
                    continue
                for variant in (v for v in missing if v.plan == plan):
                    mask = ["--mask-out", folder.file(f"{variant.name}.mask.png")]
                    flags = ["--base", base["id"], "--forget", *mask, *variant.arguments(changed)]
                    self.attempt(folder, variant.name, row["prompt"], row["seed"], flags, plan)

    def run_chain(self, row, folder):
        """Every edit starts from the one before; beside it the same edit of the same image without sparsity."""
        count = len(row["prompts"]) - 1
        if all(folder.done(f"{kind}-{i}") for i in range(1, count + 1) for kind in ("edit", "dense")):
            return
        with Remembered(self.fisec, self.log) as remembered:
            first = self.attempt(folder, "base", row["prompts"][0], row["seed"], ["--base", "none"])
            before = remembered.add(first)
            for i in range(1, count + 1):
                if before is None:
                    return
                flags = ["--base", before["id"], "--mask-out", folder.file(f"edit-{i}.mask.png")]
                prompt, seed = row["prompts"][i], row["seed"]
                self.attempt(folder, f"dense-{i}", prompt, seed, [*flags[:2], "--dense", "--forget"])
                before = remembered.add(self.attempt(folder, f"edit-{i}", prompt, seed, flags))

    def attempt(self, folder, name, prompt, seed, flags, plan=""):
        """Its record, or None when it failed."""
        if time.monotonic() > self.until:
            raise Late
        try:
            record = self.fisec.run(prompt, seed, folder.file(f"{name}.png"), flags, plan)
            if "--forget" not in flags and record["id"] is None:
                raise Failed(f"the image is not remembered: {record['said']}")
        except Failed as failure:
            self.log(f"  {name}: {failure}")
            folder.write(name, {"error": str(failure)})
            return None
        folder.write(name, record)
        share = "" if record["mask_share"] is None else f", mask {100 * record['mask_share']:.1f} %"
        self.log(f"  {name}: {record['outcome']}{share}, {record['seconds']['total']:.1f} s")
        return record


class Remembered:
    """Images that are removed in the end."""

    def __init__(self, fisec, log):
        self.fisec, self.log, self.identities = fisec, log, []

    def __enter__(self):
        return self

    def add(self, record):
        """The record, its image to be removed; None stays None."""
        if record and record["id"] not in self.identities:
            self.identities.append(record["id"])
        return record

    def __exit__(self, *_):
        try:
            self.fisec.forget(self.identities)
        except Failed as failure:
            self.log(f"  {failure}")
