"""``llm kvsplit backend install`` of a real release."""

import hashlib

from llm_kvsplit.builds import choice, download
from tests.support.library import BUILD
from tests.support.web import body


def test_what_a_release_has_is_installed_chosen_and_answers(release, packed, llm):
    for file in packed.iterdir():
        release.at[f"/release/{file.name}"] = body(file.read_bytes())
    said = llm("kvsplit", "backend", "install").stdout
    assert said == f"{BUILD.name}\n" and choice.choose().id == BUILD.name
    archive = f"/release/{BUILD.name}-{download.here()}.tar.gz"
    assert [path for path, _ in release.seen] == ["/release/backends.json", archive]
    assert llm("-m", "kvsplit-demo", "-o", "temperature", "0", "-o", "max_tokens", "4", "def f(").stdout.strip()
    # Again: only the list is looked at.
    assert llm("kvsplit", "backend", "install").stdout == said
    assert [path for path, _ in release.seen[2:]] == ["/release/backends.json"]


def test_the_same_build_makes_the_same_archive(packed, packer, tmp_path):
    again = packer.pack(BUILD, tmp_path)
    assert again.read_bytes() == (packed / again.name).read_bytes()
    sums = (packed / "SHA256SUMS").read_text()
    assert f"{hashlib.sha256(again.read_bytes()).hexdigest()}  {again.name}\n" in sums and "backends.json\n" in sums
