"""The workflows: linted without a network, pinned, and calling nothing but what runs on any machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))


def lint(program, *arguments):
    found = Path(sys.executable).parent / program
    if not found.is_file():
        pytest.skip(f"{program} is not installed")
    said = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 0, said.stdout + said.stderr


def test_zizmor_finds_nothing():
    lint("zizmor", "--offline", "--no-progress", ".github")


@pytest.mark.parametrize(
    "schema, files",
    [("github-workflows", WORKFLOWS), ("github-actions", ACTIONS), ("dependabot", [ROOT / ".github/dependabot.yml"])],
)
def test_the_files_are_what_github_reads(schema, files):
    lint("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


@pytest.mark.parametrize("file", [*WORKFLOWS, *ACTIONS], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_actions_are_pinned_and_scripts_are_there(file):
    text = file.read_text()
    for action in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"\./\.github/actions/[a-z]+|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    for script in re.findall(r"run: (?:python3? )?(\.?ci/\S+)", text):
        assert (ROOT / script).is_file() and (os.access(ROOT / script, os.X_OK) or script.endswith(".py")), script
    if file in WORKFLOWS:
        assert "\npermissions: {}\n" in text and "\nconcurrency:\n" in text


@pytest.mark.parametrize("script", ["arm", "backends", "cuda", "lint", "metal", "nightly", "quick_tests"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / "ci" / script], check=True)
