"""How models mark their reasoning, and the switch that templates have for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .template import variables_of


@dataclass(frozen=True)
class Marker:
    opening: str
    closing: str
    #: What a template has that knows it, where that is neither of the two.
    sign: str = ""


#: From the templates of these models; see docs/use/chat.md.
MARKERS = (
    Marker("<think>", "</think>"),  # DeepSeek R1, Qwen 3, GLM 4.5, SmolLM3, Nemotron and most others
    Marker("<thought>", "</thought>"),
    Marker("<thinking>", "</thinking>"),
    Marker("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marker("<mm:think>", "</mm:think>"),  # MiniMax M3
    Marker("<think:opensource>", "</think:opensource>"),  # Hunyuan
    Marker("[THINK]", "[/THINK]"),  # Magistral, Ministral
    Marker("<|START_THINKING|>", "<|END_THINKING|>"),  # Command R7B, Command A
    Marker("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marker("<|channel>thought\n", "<channel|>"),  # Gemma 4
    Marker("<|think|>", "<|end|>"),  # Solar Open
    Marker("<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|open|>"),  # Kimi K3
    Marker("◁think▷", "◁/think▷"),  # Kimi-VL
    Marker("<reasoning>", "</reasoning>"),
    Marker("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),  # Apriel
    Marker("Here is my thought process:", "Here is my response:"),  # Granite 3
)


def markers_in(template: str | None) -> tuple[Marker, ...]:
    """Those that ``template`` knows."""
    if template is None:
        return ()

    def knows(marker: Marker) -> bool:
        # A line end within a template's string is written as an escape.
        texts = (marker.opening.rstrip("\n"), marker.closing, marker.sign)
        return any(text and text in template for text in texts)

    return tuple(filter(knows, MARKERS))


def known(template: str | None, is_token: Callable[[str], bool]) -> tuple[Marker, ...]:
    """Those of the template, and those that are tokens of the model's own; ``is_token`` says so of a text."""
    own = markers_in(template)
    return tuple(marker for marker in MARKERS if marker in own or is_token(marker.opening.rstrip("\n")))


def opened(prompt: str, template: str) -> Marker | None:
    """The reasoning that the end of ``prompt`` has opened, so that the answer begins inside it."""
    end = prompt.rstrip()
    return next((marker for marker in markers_in(template) if end.endswith(marker.opening.rstrip())), None)


#: What switches are called, the likeliest first, and the values that turn reasoning on and off.
_NAMES = ("enable_thinking", "thinking", "reasoning", "enable_reasoning", "thinking_mode", "thinking_option")
_VALUES: tuple[tuple[Any, Any], ...] = (
    (True, False),
    ("enabled", "disabled"),
    ("on", "off"),
    ("thinking", "chat"),
    ("high", "no_think"),
    ("high", "none"),
    ("high", "minimal"),
    (-1, 0),
)
#: The same as words at the end of a question (Nemotron Nano v2).
WORDS = {True: "/think", False: "/no_think"}
#: Variables with these words in their names say what becomes of earlier reasoning, or are the template's own.
_OTHERS = ("preserve", "keep", "drop", "clear", "truncate", "history", "past", "text", "content", "parts", "include")


def switch(template: str, thinking: bool, render: Callable[[dict[str, Any]], str]) -> dict[str, Any] | None:
    """The variable that turns reasoning on or off, with its value; None where the template has no switch.

    ``render`` renders the conversation with further variables. A switch is what makes a difference to it, so a name
    that nobody thought of is found, and one that the template only mentions is not taken for one.
    """
    for name in _candidates(template):
        for on, off in _VALUES:
            if isinstance(on, str) and not (_quoted(on, template) and _quoted(off, template)):
                continue
            if isinstance(on, bool) and name.endswith(("effort", "strength", "budget")):
                continue  # any value is written out there
            if isinstance(on, int) and not isinstance(on, bool) and not name.endswith("budget"):
                continue
            with_it, without = _try(render, {name: on}), _try(render, {name: off})
            if with_it is not None and without is not None and with_it != without:
                return {name: on if thinking else off}
    return None


def switched_by_word(template: str, render: Callable[[str], str]) -> bool:
    """Whether a word in the question is the switch; ``render`` renders the conversation with one at its end."""
    if not all(_quoted(word, template) for word in WORDS.values()):
        return False
    with_it, without = (_try(render, WORDS[on]) for on in (True, False))
    # A template that only writes the words out has no switch.
    return None not in (with_it, without) and with_it != str(without).replace(WORDS[False], WORDS[True])


def _candidates(template: str) -> list[str]:
    names = sorted(
        name
        for name in variables_of(template)
        if ("think" in name or "reason" in name) and not any(word in name for word in _OTHERS)
    )
    return [name for name in _NAMES if name in names] + [name for name in names if name not in _NAMES]


def _quoted(value: str, template: str) -> bool:
    return f"'{value}'" in template or f'"{value}"' in template


def _try(render: Callable[[Any], str], what: Any) -> str | None:
    try:
        return render(what)
    except Exception:  # the template's author's own
        return None
