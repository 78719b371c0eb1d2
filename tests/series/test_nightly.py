"""Whole nights against a git daemon, a package index and a GitHub, all real servers on this machine."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pygit2
import pytest

from kvsplit_patch import paths
from kvsplit_patch.errors import NetworkError
from kvsplit_patch.nightly import nightly
from kvsplit_patch.series import patchset
from kvsplit_patch.upstream import sdist, store
from tests.support import mirrors
from tests.support.nights import CONFLICT, FIELD, RENAMED, UNDONE, world
from tests.support.planted import ROTATION_OFF_FOR_V, V_CONVERTED_AS_K
from tests.support.release import HERE
from tests.support.worlds import git, run


def stages(*names):
    return [word for name in names for word in ("--stage", name)]


QUICK = stages("replay", "lint")
NOBODY = "127.0.0.1:1"


@pytest.fixture
def make(tmp_path, monkeypatch):
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda *commits: stack.enter_context(world(tmp_path, monkeypatch, *commits))


def test_a_green_night_ends_in_one_pull_request(make):
    here = make(mirrors.docs(1), mirrors.docs(2))
    said = here.night(*QUICK)
    assert "2026-11-22" in said and ": green" in said and "2 commits behind" in said
    assert [path for _, path in here.hub.writes] == ["git/trees", "git/commits", "git/refs", "pulls"]
    pull = here.hub.pulls[0]
    assert (pull["head"], pull["base"], pull["title"]) == ("nightly/series", "main", "Series on llama.cpp b9002")

    # What the branch carries, here and there, is a whole series on that tag.
    files = here.hub.objects[here.hub.objects[here.hub.refs["heads/nightly/series"]]["tree"]]["tree"]
    sent = {entry["path"]: (int(entry["mode"], 8), entry["content"].encode()) for entry in files}
    repo = pygit2.Repository(str(here.project))
    tree = repo.references["refs/heads/nightly/series"].peel(pygit2.Tree).id
    there = {path: (mode, repo[blob].data) for path, mode, blob in store.entries(repo, tree)}
    assert "patchset/cpu-attention-decode/ggml/src/ggml-cpu/fattn/decode.h" in sent and sent.items() <= there.items()
    others = {f"patchset/{path}" for path in patchset.others(here.project / "patchset")}
    assert there.keys() == sent.keys() | others
    assert git(here.project, "status", "--short") == ""
    git(here.project, "checkout", "--quiet", "nightly/series")
    lock = patchset.read_lock(here.project / "patchset").upstream
    assert (lock.tag, lock.commit) == ("b9002", here.mirror.commits[2])
    run("lint")


def test_the_same_night_again_does_nothing_again(make):
    here = make(mirrors.docs(1))
    here.night(*QUICK)
    writes, branch = here.hub.writes, git(here.project, "rev-parse", "nightly/series")
    said = here.night(*QUICK)
    assert "== " not in said.replace("=== ", ""), "every stage is known"
    # A tree is named by its content: asking for it is how the branch is compared.
    assert [write for write in here.hub.writes[len(writes) :] if write != ("POST", "git/trees")] == []
    assert git(here.project, "rev-parse", "nightly/series") == branch


def test_a_conflict_is_one_issue_from_first_night_to_last(make):
    here = make(mirrors.docs(1), mirrors.docs(2), CONFLICT, mirrors.docs(4), mirrors.docs(5))
    said = here.night(*QUICK, code=1)
    planted = here.mirror.commits[3]
    assert f"first bad commit: `{planted} arg : sort the includes`" in said
    assert (
        "Upstream changed the lines that kvq-args changes" in said and "common/arg.cpp lines 6-11 of the base" in said
    )
    (searched,) = (paths.cache_dir() / "bisect").glob("replay-kvq-args-*.json")
    assert not json.loads(searched.read_text())["by_tags"], "the history came, although the newest tag had come without"
    (issue,) = here.hub.issues
    assert issue["title"] == f"kvq-args: replay fails since {planted[:9]} (arg : sort the includes)"
    assert (
        "kv-layers, kv-types, metal-kv-types, kv-4-bits and kv-scales stand on it, and stop with it." in issue["body"]
    )
    assert here.hub.writes == [("POST", "issues")]

    here.night(*QUICK, code=1)
    assert here.hub.writes == [("POST", "issues")]

    here.night(*QUICK, date="2026-11-23", code=1)
    assert here.hub.writes[1:] == [("PATCH", "issues/1")] and "Red for 2 nights" in issue["body"]
    here.night(*QUICK, date="2026-11-24", code=1)
    assert here.hub.writes[2:] == [("PATCH", "issues/1"), ("POST", "issues/1/comments")]
    assert {label["name"] for label in issue["labels"]} == {"nightly", "nightly-escalated"}
    here.night(*QUICK, date="2026-11-25", code=1)
    assert len(here.hub.comments[1]) == 1 and "Red for 3 nights, since 2026-11-22" in here.hub.comments[1][0]["body"]

    here.mirror.add(*UNDONE)
    said = here.night(*QUICK, date="2026-11-26")
    assert issue["state"] == "closed" and "Gone on" in issue["body"] and len(here.hub.pulls) == 1
    assert "| 2026-11-26 | green |" in said and f"| 2026-11-25 | red | kvq-args@{planted[:12]} |" in said


def test_upstreams_releases_are_looked_at_besides_its_newest(make):
    here = make(mirrors.docs(1), mirrors.docs(2))
    git(here.mirror.folder, "tag", "--annotate", "-m", "release", "v1.0.0", here.mirror.commits[1])
    git(here.mirror.folder, "tag", "v0.9.0", here.mirror.commits[0])
    said = here.night(*QUICK)
    for name, at in (("b9002", 2), ("v1.0.0", 1)):
        assert f"| {name} | {here.mirror.commits[at][:12]} | green |" in said
    assert f"| {HERE} |" in said and "v0.9.0" not in said
    assert here.hub.pulls[0]["title"] == "Series on llama.cpp b9002"


def test_two_patches_that_two_commits_break_are_two_issues(make):
    rest = "\n    set_target_properties(llama PROPERTIES POSITION"
    beside = (f"if (BUILD_SHARED_LIBS){rest}", f"if (${{BUILD_SHARED_LIBS}}){rest}")
    marker = ("cmake : tidy", mirrors.edit("src/CMakeLists.txt", beside))
    here = make(CONFLICT, mirrors.docs(2), marker)
    said = here.night(*QUICK, code=1)
    keys = {"kvq-args": 1, "marker": 3}
    assert {issue["title"].partition(":")[0] for issue in here.hub.issues} == set(keys)
    for patch, at in keys.items():
        assert any(
            issue["title"].startswith(f"{patch}: replay fails since {here.mirror.commits[at][:9]}")
            for issue in here.hub.issues
        )
    assert said.count("first bad commit") == 2


def test_without_a_tag_on_the_base_there_is_still_one_issue(make):
    """Then nobody knows since when it fails, and upstream's newest is another commit each night."""
    here = make(CONFLICT)
    pygit2.Repository(str(here.mirror.folder)).references.delete("refs/tags/b9000")
    assert "first bad commit: not known" in here.night(*QUICK, code=1)
    here.mirror.add(*mirrors.docs(2))
    here.night(*QUICK, date="2026-11-23", code=1)
    (issue,) = here.hub.issues
    assert "Red for 2 nights" in issue["body"] and here.mirror.commits[1] not in issue["body"]


