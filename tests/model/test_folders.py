"""Folders of ours that cannot be read or written: the rest of llm works, and what needs them says so."""

import pytest

from tests.support.ggufs import write_llama

ANSWER = ("-m", "kvsplit-demo", "-o", "max_tokens", "2", "-o", "kv_value_bits", "4", "def f")


@pytest.fixture
def blocked(user_path):
    """A file lies where our folder under llm's should be. No rights help against that, not even root's."""
    (user_path / "kvsplit").rmdir()
    (user_path / "kvsplit").write_text("")
    return user_path / "kvsplit"


def test_other_models_and_the_bundled_one_work_without_our_folder(llm, blocked):
    models = llm("models")
    assert "KV split: kvsplit-demo" in models.stdout
    assert f"The list of models {blocked / 'models.json'} cannot be read" in models.stderr
    assert llm(*ANSWER).stdout.strip()
    for reading in (("find",), ("sessions", "list"), ("sessions", "budget"), ("backend", "list")):
        code = 1 if reading == ("find",) else 0  # it compares with the list of models
        llm("kvsplit", *reading, code=code)


@pytest.mark.parametrize(
    "writing",
    [("sessions", "budget", "1GB"), ("backend", "use", "kvsplit"), ("add", "m.gguf"), ("remove", "m")],
    ids=lambda words: words[0],
)
def test_what_has_to_be_written_names_the_file(llm, blocked, tmp_path, writing, monkeypatch):
    write_llama(tmp_path / "m.gguf")
    if writing[:2] == ("backend", "use"):
        monkeypatch.delenv("KVSPLIT_BUILDS")
    failed = llm("kvsplit", *writing, code=1).stderr
    assert failed.splitlines()[-1].startswith("Error: ")
    assert str(blocked) in failed or writing[0] == "backend"


def test_a_cache_is_not_needed(llm, user_path, tmp_path):
    (tmp_path / "cache").write_text("")
    env = {"KVSPLIT_CACHE": str(tmp_path / "cache")}
    assert llm(*ANSWER, env=env).stdout.strip()
    llm("kvsplit", "sessions", "list", env=env)
    llm("kvsplit", "find", env=env)
