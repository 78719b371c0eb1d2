"""Schemas of others against the plugin: which compile or are refused by name, and which instances an answer may be."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import answers
import groups
from groups import VERSIONS, Corpus, Group
from llguidance import LLMatcher, LLTokenizer
from work import Result, results

from llm_kvsplit import grammar, schemas
from llm_kvsplit.errors import KvsplitError

#: Seconds that one schema and its instances may take: reading it is bounded by 10 in the plugin.
SECONDS = 120
#: Orders of keys in which an instance is tried, since a grammar has one.
ORDERS = 12
#: What the results follow from.
SOURCES = ("llm_kvsplit/schemas.py", "llm_kvsplit/grammar.py", "tools/benchmarks/schemas.py")


def examine(group: Group) -> Result:
    """What the plugin makes of a schema, and which instances it accepts. Runs in a child process."""
    began = time.perf_counter()
    try:
        form = schemas.grammar(group.schema)
    except KvsplitError as refusal:
        return {"refused": str(refusal), "seconds": time.perf_counter() - began}
    except Exception as error:
        return {"failed": repr(error), "seconds": time.perf_counter() - began}
    seconds = time.perf_counter() - began
    matcher = grammar.matcher(LLTokenizer("byte"), form.text)
    names = _names(group.schema)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    disputed: list[str] = []
    missed: list[str] = []
    for instance, valid in group.instances:
        taken = _accepted(form, matcher, instance, names)
        counts[f"{'valid' if valid else 'invalid'}, {'accepted' if taken else 'refused'}"] += 1
        if taken and not valid:
            (wrong if answers.fault(group.schema, json.dumps(instance)) else disputed).append(
                json.dumps(instance)[:200]
            )
        if valid and not taken:
            missed.append(json.dumps(instance)[:200])
    lists = {"wrong": wrong, "disputed": disputed, "missed": missed}
    return {"compiled": True, "seconds": seconds, "instances": counts, **lists}


def _accepted(form: grammar.Grammar, matcher: LLMatcher, instance: Any, names: list[list[str]]) -> bool:
    """Whether an answer may be this, with its keys in some order: by the grammar, and by the check after it."""
    for order in itertools.islice(_orders(instance, names), ORDERS):
        text = json.dumps(order, ensure_ascii=False)
        tokens = list(text.encode("utf-8", "surrogatepass"))
        matcher.reset()
        if matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting() and not matcher.is_error():
            return not form.approximated or schemas._fault(form.schema, text) is None
    return False


def _names(schema: Any) -> list[list[str]]:
    """The names of properties, as each part of a schema orders them; those of all parts together first."""
    listed = []
    for _, part in schemas._parts(schema):
        properties, required = part.get("properties"), part.get("required")
        names = [
            *(properties if isinstance(properties, dict) else ()),
            *(required if isinstance(required, list) else ()),
        ]
        if names := list(dict.fromkeys(name for name in names if isinstance(name, str))):
            listed.append(names)
    return [list(dict.fromkeys(itertools.chain(*listed))), *listed]


def _orders(value: Any, names: list[list[str]]) -> Iterator[Any]:
    """The same value with its keys in other orders: the schema's first. 3.0 is spelled 3, which is the same number."""
    if isinstance(value, dict):
        inner = {key: list(itertools.islice(_orders(each, names), 3)) for key, each in value.items()}
        for order in _key_orders(list(value), names):
            for each in itertools.islice(itertools.product(*(inner[key] for key in order)), 3):
                yield dict(zip(order, each))
    elif isinstance(value, list):
        for each in itertools.islice(
            itertools.product(*(list(itertools.islice(_orders(i, names), 3)) for i in value)), 9
        ):
            yield list(each)
    else:
        yield int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _key_orders(keys: list[str], names: list[list[str]]) -> list[tuple[str, ...]]:
    """Orders of keys, the likeliest first: those of the parts of the schema that know most of them."""
    knowing = sorted(names, key=lambda part: (-len({*part} & {*keys}), len(part)))[:4]
    orders = [tuple(sorted(keys, key=lambda key: part.index(key) if key in part else len(part))) for part in knowing]
    return list(dict.fromkeys([*orders, *itertools.islice(itertools.permutations(keys), 3)]))


def _outcomes(name: str, corpus: Corpus, of_corpus: list[Group]) -> list[Result]:
    pieces = ((group.name, group) for group in of_corpus)
    versions = f"{VERSIONS}, {corpus.title}"
    return list(results(name, pieces, examine, seconds=SECONDS, versions=versions, sources=SOURCES))


def compiled(options: argparse.Namespace) -> list[Group]:
    """What can be asked for."""
    return [
        group
        for name, corpus, of_corpus in groups.every(options)
        for group, outcome in zip(of_corpus, _outcomes(name, corpus, of_corpus))
        if "compiled" in outcome
    ]


def measure(name: str, corpus: Corpus, of_corpus: list[Group]) -> dict[str, Any]:
    """One row of the table; ``name`` is that of the file that keeps what is finished."""
    outcomes = _outcomes(name, corpus, of_corpus)
    instances: Counter[str] = sum((Counter(each.get("instances", {})) for each in outcomes), Counter())
    named = dict(zip((group.name for group in of_corpus), outcomes))
    reasons = Counter(_reason(each["refused"]) for each in outcomes if "refused" in each)
    return {
        "corpus": corpus.title,
        "schemas": len(outcomes),
        "compiled": sum("compiled" in each for each in outcomes),
        "refused": sum("refused" in each for each in outcomes),
        "neither": {name: each.get("failed", "died") for name, each in named.items() if {"failed", "died"} & set(each)},
        "hung": [name for name, each in named.items() if "hung" in each],
        "slowest seconds": round(max(each.get("seconds", 0) for each in outcomes), 2),
        "instances": dict(instances),
        "wrongly accepted": _listed(named, "wrong"),
        "accepted, and valid to jsonschema": sum(map(len, _listed(named, "disputed").values())),
        "wrongly refused": dict(list(_listed(named, "missed").items())[:40]),
        "reasons": dict(reasons.most_common(15)),
    }


def _listed(outcomes: dict[str, Result], kind: str) -> dict[str, list[str]]:
    return {name: each[kind] for name, each in outcomes.items() if each.get(kind)}


def _reason(refusal: str) -> str:
    """A refusal without the names of a schema's own."""
    words = refusal.partition(" (at ")[0] if " (at " in refusal else refusal
    return re.sub(r"( at \$\S*|[:/].*|\d{3,}.*)", "", words)
