"""What is said of a slow pair, and that it is remembered."""

import json

from llm_kvsplit import notes
from llm_kvsplit.builds import pair_speed
from llm_kvsplit.builds.shelf import Build
from llm_kvsplit.kvtypes import CachePair

K8V4 = CachePair.from_bits(8, 4)


def test_what_mends_it_is_named_unless_the_library_is_the_series_own():
    speed = pair_speed.PairSpeed(8.2, "the CPU")
    stock, ours = Build("stock"), Build("x", manifest={"features": ["cpu-attention"]})
    assert pair_speed.MEND in pair_speed.sentence(speed, K8V4, stock)
    assert pair_speed.MEND not in pair_speed.sentence(speed, K8V4, ours)
    named = Build("custom")  # by LLAMA_CPP_LIB_PATH, which goes before whatever is installed
    assert "once LLAMA_CPP_LIB_PATH is unset" in pair_speed.sentence(speed, K8V4, named)


def test_notes_are_remembered_across_processes_and_only_so_many(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KVSPLIT_CACHE", str(tmp_path))
    for i in range(notes._REMEMBERED + 10):
        monkeypatch.setattr(notes, "_written", set())  # as a new process
        notes.once("slow", f"conversation {i}")
        monkeypatch.setattr(notes, "_written", set())
        notes.once("slow", f"conversation {i}")
    assert capsys.readouterr().err.count("Note: slow") == notes._REMEMBERED + 10
    assert len(json.loads((tmp_path / "notes.json").read_text())) == notes._REMEMBERED
    (tmp_path / "notes.json").write_text("{spoilt")
    monkeypatch.setattr(notes, "_written", set())
    notes.once("slow", "conversation 1")
    assert "Note: slow" in capsys.readouterr().err
