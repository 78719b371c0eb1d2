import json
import xml.etree.ElementTree as ET

import pytest

from kvsplit_patch import report, verify
from kvsplit_patch.errors import PatchError
from kvsplit_patch.verify import Check, Verdict
from tests.support.worlds import run

from .test_smoke import measurement

VERDICT = Verdict(
    "2026-11-22T03:00:00+00:00",
    {"asked": None, "commit": "0" * 40, "tag": "b1", "tree": "1" * 40},
    (
        Check("replay", 0.1, details={"commit": "0" * 40}),
        Check("abi", 2.0, ("a < b & \x1b is wrong.", "second.")),
        Check("optests", 0.0, skipped=True),
        Check("smoke", 3.0, details=measurement().as_json()),
    ),
)


def test_a_verdict_survives_being_stored(cache):
    verify.store(VERDICT)
    assert verify.last() == VERDICT
    assert json.loads(run("report", "--format", "json"))["checks"][1]["problems"][1] == "second."


def test_junit_counts_failures_and_skips_and_is_xml():
    suite = ET.fromstring(report.as_junit(VERDICT))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
    assert suite.find("testcase[@name='abi']/failure").text == "a < b &  is wrong.\nsecond."


def test_markdown_names_every_check_and_problem():
    text = report.as_markdown(VERDICT)
    assert "| abi | 2 problems | 2 |" in text and "- second." in text and "| optests | skipped | 0 |" in text
    assert "| prefill | K8V4 | 9.0035 | 0.003500 |" in text


def test_a_skipped_check_is_no_pass():
    assert VERDICT.problems == ["abi: a < b & \x1b is wrong.", "abi: second."]


def test_without_a_verify_there_is_no_report(cache):
    with pytest.raises(PatchError, match="run 'kvsplit-patch verify'"):
        verify.last()
    cache.mkdir(exist_ok=True)
    (cache / "last-verify.json").write_text("{")
    with pytest.raises(PatchError, match="cannot be read"):
        verify.last()
