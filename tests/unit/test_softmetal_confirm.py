"""``llm kvsplit doctor --metal`` without a Mac."""

import sys

import pytest
from click.testing import CliRunner

from llm_kvsplit.commands import doctor


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac: run llm kvsplit doctor --metal")
def test_softmetal_without_a_mac_one_sentence_says_so():
    done = CliRunner().invoke(doctor.command, ["--metal"])
    assert done.exit_code == 1
    assert done.output == "Error: This needs a Mac: here, 'kvsplit-patch verify' proves the same on a software Metal.\n"
