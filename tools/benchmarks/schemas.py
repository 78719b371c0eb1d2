#!/usr/bin/env python
"""Schemas of others against the plugin: which compile, what is accepted, what is answered, and how fast.

The corpora are those of json-schema-org (the JSON-Schema-Test-Suite, with instances that are valid and that are not) and
of guidance-ai (JSONSchemaBench, with some for each of 11,000 schemas). They are cloned into the cache, or given.

    python tools/benchmarks/schemas.py --out docs/evidence                          # half an hour on 2 quiet cores
    python tools/benchmarks/schemas.py --suite FOLDER --bench FOLDER --every 20     # clones that are there; 1 of 20
    python tools/benchmarks/schemas.py --answers 0 --no-speed                       # no model is run
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import llm
from llguidance import LLMatcher, LLTokenizer

from llm_kvsplit import demo, grammar, registry, schemas
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.paths import cache_dir

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.ggufs import write_llama

GITHUB = "https://github.com/{}.git"
SUITE, BENCH = "json-schema-org/JSON-Schema-Test-Suite", "guidance-ai/jsonschemabench"
#: The suite's schemas of older drafts do not say which they are.
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
#: Orders of keys in which an instance is tried, since a grammar has one.
ORDERS = 24
BYTES = LLTokenizer("byte")
#: No model ends this early.
LONG = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


@dataclass
class Tally:
    """One corpus."""

    schemas: int = 0
    compiled: int = 0
    refused: int = 0
    #: Answered with anything but a sentence of ours.
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0
    instances: Counter = field(default_factory=Counter)
    #: Instances that are invalid, and accepted.
    wrong: list[str] = field(default_factory=list)
    reasons: Counter = field(default_factory=Counter)
    #: What compiled.
    usable: list[Any] = field(default_factory=list)


def corpus(given: str | None, repository: str) -> Path:
    if given:
        return Path(given)
    folder = cache_dir() / "corpora" / repository.replace("/", "+")
    if not folder.exists():
        subprocess.run(["git", "clone", "-q", "--depth", "1", GITHUB.format(repository), str(folder)], check=True)
    return folder


def suite_groups(folder: Path, draft: str) -> Iterator[tuple[str, Any, list[dict]]]:
    for file in sorted((folder / "tests" / draft).rglob("*.json")):
        for group in json.loads(file.read_text(encoding="utf-8")):
            schema = group["schema"]
            if isinstance(schema, dict) and "$schema" not in schema:
                schema = {"$schema": DRAFTS[draft], **schema}
            yield f"{file.stem}: {group['description']}", schema, group["tests"]


def bench_groups(folder: Path, every: int) -> Iterator[tuple[str, Any, list[dict]]]:
    for file in sorted((folder / "maskbench" / "data").glob("*.json"))[::every]:
        group = json.loads(file.read_text(encoding="utf-8"))
        if "schema" in group:
            yield file.stem, group["schema"], group.get("tests", [])


def orders(value: Any) -> Iterator[Any]:
    """The same value with its keys in other orders."""
    if isinstance(value, dict):
        inner = {key: list(itertools.islice(orders(each), 3)) for key, each in value.items()}
        for keys in itertools.permutations(value):
            for each in itertools.islice(itertools.product(*(inner[key] for key in keys)), 3):
                yield dict(zip(keys, each))
    elif isinstance(value, list):
        for each in itertools.product(*(list(itertools.islice(orders(item), 3)) for item in value)):
            yield list(each)
    else:
        yield value


def accepted(form: grammar.Grammar, matcher: LLMatcher, instance: Any) -> bool:
    """Whether an answer may be this: by the grammar, and by the check after it where there is one."""
    for order in itertools.islice(orders(instance), ORDERS):
        text = json.dumps(order, ensure_ascii=False)
        tokens = list(text.encode("utf-8", "surrogatepass"))
        matcher.reset()
        if matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting() and not matcher.is_error():
            return not form.approximated or schemas._fault(form.schema, text) is None
    return False


def hold(groups: Iterator[tuple[str, Any, list[dict]]]) -> Tally:
    tally = Tally()
    for name, schema, tests in groups:
        tally.schemas += 1
        began = time.perf_counter()
        try:
            form = schemas.grammar(schema)
        except KvsplitError as refusal:
            tally.refused += 1
            tally.reasons[str(refusal).partition(" (at ")[0]] += 1
            continue
        except Exception as error:
            tally.failed.append(f"{name}: {error!r}")
            continue
        finally:
            tally.slowest = max(tally.slowest, time.perf_counter() - began)
        tally.compiled += 1
        tally.usable.append(schema)
        matcher = grammar.matcher(BYTES, form.text)
        for test in tests:
            taken = accepted(form, matcher, test["data"])
            tally.instances[test["valid"], taken] += 1
            if taken and not test["valid"]:
                tally.wrong.append(f"{name}: {test.get('description', '')}: {json.dumps(test['data'])[:100]}")
    return tally


def answers(name: str, usable: list[Any], n: int, max_tokens: int) -> Counter:
    """Ask the model for answers in the form of the schemas, and validate each that ended."""
    model, counts = llm.get_model(name), Counter()
    for i in range(n):
        schema = usable[i * len(usable) // n]
        if not isinstance(schema, dict):
            continue
        try:
            response = model.prompt("An example:\n", schema=schema, seed=i, max_tokens=max_tokens, stream=False)
            text = response.text()
        except KvsplitError as refusal:
            counts[f"refused: {str(refusal).partition(':')[0]}"] += 1
            continue
        if response.response_json["cut"]:
            counts["cut"] += 1
            continue
        counts["finished"] += 1
        fault = checked(schema, text)
        counts["valid" if fault is None else f"INVALID: {fault}"] += 1
    return counts


def checked(schema: Any, text: str) -> str | None:
    """What jsonschema finds, with formats; patterns that Python cannot read are left out."""
    Validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        # In binary fractions, 1.6091 is no multiple of 0.0001.
        schema, instance = (json.loads(each, parse_float=Decimal) for each in (json.dumps(schema), text))
        error = jsonschema.exceptions.best_match(
            Validator(schema, format_checker=Validator.FORMAT_CHECKER).iter_errors(instance)
        )
    except ValueError as error:
        return f"no JSON: {error}"
    except Exception as error:
        return None if type(error).__module__ in ("re", "re._constants") else repr(error)[:100]
    return error and f"{error.message[:100]} {error.json_path}"


def speeds(name: str, runs: int, n_tokens: int) -> tuple[float, float]:
    """Tokens/s without and with a schema, in turns; the medians."""
    model = llm.get_model(name)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for run in range(runs + 1):
        for schema in (None, LONG):
            response = model.prompt("People:\n", schema=schema, seed=run, max_tokens=n_tokens, stream=False)
            response.text()
            logged = response.response_json
            if run:  # the first loads the model
                seconds[schema is not None].append(logged["completion_tokens"] / logged["completion_seconds"])
    return statistics.median(seconds[False]), statistics.median(seconds[True])


def table(tallies: dict[str, Tally]) -> list[str]:
    rows = [
        "| Corpus | Schemas | Compiled | Refused by name | Failed | Slowest | Valid: accepted | Invalid: accepted |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, t in tallies.items():
        valid, invalid = (t.instances[v, True] + t.instances[v, False] for v in (True, False))
        rows.append(
            f"| {name} | {t.schemas} | {t.compiled} | {t.refused} | {len(t.failed)} | {t.slowest:.1f} s "
            f"| {t.instances[True, True]} of {valid} | {t.instances[False, True]} of {invalid} |"
        )
    return rows


def large_vocabulary(folder: Path) -> Path:
    """A model of random weights with as many tokens as Gemma's."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = itertools.islice((f"Ġ{''.join(word)}" for word in itertools.product(letters, repeat=4)), 262_144 - 257)
    return write_llama(folder / "262144.gguf", n_embd=256, n_head=4, n_head_kv=4, n_ctx=2048, words=tuple(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", help="a clone of the JSON-Schema-Test-Suite")
    parser.add_argument("--bench", help="a clone of jsonschemabench")
    parser.add_argument("--every", type=int, default=1, help="take one of so many of jsonschemabench's schemas")
    parser.add_argument("--answers", type=int, default=1000, help="answers to ask for (default 1000)")
    parser.add_argument("--max-tokens", type=int, default=400, help="tokens of an answer at most (default 400)")
    parser.add_argument(
        "--model", type=Path, default=demo.MODEL, help="a GGUF file to answer (default: the bundled one)"
    )
    parser.add_argument("--no-speed", action="store_true", help="measure no speed")
    parser.add_argument("--out", type=Path, help="folder for schemas.md")
    options = parser.parse_args()
    lines = [f"llguidance {version('llguidance')}, jsonschema {version('jsonschema')}", ""]
    tallies = {f"Test Suite, {draft}": hold(suite_groups(corpus(options.suite, SUITE), draft)) for draft in DRAFTS}
    tallies["JSONSchemaBench"] = hold(bench_groups(corpus(options.bench, BENCH), options.every))
    lines += table(tallies)
    for name, tally in tallies.items():
        lines += ["", f"{name}: refused for"] + [f"- {n} × {reason}" for reason, n in tally.reasons.most_common(12)]
        lines += [f"- FAILED {each}" for each in tally.failed] + [f"- WRONG {each}" for each in tally.wrong]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder
        registry.add(registry.Entry("answering", options.model))
        if options.answers:
            usable = [schema for tally in tallies.values() for schema in tally.usable]
            counts = answers("answering", usable, options.answers, options.max_tokens)
            lines += ["", f"Answers of {options.model.name}:"] + [f"- {n} {what}" for what, n in counts.most_common()]
        if not options.no_speed:
            registry.add(registry.Entry("large", large_vocabulary(Path(folder))))
            lines += ["", "| Vocabulary | tokens/s | with a schema | share |", "| --- | --: | --: | --: |"]
            for title, name in (("of the answering model", "answering"), ("of 262,144 tokens", "large")):
                free, held = speeds(name, 5, 200)
                lines.append(f"| {title} | {free:.1f} | {held:.1f} | {held / free:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        (options.out / "schemas.md").write_text(f"# Schemas\n\nMade by `tools/benchmarks/schemas.py`.\n\n{text}")


if __name__ == "__main__":
    main()
