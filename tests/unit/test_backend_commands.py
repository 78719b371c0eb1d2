"""``llm kvsplit backend``: the builds in the user's folder, listed, chosen, removed. Building is tested with the companion."""

import hashlib
import json

from click.testing import CliRunner
from llm.cli import cli

from llm_kvsplit.builds import choice, shelf
from llm_kvsplit.paths import backends_dir


def kvsplit(*arguments, code=0):
    done = CliRunner().invoke(cli, ["kvsplit", "backend", *arguments])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


def a_build(identity, created, **manifest):
    folder = backends_dir() / identity
    folder.mkdir(parents=True)
    (folder / "libllama.so").write_bytes(b"library")
    whole = {
        "id": identity,
        "created": created,
        "bindings_version": shelf.bindings_version(),
        "features": ["kvq-args"],
        "abi": "ok",
        "libraries": {"libllama.so": hashlib.sha256(b"library").hexdigest()},
    }
    (folder / "manifest.json").write_text(json.dumps({**whole, **manifest}))


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


def test_what_does_not_fit_cannot_be_chosen(no_builds):
    lines = ["llama_context_params.n_ctx is at offset 0 in the bindings and at offset 4 in the tree"]
    a_build("moved", "2026-11-03T00:00:00+00:00", abi="mismatch", abi_mismatches=lines)
    assert lines[0] in kvsplit("use", "moved", code=1)
    assert choice.choose().id == "none"


def test_removing_the_chosen_one_goes_back_to_what_is_left(no_builds):
    a_build("first", "2026-11-01T00:00:00+00:00")
    a_build("second", "2026-11-02T00:00:00+00:00")
    kvsplit("use", "second")
    assert kvsplit("remove", "second") == "Removed second.\n"
    assert choice.choose().id == "first"
    assert "There is no backend build 'second'" in kvsplit("remove", "second", code=1)
