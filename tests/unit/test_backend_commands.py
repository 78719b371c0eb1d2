"""``llm kvsplit backend``: the builds in the user's folder, listed, chosen, removed. Building is tested with the companion."""

import hashlib
import json

import pytest
from click.testing import CliRunner
from llm.cli import cli

from llm_kvsplit.builds import choice
from llm_kvsplit.paths import backends_dir
from tests.support import defined


def kvsplit(*arguments, code=0):
    done = CliRunner().invoke(cli, ["kvsplit", "backend", *arguments])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


def a_build(identity, created, **changed):
    defined.a_build(backends_dir() / identity, created, **changed)


def test_the_newest_that_fits_is_marked_until_another_is_chosen(no_builds):
    assert "There is no build yet" in kvsplit("list")
    a_build("first", "2026-11-01T00:00:00+00:00")
    a_build("second", "2026-11-02T00:00:00+00:00")
    assert [line[:8] for line in kvsplit("list").splitlines()] == ["* second", "  first "]
    assert kvsplit("use", "fir") == "Using first.\n"
    assert choice.choose().id == "first"
    assert [line[:8] for line in kvsplit("list").splitlines()] == ["  second", "* first "]


def test_the_bindings_own_library_cannot_be_chosen_where_they_have_none(no_builds):
    """uv installs them so here; see pyproject.toml."""
    a_build("first", "2026-11-01T00:00:00+00:00")
    assert "llama-cpp-python was installed without a library" in kvsplit("use", "stock", code=1)
    assert choice.choose().id == "first"


def test_a_library_that_the_environment_names_goes_before_a_choice(no_builds, tmp_path, monkeypatch):
    a_build("first", "2026-11-01T00:00:00+00:00")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert "LLAMA_CPP_LIB_PATH is set and goes before it" in kvsplit("use", "first")
    monkeypatch.delenv("LLAMA_CPP_LIB_PATH")
    assert "LLAMA_CPP_LIB_PATH" not in kvsplit("use", "first")


def test_what_cannot_be_used_cannot_be_chosen(no_builds):
    a_build("other", "2026-11-03T00:00:00+00:00", defined=defined.without("llama_decode"))
    said = kvsplit("use", "other", code=1)
    assert "other cannot be used: llm-kvsplit uses llama.cpp otherwise: llama_decode() is gone. Make one" in said
    assert choice.choose().id == "none"
    assert "Build other cannot be used" in kvsplit("list")
    a_build("before", "2026-11-04T00:00:00+00:00")
    (backends_dir() / "before" / "bindings.json").unlink()
    assert "before cannot be used: it lacks bindings.json" in kvsplit("use", "before", code=1)


def test_a_choice_that_cannot_be_used_any_more_does_not_stand_in_the_way(no_builds):
    """A plugin of another day, or a damaged file: the newest that fits is loaded, and the list says why."""
    a_build("older", "2026-11-01T00:00:00+00:00")
    a_build("chosen", "2026-11-02T00:00:00+00:00")
    a_build("newest", "2026-11-03T00:00:00+00:00")
    kvsplit("use", "chosen")
    (backends_dir() / "chosen" / "bindings.json").unlink()
    assert choice.choose().id == "newest"
    listed = kvsplit("list")
    assert "* newest" in listed and "Build chosen cannot be used: it lacks bindings.json" in listed
    kvsplit("use", "older")
    assert choice.choose().id == "older" and not choice.choose().note
    (backends_dir() / "active").write_text("gone\n")
    assert choice.choose().id == "newest" and "Build gone is gone" in choice.choose().note


def test_a_build_of_before_there_were_definitions_is_told_as_that(no_builds):
    a_build("old", "2026-11-03T00:00:00+00:00")
    folder = backends_dir() / "old"
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["bindings"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "bindings_version": "0.3.36", "abi": "ok"}))
    (folder / "bindings.json").unlink()
    assert "old cannot be used: it was made before builds carried a bindings.json" in kvsplit("use", "old", code=1)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1}'])
def test_definitions_that_someone_has_been_at_are_not_used(no_builds, text):
    a_build("first", "2026-11-01T00:00:00+00:00")
    file = backends_dir() / "first" / "bindings.json"
    file.write_text(text)
    assert "its bindings.json is not the file that its manifest names" in kvsplit("use", "first", code=1)
    manifest = json.loads((file.parent / "manifest.json").read_text())
    manifest["bindings"] = hashlib.sha256(text.encode()).hexdigest()
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    assert "cannot be read as the definitions of a library" in kvsplit("use", "first", code=1)


def test_removing_the_chosen_one_goes_back_to_what_is_left(no_builds):
    a_build("first", "2026-11-01T00:00:00+00:00")
    a_build("second", "2026-11-02T00:00:00+00:00")
    kvsplit("use", "second")
    assert kvsplit("remove", "second") == "Removed second.\n"
    assert choice.choose().id == "first"
    assert "There is no build 'second'" in kvsplit("remove", "second", code=1)
