"""Schemas with instances, out of the corpora."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corpora
import rust_tests
from corpora import Corpus

from llm_kvsplit import files
from llm_kvsplit.paths import cache_dir

#: The suite's schemas of older drafts do not say which they are.
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
#: A minute to make.
MADE = 1000
VERSIONS = f"llguidance {version('llguidance')}, jsonschema {version('jsonschema')}"


@dataclass(frozen=True)
class Group:
    name: str
    schema: Any
    #: (instance, whether the corpus says that it is valid)
    instances: tuple[tuple[Any, bool], ...] = ()


def suite_groups(folder: Path, draft: str) -> Iterator[Group]:
    for file in sorted((folder / "tests" / draft).rglob("*.json")):
        for n, group in enumerate(json.loads(file.read_text(encoding="utf-8"))):
            schema = group["schema"]
            if isinstance(schema, dict) and "$schema" not in schema:
                schema = {"$schema": DRAFTS[draft], **schema}
            name = f"{file.relative_to(folder / 'tests')} {n}: {group['description']}"
            yield Group(name, schema, tuple((test["data"], test["valid"]) for test in group["tests"]))


def bench_groups(folder: Path) -> Iterator[Group]:
    for file in sorted((folder / "maskbench" / "data").glob("*.json")):
        group = json.loads(file.read_text(encoding="utf-8"))
        yield Group(file.stem, group["schema"], tuple((test["data"], test["valid"]) for test in group["tests"]))


def llguidance_groups(folder: Path) -> Iterator[Group]:
    """The schemas and instances of its Rust tests that stand there as JSON: ``json_schema_check(&S, &json!(…), true)``."""
    for file in sorted(folder.glob("test_*.rs")):
        for name, schema, instances in rust_tests.checks(file):
            yield Group(name, schema, tuple(instances))


def made_groups(n: int) -> list[Group]:
    """Schemas that hypothesis makes, each once: always the same, and kept, since they take a minute or two."""
    file = cache_dir() / "corpora" / f"hypothesis-{version('hypothesis')}-{version('hypothesis-jsonschema')}-{n}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(file, json.dumps(_made(n)))
    return [Group(json.dumps(schema, sort_keys=True), schema) for schema in json.loads(file.read_text())]


def _made(n: int) -> list[Any]:
    from hypothesis import HealthCheck, Phase, given, settings

    from tests.support.made_schemas import made_schemas

    made: dict[str, Any] = {}

    @settings(
        max_examples=n + n // 10,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    @given(made_schemas())
    def collect(schema: Any) -> None:
        if len(made) < n:
            made.setdefault(json.dumps(schema, sort_keys=True), schema)

    collect()
    return list(made.values())


def every(options: argparse.Namespace) -> Iterator[tuple[str, Corpus, list[Group]]]:
    """Every corpus, with the name under which its results are kept."""
    suite = corpora.suite(options.suite)
    for draft in DRAFTS:
        yield draft, suite, list(suite_groups(suite.folder, draft))
    bench = corpora.bench(options.bench, options.bench_url)
    yield "jsonschemabench", bench, list(bench_groups(bench.folder))
    own = corpora.llguidance()
    yield "llguidance", own, list(llguidance_groups(own.folder))
    yield "hypothesis", Corpus(Path(), f"hypothesis-jsonschema {version('hypothesis-jsonschema')}"), made_groups(MADE)
