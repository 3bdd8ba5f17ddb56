"""Makes the images of an edit."""

import numpy as np

import regions
from fisec import Failed


class Runner:
    def __init__(self, fisec, chosen, log):
        self.fisec, self.chosen, self.log = fisec, chosen, log

    def run(self, row, folder):
        """Makes what is missing; a failure is written down and tried again the next time."""
        missing = [variant for variant in self.chosen if not folder.done(variant.name)]
        if not missing and folder.done("base"):
            return
        changed = folder.file("changed.png")
        if "changed" in row:
            regions.save(regions.unpack(row["changed"]), changed)
        remembered = []
        try:
            base = self.attempt(folder, "base", row["base"], row["seed"], ["--base", "none"])
            if base is None:
                return
            remembered.append(base["id"])
            for variant in missing:
                flags = (["--base", base["id"]] if variant.edits else []) + variant.arguments(changed)
                record = self.attempt(folder, variant.name, row["prompt"], row["seed"], flags, base["id"])
                if record and record["id"] not in (None, *remembered):
                    remembered.append(record["id"])
        finally:
            self.forget(remembered)

    def attempt(self, folder, name, prompt, seed, flags, base=None):
        """Its record, or None when it failed."""
        try:
            record = self.fisec.run(prompt, seed, folder.file(f"{name}.png"), flags)
            if name == "base" and record["id"] is None:
                raise Failed(f"the base image is not remembered: {record['said']}")
            self.keep_mask(folder, name, record, base)
        except Failed as failure:
            self.log(f"  {name}: {failure}")
            folder.write(name, {"error": str(failure)})
            return None
        folder.write(name, record)
        share = "" if record["mask_share"] is None else f", mask {100 * record['mask_share']:.1f} %"
        self.log(f"  {name}: {record['outcome']}{share}, {record['seconds']['total']:.1f} s")
        return record

    def forget(self, identities):
        try:
            self.fisec.forget(identities)
        except Failed as failure:
            self.log(f"  {failure}")

    def keep_mask(self, folder, name, record, base):
        path = folder.file(f"{name}.mask.png")
        if record["outcome"] in ("unchanged", "empty mask"):
            regions.save(np.zeros((regions.CELLS, regions.CELLS)), path)
        elif base and record["base"] == base and record["id"]:
            self.fisec.mask(record["id"], path)
