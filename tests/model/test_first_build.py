"""A first question without a library and without a way to one: what stops it says so."""

import pytest

from llm_kvsplit.builds import choice, shelf
from tests.support.first_question import QUESTION


def test_without_release_and_compiler_both_reasons_are_given(no_library, llm):
    said = llm(*QUESTION, code=1, env={"CXX": "no-such-compiler"}).stderr
    assert said.startswith("Error: http://127.0.0.1:1/backends.json cannot be reached")
    assert "There is no C++ compiler ('no-such-compiler')" in said and said.count("\n") == 1


@pytest.mark.parametrize("wrong", [("-o", "kv_key_bits", "7"), ("-o", "n_ctx", "0")])
def test_what_is_wrong_is_said_before_anything_is_compiled(no_library, llm, wrong):
    said = llm(*QUESTION[:2], *wrong, "x", code=1).stderr
    assert "must be" in said and "ompil" not in said


def test_doctor_and_list_say_that_there_is_no_library_yet(no_library, llm):
    for command in (("doctor",), ("backend", "list")):
        done = llm("kvsplit", *command)
        assert "the first question makes one" in done.stdout + done.stderr
        assert "Everything" not in done.stdout


def test_stock_is_not_chosen_where_there_is_none(no_library, llm):
    no_library.mkdir(parents=True)
    (no_library / "active").write_text("stock\n")
    assert choice.choose().id == shelf.NONE
