"""Flash attention with the types and pairs of types that the series gives to Metal, in software, against the CPU."""

import re

import pytest

from softmetal import attention

pytestmark = [pytest.mark.build, pytest.mark.timeout(1500)]

#: Head sizes of K beside 64, and V's: what upstream has kernels for that blocks of 32 values fit into.
OTHER_HEADS = "32|96|128|192|256|320|512|576"


def check(outcome, at_least):
    print(f"{outcome.passed} cases passed")
    assert outcome.died == ""
    assert outcome.failed == ()
    assert outcome.passed >= at_least


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_every_pair_agrees_with_the_cpu_at_head_size_64(patched_programs, reverse):
    check(attention.run(patched_programs, attention.mixed("64"), reverse=reverse), 30 * 10 + 26 * 9 + 200)


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_the_usual_pairs_agree_with_the_cpu_at_every_head_size(patched_programs, reverse):
    check(attention.run(patched_programs, attention.mixed(OTHER_HEADS), reverse=reverse), 3 * 10 * 4 + 26 * 4)


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_upstreams_own_cases_still_pass(patched_programs, reverse):
    check(attention.run(patched_programs, attention.STOCK, reverse=reverse), 40)


def test_the_device_takes_exactly_what_there_are_kernels_for(patched_programs, stock_programs):
    ours, theirs = attention.supported(patched_programs), attention.supported(stock_programs)
    assert len(theirs) > 4000
    for case, supported in ours.items():
        if attention.is_mixed(case):
            k, v = map(int, re.match(r"hsk=(\d+),hsv=(\d+)", case).groups())
            assert supported == (k >= v and (k, v) != (128, 64)), case
            assert not theirs.get(case), case
        elif case in theirs:
            assert supported == theirs[case], case
        else:  # the series brings cases that upstream has not
            types = re.findall(r"type_[KV]=(\w+)", case)
            assert supported == all(each in attention.TYPES for each in types), case
    taken = {re.search(r"type_K=(\w+),type_V=(\w+),", case).groups() for case, supported in ours.items() if supported}
    assert taken >= {(k, v) for k in attention.ADDED for v in ("f16", "q8_0", "q4_0", *attention.ADDED)}
    assert taken >= {(k, v) for v in attention.ADDED for k in ("f16", "q8_0", "q4_0")}
    assert sum(ours.values()) - sum(theirs.values()) >= 1500
