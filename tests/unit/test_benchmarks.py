"""The benchmarks start, and their pages follow from their results."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.support import pieces

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tools" / "benchmarks"
EVIDENCE = ROOT / "docs" / "evidence"


#: The module that makes each page.
PAGES = {
    "chat": "chat_page",
    **{name: name for name in ("cpu", "depths", "rivals", "rpc", "serve", "sessions")},
}


@pytest.mark.parametrize("name", [*PAGES, "tune"])
def test_help_is_the_docstring(name):
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python tools/benchmarks/{name}.py" in done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_results_make(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    results = json.loads((EVIDENCE / f"{name}.json").read_text())
    assert import_module(PAGES[name]).markdown(results) == (EVIDENCE / f"{name}.md").read_text()


@pytest.mark.parametrize("file", sorted((EVIDENCE / "tune").glob("*.json")), ids=lambda file: file.stem)
def test_the_page_of_maps_is_what_the_results_make(file, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    assert import_module("tune").markdown(json.loads(file.read_text())) == file.with_suffix(".md").read_text()


def test_the_arithmetic_of_a_stored_state_is_within_its_file(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    evidence = import_module("evidence")
    sizes = json.loads((EVIDENCE / "sessions.json").read_text())["sizes"]
    for pair, row in zip(evidence.PAIRS, sizes, strict=True):
        assert row["pair"] == str(pair)
        # 30 layers of 3 heads of 64: the benchmark's smaller model.
        assert evidence.cache_bytes(pair, row["tokens"], n_layer=30, n_head_kv=3, head_dim=64) == row["arithmetic"]
        assert 0 < row["file"] - row["arithmetic"] < 0.02 * row["arithmetic"]


@pytest.fixture
def work(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path))
    module = import_module("work")

    def results(*names, seconds=60):
        kept = {"seconds": seconds, "versions": "1", "sources": ["tests/support/pieces.py"]}
        return list(module.results("test", [(name, name) for name in names], pieces.work, **kept))

    return results


def test_a_piece_that_hangs_or_dies_is_a_result(work):
    first, died, hung, last = work("a", "dies", "hangs", "b", seconds=3)
    assert (died, hung) == ({"died": 7}, {"hung": 3})
    assert set(first) == set(last) == {"process"}


def test_what_is_finished_is_not_done_again(work, tmp_path):
    before = work("a", "b")
    (file,) = tmp_path.rglob("*.jsonl")
    file.write_text(file.read_text() + '["c", {"proc')  # as a kill leaves it
    after = work("a", "b", "c")
    assert after[:2] == before and set(after[2]) == {"process"}
    assert after[2] not in before


def test_llguidances_tests_are_read(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    file = tmp_path / "test_json.rs"
    file.write_text(
        """
lazy_static! { static ref S: Value = json!({"type": "string", "pattern": r"^\\d$",}); }
#[rstest]
#[case::one(&json!("1"))]
#[case::word(&json!("\\u{e9}, ) \\"x\\""))]
fn strings(#[case] value: &Value) { json_schema_check(&S, value, true); }
#[test]
fn others() {
    let schema = &json!({"const": null}); // a comment, with (
    json_schema_check(schema, &json!([1, {"a": {}}]), false);
    json_schema_check(schema, &made_by_a_function(), false);
    json_test_many(&json!(true), &[json!(1), json!("x")], &[json!({})]);
}
"""
    )
    assert [(schema, instances) for _, schema, instances in import_module("rust_tests").checks(file)] == [
        ({"type": "string", "pattern": "^\\d$"}, [("1", True)]),
        ({"type": "string", "pattern": "^\\d$"}, [('é, ) "x"', True)]),
        ({"const": None}, [([1, {"a": {}}], False)]),
        (True, [(1, True), ("x", True), ({}, False)]),
    ]


def test_instances_are_counted_by_what_an_answer_may_be(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    schemas, groups = import_module("schemas"), import_module("groups")
    schema = {"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}
    instances = (({"b": 1, "a": 2.0}, True), ({"a": "x"}, False), ({"a": 1}, False), ({"a": "y"}, True))
    outcome = schemas.examine(groups.Group("g", schema, instances))
    assert outcome["instances"] == {
        "valid, accepted": 1,
        "invalid, refused": 1,
        "invalid, accepted": 1,
        "valid, refused": 1,
    }
    assert (outcome["wrong"], outcome["disputed"], outcome["missed"]) == ([], ['{"a": 1}'], ['{"a": "y"}'])
    assert "uniqueItems" in schemas.examine(groups.Group("g", {"uniqueItems": True}))["refused"]


def test_a_wrong_answer_is_a_fault(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    answers = import_module("answers")
    assert answers.fault({"multipleOf": 0.0001, "type": "number"}, "1.6091") is None
    assert "does not match" in answers.fault({"pattern": "^a"}, '"b"')
    assert "no JSON" in answers.fault({}, "{")
    assert "is not a 'date'" in answers.fault({"format": "date"}, '"2023-02-30"')