def test_two_machines_share_an_issue(make, monkeypatch):
    here = make(CONFLICT)
    here.night(*QUICK, code=1)
    mac = SimpleNamespace(system=lambda: "Darwin", machine=platform.machine)
    monkeypatch.setattr(nightly, "machine", mac)
    here.night(*QUICK, code=1)
    (issue,) = here.hub.issues
    assert "Red for 1 night (darwin-" in issue["body"] and "; linux-" in issue["body"]
    here.mirror.add(*UNDONE)
    here.night(*QUICK, "--no-branch")
    assert issue["state"] == "open", "it is still there on the other"
    monkeypatch.undo()


def test_a_new_field_is_told_and_a_renamed_one_is_the_plugins(make):
    here = make(mirrors.docs(1), FIELD)
    said = here.night(*stages("replay", "abi"), "--no-branch")
    assert "since the base, llama_context_params.n_planted is new: uint32, at offset 12" in said
    planted = here.mirror.add(*RENAMED).commits[3]
    said = here.night(*stages("replay", "abi"), date="2026-11-23", code=1)
    assert f"first bad commit: `{planted} llama : rename a parameter`" in said
    assert "llama_context_params.n_ubatch is gone." in said and "llama_context_params.n_micro is new" in said
    assert "llama.h changed in what the plugin itself uses" in said
    assert here.hub.issues[0]["title"].startswith(f"plugin: abi fails since {planted[:9]}")
    assert here.hub.writes == [("POST", "issues")]
    assert f"{planted}  llama : rename a parameter" in run("bisect", "--stage", "abi")


