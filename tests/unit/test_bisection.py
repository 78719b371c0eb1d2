"""The search alone: every place a first bad commit can have, and commits on which nothing can be told."""

import math
import random
from dataclasses import replace

import pytest

from kvsplit_patch.bisection import BAD, GOOD, UNTESTABLE, Search, Trial


def searched(count: int, first_bad: int, untestable=()) -> Search:
    """Run a search to its end where commits from ``first_bad`` on are bad, but for those that cannot be tested."""
    search = Search("replay", "good", tuple(str(at) for at in range(count)), False)
    while commit := search.next():
        at = int(commit)
        state = UNTESTABLE if at in untestable else BAD if at >= first_bad else GOOD
        search = replace(search, trials=(*search.trials, Trial(commit, state)))
    return search


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 100])
def test_the_first_bad_one_is_found_in_log2_of_them(count):
    for first_bad in range(count):
        search = searched(count, first_bad)
        assert search.suspects() == (str(first_bad),)
        assert search.before_suspects() == (str(first_bad - 1) if first_bad else "good")
        assert len(search.trials) <= math.ceil(math.log2(count))


def test_what_cannot_be_tested_leaves_suspects_and_is_tried_once():
    chance = random.Random(7)
    for _ in range(300):
        count = chance.randint(1, 40)
        first_bad = chance.randrange(count)
        untestable = {at for at in range(count - 1) if chance.random() < 0.3}
        search = searched(count, first_bad, untestable)
        suspects = [int(commit) for commit in search.suspects()]
        assert first_bad in suspects and set(suspects[:-1]) <= untestable
        tried = [trial.commit for trial in search.trials]
        assert len(tried) == len(set(tried))
