"""What a busy neighbour does to training, by how OpenMP's idle threads wait.

    python benchmarks/threads.py               # about three minutes

The digits U-Net (batch 64, two threads) takes training steps for some seconds, alone and beside another
process that keeps one core busy, for several settings of GOMP_SPINCOUNT. Writes threads.json and .md.
"""

import json
import os
import subprocess
import sys
import time

from common import RESULTS

SETTINGS = ["default", "0", "1000", "10000", "100000"]
SECONDS = 8
BUSY = "while True: pass"
STEPS = f"""
import time, torch
from scorelight.networks import UNet
torch.set_num_threads(2)
network = UNet((1, 8, 8), base_channels=32)
optimizer = torch.optim.Adam(network.parameters(), fused=True)
x, label = torch.randn(64, 1, 8, 8), torch.randn(64)
steps, start = -1, time.perf_counter()
while time.perf_counter() - start < {SECONDS} or steps < 1:
    if steps < 0: start = time.perf_counter()
    optimizer.zero_grad(); network(x, label).square().mean().backward(); optimizer.step(); steps += 1
print(1000 * (time.perf_counter() - start) / (steps + 1))
"""


def milliseconds(setting):
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    # 300,000 is what GNU OpenMP does by itself with no more threads than cores
    wait = {"GOMP_SPINCOUNT": "300000" if setting == "default" else setting}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=env | wait, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def beside_a_busy_process(setting):
    with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
        time.sleep(0.5)
        try:
            return milliseconds(setting)
        finally:
            busy.kill()


if __name__ == "__main__":
    rows = {s: {"alone": milliseconds(s), "beside": beside_a_busy_process(s)} for s in SETTINGS}
    best = min(r["alone"] for r in rows.values())
    lines = [
        "| GOMP_SPINCOUNT | ms per step alone | beside a busy process | slower than alone at best |",
        "| --- | --- | --- | --- |",
        *(
            f"| {s} | {r['alone']:.0f} | {r['beside']:.0f} | {r['beside'] / best:.1f}x |"
            for s, r in rows.items()
        ),
    ]
    (RESULTS / "threads.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "threads.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