def test_without_a_network_nothing_is_red(make, monkeypatch):
    here = make(CONFLICT)
    here.night(*QUICK, code=1)
    lock = patchset.read_lock(here.project / "patchset")
    away = patchset.write_lock(lock).replace(here.mirror.url.encode(), f"git://{NOBODY}/llama.cpp".encode())
    (here.project / "patchset" / "lock.json").write_bytes(away)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{NOBODY}/simple")
    monkeypatch.setenv("GITHUB_API_URL", f"http://{NOBODY}")
    said = here.night(*QUICK, date="2026-11-23", code=75)
    assert ": untold" in said and "Listing the tags of" in said and "sdist of llama-cpp-python" in said
    assert "Last night of which something could be told: 2026-11-22" in said
    assert here.hub.writes == [("POST", "issues")]

    # And the script that the workflow calls makes a warning of it, beside the report.
    script, summary = Path(__file__).parents[2] / "ci" / "nightly", here.project.parent / "summary.md"
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": programs, "GITHUB_STEP_SUMMARY": str(summary)}
    done = subprocess.run([script, *QUICK, "--date", "2026-11-24"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "::warning::Nothing could be told tonight" in done.stdout
    assert "# Nightly 2026-11-24" in summary.read_text()


def test_red_stays_red_when_github_is_away_and_is_told_later(make, monkeypatch):
    here = make(CONFLICT)
    here.hub.faults = [(502, {})] * 4
    assert "GitHub could not be told" in here.night(*QUICK, code=1)
    assert here.hub.issues == []
    here.night(*QUICK, code=1)
    assert len(here.hub.issues) == 1


def test_a_tag_that_moved_is_a_break_of_its_own(make):
    here = make(mirrors.docs(1), mirrors.docs(2))
    here.night(*QUICK)
    repo = pygit2.Repository(str(here.mirror.folder))
    repo.references["refs/tags/b9002"].set_target(here.mirror.commits[1])
    said = here.night(*QUICK, date="2026-11-23", code=1)
    assert f"The tag b9002 at {here.mirror.url} has moved from {here.mirror.commits[2]}" in said
    assert here.hub.issues[0]["title"].startswith("upstream: fetch fails at")


def test_a_dry_run_prints_what_github_would_be_told(make):
    here = make(CONFLICT)
    said = here.night(*QUICK, "--dry-run", code=1)
    assert 'POST /repos/someone/llm-kvsplit/issues {"title": "kvq-args: replay fails since' in said
    assert here.hub.writes == []


def test_a_token_that_may_not_is_named(make):
    here = make(CONFLICT)
    here.hub.faults = [(403, {})]
    assert "the token may not do that" in here.night(*QUICK, code=1)


def test_without_a_token_the_report_is_all(make, monkeypatch):
    here = make(CONFLICT)
    monkeypatch.delenv("GITHUB_TOKEN")
    said = here.night(*QUICK, code=1)
    assert "There is no GITHUB_TOKEN" in said and here.hub.calls == []
    assert (paths.cache_dir() / "nightly" / "report.md").read_text() in said


def killed_at(night, announced) -> bool:
    """Kill the process once it says that it begins something; whether it came that far."""
    for line in night.stderr:
        if line.startswith(announced):
            os.killpg(night.pid, signal.SIGKILL)
    night.stderr.close()
    return night.wait() == -signal.SIGKILL


@pytest.mark.parametrize("commits, result", [((mirrors.docs(1), mirrors.docs(2)), 0), ((mirrors.docs(1), CONFLICT), 1)])
def test_killed_in_every_stage_and_write_it_finishes_all_the_same(make, commits, result):
    here = make(*commits)
    for announced in [
        "=== b9002",
        "fetching b9002",
        "== replay",
        "== lint",
        *["fetching the commits", "replay-kvq-args: "] * result,
    ]:
        assert killed_at(here.start(*QUICK), announced), announced

    # Then after each write that GitHub has done and not answered.
    done, running = set(), {}

    def kill(*write):
        if write not in done:
            done.add(write)
            os.killpg(running["night"].pid, signal.SIGKILL)

    here.hub.after = kill
    for _ in range(8):
        running["night"] = here.start(*QUICK)
        if not killed_at(running["night"], "nothing"):
            break
    assert running["night"].returncode == result
    assert len(done) == (1 if result else 4)
    assert len(here.hub.issues) == result and len(here.hub.pulls) == 1 - result
    before = len(here.hub.writes)
    here.night(*QUICK, code=result)
    assert [write for write in here.hub.writes[before:] if write != ("POST", "git/trees")] == []


def test_the_newest_bindings_come_from_the_index_that_pip_knows(make, monkeypatch):
    make()
    assert sdist.newest_version() == HERE
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{NOBODY}/simple")
    with pytest.raises(NetworkError, match="sdist of llama-cpp-python cannot be had"):
        sdist.newest_version()


# --- real builds --------------------------------------------------------------------------------


def found_by(stage, here, subject, words, kills) -> str:
    """A night, killed at each of ``kills`` before: ``stage`` finds the last of two commits, which has this subject."""
    for announced in kills:
        assert killed_at(here.start(*words), announced), announced
    said = here.night(*words, code=1)
    assert f"first bad commit: `{here.mirror.commits[2]} {subject}`" in said
    assert f"| red | {stage} |" in said
    state = json.loads(next((paths.cache_dir() / "bisect").glob(f"{stage}-*.json")).read_text())
    assert len(state["candidates"]) == 2 and len(state["trials"]) == 1, "log2 of the number of commits"
    return said


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_commit_that_merges_and_means_something_else_is_found_by_smoke(make):
    """Upstream stops rotating V: no conflict, it compiles, 4-bit values lose more. Killed in each stage on the way."""
    planted = ("kv-cache : simplify", mirrors.edit(ROTATION_OFF_FOR_V.path, *ROTATION_OFF_FOR_V.edits))
    here = make(mirrors.docs(1), planted)
    said = found_by("smoke", here, "kv-cache : simplify", stages("replay", "build", "smoke"), ["== build", "== smoke"])
    assert "| b9002 |" in said and "the baseline has" in said
    assert "The unpatched build moved just as much" in said or "no longer gives the unpatched" in said
    built = sorted((paths.cache_dir() / "tools").iterdir())
    said = run("bisect", "--stage", "smoke")
    assert f"{here.mirror.commits[2]}  kv-cache : simplify" in said and "trying" not in said
    assert sorted((paths.cache_dir() / "tools").iterdir()) == built


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_commit_that_means_something_else_on_metal_alone_is_found_by_softmetal(make):
    """No conflict, and whatever runs on the CPU is what it was. Killed in the midst of each stage on the way."""
    planted = ("metal : simplify", mirrors.edit(V_CONVERTED_AS_K.path, *V_CONVERTED_AS_K.edits))
    here = make(mirrors.docs(1), planted)
    midst = "test-backend-ops FLASH_ATTN_EXT on the software Metal: different types"
    words = stages("replay", "build", "abi", "optests", "softmetal")
    said = found_by("softmetal", here, "metal : simplify", words, ["== abi", "[2", "== optests", midst])
    assert "the software Metal differs from the CPU" in said
    assert here.hub.issues[0]["title"].startswith(f"metal-mixed-kv: softmetal fails since {here.mirror.commits[2][:9]}")
