"""What the pages name is there: files and headings behind links; commands, options, files and variables in backticks."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from kvsplit_patch.main import main as kvsplit_patch
from llm_kvsplit.commands import kvsplit
from llm_kvsplit.options import Options


def _git(*arguments: str, at: Path) -> list[str]:
    return subprocess.run(["git", "-C", at, *arguments], check=True, capture_output=True, text=True).stdout.splitlines()


ROOT = Path(_git("rev-parse", "--show-toplevel", at=Path(__file__).parent)[0])
#: Files of this repository, new ones included, and the folders that hold them.
FILES = {
    name for name in _git("ls-files", "--cached", "--others", "--exclude-standard", at=ROOT) if (ROOT / name).exists()
}
FOLDERS = {folder.as_posix() for name in FILES for folder in Path(name).parents}
#: Every end of a path: ``sessions/test_damage.py`` is enough to name a file.
ENDS = {"/".join(Path(name).parts[start:]) for name in FILES | FOLDERS for start in range(len(Path(name).parts))}
TOP = {name.partition("/")[0] for name in FILES if "/" in name}
PAGES = sorted(name for name in FILES if name.endswith(".md"))

COMMANDS = {"llm kvsplit": kvsplit, "kvsplit-patch": kvsplit_patch}
#: A command line ends where another begins.
COMMAND = re.compile(rf"(?<![\w/-])({'|'.join(COMMANDS)})(?![\w-])([^|;&#)]*)")
PATH = re.compile(r"(?<![\w~./<-])[\w.-]+(?:/[\w.+-]+)*/?(?![\w<{*…])")
#: NAME or MODULE in a path stands for something else.
PLACEHOLDER = re.compile(r"(?<![A-Za-z])[A-Z]+(?![A-Za-z])")
VARIABLE = re.compile(r"\b(?:KVSPLIT|SOFTMETAL)_[A-Z_]+\b")


def tokens(page: str) -> Iterator[Token]:
    """Every token of a page, those within a line of text included."""
    for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def anchors(page: str) -> set[str]:
    """What GitHub calls a page's headings: lower case, without punctuation, a hyphen for each space."""
    names: set[str] = set()
    times: Counter[str] = Counter()
    heading = False
    for token in tokens(page):
        if heading:
            text = "".join(part.content for part in token.children or ())
            name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            names.add(f"{name}-{times[name]}" if times[name] else name)
            times[name] += 1
        heading = token.type == "heading_open"
    return names


def links(page: str) -> Iterator[str]:
    for token in tokens(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if target and not re.match(r"[a-z]+:", str(target)):
            yield str(target)


def code(page: str) -> Iterator[str]:
    """What a page writes as code: within its text, and the lines of its blocks that a person types."""
    for token in tokens(page):
        if token.type == "code_inline":
            yield token.content
        elif token.type in ("fence", "code_block") and token.info != "mermaid":
            lines = token.content.splitlines()
            typed = [line[2:] for line in lines if line.startswith("$ ")]
            yield from typed or lines


def dead_link(page: str, target: str) -> str | None:
    path, _, anchor = target.partition("#")
    whole = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
    name = whole.relative_to(ROOT).as_posix() if whole.is_relative_to(ROOT) else ""
    if name not in FILES | FOLDERS:
        return f"{target}: no such file"
    if anchor and anchor not in anchors(name):
        return f"{target}: {name} has no heading of that name"
    return None


def unknown_command(line: str) -> Iterator[str]:
    for name, rest in COMMAND.findall(line):
        command: click.Command = COMMANDS[name]
        words = rest.replace("'", " ").replace('"', " ").split()
        while words and isinstance(command, click.Group) and re.fullmatch(r"[a-z][\w-]*", words[0]):
            context = click.Context(command)
            if words[0] not in command.list_commands(context):
                yield f"{name} {words[0]}: there is no such command"
                return
            name, command = f"{name} {words[0]}", command.get_command(context, words.pop(0))
        options = {"-h", "--help"}.union(*(option.opts for option in command.params))
        for word in words:
            if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options:
                yield f"{name} {word}: there is no such option"


def unknown_option(line: str) -> Iterator[str]:
    for name in re.findall(r"(?<!\S)-o ([a-z_]+)\b", line) if "llm -" in line or line.startswith("-o ") else ():
        if name not in Options.model_fields:
            yield f"-o {name}: there is no such option"


def missing_file(line: str) -> Iterator[str]:
    for path in PATH.findall(line):
        if PLACEHOLDER.search(path):
            continue
        ours = path.partition("/")[0] in TOP and "/" in path.rstrip("/")
        if (ours or re.fullmatch(r"[\w/]+\.py", path)) and path.rstrip("/") not in ENDS:
            yield f"{path}: no such file"


CHECKS = (unknown_command, unknown_option, missing_file)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    faults = [fault for target in links(page) if (fault := dead_link(page, target))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_is_there(page):
    faults = [fault for line in code(page) for check in CHECKS for fault in check(line)]
    assert not faults, "\n".join(faults)


def test_variables_are_read_by_the_code():
    written = "".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    for variable in sorted(set(VARIABLE.findall(written))):
        hits = subprocess.run(["git", "-C", ROOT, "grep", "-qw", variable, "--", ":!*.md"])
        assert hits.returncode == 0, f"{variable} is named on a page and read nowhere"


def test_the_architecture_names_each_room():
    named = {span for span in code("docs/architecture.md") if re.fullmatch(r"[\w./]+/", span)}
    assert not sorted(span for span in named if span.rstrip("/") not in ENDS)
    rooms = {Path(name).parts for name in FILES if name.startswith(("llm_kvsplit/", "tools/kvsplit_patch/"))}
    inner = {f"{parts[depth]}/" for parts in rooms for depth in [1 + (parts[0] == "tools")] if len(parts) > depth + 1}
    assert not inner - named


def test_the_tests_that_show_a_feature_exist():
    """The page of features says "yes" where a test shows it."""
    written = " ".join((ROOT / name).read_text() for name in FILES if re.match(r"tests/.*\.py$", name))
    rows = [line for line in (ROOT / "docs/use/features.md").read_text().splitlines() if line.startswith("| ")][2:]
    for row in rows:
        feature, here, *_, shown_by = (cell.strip() for cell in row.strip("|").split("|"))
        tests = re.findall(r"`(\w+)`", shown_by)
        assert (here == "yes") == bool(tests), feature
        for test in tests:
            assert f"def {test}(" in written, test
