"""The programs whose models can be used where they lie, one module each.

``places()`` of each yields what the program keeps and what is wrong with the rest. Its docstring says from where the
layout is known, and whether the real program was met.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..place import Fault, Place


def everywhere() -> Iterator[Place | Fault]:
    """What all programs keep; a folder that two programs share comes up twice."""
    from . import gpt4all, huggingface, jan, llamacpp, llm_plugins, lmstudio, ollama

    for program in (ollama, huggingface, llamacpp, lmstudio, jan, gpt4all, llm_plugins):
        yield from program.places()
