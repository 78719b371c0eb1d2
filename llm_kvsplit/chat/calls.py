"""The text of a tool call -> the call, in the forms that models write.

What encloses a call (``WRAPPERS``) and how it is written inside are two things: ``<tool_call>`` holds JSON for Hermes and
Qwen 2.5, XML for Qwen3-Coder, keys and values for GLM. So whatever a wrapper holds is given to one reader after another.
Only tools that were offered are called; anything else stays the text that it is.

Sources: the chat templates of the models named below, which write earlier calls as the model wrote them, and the texts in
llama.cpp's tests/test-chat.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import values
from .values import NoValue


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]


#: Tools by name, with the JSON schema of their arguments.
Tools = Mapping[str, dict[str, Any]]
#: Calls, and text between them that is none, in order.
Items = list["Call | str"]

#: What opens a call, and what closes it; None for the end of the reply, or the next one that opens.
WRAPPERS: dict[str, str | None] = {
    "<tool_call>": "</tool_call>",  # Hermes, Qwen, GLM, Granite 4, SmolLM3
    "<tool_calls>": "</tool_calls>",  # Apriel, Hunyuan, MiniMax M1
    "<TOOLCALL>": "</TOOLCALL>",  # Nemotron Nano
    "<seed:tool_call>": "</seed:tool_call>",  # Seed-OSS
    "<minimax:tool_call>": "</minimax:tool_call>",  # MiniMax M2
    "]<]minimax[>[<tool_call>": "]<]minimax[>[</tool_call>",  # MiniMax M3
    "<tool_call:opensource>": "</tool_call:opensource>",  # Hunyuan 3
    "<atem:function_calls>": "</atem:function_calls>",  # Muse
    "<｜DSML｜function_calls>": "</｜DSML｜function_calls>",  # DeepSeek V3.2
    "<｜DSML｜tool_calls>": "</｜DSML｜tool_calls>",  # DeepSeek V4
    "<｜tool▁calls▁begin｜>": "<｜tool▁calls▁end｜>",  # DeepSeek R1, V3
    "<｜tool▁call▁begin｜>": "<｜tool▁call▁end｜>",
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",  # Kimi K2
    "<|tool_call_begin|>": "<|tool_call_end|>",
    "<|open|>tools<|sep|>": "<|close|>tools<|sep|>",  # Kimi K3
    "<|tool_calls|>": "<|calls|>",  # Solar Open
    "<|tool_call>": "<tool_call|>",  # Gemma 4
    "<start_function_call>": "<end_function_call>",  # FunctionGemma
    "<|tool_call_start|>": "<|tool_call_end|>",  # LFM2
    "<|START_ACTION|>": "<|END_ACTION|>",  # Command R7B, Command A
    "<|tools_prefix|>": "<|tools_suffix|>",  # Apertus
    "<|action_start|><|plugin|>": "<|action_end|>",  # InternLM
    "<|tool_call|>": None,  # Granite 3, Phi-4 mini
    "<|python_tag|>": None,  # Llama 3
    "<|function_call|>": None,  # GigaChat
    "[TOOL_CALLS]": None,  # Mistral
    "functools[": None,  # Phi-4 mini, FireFunction
    "<function=": "</function>",  # Functionary 3.1, and Qwen3-Coder without its wrapper
}
#: The same, only where the template has it, since it is a text like others elsewhere.
UNUSUAL: dict[str, str | None] = {
    "<function_call>": None,  # Granite 20B
    "<function name=": "</function>",  # MiniCPM 5
    ">>>": None,  # Functionary 3.2
    "Action:\n```json\n": "```",  # Command R+
    "Action: ```json\n": "```",
    "function call<|role_sep|>\n": None,  # GigaChat 3
}
#: These belong to a call's text.
KEPT = ("<function=", "<function name=", "functools[", "<｜tool▁call▁begin｜>", "<|tool_call_begin|>")
#: Control tokens within calls, and around them.
WITHIN = (
    "[ARGS]",
    "[CALL_ID]",
    '<|"|>',
    "<escape>",
    "<|plugin|>",
    "<|action_start|>",
    "<｜tool▁sep｜>",
    "<|tool_call_argument_begin|>",
    "<|tool_call:begin|>",
    "<|tool_call:name|>",
    "<|tool_call:args|>",
    "<|tool_call:end|>",
    "]<]minimax[>[",
    "<|open|>",
    "<|close|>",
    "<|sep|>",
    "｜DSML｜",
    "<tool_sep:opensource>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<arg_key:opensource>",
    "</arg_key:opensource>",
    "<arg_value:opensource>",
    "</arg_value:opensource>",
)

#: So many arguments or calls are none: patterns take time with the square of them.
_MOST = 256
_NAME = r"[\w$./:-]+"


def read(text: str, tools: Tools) -> Items:
    """Calls in the text of a wrapper, and what stands between and behind them; nothing where there is no call at all."""
    if any(
        text.count(opening) > _MOST
        for opening in (
            "<arg_key",
            "<param",
            "<function",
            "<invoke",
            "call▁begin",
            "call_begin",
            "call:begin",
            "<|open|>",
        )
    ):
        return []
    for reader in _READERS:
        try:
            items = list(reader(text, tools))
        except (NoValue, RecursionError):
            continue
        if any(isinstance(item, Call) for item in items):
            return [item for item in items if isinstance(item, Call) or item.strip(" \n\t\r,;")]
    return []


def may_begin(text: str, tools: Tools) -> bool:
    """Whether ``text`` may be the beginning of an answer that is a call without any wrapper."""
    if "```".startswith(text[:3]) and re.fullmatch(r"`{1,3}[a-z_]{0,12}\s*", text):
        return True
    fence = re.match(r"```(?:json|python|tool_code)?\s*", text)
    inner = text[fence.end() :] if fence else text
    if inner.startswith("["):
        inner = inner[1:].lstrip()
        if not inner:
            return True
        if not inner.startswith("{"):
            return _begins_with_name(inner, tools, "(")
    if inner.startswith("{"):
        key = re.match(r'\{\s*(?:"(?:([^"\\]*)("?)))?', inner)
        if key is None or key[1] is None:
            return inner[1:].strip() == ""
        known = (*_NAME_KEYS, *_ARGUMENT_KEYS, "id", "type", "tool_call_id", *tools)
        return key[1] in known if key[2] else any(name.startswith(key[1]) for name in known)
    return _begins_with_name(inner, tools, "\n") or _begins_with_name(inner, tools, "{")


def _begins_with_name(text: str, tools: Tools, behind: str) -> bool:
    return any(text.startswith(name + behind) or (name + behind).startswith(text) for name in tools)


def _offered(name: str, arguments: Any, tools: Tools) -> Call | None:
    if isinstance(arguments, str):
        try:
            arguments = values.whole(arguments) if arguments.strip() else {}
        except NoValue:
            return None
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        return None
    name = name.strip()
    if name not in tools:
        name = name.removeprefix("functions.").removeprefix("default_api.").removesuffix(".call")
    if name not in tools:
        return None
    return Call(name, {key: _numbered(value, name, key, tools) for key, value in arguments.items()})


def _schema(name: str, key: str, tools: Tools) -> Any:
    """The type that the tool's schema has for an argument."""
    properties = tools.get(name, {}).get("properties")
    schema = properties.get(key) if isinstance(properties, dict) else None
    return schema.get("type") if isinstance(schema, dict) else None


