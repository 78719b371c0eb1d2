"""Answers of a model in the form of others' schemas: each that ends is to be valid, as jsonschema sees it."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
from groups import VERSIONS, Group
from work import Result, results

from llm_kvsplit import schemas
from llm_kvsplit.errors import KvsplitError

#: Seconds of one answer, with a check of 20.
SECONDS = 180
#: Tokens; what is longer is cut, and no finished answer.
MOST_TOKENS = 200


def answer(job: tuple[Path, Any, int]) -> Result:
    """Ask a model for one answer. Runs in a child process."""
    import llm

    path, schema, seed = job
    _register(path)
    try:
        # The defaults: temperature 0.8.
        response = llm.get_model("answering").prompt(
            "example = ", schema=schema, seed=seed, max_tokens=MOST_TOKENS, n_threads=1, stream=False
        )
        text = response.text()
    except KvsplitError as refusal:
        return {"refused": str(refusal)}
    except Exception as error:
        return {"failed": repr(error)}
    if response.response_json["cut"]:
        return {"cut": True}
    return {"finished": True, "fault": fault(schema, text), "characters": len(text)}


@functools.cache  # the model is loaded once
def _register(path: Path) -> None:
    from llm_kvsplit import registry

    os.environ["LLM_USER_PATH"] = tempfile.mkdtemp()
    registry.add(registry.Entry("answering", path))


def fault(schema: Any, text: str) -> str | None:
    """What jsonschema finds, with formats; patterns that Python cannot read are left out."""
    Validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        schema, instance = schemas.exactly(schema, text)
        error = jsonschema.exceptions.best_match(
            Validator(schema, format_checker=Validator.FORMAT_CHECKER).iter_errors(instance)
        )
    except ValueError as error:
        return f"no JSON: {error}"
    except Exception as error:
        return None if type(error).__module__ in ("re", "re._constants") else repr(error)[:200]
    return error and f"{error.message[:200]} at {error.json_path}"


def measure(model: Path, usable: Sequence[Group], finished: int) -> dict[str, Any]:
    """Ask for answers to schemas, taken at random, until so many are finished, or every schema has been."""
    order = [group for group in random.Random(0).sample(usable, len(usable)) if isinstance(group.schema, dict)]
    jobs = [(f"{n} {group.name}", (model, group.schema, n)) for n, group in enumerate(order)]
    digest = hashlib.sha256("".join(name for name, _ in jobs).encode()).hexdigest()
    counts: Counter[str] = Counter()
    wrong: dict[str, Any] = {}
    lengths = []
    kept = {"versions": VERSIONS + digest, "sources": ("llm_kvsplit", "tools/benchmarks/answers.py")}
    answered = results(f"answers-{model.stem}", jobs, answer, seconds=SECONDS, **kept)
    for (name, _), result in zip(jobs, answered):
        kind = next(each for each in ("finished", "cut", "refused", "failed", "hung", "died") if each in result)
        counts[kind] += 1
        if kind == "finished":
            lengths.append(result["characters"])
            counts["valid"] += result["fault"] is None
        if kind not in ("finished", "cut") or result.get("fault"):
            wrong[name] = result
        if counts["finished"] == finished:
            break
    return {
        "asked": sum(counts.values()) - counts["valid"],
        **counts,
        "median characters": statistics.median(lengths),
        "wrong": wrong,
    }
