"""Where states are kept: found by their tokens, within a budget, whole under any interruption."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from llm_kvsplit.sessions import budget, state_file, states

TOKENS = list(range(100))


def put(key, conversation, tokens, size=1000):
    assert states.save(key, "model", conversation, tokens, memoryview(np.full(size, len(tokens) % 256, np.uint8)))


def test_the_longest_common_prefix_wins(user_path, key):
    put(key, "a", TOKENS[:50])
    put(key, "b", TOKENS[:60] + [999] * 20)
    put(key, "c", [7, *TOKENS])
    session, common = states.find(key, TOKENS, 512)
    assert (session.conversation, common) == ("b", 60)
    assert states.find(key, TOKENS, 70)[0].conversation == "a"  # b's state is too long for that context
    assert states.find(replace(key, k_type="f16"), TOKENS, 512) is None
    assert states.find(key, [5, 6, 7], 512) is None


def test_a_conversation_has_one_state(user_path, key):
    put(key, "a", TOKENS[:50])
    put(key, "a", TOKENS[:90])
    assert len(states.state_files()) == 1
    assert states.find(key, TOKENS, 512)[1] == 90


def test_only_the_owner_may_read(saved):
    assert saved.stat().st_mode & 0o777 == 0o600
    assert saved.parent.stat().st_mode & 0o777 == 0o700
    assert states.folder().stat().st_mode & 0o777 == 0o700


def test_the_least_recently_used_goes_first(user_path, key):
    budget.set_budget(40_000)  # a file of 1000 bytes of state takes 5096
    for i in range(6):
        put(key, str(i), [i] * 40)
        os.utime(max(states.state_files(), key=lambda p: p.stat().st_mtime_ns), (i, i))
    assert states.load(states.find(key, [0] * 40, 512)[0]) is not None  # used just now
    budget.set_budget(3 * 5096 + 1000)
    put(key, "new", [9] * 40)
    left = {session.conversation for session in states.sessions()}
    assert "0" in left and "new" in left and "1" not in left
    assert budget.used() <= budget.budget()


def test_a_state_beyond_the_budget_is_not_stored(user_path, key):
    budget.set_budget(100)
    assert states.save(key, "model", "a", TOKENS, memoryview(np.zeros(1000, np.uint8))) is None
    assert states.state_files() == []


def test_the_default_budget_is_a_share_of_the_disk(user_path):
    assert budget.budget() > 0
    budget.set_budget(5)
    assert budget.budget() == 5
    budget.set_budget(None)
    assert budget.budget() > 5


CHILD = """
import sys, numpy as np
from llm_kvsplit.sessions import states
from llm_kvsplit.sessions.state_file import Key
key = Key("0" * 64, "q8_0", "q4_0", None, True, "library", -1, 3, 10)
n = int(sys.argv[1])
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    state = np.full(2_000_000 + n, n, np.uint8)
    print(states.save(key, "model", "shared", [n] * 40, memoryview(state)) is not None, flush=True)
"""


def child(n, times):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(n), str(times)], stdout=subprocess.PIPE, text=True)


def whole(key):
    """Every file that can be found is one of the states that were stored, to the byte."""
    for path in states.state_files():
        session = state_file.read_head(path, key)
        n = int(session.tokens[0])
        assert session.tokens.tolist() == [n] * 40
        assert bytes(state_file.read_state(session)) == bytes([n]) * (2_000_000 + n)
    return len(states.state_files())


#: A child that dies of SIGKILL at a step of its second save, or not at all.
KILLED = """
import os, signal, sys
from llm_kvsplit.sessions import state_file
step, saves = sys.argv[3], 0
def die(): os.kill(os.getpid(), signal.SIGKILL)
def write(out, head, state, write=state_file.write):
    global saves
    saves += 1
    if saves == 1:
        return write(out, head, state)
    if step == "nothing written":
        die()
    if step == "within the head":
        out.write(head[:100]); die()
    if step == "within the state":
        out.write(head); out.write(state[: len(state) // 2]); die()
    write(out, head, state)
    if step == "before the new name":
        die()
def replace(*names, replace=os.replace):
    replace(*names)
    if saves == 2 and step == "after the new name":
        die()
state_file.write, os.replace = write, replace
"""


@pytest.mark.parametrize(
    "step",
    ["nothing written", "within the head", "within the state", "before the new name", "after the new name"],
)
def test_kill_at_any_moment(user_path, key, step):
    process = subprocess.run([sys.executable, "-c", KILLED + CHILD, "7", "2", step], stdout=subprocess.PIPE, text=True)
    assert (process.returncode, process.stdout.split()) == (-signal.SIGKILL, ["ready", "True"])
    left = list(states.folder().glob("*/*.tmp"))
    assert len(left) == (step != "after the new name")
    assert whole(key) == 1
    put(key, "after", TOKENS)
    assert not list(states.folder().glob("*/*.tmp"))  # what the dead left is gone


def test_two_processes_on_one_conversation(user_path, key):
    both = [child(1, 20), child(2, 20)]
    seen = 0
    while any(process.poll() is None for process in both):
        try:
            seen += whole(key)
        except FileNotFoundError:
            continue  # replaced between the two reads
    assert all(set(process.stdout.read().split()) == {"ready", "True"} for process in both)
    assert seen and whole(key) == 1


def test_a_full_disk(user_path, key):
    """No byte beyond a megabyte can be written: nothing is stored, nothing is left, and doctor knows."""
    put(key, "before", TOKENS)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, "1", "1"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        ),
    )
    assert process.communicate()[0].split() == ["ready", "False"]
    assert process.returncode == 0
    assert [session.conversation for session in states.sessions()] == ["before"]
    assert not list(states.folder().glob("*/*.tmp"))
    assert "could not be stored" in states.latest_trouble()


def test_a_place_that_cannot_be_written(user_path, key):
    (states.made_folder() / key.folder_name()).write_text("in the way")
    assert states.save(key, "model", "a", TOKENS, memoryview(np.zeros(10, np.uint8))) is None
    assert "could not be stored" in states.latest_trouble()
