"""smoke on real builds: the series as it is, and with planted faults."""

import pytest

from kvsplit_patch.building import cmake
from kvsplit_patch.errors import PatchError
from kvsplit_patch.proof import smoke
from kvsplit_patch.series import trees
from tests.support.planted import FAULTS, plant
from tests.support.release import HERE, fetch


def echo(line):
    print(line)


def measured(source):
    model, text = smoke.demo()
    return smoke.measured(source, cmake.flags(), model, text, echo)


@pytest.fixture(scope="module")
def plain():
    """The unpatched build's numbers."""
    fetch(HERE)
    return measured(trees.unpatched())


@pytest.mark.build
@pytest.mark.timeout(2400)
def test_the_series_means_the_same(project):
    fetch(HERE)
    _, found = smoke.check(trees.patched(), trees.unpatched(), trees.exact(), cmake.flags(), echo)
    assert found == []


@pytest.mark.build
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(project, plain, fault):
    plant(fault, project / "work")
    source = trees.patched()
    assert source.patches[-1]["name"] == fault.name
    model, text = smoke.demo()
    baseline = smoke.read_baseline(model, text)
    try:
        ours = measured(source)
    except PatchError as died:  # read past the end of its buffer, or met an assertion
        assert fault.name in ("v-with-k-blocks", "swapped-types") and "llama-perplexity" in died.message
        print(died.message)
        return
    assert smoke.problems(ours, plain, baseline, frozenset())
    # And it may not hide behind a patch that claims to change results.
    claimed = smoke.problems(ours, plain, baseline, frozenset({"all"}))
    print(fault.name, *claimed, sep="\n")
    assert claimed
