"""Makes the images of an edit, and of a chain of edits."""

import asyncio
import contextlib
import time

import regions
from fisec import Failed


class Late(Exception):
    """No time is left."""


async def finished(*runs):
    """Results of all; what one raises is raised when the others are done too."""
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    if failures := [outcome for outcome in outcomes if isinstance(outcome, BaseException)]:
        raise failures[0]
    return outcomes


class Runner:
    def __init__(self, fisec, chosen, cores, log, until=float("inf")):
        """`until`: time.monotonic() after which nothing new is begun."""
        self.fisec, self.chosen, self.cores, self.log, self.until = fisec, chosen, cores, log, until

    async def run(self, index, row, folder):
        """Makes what is missing, variants of a base at once; what failed is written down and tried the next time."""
        missing = [v for v in self.chosen if v.covers(index) and not folder.done(v.name)]
        if "changed" in row:
            regions.save(regions.unpack(row["changed"]), folder.file("changed.png"))
        names = sorted({variant.plan for variant in missing})
        await finished(*(self.run_plan(row, folder, n, [v for v in missing if v.plan == n]) for n in names))

    async def run_plan(self, row, folder, plan, variants):
        async with self.remembered() as remember:
            name = f"base@{plan}" if plan else "base"
            base = remember(await self.attempt(folder, name, row["base"], row["seed"], ["--base", "none"], plan))
            if base is None:
                return
            runs = []
            for variant in variants:
                mask = ["--mask-out", folder.file(f"{variant.name}.mask.png")]
                flags = ["--base", base["id"], "--forget", *mask, *variant.arguments(folder.file("changed.png"))]
                runs.append(self.attempt(folder, variant.name, row["prompt"], row["seed"], flags, plan))
            await finished(*runs)

    async def run_chain(self, row, folder):
        """Every edit starts from the one before; beside it the same edit of the same image without sparsity."""
        count = len(row["prompts"]) - 1
        if all(folder.done(f"{kind}-{i}") for i in range(1, count + 1) for kind in ("edit", "dense")):
            return
        async with self.remembered() as remember:
            first = self.attempt(folder, "base", row["prompts"][0], row["seed"], ["--base", "none"])
            before = remember(await first)
            for i in range(1, count + 1):
                if before is None:
                    return
                base, mask = ["--base", before["id"]], ["--mask-out", folder.file(f"edit-{i}.mask.png")]
                said = (row["prompts"][i], row["seed"])
                dense = self.attempt(folder, f"dense-{i}", *said, [*base, "--dense", "--forget"])
                edit = self.attempt(folder, f"edit-{i}", *said, [*base, *mask])
                before = remember((await finished(edit, dense))[0])

    async def attempt(self, folder, name, prompt, seed, flags, plan=""):
        """Its record, or None when it failed."""
        async with self.cores.place() as cores:
            if time.monotonic() > self.until:
                raise Late
            try:
                record = await self.fisec.run(prompt, seed, folder.file(f"{name}.png"), flags, plan, cores)
                if "--forget" not in flags and record["id"] is None:
                    raise Failed(f"the image is not remembered: {record['said']}")
            except Failed as failure:
                self.log(f"{folder.path.name} {name}: {failure}")
                folder.write(name, {"error": str(failure)})
                return None
        folder.write(name, record)
        share = "" if record["mask_share"] is None else f", mask {100 * record['mask_share']:.1f} %"
        self.log(f"{folder.path.name} {name}: {record['outcome']}{share}, {record['seconds']['total']:.1f} s")
        return record

    @contextlib.asynccontextmanager
    async def remembered(self):
        """A function that is told of records, None too, and returns them; their images are removed in the end."""
        identities = {}

        def remember(record):
            identities.update({record["id"]: None} if record else {})
            return record

        try:
            yield remember
        finally:
            try:
                await self.fisec.forget(list(identities))
            except Failed as failure:
                self.log(str(failure))
