"""What an answer has to look like, as llguidance reads it. ``engine/matcher.py`` holds a model's tokens against it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .deep_thread import DeepThread
from .errors import KvsplitError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

#: Seconds a grammar may take to be read. Most take milliseconds.
READ_SECONDS = 10.0
_thread = DeepThread("reading the grammar")


@dataclass(frozen=True)
class Grammar:
    #: In llguidance's own form, or Lark.
    text: str
    #: What a person calls it.
    name: str
    #: The schema it was made from; None for another grammar.
    schema: Any = None
    #: Keywords that it only comes near to; the answer has to be checked against the schema.
    approximated: tuple[str, ...] = ()
    #: Formats that say nothing which could be checked.
    unchecked_formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What llguidance says of a grammar."""

    #: Why it does not take it, in a few words; empty if it does.
    error: str
    #: What it would not enforce.
    warnings: tuple[str, ...] = ()


def require() -> None:
    """Raises KvsplitError where llguidance is not there, or does not load.

    It has no wheel for musl, for glibc before 2.31 and for 32-bit ARM, and whoever has no Rust may have left it out.
    """
    try:
        import llguidance  # noqa: F401
    except Exception as ex:
        raise KvsplitError(
            f"A form for the answer needs llguidance, which cannot be imported here ({ex}): 'llm install llguidance' "
            "installs it, with Rust where it has no wheel; or ask without a form."
        ) from ex


def read(grammar: Grammar) -> Reading:
    """Read a grammar without a model's vocabulary."""
    try:
        matcher = _thread.call(_on_bytes, grammar.text, seconds=READ_SECONDS)
    except TimeoutError:
        return Reading(f"it takes more than {READ_SECONDS:g} s to read")
    if matcher.is_error():
        return Reading(cause(matcher.get_error()))
    # "… (2 times)"
    return Reading("", tuple(re.sub(r" \(\d+ times\)$", "", line) for line in matcher.get_grammar_warnings()))


def _on_bytes(text: str) -> LLMatcher:
    from llguidance import LLTokenizer

    return matcher(LLTokenizer("byte"), text)


def matcher(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    """Never raises: what is wrong is in its ``get_error()``."""
    from llguidance import LLMatcher

    return LLMatcher(tokenizer, text, log_level=0, limits=_limits())


def _limits() -> LLParserLimits:
    """llguidance's own, which bound a step to some tens of milliseconds; without pages of its state in an error."""
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False)


def cause(error: str) -> str:
    """llguidance's error in a few words: those of the regex parser, which come last, or the first line."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines or lines[0].startswith("panic:"):
        return "llguidance failed on it"
    words = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    if match := re.match(r"Resource '(.*)' is not present in a registry", words):
        return f"$ref leads to {match[1]}, which is not in it"
    words = words.removesuffix(":").removesuffix(".")
    return words if len(words) <= 200 else words[:200] + "…"
