"""What one rendering of a template may use up: seconds, and characters that it makes.

Whatever can make much of little is paid for before it is made, by the size that it comes to: methods, filters and
operations with a size of their own below. The rest makes no more than it is given. A method that is not named here is
not to be had, so nothing is forgotten.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sized
from typing import Any

#: Seconds that one rendering may take. A long conversation takes some hundredths.
SECONDS = 10.0
#: Characters that one rendering may make, those of intermediate texts included.
CHARACTERS = 2**27
#: Longest number, in bits, and widest column or indent that a template may ask for.
_BITS, _WIDTH = 4096, 10_000
#: An item of a list takes as much memory as so many characters.
_ITEM = 16
_CONTAINERS: Any = (list, tuple, dict, range, type({}.keys()), type({}.values()), type({}.items()))

#: The methods that a template may use, by type: those that read, and the lists' own, since templates collect in lists.
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        (
            *("capitalize", "casefold", "lower", "swapcase", "title", "upper"),
            *("count", "endswith", "find", "index", "rfind", "rindex", "startswith"),
            *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric"),
            *("isprintable", "isspace", "istitle", "isupper"),
            *("lstrip", "removeprefix", "removesuffix", "rstrip", "strip"),
            *("partition", "rpartition", "rsplit", "split", "splitlines"),
            *("center", "format", "join", "ljust", "replace", "rjust", "zfill"),
        )
    ),
    list: frozenset(("append", "copy", "count", "extend", "index", "insert", "pop")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    int: frozenset(("bit_length",)),
    float: frozenset(("is_integer",)),
    bytes: frozenset(),
}


class TemplateLimit(Exception):
    """A template did too much."""


class _Meter(threading.local):
    """What the rendering in this thread has used up."""

    def __init__(self) -> None:
        self.start({})

    def start(self, escapes: Mapping[int, str]) -> None:
        self.deadline, self.characters, self.escapes = time.monotonic() + SECONDS, 0, escapes

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateLimit(f"it did not end within {SECONDS:.0f} seconds")

    def spend(self, characters: int) -> None:
        self.tick()
        self.characters += characters
        if self.characters > CHARACTERS:
            raise TemplateLimit(f"it makes more than {CHARACTERS // 2**20} million characters of text")


meter = _Meter()


def weight(value: Any) -> int:
    """Characters of the texts in ``value``, and what its items take. A list may hold another many times."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, _CONTAINERS):
        return 1
    if isinstance(value, range):
        return _ITEM * len(value)
    meter.tick()
    total = _ITEM * len(value)
    for item in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
        total += weight(item)
        if total > CHARACTERS:
            meter.spend(total)
    return total


def weighed(value: Any) -> Any:
    """``value``, a new list, tuple or dictionary, unless it would be too large to be written out or compared."""
    weight(value)
    return value


def pay_operation(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        meter.spend(_formatted(left, right, r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\d{5}|\*)", "%"))
    elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        meter.spend(_length(left) + _length(right))
    elif operator == "*" and isinstance(left, Sized) and isinstance(right, int):
        meter.spend(_length(left) * max(right, 0))
    elif operator == "*" and isinstance(right, Sized) and isinstance(left, int):
        meter.spend(_length(right) * max(left, 0))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _BITS:
            raise TemplateLimit("it computes with numbers of thousands of digits")
    meter.tick()


def pay_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments to call it with."""
    # jinja2 wraps str.format.
    function = getattr(function, "__wrapped__", function)
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, str):
        return _pay_method(owner, name, args, kwargs)
    if isinstance(owner, list) and name in ("append", "extend", "insert"):
        meter.spend(_ITEM + (_length(args[0]) if name == "extend" and args and isinstance(args[0], Sized) else 0))
        weighed(args)
    elif isinstance(owner, (list, dict)) and name == "copy":
        meter.spend(_length(owner))
    meter.spend(1)
    return args


def _pay_method(owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    if name in ("center", "ljust", "rjust", "zfill"):
        meter.spend(len(owner) + _widths(*args, *kwargs.values()))
    elif name in ("format", "format_map"):
        meter.spend(_formatted(owner, (args, kwargs), r"\{[^{}]*(?:\d{5}|\{)", "{"))
    elif name == "replace" and len(args) >= 2:
        meter.spend(_replaced(owner, args[0], args[1]))
    elif name == "join" and args:
        items = list(args[0]) if isinstance(args[0], Iterator) else args[0]
        meter.spend(len(owner) * len(items) + weight(items))
        return (items, *args[1:])
    elif name in ("split", "rsplit", "splitlines"):
        separator = args[0] if args and isinstance(args[0], str) and args[0] else None
        parts = owner.count(separator) if separator else len(owner) // 2
        meter.spend(len(owner) + 4 * _ITEM * parts)
    else:
        meter.spend(len(owner))
    return args


def pay_filter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments to apply it to. Some filters have an object of jinja2's as their first."""
    values = [*args, *kwargs.values()]
    texts = [value for value in values if isinstance(value, str)]
    if name in ("batch", "center", "round", "slice"):
        meter.spend(_ITEM * _widths(*values))
    elif name == "format" and texts:
        meter.spend(_formatted(texts[0], values, r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\d{5}|\*)", "%"))
    elif name == "indent" and texts:
        lines = texts[0].count("\n") + 1
        meter.spend(lines * max(_widths(*values), *map(len, texts[1:]), 4))
    elif name == "replace" and len(texts) >= 3:
        meter.spend(_replaced(*texts[:3]))
    elif name == "join":
        args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
        items: Any = next((value for value in args if isinstance(value, (*_CONTAINERS, str))), ())
        meter.spend(len(items) * sum(len(text) for text in texts if text is not items))
        values = [*args, *kwargs.values()]
    elif name == "sum" and any(isinstance(value, (list, str)) for value in values[2:]):
        meter.spend(sum(len(value) for value in values if isinstance(value, Sized)) * sum(map(weight, values)))
    elif name in ("list", "striptags", "title", "urlencode", "wordcount"):  # they take a text apart
        meter.spend(_ITEM * sum(map(len, texts)))
    meter.spend(sum(map(weight, values)))
    return args


def pay_slice(value: Any) -> Any:
    """What a part is to be taken of."""
    meter.spend(_length(value) if isinstance(value, Sized) else 1)
    return value


def check_width(*values: Any) -> None:
    """Raises TemplateLimit for a column, or a text around each item, that is too wide."""
    _widths(*values)
    if any(len(value) > _WIDTH for value in values if isinstance(value, str)):
        raise TemplateLimit(f"it fills columns of more than {_WIDTH} characters")


def _widths(*values: Any) -> int:
    widths = [abs(value) for value in values if isinstance(value, int)]
    if any(width > _WIDTH for width in widths):
        raise TemplateLimit(f"it fills columns of more than {_WIDTH} characters")
    return sum(widths)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else _ITEM * len(value)


def _replaced(text: str, old: Any, new: Any) -> int:
    old, new = str(old), str(new)
    return len(text) + text.count(old) * max(0, len(new) - len(old))


def _formatted(form: str, values: Any, wide: str, sign: str) -> int:
    """Each field may be as wide as the widest number in ``form``, and hold all that it is given."""
    if re.search(wide, form):
        raise TemplateLimit(f"it fills columns of more than {_WIDTH} characters")
    width = max((int(digits) for digits in re.findall(r"\d{1,4}", form)), default=0)
    return len(form) + form.count(sign) * (width + weight(values))
