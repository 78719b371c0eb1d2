"""-o regex and -o grammar: checked before a model is loaded."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest
from llguidance import LLTokenizer

from llm_kvsplit import forms, grammar
from llm_kvsplit.deep_thread import DeepThread
from llm_kvsplit.errors import KvsplitError


def accepted(form, text):
    matcher = grammar.matcher(LLTokenizer("byte"), form.text)
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def test_free_answers_have_no_form():
    assert forms.wanted(None, None, None) is None


def test_a_regular_expression_is_the_whole_answer():
    form = forms.wanted(None, "yes|no{1,2}", None)
    assert accepted(form, "noo")
    assert not accepted(form, "yess")


def test_a_lark_grammar(tmp_path):
    file = tmp_path / "sum.lark"
    file.write_text('start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]+/\n')
    form = forms.wanted(None, None, str(file))
    assert accepted(form, "1+23+4")
    assert not accepted(form, "1+")


@pytest.mark.parametrize("how", ["not installed", "does not load"])
@pytest.mark.parametrize("form", [({"type": "integer"}, None, None), (None, "a+", None)])
def test_without_llguidance_a_sentence_names_it(monkeypatch, tmp_path, how, form):
    """It has no wheel for musl; and one for another C library does not load."""
    for name in [name for name in sys.modules if name.split(".")[0] == "llguidance"]:
        monkeypatch.delitem(sys.modules, name)
    if how == "not installed":
        monkeypatch.setitem(sys.modules, "llguidance", None)
    else:
        (tmp_path / "llguidance.py").write_text("raise ImportError('libc.musl-x86_64.so.1: cannot open')")
        monkeypatch.syspath_prepend(tmp_path)
    assert forms.wanted(None, None, None) is None
    with pytest.raises(KvsplitError) as error:
        forms.wanted(*form)
    assert str(error.value).startswith("A form for the answer needs llguidance, which cannot be imported here (")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("regex", ["(a", r"(a)\1", "(?=a)b", "(" * 20_000 + ")" * 20_000])
def test_a_regular_expression_that_is_none(regex):
    with pytest.raises(KvsplitError, match="-o regex is not understood: ") as error:
        forms.wanted(None, regex, None)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text, cause",
    [
        ("start: foo", "foo"),
        ("", "start"),
        ("root ::= [a-z]+", "gbnf_to_lark"),
        (b"start: \xff", "UTF-8"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested"),
        ("// " + "x" * (300 << 10), "KiB"),
    ],
)
def test_a_grammar_that_is_none(tmp_path, text, cause):
    file = tmp_path / "g.lark"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(KvsplitError, match=cause) as error:
        forms.wanted(None, None, str(file))
    assert "\n" not in str(error.value)


def test_a_grammar_that_nests_as_deep_as_a_file_can(tmp_path):
    """Where the stack of an ordinary thread ends, the process would."""
    file = tmp_path / "deep.lark"
    file.write_text("start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(15_000)) + '\nr15000: "a"')
    form = forms.wanted(None, None, str(file))
    assert DeepThread("following").call(accepted, form, "a", seconds=60)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_while_a_grammar_is_read(tmp_path):
    file = tmp_path / "slow.lark"
    file.write_text("start: R0\n" + "\n".join(f'R{i}: "a" R{i + 1} "b"' for i in range(9000)) + '\nR9000: "a"')
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            with suppress(KvsplitError):  # it is too big, as a machine finds that reads it in a second
                forms.wanted(None, None, str(file))
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 8


def test_no_file(tmp_path):
    with pytest.raises(KvsplitError, match="cannot be read: No such file"):
        forms.wanted(None, None, str(tmp_path / "none.lark"))


def test_one_form_at_a_time():
    with pytest.raises(KvsplitError, match="not both: a schema and -o regex"):
        forms.wanted({}, "a", None)