def _numbered(value: Any, name: str, key: str, tools: Tools) -> Any:
    """A number or truth value in quotation marks, without them, where the tool wants one (Llama 4)."""
    kinds: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}
    wanted = kinds.get(str(_schema(name, key, tools)))
    if wanted is None or not isinstance(value, str):
        return value
    try:
        typed = json.loads(value.lower())
    except (ValueError, RecursionError):
        return value
    return typed if isinstance(typed, wanted) and isinstance(typed, bool) == (bool in wanted) else value


def _typed(value: str, name: str, key: str, tools: Tools, kind: str | None = None) -> Any:
    """A value that was written without quotation marks, as the tool's schema wants it."""
    wanted = _schema(name, key, tools)
    if kind == "string" or wanted == "string":
        return value
    try:
        typed = json.loads(value)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(value.strip(), value)
    return value if wanted is None and isinstance(typed, str) else typed


# How calls are written. Each reader yields calls, and text that is none.

_NAME_KEYS = ("name", "tool_name", "function", "tool")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")


def _json_calls(text: str, tools: Tools) -> Iterator[Call | str]:
    """JSON, one call or a list, one behind the other, parted by white space, commas or semicolons."""
    at, last = 0, len(text.rstrip())
    while at < last:
        separator = re.compile(r"[\s,;]*(?:```(?:json|python|tool_code)?\s*)?").match(text, at)
        start = separator.end() if separator else at
        if start >= last:
            return
        try:
            value, end = values.read(text, start)
        except NoValue:
            value, end = None, last
        items = value if isinstance(value, list) and value else [value]
        calls = [_json_call(item, tools) for item in items]
        if not any(calls):
            yield text[at:]
            return
        for item, call in zip(items, calls):
            yield call or json.dumps(item, ensure_ascii=False)
        at = end


