"""What of llm works here, beside other plugins for local models: the table of README.md and docs/use/features.md.

A row says "yes" where a test has its mark, ``@pytest.mark.feature("schemas")``, and none of these tests is skipped.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Feature:
    mark: str
    title: str
    #: What the others do: llm-gguf 0.2, tried; llm-ollama 0.19.1 and llm-lmstudio 0.3.1, read.
    gguf: str
    ollama: str
    lmstudio: str


FEATURES = (
    Feature("stream", "a prompt, streamed or not (`--no-stream`)", "not without streaming", "yes", "yes"),
    Feature("template", "the model's own chat template", "no", "the server's", "the server's"),
    Feature("continue", "`llm -c` and a system prompt", "forgets both", "yes", "yes"),
    Feature("chat", "`llm chat`, loaded once", "yes", "the server's", "the server's"),
    Feature("state", "the state kept for another process", "no", "no", "no"),
    Feature("async", "async", "no", "yes", "yes"),
    Feature("schemas", "schemas (`--schema`)", "no", "yes", "yes"),
    Feature("forms", "a regular expression or a grammar to follow", "no", "no", "no"),
    Feature("tools", "tools (`-T`)", "no", "yes", "yes"),
    Feature("generic tools", "tools for a model without a form for them", "no", "not read", "not read"),
    Feature("tool arguments", "tool arguments while they are written", "no", "not read", "not read"),
    Feature("reasoning", "reasoning told apart (`-R`)", "no", "yes", "yes"),
    Feature("roles", "fragments (`-f`), which open no role", "not guarded", "the server's", "the server's"),
    Feature("pictures", "attachments (`-a`): images", "no", "yes", "yes"),
    Feature("sound", "attachments: audio", "no", "yes", "no"),
    Feature("embeddings", "embeddings (`llm embed`, `llm similar`)", "yes", "yes", "yes"),
    Feature("usage", "token counts in the log", "no", "yes", "yes"),
    Feature("interrupt", "Ctrl-C keeps what came", "no", "no", "no"),
    Feature("bits", "types for keys and values", "no", "one for both, the server's", "the server's"),
    Feature("layers", "types for each layer", "no", "no", "not read"),
)


def table(shown_by: bool = False) -> str:
    """The rows as Markdown, with the tests that show them or without."""
    tests = shown(TESTS)
    heads = [
        "feature of llm",
        "llm-kvsplit",
        "llm-gguf",
        "llm-ollama",
        "llm-lmstudio",
        *(["shown by"] if shown_by else []),
    ]
    lines = [heads, ["---"] * len(heads)]
    for each in FEATURES:
        names = tests.get(each.mark, [])
        cells = [each.title, "yes" if names else "no", each.gguf, each.ollama, each.lmstudio]
        lines.append(cells + ([", ".join(f"`{name}`" for name in names)] if shown_by else []))
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def shown(tests: Path) -> dict[str, list[str]]:
    """The tests that have the mark of each feature; none where one of them does not always run."""
    marked: dict[str, list[str]] = {}
    skipped = set()
    for mark, name, runs in _marked(tests):
        marked.setdefault(mark, []).append(name)
        if not runs:
            skipped.add(mark)
    return {mark: names for mark, names in marked.items() if mark not in skipped}


def _marked(tests: Path) -> Iterator[tuple[str, str, bool]]:
    """(mark, name of a test, whether it always runs)."""
    for file in sorted(tests.rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        if "mark.feature(" not in text:
            continue
        module = ast.parse(text)
        # ``pytestmark = …`` and ``pytest.skip(…, allow_module_level=True)`` stand outside the tests.
        outside = [n for n in module.body if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
        idle = any(_leaves_out(node) for node in outside)
        for node in ast.walk(module):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                leaves_out = idle or any(_leaves_out(each) for each in [*node.decorator_list, *node.body])
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.feature":
                        yield ast.literal_eval(decorator.args[0]), node.name, not leaves_out


def _leaves_out(node: ast.AST) -> bool:
    """Whether pytest may be told here to leave a test out, or to let it fail."""
    names = {ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    ways = ("skip", "skipif", "xfail", "long", "build")
    return bool(
        names & {f"pytest.mark.{way}" for way in ways} | names & {"pytest.skip", "pytest.xfail", "pytest.importorskip"}
    )
