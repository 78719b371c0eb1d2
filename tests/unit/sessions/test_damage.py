"""A stored state is read whole and right, or not at all.

The bounded form; KVSPLIT_FAULT_CASES raises the number of random cases for a long run by hand.
"""

import os
import random

import numpy as np
import pytest

from llm_kvsplit.sessions import state_file, states
from llm_kvsplit.sessions.state_file import Damaged

CASES = int(os.environ.get("KVSPLIT_FAULT_CASES", "2000"))


def read(path, key):
    session = state_file.read_head(path, key)
    return session.tokens.tolist(), bytes(state_file.read_state(session))


@pytest.fixture
def small(user_path, key):
    state = np.random.default_rng(2).integers(0, 256, 3000, np.uint8)
    assert states.save(key, "model", "conversation", list(range(40)), memoryview(state))
    (path,) = states.state_files()
    return path


def test_what_is_stored_comes_back(saved, key, state):
    assert read(saved, key) == (list(range(100)), state.tobytes())


def test_cut_at_every_length(small, key):
    whole = small.read_bytes()
    for length in reversed(range(len(whole))):
        os.truncate(small, length)
        with pytest.raises(Damaged):
            read(small, key)
    small.write_bytes(whole + b"\0")
    with pytest.raises(Damaged):
        read(small, key)


def _put(path, at, data):
    with path.open("r+b") as opened:  # written anew, the whole file goes to the disk each time
        opened.seek(at)
        opened.write(data)


def test_flipped_bits(small, key):
    """Thousands of single flips, in the head and in the state: each is found. The padding between them is nothing's."""
    whole, right = small.read_bytes(), read(small, key)
    head = 16 + int.from_bytes(whole[8:16], "little")
    seeded = random.Random(3)
    flipped = {"head": 0, "state": 0}
    for _ in range(CASES):
        at = seeded.randrange(len(whole))
        if head <= at < len(whole) - 3000:
            at = seeded.randrange(head)  # not the padding
        _put(small, at, bytes([whole[at] ^ 1 << seeded.randrange(8)]))
        with pytest.raises(Damaged):
            read(small, key)
        _put(small, at, whole[at : at + 1])
        flipped["head" if at < head else "state"] += 1
    assert min(flipped.values()) > CASES // 10, flipped
    assert read(small, key) == right
    small.write_bytes(whole[:head] + b"\xff" + whole[head + 1 :])
    assert read(small, key) == right


def test_random_rubbish(small, key):
    """Overwritten stretches, among them the length field, never cost memory or time."""
    whole, seeded = small.read_bytes(), random.Random(4)
    for _ in range(CASES // 10):
        at, n = seeded.randrange(64), seeded.randrange(1, 64)
        rubbish = seeded.randbytes(n)
        assert rubbish != whole[at : at + n]
        _put(small, at, rubbish)
        with pytest.raises(Damaged):
            read(small, key)
        _put(small, at, whole[at : at + n])


@pytest.mark.parametrize("damage", ["head", "state"])
def test_a_damaged_file_is_removed_and_noted(saved, key, damage):
    whole = bytearray(saved.read_bytes())
    whole[40 if damage == "head" else -5] ^= 1
    saved.write_bytes(whole)
    found = states.find(key, list(range(100)), 512)
    if damage == "state":
        assert states.load(found[0]) is None
    else:
        assert found is None
    assert not saved.exists()
    assert "removed" in states.latest_trouble()


def test_another_keys_file_is_not_believed(saved, key, user_path):
    """Moved into the folder of another model, by hand or by a restored backup."""
    from dataclasses import replace

    other = replace(key, model="1" * 64)
    place = states.folder() / other.folder_name()
    place.mkdir()
    saved.rename(place / saved.name)
    assert states.find(other, list(range(100)), 512) is None


def test_replaced_between_head_and_state(saved, key, state):
    """Another process stored a newer state: the old head is not used with it, and the new file stays."""
    session, _ = states.find(key, list(range(100)), 512)
    newer = np.roll(state, 1)
    states.save(key, "model", "conversation", list(range(100)), memoryview(newer))
    assert states.load(session) is None
    assert read(saved, key)[1] == newer.tobytes()


def test_replaced_by_a_file_in_the_same_place_of_the_disk(saved, key, state):
    """File systems give the number of a file that was removed to the next one."""
    old = saved.read_bytes()
    states.save(key, "model", "conversation", list(range(100)), memoryview(state[:-1]))
    newer = saved.read_bytes()
    saved.write_bytes(old)
    session, _ = states.find(key, list(range(100)), 512)
    saved.write_bytes(newer)  # over the old one
    assert states.load(session) is None
    assert read(saved, key)[1] == state[:-1].tobytes()
