"""A name that another program has for a model, and a file that is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..gguf import PART


@dataclass(frozen=True)
class Place:
    """One name that a program has for a GGUF file."""

    program: str
    #: What the program calls it.
    name: str
    #: The file, or the first part of a split model. It may be a link.
    path: Path
    #: Names that stand for it, too, as long as no other model has them.
    short: tuple[str, ...] = ()
    #: Options of this plugin that the program uses the model with.
    options: dict[str, Any] = field(default_factory=dict, compare=False)
    #: What the program does with it and this plugin does not, as whole sentences.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """What is left out, and why: "``path`` ``reason``" is a sentence."""

    path: Path
    reason: str


def without_ending(name: str) -> str:
    """A file's name as a person types it: without .gguf, and without the number of a split model's part."""
    name, at, commit = name.partition("@")
    folder, slash, last = name.rpartition("/")
    part = PART.match(last)
    return folder + slash + (part["stem"] if part else re.sub(r"\.gguf$", "", last, flags=re.IGNORECASE)) + at + commit


def printable(text: str) -> str:
    """Without what could steer a terminal: names come from other programs' files."""
    return "".join(each if each.isprintable() else "?" for each in text)
