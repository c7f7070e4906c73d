"""Whether runs are reliable: what is tried on them, and how often the result is wrong.

    python benchmarks/reliability.py                        # an hour and a half on two cores
    python benchmarks/reliability.py --only disk payloads   # these parts; the others stay as they were
    python benchmarks/reliability.py --quick                # a few of each; writes nothing

* kills: a run is started, killed at a random moment (SIGKILL, SIGTERM or Ctrl-C; of two processes also one
  alone), and resumed by the same command, until it ends. Everything it writes is compared with an
  uninterrupted run: checkpoints (weights, average, optimizer, schedule, data, callbacks), every logged
  number, every picture, bit for bit.
* damage: truncated and bit-flipped checkpoints, a fourth of them near the end.
* payloads: checkpoints with a pickle that would run code, given to every command that reads one.
* descriptions: checkpoints and configurations that name functions and classes which may not be built, in many
  ways of writing; imports, processes, connections and writes are recorded.
* disk: runs on file systems that are too small or become read-only, and that resume when the cause is gone.
  Needs the right to mount one.
* ranks: the same global batches on one, two and three processes.
* runs: commands started at once under several loggers, run folders that vanish, environment variables of
  launchers, signals to every command, and options of the trainer that are out of range.
* labels: numbers of classes that contradict the data, labels that are no classes, in data and by hand.
* images: folders and archives whose names, labels, files and sizes are odd in every way.
* configurations, command_lines, data: generated mistakes (tests/support/mutations.py) in every shipped
  configuration, in command lines and in images.
* numbers: networks and samples that are NaN or infinite under every sampler, caches that are damaged or
  exchanged, classes of one name, several evaluations and several `sample` commands at once, some of them
  killed, corrupted dequantizer files.

Except with several ranks, each process is forked from one that has loaded everything, so that kills hit
training and not its imports. Writes reliability.json and .md beside this file.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from attacks.descriptions import descriptions
from attacks.disks import disk
from attacks.files import corruption, payloads
from attacks.images import images
from attacks.kills import kills
from attacks.labels import labels
from attacks.mistakes import command_lines, configurations, data
from attacks.numbers import numbers
from attacks.processes import import_everything
from attacks.ranks import ranks
from attacks.runs import runs
from common import RESULTS, commit

PARTS = {
    "kills": kills,
    "damage": corruption,
    "payloads": payloads,
    "descriptions": descriptions,
    "disk": disk,
    "ranks": ranks,
    "runs": runs,
    "labels": labels,
    "images": images,
    "configurations": configurations,
    "command_lines": command_lines,
    "data": data,
    "numbers": numbers,
}


def report(parts):
    lines = ["| what was tried | how often | wrong | |", "| --- | --- | --- | --- |"]
    for part in parts.values():
        lines += [
            f"| {r['what']} | {r['cases']:,} | {len(r['wrong'])} | {r['notes']} |" for r in part["rows"]
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="the parts to run")
    parser.add_argument("--quick", action="store_true", help="a few of each; prints, and writes nothing")
    options = parser.parse_args()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # "out of order event.step" after a resume
    torch.set_num_threads(1)
    import_everything()
    file, results = RESULTS / "reliability.json", {}
    for name in options.only:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            rows = [*PARTS[name](options.quick, Path(place), random.Random(0))]
        seconds = round(time.perf_counter() - begin)
        about = {"commit": commit(), "seed": 0, "seconds": seconds, "torch": torch.__version__}
        results[name] = about | {"rows": rows}
        if not options.quick:
            kept = json.loads(file.read_text()) if file.exists() else {}
            parts = {part: (kept | results)[part] for part in PARTS if part in kept | results}
            file.write_text(json.dumps(parts, indent=1) + "\n")
            file.with_suffix(".md").write_text(report(parts))
    print(report(results))
    sys.exit(any(r["wrong"] for part in results.values() for r in part["rows"]))