def _json_call(item: Any, tools: Tools) -> Call | None:
    if not isinstance(item, dict):
        return None
    if isinstance(item.get("function"), dict):
        item = {**item["function"]}
    name = next((item[key] for key in _NAME_KEYS if isinstance(item.get(key), str)), None)
    if name is not None:
        return _offered(name, next((item[key] for key in _ARGUMENT_KEYS if key in item), None), tools)
    if len(item) == 1:  # Apertus: {"name": {…}}
        ((name, arguments),) = item.items()
        return _offered(name, arguments, tools) if isinstance(arguments, dict) else None
    return None


_FUNCTION_XML = re.compile(
    r"<function(?:=|\s+name=\"?)([^>\"\n]+)\"?\s*>(.*?)(?:</function>\s*(?=<function|$|</)|$)", re.DOTALL
)
_PARAMETER_XML = re.compile(
    r"<(parameter|param|arg)(?:=|\s+name=\"?)([^>\"\n]+)\"?\s*>(.*?)</\1>\s*(?=<(?:parameter|param|arg)\b|$)", re.DOTALL
)


def _function_xml(text: str, tools: Tools) -> Iterator[Call | str]:
    """``<function=NAME><parameter=KEY>VALUE</parameter></function>``, or JSON inside of it."""
    for between, match in _matches(_FUNCTION_XML, text):
        if match is None:
            yield between
            continue
        yield between
        name, inside = match[1].strip(), match[2].strip()
        if inside.startswith("{"):
            yield _offered(name, inside, tools) or match[0]
            continue
        pairs = [(p[2].strip(), _unwrapped(p[3])) for p in _PARAMETER_XML.finditer(inside)]
        rest = _PARAMETER_XML.sub("", inside).strip()
        arguments = {key: _typed(value, name, key, tools) for key, value in pairs}
        yield (None if rest else _offered(name, arguments, tools)) or match[0]


def _unwrapped(value: str) -> str:
    """Without the line ends that stand around a value."""
    if value.startswith("<![CDATA[") and value.endswith("]]>"):
        return value[9:-3]
    return value[1:].removesuffix("\n") if value.startswith("\n") else value


_PREFIX = r"(?:｜DSML｜|atem:|antml:)?"
_INVOKE = re.compile(rf"<{_PREFIX}invoke name=\"([^\"]+)\">(.*?)</{_PREFIX}invoke>", re.DOTALL)
_INVOKE_PARAMETER = re.compile(
    rf"<{_PREFIX}parameter name=\"([^\"]+)\"(?: string=\"(true|false)\")?[^>]*>(.*?)</{_PREFIX}parameter>"
    rf"\s*(?=<{_PREFIX}parameter\b|$)",
    re.DOTALL,
)
_TAG = re.compile(r"<([\w.-]+)>(.*?)</\1>", re.DOTALL)


