"""docs/scale.md shows what is in benchmarks/scale.json, and the benchmark runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARK = ROOT / "benchmarks/scale.py"
PAGE = ROOT / "docs/scale.md"


def benchmark(*args, **environment):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, BENCHMARK, *args], env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_the_tables_of_the_page_are_those_of_the_results():
    done = benchmark("--check")
    assert done.returncode == 0, done.stderr or "run python benchmarks/scale.py --docs"


def test_every_table_of_the_page_is_one_of_the_benchmark():
    blocks = re.findall(r"<!-- table: (.*?) -->\n(.*?)<!-- end -->", PAGE.read_text(), flags=re.S)
    report = (ROOT / "benchmarks/scale.md").read_text()
    assert len(blocks) == PAGE.read_text().count("<!-- end -->") > 10
    for name, table in blocks:
        assert table and f"{name}:\n\n{table}" in report, name


def test_what_the_page_assumes_is_what_was_computed_with():
    assumed = json.loads((ROOT / "benchmarks/scale.json").read_text())["assumed"]
    text = " ".join(PAGE.read_text().split())
    for stated in (
        f"computes {assumed['FLOP/s'] / 1e12:g} TFLOP/s",
        f"moves {assumed['memory_bytes/s'] / 1e12:g} TB/s",
        f"sends {assumed['bytes_per_second'] / 1e9:g} GB/s",
        f"a message takes {1e6 * assumed['latency']:g} µs",
    ):
        assert stated in text


@pytest.mark.slow
def test_the_benchmark_measures_and_writes_all_three_files(tmp_path):
    done = benchmark("--quick", BENCHMARK_RESULTS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "scale.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"scale.json", "scale.md", "scale.png"}
    one, many = result["noise"]
    assert many["ms"]["own"] < 3 * one["ms"]["own"], "each process draws its own numbers alone"
    assert many["ms"]["of all"] > 10 * one["ms"]["of all"]
    (steps,) = result["steps"]
    assert steps["ordinary"]["collectives"] == {"c10d::allreduce_": 2}, "the gradient, and whether to stop"
