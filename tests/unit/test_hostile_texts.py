"""Texts that nobody meant to write, through everything in ``chat/`` that reads a model's or a stranger's text.

A few hundred of each a run. ``KVSPLIT_TEXTS=10000`` makes that many; ``KVSPLIT_SEED`` makes others.
"""

import functools
import itertools
import json
import os
import random

import pytest

from llm_kvsplit.chat import calls, generic_tools, marks, reasoning, values
from llm_kvsplit.chat.calls import Call
from llm_kvsplit.chat.generic_tools import CallArguments, CallBegun, CallEnded
from llm_kvsplit.chat.reply import ReplyParser, Text, form
from tests.support.chats import LOOK
from tests.unit.test_generic_tools import CALL, COUNT, SAME, SECOND
from tests.unit.test_reply import ANSWERS, CALLS, TOOLS, atoms

COUNT_OF_TEXTS = int(os.environ.get("KVSPLIT_TEXTS", "250"))
SEED = int(os.environ.get("KVSPLIT_SEED", "11"))
WHOLE = [text for text, _ in (ANSWERS | CALLS).values()]
#: What a template may know, which decides what is looked for.
TEMPLATES = (None, " ".join(atoms()).replace("<|message|>", ""), "<think>", "<|start|><|channel|><|message|>", ">>>")


def texts(choice, more=()):
    """Pieces of markup, prose and whole answers, some of them spoilt."""
    alphabet = [*atoms(), *WHOLE, *more, *["Wort ", "é", " ", "\n", ".", "{", '"', "<"] * 8]
    for _ in range(COUNT_OF_TEXTS):
        text = "".join(choice.choice(alphabet) for _ in range(choice.choice((1, 2, 4, 8, 30))))
        if choice.random() < 0.4:
            at, length = choice.randrange(len(text)), choice.randrange(1, 9)
            text = text[:at] + choice.choice(("", text[at : at + length] * 2, "\x00")) + text[at + length :]
        yield text or "é"


def cuts(choice, text):
    """Places to cut ``text`` at: all, and a few."""
    places = range(1, len(text))
    yield choice.sample(places, min(len(places), 300))
    yield choice.sample(places, min(len(places), 3))


def events(reader, text, places=()):
    """What ``reader`` makes of ``text`` in pieces; texts of a kind joined."""
    edges = [0, *sorted(places), len(text)]
    parts = [event for low, high in itertools.pairwise(edges) for event in reader.feed(text[low:high])]
    joined = []
    for event in [*parts, *reader.finish()]:
        before = joined[-1] if joined else None
        if isinstance(event, Text) and isinstance(before, Text) and event.reasoning == before.reasoning:
            joined[-1] = Text(before.text + event.text, event.reasoning)
        elif isinstance(event, CallArguments) and isinstance(before, CallArguments):
            joined[-1] = CallArguments(before.text + event.text)
        else:
            joined.append(event)
    return joined


def test_an_answer_comes_out_the_same_however_it_is_cut():
    choice, called = random.Random(SEED), 0
    for text in texts(choice):
        template, tools = choice.choice(TEMPLATES), choice.choice((TOOLS, TOOLS, {}))
        markers = reasoning.markers_in(template)
        opened = choice.choice(markers) if markers and choice.random() < 0.3 else None
        parser = functools.partial(ReplyParser, tools, form(template, markers), reasoning=opened)
        whole = events(parser(), text)
        called += any(isinstance(event, Call) for event in whole)
        for places in cuts(choice, text):
            assert events(parser(), text, places) == whole, (template, opened, text)
    assert called > COUNT_OF_TEXTS / 20


def test_an_answer_in_the_generic_form_comes_out_the_same_however_it_is_cut():
    choice, called = random.Random(SEED), 0
    for text in texts(choice, more=[CALL, SECOND, "<tool_call>", "</tool_call>"] * 20):
        whole = outcome(text)
        called += any(isinstance(event, CallEnded) for event in whole)
        for places in cuts(choice, text):
            assert outcome(text, places) == whole, text
        begun = [event for event in whole if isinstance(event, (CallBegun, CallArguments, CallEnded))]
        for before, event in itertools.pairwise([None, *begun]):
            assert not isinstance(event, CallEnded) or json.loads(before.text) == event.call.arguments
    assert called > COUNT_OF_TEXTS / 20


def outcome(text, places=()):
    try:
        return events(generic_tools.Reader([COUNT, SAME, LOOK]), text, places)
    except generic_tools.KvsplitError as ex:  # what no grammar lets through: arguments that are no JSON
        return [str(ex)]


@pytest.mark.parametrize(
    "read",
    [
        lambda text: calls.read(text, TOOLS),
        lambda text: calls.read_code(text, TOOLS),
        lambda text: calls.may_begin(text, TOOLS),
        values.whole,
        values.read,
        lambda text: values.arguments(f"({text}", 0),
        lambda text: reasoning.opened(text, " ".join(atoms())),
        lambda text: reasoning.markers_in(text),
    ],
)
def test_whatever_the_text_it_is_read_or_refused(read):
    for text in texts(random.Random(SEED)):
        try:
            read(text)
        except values.NoValue:
            continue


def test_marks_change_nothing_but_whose_the_tokens_are():
    choice = random.Random(SEED)
    control = ["<|im_start|>", "<|im_end|>", "[INST]", "</s>"]
    for text in texts(choice, more=control * 40):
        own, other = choice.choice(control), choice.choice(control)
        marked_with = marks.marks_for([text])
        marked = own + marked_with.mark(text) + other
        assert marked_with.plain(marked) == own + text + other
        parts = marks.pieces(own + text + other, marked, control, ["<think>", "</think>"])
        assert "".join(part.text for part in parts) == own + text + other
        special = "".join(part.text for part in parts if part.special)
        assert sum(special.count(token) for token in control) == 2
