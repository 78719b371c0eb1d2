"""The benchmarks start, and their pages follow from their results."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tools" / "benchmarks"
EVIDENCE = ROOT / "docs" / "evidence"


@pytest.mark.parametrize("name", ["cpu", "sessions"])
def test_help_is_the_docstring(name):
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python tools/benchmarks/{name}.py" in done.stdout


@pytest.mark.parametrize("name", ["cpu", "sessions"])
def test_the_page_is_what_the_results_make(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    results = json.loads((EVIDENCE / f"{name}.json").read_text())
    assert import_module(name).markdown(results) == (EVIDENCE / f"{name}.md").read_text()


def test_the_arithmetic_of_a_stored_state_is_within_its_file(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    evidence = import_module("evidence")
    sizes = json.loads((EVIDENCE / "sessions.json").read_text())["sizes"]
    for pair, row in zip(evidence.PAIRS, sizes, strict=True):
        assert row["pair"] == str(pair)
        # 30 layers of 3 heads of 64: the benchmark's smaller model.
        assert evidence.cache_bytes(pair, row["tokens"], n_layer=30, n_head_kv=3, head_dim=64) == row["arithmetic"]
        assert 0 < row["file"] - row["arithmetic"] < 0.02 * row["arithmetic"]
