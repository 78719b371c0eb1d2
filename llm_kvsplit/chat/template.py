"""A chat template: a program from the model's author, run where it can neither reach out, run for ever nor eat the memory.

The environment is the one that templates are written for: ``apply_chat_template`` of transformers
(utils/chat_template_utils.py). It has the same settings of jinja2, the same additions and the same names.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import template_limits as limits
from .template_limits import TemplateLimit, meter

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, variables: dict[str, Any], escapes: Mapping[int, str] | None = None) -> str:
    """What ``template`` writes for ``variables``. Raises whatever the template raises, or TemplateLimit.

    ``escapes``: further characters, by code, that HTML is not to hold, and what stands for each.
    """
    compiled = _compile(template)
    meter.start(escapes or {})
    pieces: list[str] = []
    for piece in compiled.generate(**variables):
        meter.spend(len(piece))
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

        def visit_List(self, node: Any, frame: Any) -> None:
            self._weigh(super().visit_List, node, frame)

        def visit_Dict(self, node: Any, frame: Any) -> None:
            self._weigh(super().visit_Dict, node, frame)

        def visit_Tuple(self, node: Any, frame: Any) -> None:
            if node.ctx == "load":
                self._weigh(super().visit_Tuple, node, frame)
            else:
                super().visit_Tuple(node, frame)

        def _weigh(self, visit: Callable[[Any, Any], None], node: Any, frame: Any) -> None:
            self.write("environment.weighed(")
            visit(node, frame)
            self.write(")")

        def visit_Getitem(self, node: Any, frame: Any) -> None:
            if not isinstance(node.arg, nodes.Slice):
                super().visit_Getitem(node, frame)
                return
            self.write("environment.pay_slice(")
            self.visit(node.node, frame)
            self.write(")[")
            self.visit(node.arg, frame)
            self.write("]")

    class Escaping(Markup):
        """HTML, which escapes what stands for < and >, too."""

        @classmethod
        def escape(cls, value: Any) -> Escaping:
            return cls(escape(value).translate(meter.escapes))

    class Limited(ImmutableSandboxedEnvironment):
        code_generator_class = Counting
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        weighed = staticmethod(limits.weighed)
        pay_slice = staticmethod(limits.pay_slice)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            limits.pay_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            return super().call(context, function, *limits.pay_call(function, args, kwargs), **kwargs)

        def getattr(self, item: Any, attribute: str) -> Any:
            meter.tick()
            return super().getattr(item, attribute)

        def is_safe_attribute(self, item: Any, attribute: str, value: Any) -> bool:
            # Some templates collect in lists (Kimi-K2). They work on copies, so nothing else changes.
            for kind, methods in limits.METHODS.items():
                if isinstance(item, kind):
                    return attribute in methods
            return super().is_safe_attribute(item, attribute, value)

        def joined(self, values: Iterable[Any]) -> str:
            return _concat([_text(value) for value in values])

    environment = Limited(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=_finalized
    )
    environment.concat = _concat  # type: ignore[method-assign]
    del environment.globals["lipsum"]
    for name in ("pprint", "urlize", "wordwrap", "xmlattr"):  # for people and web pages; they take long
        del environment.filters[name]
    for name, filter_ in environment.filters.items():
        environment.filters[name] = _counted(name, filter_)
    for name in ("e", "escape", "forceescape"):
        environment.filters[name] = Escaping.escape
    environment.filters["safe"] = Escaping
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now

    class Namespace(utils.Namespace):
        """As jinja2's, without a way to Python's own attributes."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise TemplateLimit(f"it sets {name}, a name that belongs to Python")
            super().__setitem__(name, value)

        def __repr__(self) -> str:
            return "<Namespace>"

    environment.globals["namespace"] = Namespace
    environment.globals["dict"] = lambda *args, **kwargs: limits.weighed(dict(*args, **kwargs))
    return environment


def _counted(name: str, filter_: Any) -> Any:
    """A filter of jinja2 whose result is paid for before it is made."""

    @functools.wraps(filter_)
    def counted(*args: Any, **kwargs: Any) -> Any:
        return filter_(*limits.pay_filter(name, args, kwargs), **kwargs)

    return counted


def _finalized(value: Any) -> Any:
    if not isinstance(value, str):
        meter.spend(limits.weight(value))
    return value


def _text(value: Any) -> str:
    return str(_finalized(value))


def _concat(pieces: Iterable[str]) -> str:
    pieces = list(pieces)
    meter.spend(sum(map(len, pieces)))
    return "".join(pieces)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes <, > and & for HTML, which a model was not trained on.
    limits.check_width(indent, *(separators or ()))
    if isinstance(value, Iterator):
        value = list(value)
    meter.spend(limits.weight(value) * max(map(len, separators or ("",))) + limits.weight(value))
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    return "".join(_paid(encoder.iterencode(value)))


def _paid(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        meter.spend(len(piece))
        yield piece


def _strftime_now(form: str) -> str:
    if len(form) > 1000 or re.search(r"%[^a-zA-Z%]*\d{3}", form):
        raise TemplateLimit("it writes the time in more than 1000 characters")
    return datetime.datetime.now().strftime(form)


def _raise_exception(message: str) -> None:
    raise ValueError(str(message)[:1000])
