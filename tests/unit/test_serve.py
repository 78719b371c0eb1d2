"""``llm kvsplit serve``: what is handed to llama-server, and what is said where that cannot be had. No library is needed."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from kvsplit_patch.building import page
from kvsplit_patch.errors import Unable
from llm_kvsplit.builds import choice, programs
from llm_kvsplit.builds.shelf import CUSTOM, STOCK, Build
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.fit import Footprint
from llm_kvsplit.kvtypes import parse
from llm_kvsplit.registry import Entry
from llm_kvsplit.serve import launch, watcher
from llm_kvsplit.serve.plan import Served

SETTINGS = launch.Settings("127.0.0.1", 8080, None, 2, None, None, verbose=False)


def planned(name="one", cache="K8V4", **entry):
    kind = parse(cache)
    footprint = Footprint(kind, 2048, 9, 7, 5)
    return Served(name, Entry(name, Path(f"/models/{name}.gguf"), **entry), kind, kind, 4, 512, footprint)


@pytest.mark.parametrize(
    "cache, options",
    [
        ("f16", {"kvq-key": "16", "kvq-val": "16"}),
        ("K8Vq4_0", {"kvq-key": "8", "cache-type-v": "q4_0"}),
        ("K6V3", {"kvq-key": "6", "kvq-val": "3"}),
        ("0-1:8/8,rest:8/4", {"kvq-layers": "0-1:K8V8,rest:K8V4"}),
    ],
)
def test_the_cache_is_handed_over_in_the_series_options(cache, options):
    assert launch.cache_options(parse(cache)) == options


def test_one_model_is_a_command_line():
    words = launch.arguments(
        Path("/bin/llama-server"), [planned(aliases=("a",), n_gpu_layers=-1)], SETTINGS, False, 2**34
    )
    line = " ".join(words)
    assert line.startswith("/bin/llama-server --host 127.0.0.1 --port 8080 --metrics --cors-origins localhost")
    for part in ("--model /models/one.gguf", "--ctx-size 2048 --parallel 4 --kv-unified", "--n-gpu-layers all"):
        assert part in line
    assert words[-2:] == ["--alias", "one"] and "--no-repack" in words and "--log-verbosity" in words


def test_several_models_are_a_list_in_a_file(cache):
    both = [planned(aliases=("a", "b")), planned("two", mmproj=Path("/models/eyes.gguf"))]
    words = launch.arguments(Path("/bin/llama-server"), both, SETTINGS, True, 2**34)
    assert words[words.index("--models-max") + 1] == "2" and "--model" not in words
    text = Path(words[words.index("--models-preset") + 1]).read_text()
    first, second = text.split("\n\n")
    assert first.startswith("[one]\nmodel = /models/one.gguf\n") and "alias = a,b" in first
    assert second.startswith("[two]\n") and "mmproj = /models/eyes.gguf" in second
    assert text.count("load-on-startup = true") == 2


@pytest.mark.parametrize(
    "cache, said",
    [
        ("f16", "f16"),
        ("q8_0/iq4_nl", "K8Viq4_nl q8_0/iq4_nl"),
        ("0-1:8/8,rest:8/4", "0-1:K8V8 rest:K8V4"),
    ],
)
def test_the_tags_name_the_cache(cache, said):
    assert launch.tags(planned(cache=cache)) == [said, "7 bytes"]


@pytest.mark.parametrize("name", ["a;b", "a#b", "a]b"])
def test_what_llama_servers_list_would_read_otherwise_is_refused(cache, name):
    with pytest.raises(KvsplitError, match="cannot be served beside others: .*serve it alone"):
        launch.arguments(Path("/x"), [planned(name), planned("two")], SETTINGS, True, 2**34)


def test_the_environment_passes_what_a_person_adds_and_no_other_models(cache, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_MODELS_DIR", "/others")
    monkeypatch.setenv("LLAMA_ARG_N_PREDICT", "500")
    own = launch.environment(SETTINGS)
    assert "LLAMA_ARG_MODELS_DIR" not in own and own["LLAMA_ARG_N_PREDICT"] == "500" and "LLAMA_API_KEY" not in own
    assert own["LLAMA_CACHE"].startswith(str(cache))


@pytest.mark.parametrize(
    "host, url, loopback",
    [
        ("127.0.0.1", "http://127.0.0.1:8080", True),
        ("localhost", "http://localhost:8080", True),
        ("::1", "http://[::1]:8080", True),
        ("0.0.0.0", "http://127.0.0.1:8080", False),
        ("::", "http://[::1]:8080", False),
        ("192.168.1.5", "http://192.168.1.5:8080", False),
    ],
)
def test_where_it_is_to_be_found(host, url, loopback):
    assert launch.Settings(host, 8080, None, None, None, None, verbose=False).url == url
    assert launch.is_loopback(host) is loopback


@pytest.mark.parametrize(
    "lines, reason",
    [
        (
            "0.00.100.200 I srv  load: fine\n0.00.100.300 E srv  load: no room.\n0.1 E srv  main: gone\n",
            "load: no room",
        ),
        ("[45321] 0.00.100.300 E cmn  init: no such file\n", "init: no such file"),
        ("\x1b[31merror: unknown value\x1b[0m\nusage\n", "usage"),
        ("[49039] \n", ""),
    ],
)
def test_the_first_error_of_the_log_is_quoted(monkeypatch, lines, reason):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    log = watcher.Log(show=False)
    assert log.ended.wait(10) and log.reason == reason


@pytest.mark.parametrize(
    "build, step",
    [
        (Build(STOCK), "make a build of the series with 'llm kvsplit backend build'"),
        (Build(CUSTOM, Path("/elsewhere")), "unset LLAMA_CPP_LIB_PATH"),
    ],
)
def test_a_library_that_is_no_build_has_no_programs(monkeypatch, build, step):
    monkeypatch.setattr(choice, "ensure", lambda: build)
    for ask in (programs.ensure, programs.find):
        with pytest.raises(KvsplitError, match=f"has no llama-server: {step}"):
            ask("llama-server")


def test_without_node_or_with_an_old_one_the_page_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unable, match=r"There is no npm: install Node 20\.19 or newer\."):
        page._npm()
    for name, version in (("npm", "10.1.0"), ("node", "v18.4.0")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(Unable, match=r"Node 18\.4\.0 is too old: install Node 20\.19 or newer\."):
        page._npm()


def test_the_command_imports_no_library_to_say_what_it_takes():
    code = "import sys; from llm_kvsplit.commands import serve; print([m for m in sys.modules if m.startswith('llama_cpp')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
