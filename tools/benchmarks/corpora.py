"""What others wrote and the benchmarks hold the plugin against: by package where there is one, else by git; or given.

Nothing of it is run, and nothing of it belongs to this project: it lies in the cache.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from kvsplit_patch.series import trees
from kvsplit_patch.upstream import index
from llm_kvsplit.paths import cache_dir


@dataclass(frozen=True)
class Corpus:
    folder: Path
    #: What it is and of which version, for a page.
    title: str


@dataclass(frozen=True)
class _Package:
    name: str
    version: str
    #: What its sdist holds of use here.
    endings: tuple[str, ...]


#: jsonschema's sdist carries the whole JSON-Schema-Test-Suite.
SUITE = _Package("jsonschema", "4.26.0", (".json",))
LLGUIDANCE = _Package("llguidance", "1.9.1", (".rs",))
TEMPLATES = tuple(
    _Package(name, version, (".jinja",))
    for name, version in (("axolotl", "0.19.0"), ("trl", "1.16.0"), ("vllm", "0.33.0"))
)
BENCH, BENCH_COMMIT = "https://github.com/guidance-ai/jsonschemabench.git", "ba103c73756198dd9b149ddc7db7867da7a077f6"


def suite(given: Path | None) -> Corpus:
    """The JSON-Schema-Test-Suite: a folder with ``tests/draft7`` and its like."""
    if given:
        return Corpus(given, f"JSON-Schema-Test-Suite, {_version(given)}")
    folder = next(_unpacked(SUITE).glob("*/json"))
    return Corpus(folder, f"JSON-Schema-Test-Suite, as in jsonschema {SUITE.version}'s sdist")


def bench(given: Path | None, url: str) -> Corpus:
    """JSONSchemaBench with MaskBench's instances: a folder with ``maskbench/data``."""
    folder = given or cache_dir() / "corpora" / "jsonschemabench"
    if not folder.exists():
        # A clone that was interrupted is none.
        half = folder.with_name(f"{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        fetch = ["fetch", "-q", "--depth", "1", url, BENCH_COMMIT]
        for command in (["init", "-q"], fetch, ["checkout", "-q", "FETCH_HEAD"]):
            subprocess.run(["git", "-C", str(half), *command], check=True)
        half.rename(folder)
    return Corpus(folder, f"JSONSchemaBench with MaskBench's instances, {_version(folder)}")


def llguidance() -> Corpus:
    """llguidance's own tests: Rust."""
    return Corpus(next(_unpacked(LLGUIDANCE).glob("*/parser/tests")), f"llguidance {LLGUIDANCE.version}'s own tests")


def llama_cpp() -> Corpus:
    """llama.cpp's sources that the series stands on."""
    source = trees.unpatched()
    return Corpus(source.folder, f"llama.cpp {source.commit[:7]}")


def templates(given: list[Path]) -> list[Corpus]:
    """Folders with chat templates: llama.cpp's, those of packages, and those given."""
    ours = llama_cpp()
    named = [Corpus(ours.folder / "models" / "templates", f"{ours.title}, models/templates")]
    named += [Corpus(_unpacked(each), f"{each.name} {each.version}") for each in TEMPLATES]
    return named + [Corpus(folder, f"{folder.name}, {_version(folder)}") for folder in given]


def _unpacked(package: _Package) -> Path:
    """The files of a package's sdist that are of use, under the names they have there."""
    folder = cache_dir() / "corpora" / f"{package.name}-{package.version}"
    with index.incoming(folder.parent) as scratch:
        if not folder.is_dir():
            sdist = index.download(package.name, package.version, "sdist", scratch)
            chosen = scratch / "chosen"
            with tarfile.open(sdist) as archive:
                for member in archive:
                    if member.isreg() and member.name.endswith(package.endings):
                        archive.extract(member, chosen, filter="data")
            chosen.rename(folder)
    return folder


def _version(folder: Path) -> str:
    """The commit of a clone."""
    done = subprocess.run(["git", "-C", str(folder), "log", "-1", "--format=%h %cs"], capture_output=True, text=True)
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "of no known version"