def _invoke_xml(text: str, tools: Tools) -> Iterator[Call | str]:
    """``<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>``; MiniMax M3 has ``<KEY>VALUE</KEY>``."""
    text = text.replace("]<]minimax[>[", "")
    for between, match in _matches(_INVOKE, text):
        yield between
        if match is None:
            continue
        name, inside = match[1], match[2].strip()
        arguments: dict[str, Any] = {
            p[1]: _typed(p[3], name, p[1], tools, "string" if p[2] == "true" else None)
            for p in _INVOKE_PARAMETER.finditer(inside)
        }
        rest = _INVOKE_PARAMETER.sub("", inside)
        if not arguments and inside.count("<") < 4 * _MOST:
            tags = [(tag[1], _typed(tag[2], name, tag[1], tools)) for tag in _TAG.finditer(inside)]
            arguments = {key: _nested(value, name, key, tools) for key, value in tags}
            rest = _TAG.sub("", inside)
        yield (None if rest.strip() else _offered(name, arguments, tools)) or match[0]


def _nested(value: Any, name: str, key: str, tools: Tools) -> Any:
    """``<item>1</item><item>2</item>`` as a list, other tags as an object, where the tool does not want a text."""
    if not isinstance(value, str) or _schema(name, key, tools) == "string":
        return value
    tags = _TAG.findall(value) if value.count("<") < 4 * _MOST else []
    if not tags or _TAG.sub("", value).strip():
        return value
    inner = [(tag, _nested(_typed(text, name, "", tools), name, "", tools)) for tag, text in tags]
    return [item for _, item in inner] if all(tag == "item" for tag, _ in inner) else dict(inner)


_KEY_VALUE = re.compile(
    r"<arg_key(?::\w+)?>(.*?)</arg_key(?::\w+)?>\s*<arg_value(?::\w+)?>(.*?)</arg_value(?::\w+)?>\s*(?=<arg_key|$)",
    re.DOTALL,
)


def _keys_and_values(text: str, tools: Tools) -> Iterator[Call | str]:
    """``NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`` (GLM 4.5 and later)."""
    head, _, _ = text.partition("<arg_key")
    name = re.sub(r"<tool_sep[^>]*>", "", head).strip()
    inside = text[len(head) :].strip()
    pairs = _KEY_VALUE.findall(inside)
    if _KEY_VALUE.sub("", inside).strip() or not name or "\n" in name:
        raise NoValue(text)
    arguments = {key.strip(): _typed(value, name, key.strip(), tools) for key, value in pairs}
    yield _offered(name, arguments, tools) or text


_OPEN_CALL = re.compile(r'<\|open\|>call tool="([^"]+)"[^<]*<\|sep\|>(.*?)<\|close\|>call<\|sep\|>', re.DOTALL)
_OPEN_ARGUMENT = re.compile(
    r'<\|open\|>argument key="([^"]+)" type="(\w+)"<\|sep\|>(.*?)<\|close\|>argument<\|sep\|>', re.DOTALL
)


def _open_and_close(text: str, tools: Tools) -> Iterator[Call | str]:
    """Kimi K3."""
    for between, match in _matches(_OPEN_CALL, text):
        yield between
        if match is not None:
            arguments = {
                key: _typed(value, match[1], key, tools, kind) for key, kind, value in _OPEN_ARGUMENT.findall(match[2])
            }
            yield _offered(match[1], arguments, tools) or match[0]


