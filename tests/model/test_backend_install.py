"""``llm kvsplit backend install`` of a real release."""

import hashlib

from llm_kvsplit.builds import choice, download
from llm_kvsplit.paths import backends_dir
from tests.support.archives import WHOLE, head, serve, tar
from tests.support.library import BUILD
from tests.support.web import body, status


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


def test_where_nothing_fits_or_answers_it_is_compiled(release, llm):
    """Without a compiler that ends in the compiler's own sentence, which shows that it came that far."""
    nothing = {"CXX": "no-such-compiler"}
    serve(release, b"", platform="amiga-m68k")
    said = llm("kvsplit", "backend", "install", code=1, env=nothing).stderr
    assert f"There is no build to download for {download.here()}" in said
    assert "Compiling one instead" in said and "There is no C++ compiler" in said
    release.at["/release/backends.json"] = status(404)
    said = llm("kvsplit", "backend", "install", code=1, env=nothing).stderr
    assert "cannot be had (HTTP 404). Compiling one instead" in said
    away = {**nothing, "KVSPLIT_BACKENDS_URL": "http://127.0.0.1:1"}
    said = llm("kvsplit", "backend", "install", code=1, env=away).stderr
    assert "cannot be reached (ConnectionError). Compiling one instead" in said


def test_a_build_that_does_not_run_here_is_taken_away_again(release, llm):
    serve(release, tar(head(), *WHOLE))
    said = llm("kvsplit", "backend", "install", code=1, env={"CXX": "no-such-compiler"}).stderr
    assert "does not run here" in said and "Compiling one instead" in said
    assert choice.choose().manifest is None and not list(backends_dir().glob("*/manifest.json"))
