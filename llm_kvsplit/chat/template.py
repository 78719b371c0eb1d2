"""A chat template: a program from the model's author, run where it can neither reach out, run for ever nor eat the memory.

The environment is the one that templates are written for: ``apply_chat_template`` of transformers
(utils/chat_template_utils.py). It has the same settings of jinja2, the same additions and the same names.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

#: Seconds that one rendering may take. A long conversation takes some hundredths.
SECONDS = 10.0
#: Characters that one rendering may make, those of intermediate texts included.
CHARACTERS = 2**27
#: Longest number, in bits, and widest column or indent that a template may ask for.
_BITS, _WIDTH = 4096, 10_000


class TemplateLimit(Exception):
    """A template did too much."""


class _Meter(threading.local):
    """What the rendering in this thread has used up."""

    def __init__(self) -> None:
        self.start(0.0, {})

    def start(self, seconds: float, escapes: Mapping[int, str]) -> None:
        self.deadline, self.characters, self.escapes = time.monotonic() + seconds, 0, escapes

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateLimit(f"it did not end within {SECONDS:.0f} seconds")

    def spend(self, characters: int) -> None:
        self.tick()
        self.characters += characters
        if self.characters > CHARACTERS:
            raise TemplateLimit(f"it makes more than {CHARACTERS // 2**20} million characters of text")


_meter = _Meter()


def render(template: str, variables: dict[str, Any], escapes: Mapping[int, str] | None = None) -> str:
    """What ``template`` writes for ``variables``. Raises whatever the template raises, or TemplateLimit.

    ``escapes``: further characters, by code, that HTML is not to hold, and what stands for each.
    """
    compiled = _compile(template)
    _meter.start(SECONDS, escapes or {})
    pieces: list[str] = []
    for piece in compiled.generate(**variables):
        _meter.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


@functools.lru_cache(maxsize=16)
def variables_of(template: str) -> frozenset[str]:
    """The variables that ``template`` may be given; nothing where it cannot be read."""
    from jinja2 import TemplateError, meta

    try:
        return frozenset(meta.find_undeclared_variables(_compile(template).environment.parse(template)))
    except TemplateError:
        return frozenset()


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> Any:
    return _environment().from_string(template)


@functools.cache
def _environment() -> Environment:
    from jinja2 import nodes, utils
    from jinja2.compiler import CodeGenerator
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from markupsafe import Markup, escape

    class Generation(Extension):
        """``{% generation %}`` marks for training what the model is to write, and changes nothing else."""

        tags = {"generation"}  # noqa: RUF012  # jinja2's own interface

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class Counting(CodeGenerator):
        """Counts what ``~`` joins, too."""

        def visit_Concat(self, node: Any, frame: Any) -> None:
            self.write("environment.joined((")
            for item in node.nodes:
                self.visit(item, frame)
                self.write(", ")
            self.write("))")

    class Escaping(Markup):
        """HTML, which escapes what stands for < and >, too."""

        @classmethod
        def escape(cls, value: Any) -> Escaping:
            return cls(escape(value).translate(_meter.escapes))

    class Limited(ImmutableSandboxedEnvironment):
        code_generator_class = Counting
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _meter.spend(_size(operator, left, right))
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            _meter.spend(_call_size(function, args, kwargs))
            return super().call(context, function, *args, **kwargs)

        def getattr(self, item: Any, attribute: str) -> Any:
            _meter.tick()
            return super().getattr(item, attribute)

        def is_safe_attribute(self, item: Any, attribute: str, value: Any) -> bool:
            # Some templates collect in lists (Kimi-K2). They work on copies, so nothing else changes.
            if isinstance(item, list) and attribute in ("append", "extend", "insert", "pop"):
                return True
            return super().is_safe_attribute(item, attribute, value)

        def joined(self, values: Iterable[Any]) -> str:
            return _concat([_text(value) for value in values])

    environment = Limited(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=_finalized
    )
    environment.concat = _concat  # type: ignore[method-assign]
    del environment.globals["lipsum"]
    for name, filter_ in environment.filters.items():
        environment.filters[name] = _counted(name, filter_)
    for name in ("e", "escape", "forceescape"):
        environment.filters[name] = Escaping.escape
    environment.filters["safe"] = Escaping
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    class Namespace(utils.Namespace):
        """As jinja2's, without a way to Python's own attributes."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise TemplateLimit(f"it sets {name}, a name that belongs to Python")
            super().__setitem__(name, value)

    environment.globals["namespace"] = Namespace
    environment.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
    return environment


