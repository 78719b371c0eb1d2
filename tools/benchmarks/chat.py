#!/usr/bin/env python
"""Chat templates, tool calls, schemas, vectors and forged roles, held against what others wrote: one table.

Corpora come from an index of packages into the cache, llama.cpp's sources as the companion gets them, and JSONSchemaBench
by git. What is finished is kept there, too, so that an interrupted run goes on. The results are chat.json and chat.md.

    uv run --with transformers==5.24.0 python tools/benchmarks/chat.py --out docs/evidence     # half an hour on 2 quiet cores
    uv run python tools/benchmarks/chat.py --out docs/evidence --only schemas                  # one part, the rest stays
    uv run python tools/benchmarks/chat.py --out docs/evidence --only speed                    # 3 minutes, on a quiet machine
    uv run python tools/benchmarks/chat.py --out FOLDER --bench CLONE --templates FOLDER       # corpora that are there
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests.support, for models that are made

import chat_page
import corpora
import evidence

PARTS = ("templates", "calls", "roles", "vectors", "schemas", "answers", "speed")


def _templates(options: argparse.Namespace) -> dict[str, Any]:
    import templates

    return templates.measure(corpora.templates(options.templates))


def _tool_calls(options: argparse.Namespace) -> dict[str, Any]:
    import tool_calls

    return tool_calls.measure(corpora.llama_cpp())


def _roles(options: argparse.Namespace) -> dict[str, Any]:
    import roles

    return roles.measure(corpora.llama_cpp())


def _vectors(options: argparse.Namespace) -> dict[str, Any]:
    import embeddings

    return embeddings.measure()


def _schemas(options: argparse.Namespace) -> dict[str, Any]:
    import groups
    import schemas

    return {name: schemas.measure(name, corpus, each) for name, corpus, each in groups.every(options)}


def _answers(options: argparse.Namespace) -> dict[str, Any]:
    import answers
    import schemas

    from kvsplit_patch.proof import subjects
    from llm_kvsplit import demo

    usable = schemas.compiled(options)
    return {
        "kvsplit-demo": answers.measure(demo.MODEL, usable, options.finished),
        "SmolLM2-135M-Instruct Q4_1": answers.measure(subjects.smollm2(), usable, options.finished_smollm2),
    }


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    import speed

    return speed.measure()


_MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = dict(
    zip(PARTS, (_templates, _tool_calls, _roles, _vectors, _schemas, _answers, _speed))
)


def main() -> None:
    parser = evidence.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for chat.json and chat.md")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--suite", type=Path, help="a clone of the JSON-Schema-Test-Suite (default: by package)")
    parser.add_argument("--bench", type=Path, help="a clone of JSONSchemaBench (default: cloned)")
    parser.add_argument("--bench-url", default=corpora.BENCH, help="where to clone it from (default: %(default)s)")
    parser.add_argument("--templates", type=Path, nargs="*", default=[], help="further folders with *.jinja")
    parser.add_argument(
        "--finished", type=int, default=3000, help="answers of the bundled model (default: %(default)s)"
    )
    parser.add_argument("--finished-smollm2", type=int, default=150, help="those of SmolLM2 (default: %(default)s)")
    options = parser.parse_args()
    results = evidence.read(options.out, "chat")
    for part in options.only:
        print(f"{part} …", file=sys.stderr)
        results[part] = {"date": date.today().isoformat(), **_MEASURES[part](options)}
        in_order = {each: results[each] for each in PARTS if each in results}
        evidence.write(options.out, "chat", in_order, chat_page.markdown(in_order))


if __name__ == "__main__":
    main()
