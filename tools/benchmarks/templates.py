"""Chat templates rendered by llm-kvsplit and by transformers: how many prompts come out the same, byte for byte."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from typing import Any

from corpora import Corpus
from llm import Tool
from llm.parts import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from work import Result, results

from llm_kvsplit.chat import losses, messages
from llm_kvsplit.chat.prompt import render
from llm_kvsplit.errors import KvsplitError

VERSIONS = f"transformers {version('transformers')}"
SPECIAL = {"bos": "<s>", "eos": "</s>"}
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string", "description": "Where"}, "days": {"type": "integer"}},
    "required": ["place"],
}
TOOLS = [
    Tool(name="weather", description="The weather <today> of a place", input_schema=SCHEMA),
    Tool(name="clock", description="The time", input_schema={"type": "object", "properties": {}}),
]


def say(role: str, text: str) -> Message:
    return Message(role=role, parts=[TextPart(text=text)])


def call(name: str, identity: str, text: str = "", reasoning: str = "", **arguments: Any) -> Message:
    parts: list[Any] = [ReasoningPart(text=reasoning)] if reasoning else []
    parts += [TextPart(text=text)] if text else []
    return Message(
        role="assistant", parts=[*parts, ToolCallPart(name=name, arguments=arguments, tool_call_id=identity)]
    )


def result(name: str, identity: str, output: str) -> Message:
    return Message(role="tool", parts=[ToolResultPart(name=name, output=output, tool_call_id=identity)])


ONE, TWO = "tc_01k0000000000000000000000a", "tc_01k0000000000000000000000b"
ASK = say("user", "Will it rain in Bergen?")
LOOK = call("weather", ONE, place="Bergen", days=2)
RAIN = result("weather", ONE, '{"rain": "12 mm"}')
TWO_CALLS = Message(role="assistant", parts=[*LOOK.parts, *call("clock", TWO).parts])
TWO_RESULTS = Message(role="tool", parts=[*RAIN.parts, *result("clock", TWO, "ten past nine").parts])
THOUGHT = Message(role="assistant", parts=[ReasoningPart(text="Two and two."), TextPart(text="Four.")])

#: name -> messages, whether tools are offered
CONVERSATIONS: dict[str, tuple[list[Message], bool]] = {
    "question": ([say("user", "Hello there")], False),
    "system": ([say("system", "Answer in verse."), say("user", "Hello there")], False),
    "turns": ([say("user", "One?"), say("assistant", "Two."), say("user", "Three?")], False),
    "system, turns": (
        [say("system", "Be brief."), say("user", "One?"), say("assistant", "Two."), say("user", "Three?")],
        False,
    ),
    "white space": ([say("user", "  indented\n\n"), say("assistant", "\n yes \n"), say("user", "\tno ")], False),
    "markup": ([say("user", 'if a < b and [c|d] > "e": é 日本 😀 & \\n')], False),
    "markup in turns": ([say("user", "a<b"), say("assistant", "a[0] > <b>"), say("user", "|x|")], False),
    "reasoning": ([say("user", "2+2?"), THOUGHT, say("user", "And 3?")], False),
    "tools": ([ASK], True),
    "tools, system": ([say("system", "Be brief."), ASK], True),
    "tools, turns": ([ASK, say("assistant", "It may."), say("user", "Look, please.")], True),
    "call": ([ASK, LOOK, RAIN], True),
    "call, system": ([say("system", "Be brief."), ASK, LOOK, RAIN], True),
    "call, answer": ([ASK, LOOK, RAIN, say("assistant", "It will."), say("user", "And in Oslo?")], True),
    "call, no tools": ([ASK, LOOK, RAIN, say("assistant", "It will."), say("user", "Thanks.")], False),
    "call without arguments": ([ASK, call("clock", ONE), result("clock", ONE, "nine")], True),
    "two calls": ([ASK, TWO_CALLS, TWO_RESULTS], True),
    "two rounds": ([ASK, LOOK, RAIN, call("clock", TWO), result("clock", TWO, "nine")], True),
    "text and call": ([ASK, call("weather", ONE, "I shall look.", place="Bergen"), RAIN], True),
    "reasoning and call": ([ASK, call("weather", ONE, "", "Rain? Look.", place="Bergen"), RAIN], True),
    "markup in a result": ([ASK, LOOK, result("weather", ONE, "<b>[wet]</b> | 3")], True),
}


def reference(template: str, history: list[messages.Entry], tools: list[dict[str, Any]]) -> str:
    """What transformers renders. Raises whatever the template raises."""
    from transformers.utils.chat_template_utils import _alias_reasoning_fields, render_jinja_template

    # Reasoning under the name that OpenAI's interface has; transformers adds the others.
    shaped = messages.shaped(history, messages.Shape(), ["reasoning"])
    (text,), _ = render_jinja_template(
        conversations=[_alias_reasoning_fields(shaped)],
        tools=tools or None,
        chat_template=template,
        add_generation_prompt=True,
        bos_token=SPECIAL["bos"],
        eos_token=SPECIAL["eos"],
    )
    return text


def outcome(template: str, conversation: list[Message], tools: bool) -> tuple[str, str]:
    """How the two renderings compare, and what there is to show of it."""
    history, offered = messages.entries(conversation), [messages.described(tool) for tool in TOOLS] if tools else []
    theirs, refusal = None, ""
    try:
        theirs = reference(template, history, offered)
    except Exception as ex:  # a template's own
        refusal = str(ex)
    try:
        ours = render(conversation, template, **SPECIAL, tools=TOOLS if tools else ()).text
    except KvsplitError as ex:
        if theirs is None:
            return "refused by both", str(ex)
        named = "leaves out" in str(ex) or "no place for tools" in str(ex)
        return ("a part left out, which ours names" if named else "REFUSED BY OURS"), str(ex)
    if theirs is None:
        return "rendered by ours alone", refusal
    if ours == theirs:
        return "the same", ""
    probes = losses.probes(history, offered, template)
    lost = probes.missing(reference(template, probes.history, probes.tools))
    return ("a part left out, which ours keeps" if lost else "DIFFERENT"), f"{lost}\n{theirs!r}\n{ours!r}"


def unique(corpora: list[Corpus]) -> dict[str, list[tuple[str, str]]]:
    """(name, template) by corpus, each text once; without those for embedding and ranking, which have no conversation."""
    seen: set[str] = set()
    chosen: dict[str, list[tuple[str, str]]] = {}
    for corpus in corpora:
        for path in sorted(corpus.folder.glob("**/*.jinja")):
            text = path.read_text(encoding="utf-8")
            if text not in seen and "messages" in text and "pooling" not in path.parts:
                seen.add(text)
                chosen.setdefault(corpus.title, []).append((path.stem, text))
    return chosen


def compare(template: str) -> Result:
    """The outcome of each conversation, and what there is to show of it. Runs in a child process."""
    outcomes = {}
    for name, (conversation, tools) in CONVERSATIONS.items():
        outcomes[name] = outcome(template, conversation, tools)
        if outcomes[name][0] == "DIFFERENT":  # some templates write the time of day, to the second
            outcomes[name] = outcome(template, conversation, tools)
    return {"outcomes": outcomes}


def measure(corpora: list[Corpus]) -> dict[str, Any]:
    chosen = unique(corpora)
    pieces = [(f"{title}: {name}", text) for title, named in chosen.items() for name, text in named]
    counts: Counter[tuple[str, str]] = Counter()
    unlike: dict[str, str] = {}
    kept = {"seconds": 300, "versions": VERSIONS, "sources": ("llm_kvsplit/chat", "tools/benchmarks/templates.py")}
    for (name, _), result in zip(pieces, results("templates", pieces, compare, **kept)):
        for conversation, (kind, detail) in result.get("outcomes", {"all": ("HUNG OR DIED", str(result))}).items():
            counts[conversation, kind] += 1
            if kind.isupper():
                unlike[f"{name}: {conversation}: {kind}"] = detail[:400]
    kinds = sorted({kind for _, kind in counts}, key=str.lower)
    return {
        "versions": VERSIONS,
        "corpora": {title: len(named) for title, named in chosen.items()},
        "conversations": {name: {kind: counts[name, kind] for kind in kinds} for name in CONVERSATIONS},
        "unlike": unlike,
    }