def _size(operator: str, left: Any, right: Any) -> int:
    """Characters, or things of a list, that the operation makes."""
    if operator == "+":
        return len(left) + len(right) if hasattr(left, "__len__") and hasattr(right, "__len__") else 0
    if operator == "%":
        _check_format(left)
        return 0
    for one, other in ((left, right), (right, left)):
        if hasattr(one, "__len__"):
            return len(one) * max(other, 0) if isinstance(other, int) else 0
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _BITS:
            raise TemplateLimit("it computes with numbers of thousands of digits")
    return 0


def _call_size(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    # jinja2 wraps str.format.
    function = getattr(function, "__wrapped__", function)
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, list) and name == "extend" and args and hasattr(args[0], "__len__"):
        return len(args[0])
    if not isinstance(owner, str):
        return 1
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        _check_width(*args, *kwargs.values())
    if name in ("format", "format_map") and re.search(r"\d{5}|\{[^{}]*\{", owner):
        raise TemplateLimit(f"it fills columns of more than {_WIDTH} characters")
    if name == "replace" and len(args) >= 2:
        return _replaced_size(owner, args[0], args[1])
    if name == "join" and args and isinstance(args[0], (list, tuple)):
        return len(owner) * len(args[0]) + sum(len(item) for item in args[0] if isinstance(item, str))
    return len(owner)


def _replaced_size(text: str, old: Any, new: Any) -> int:
    old, new = str(old), str(new)
    return len(text) + text.count(old) * max(0, len(new) - len(old))


def _check_format(form: Any) -> None:
    """``%`` with a width that may be large."""
    if isinstance(form, str) and re.search(r"%[^a-zA-Z%]*(\d{5}|\*)", form):
        raise TemplateLimit(f"it fills columns of more than {_WIDTH} characters")


def _check_width(*values: Any) -> None:
    if any(isinstance(value, int) and value > _WIDTH for value in values):
        raise TemplateLimit(f"it fills columns of more than {_WIDTH} characters")


def _counted(name: str, filter_: Any) -> Any:
    """A filter of jinja2 whose result is paid for before it is made."""

    @functools.wraps(filter_)
    def counted(*args: Any, **kwargs: Any) -> Any:
        # The first argument may be jinja2's own context.
        texts = [arg for arg in args if isinstance(arg, str)]
        if args:
            _check_width(*args[1:], *kwargs.values())
        if name == "format":
            _check_format(next(iter(texts), None))
        if name == "replace" and len(texts) >= 3:
            _meter.spend(_replaced_size(*texts[:3]))
        else:
            _meter.spend(sum(map(_weight, args)))
        return filter_(*args, **kwargs)

    return counted


def _weight(value: Any) -> int:
    """Characters, and things in lists, as they would be written out. Lists may hold one list many times."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        _meter.tick()
        total = len(value)
        for item in value:
            total += _weight(item)
            if total > CHARACTERS:
                _meter.spend(total)
        return total
    return 1


def _finalized(value: Any) -> Any:
    if not isinstance(value, str):
        _meter.spend(_weight(value))
    return value


def _text(value: Any) -> str:
    return str(_finalized(value))


def _concat(pieces: Iterable[str]) -> str:
    pieces = list(pieces)
    _meter.spend(sum(map(len, pieces)))
    return "".join(pieces)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes <, > and & for HTML, which a model was not trained on.
    _check_width(indent)
    if isinstance(value, Iterator):
        value = list(value)
    _meter.spend(_weight(value))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise ValueError(message)
