import numpy as np
import pytest

from llm_kvsplit.sessions import states
from llm_kvsplit.sessions.state_file import Key


@pytest.fixture
def key():
    return Key("0" * 64, "q8_0", "q4_0", None, True, "library", -1, 3, 10)


@pytest.fixture
def state():
    """Larger than one checksum block, and not a multiple of anything."""
    return np.random.default_rng(1).integers(0, 256, (4 << 20) + 12345, np.uint8)


@pytest.fixture
def saved(user_path, key, state):
    """One stored state of 100 tokens; returns its path."""
    assert states.save(key, "model", "conversation", list(range(100)), memoryview(state))
    (path,) = states.state_files()
    return path