#: How one call of several is enclosed, and where in it name and arguments stand.
_SECTIONS = (
    re.compile(
        r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?([^<\n]+?)(?:\n```json\n|<｜tool▁sep｜>)(.*?)(?:\n?```)?\s*(?:<｜tool▁call▁end｜>|(?=<｜tool▁call▁begin｜>)|$)",
        re.DOTALL,
    ),
    re.compile(
        r"<\|tool_call_begin\|>\s*([^<]+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>(.*?)"
        r"(?:<\|tool_call_end\|>|(?=<\|tool_call_begin\|>)|$)",
        re.DOTALL,
    ),
    re.compile(
        r"<\|tool_call:begin\|>[^<]*<\|tool_call:name\|>([^<]+)<\|tool_call:args\|>(.*?)<\|tool_call:end\|>", re.DOTALL
    ),
)


def _sections(text: str, tools: Tools) -> Iterator[Call | str]:
    """DeepSeek R1 and V3, Kimi K2, Solar Open."""
    for section in _SECTIONS:
        if section.search(text):
            for between, match in _matches(section, text):
                yield between
                if match is not None:
                    yield _offered(match[1], match[2], tools) or match[0]
            return


_GEMMA = re.compile(rf"\s*call:({_NAME})(?=\{{)")


def _gemma(text: str, tools: Tools) -> Iterator[Call | str]:
    """``call:NAME{KEY:<|"|>text<|"|>,OTHER:2}``"""
    text = text.replace("<escape>", '<|"|>')
    match = _GEMMA.match(text)
    if match is None:
        raise NoValue(text)
    arguments, end = values.read(text, match.end())
    yield _offered(match[1], arguments, tools) or text[:end]
    yield text[end:]


_NAMED = re.compile(rf"[\s,;]*(?:>>>\s*)?({_NAME})\s*(?:\[CALL_ID\]\w*\s*)?(?:\[ARGS\]\s*)?(?=\{{)")


def _name_and_json(text: str, tools: Tools) -> Iterator[Call | str]:
    """Mistral's ``NAME[CALL_ID]ID[ARGS]{…}``, ``NAME{…}``; Functionary's and GLM 4's name on a line of its own."""
    at = 0
    while (match := _NAMED.match(text, at)) is not None:
        arguments, end = values.read(text, match.end())
        yield _offered(match[1], arguments, tools) or text[at:end]
        at = end
    yield text[at:]


_PYTHON = re.compile(rf"[\s,;]*({_NAME})(?=\()")


def _pythonic(text: str, tools: Tools) -> Iterator[Call | str]:
    """``[NAME(KEY='text', OTHER=2), OTHER()]`` (LFM2, Llama 3.2 and 4, Gemma 3); one without brackets, too."""
    fence = re.match(r"\s*```(?:python|tool_code)?\s*", text)
    at = fence.end() if fence else 0
    bracket = re.compile(r"\s*\[").match(text, at)
    at = bracket.end() if bracket else at
    while (match := _PYTHON.match(text, at)) is not None:
        arguments, end = values.arguments(text, match.end())
        yield _offered(match[1], arguments, tools) or text[at:end]
        at = end
    closing = re.compile(r"\s*\]?\s*(?:```)?").match(text, at)
    yield text[closing.end() if closing else at :]


def _code(text: str, tools: Tools) -> Iterator[Call | str]:
    """Code for a tool that runs it, as Llama 3 and Functionary write it behind their tag."""
    for name in ("python", "code_interpreter"):
        if name in tools and text.strip() and not text.lstrip().startswith(("{", "[")):
            properties = list(tools[name].get("properties") or {})
            yield Call(name, {properties[0] if len(properties) == 1 else "code": text.strip()})
            return


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Each match with the text before it, then the text behind the last."""
    at = 0
    for match in pattern.finditer(text):
        yield text[at : match.start()], match
        at = match.end()
    yield text[at:], None


_READERS: tuple[Callable[[str, Tools], Iterator[Call | str]], ...] = (
    _sections,
    _invoke_xml,
    _function_xml,
    _open_and_close,
    _gemma,
    _json_calls,
    _name_and_json,
    _keys_and_values,
    _pythonic,
)


def read_code(text: str, tools: Tools) -> Items:
    """As ``read``, for what stands behind ``<|python_tag|>``."""
    return read(text, tools) or list(_code(text, tools))
