"""``llm kvsplit serve``: llama.cpp's own server, started as a person starts it, asked as other programs ask it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from llm_kvsplit import demo, fit, registry
from llm_kvsplit.engine import library
from llm_kvsplit.engine.weights import LoadOptions
from llm_kvsplit.kvtypes import parse
from llm_kvsplit.serve import plan
from llm_kvsplit.units import size
from tests.support.browser import CHROMIUM, browser
from tests.support.library import BUILD


class Running:
    """A server, its lines, and a way to ask it."""

    def __init__(self, process, url, ready):
        self.process, self.url, self.ready = process, url, ready

    def get(self, path, **parameters):
        return requests.get(f"{self.url}/{path}", timeout=60, **parameters)

    def post(self, path, **body):
        answer = requests.post(f"{self.url}/{path}", json=body, timeout=120)
        assert answer.ok, answer.text
        return answer.json()

    def ask(self, text, **more):
        """A completion of 16 tokens, without randomness."""
        return self.post("v1/completions", prompt=text, max_tokens=16, temperature=0, **more)

    def end(self, number=signal.SIGINT):
        """End it so; its exit code, and all that it wrote to stderr."""
        everything = family(self.process.pid)
        os.kill(self.process.pid, number)
        said = self.process.communicate(timeout=60)[1]
        _, alive = psutil.wait_procs(everything, timeout=20)
        assert not alive, alive
        return self.process.returncode, said


def family(pid):
    """The processes of a server: itself, its watcher and its instances."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@pytest.fixture
def serve(user_path, tmp_path):
    """Start ``llm kvsplit serve …`` on a free port, and wait for its line on stdout; what is left is ended."""
    started = []

    def start(*arguments, **env):
        command = [sys.executable, "-m", "llm", "kvsplit", "serve", "--port", "0", "--no-page", *arguments]
        shell = {name: value for name, value in os.environ.items() if name != "LLAMA_CPP_LIB_PATH"}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**shell, **env},
            cwd=tmp_path,
        )
        started.append(process)
        ready = process.stdout.readline()
        assert ready.startswith("Serving "), process.communicate(timeout=60)[1]
        return Running(process, re.search(r" at (http://\S+)", ready)[1], ready)

    yield start
    for process in started:
        if process.poll() is None:
            for each in family(process.pid):
                each.kill()
        process.communicate(timeout=60)


@pytest.fixture
def mapped(user_path):
    """The bundled model under another name, with K8V4 and a layer map."""
    registry.add(registry.Entry("mixed", demo.MODEL, ("m",), 8, 4))
    registry.add(registry.Entry("named:8b", demo.MODEL, kv_layers="0-1:K8Vq4_0,rest:iq4_nl/q5_0"))
    registry.add(registry.Entry("mapped", demo.MODEL, kv_layers="0-1:8/8,rest:8/4"))


def kv_bytes(cache, total, users):
    with fit.simulation(LoadOptions(demo.MODEL)) as weights:
        return fit.footprint(weights, parse(cache), total, users).kv


def test_one_model_answers_as_registered_and_ctrl_c_leaves_nothing(serve, mapped):
    running = serve("mixed", "--users", "2", "--n-ctx", "512", "--verbose")
    if sys.platform == "linux":  # it runs on the very library that answers llm -m
        assert str(BUILD / "libllama.so") in {each.path for each in psutil.Process(running.process.pid).memory_maps()}
    assert running.ready.startswith("Serving mixed at http://127.0.0.1:")
    assert running.ask("def f(")["choices"][0]["text"]
    chat = running.post("v1/chat/completions", messages=[{"role": "user", "content": "x = 1"}], max_tokens=4)
    assert chat["usage"]["completion_tokens"] <= 4
    (model,) = running.get("v1/models").json()["data"]
    assert model["id"] == "mixed" and model["tags"][1].startswith("K8V4 q8_0/")
    assert "llamacpp:prompt_tokens_total" in running.get("metrics").text
    assert len(running.get("slots").json()) == 2
    code, said = running.end(signal.SIGINT)
    assert code == 0 and "Traceback" not in said
    assert "mixed: K8V4 cache, 2 × 512 tokens, " in said


def test_what_it_says_of_the_cache_is_what_the_server_allocates(serve, mapped):
    """llama-server's own log, at the level where it lists its buffers, against the tags that the page shows."""
    running = serve("mapped", "--users", "2", "--n-ctx", "512", "--verbose", LLAMA_ARG_LOG_VERBOSITY="4")
    (model,) = running.get("v1/models").json()["data"]
    _, said = running.end()
    allocated = [float(number) for number in re.findall(r"KV buffer size = +([\d.]+) MiB", said)]
    size = kv_bytes("0-1:8/8,rest:8/4", 1024, 2) / 2**20
    assert allocated and sum(allocated) == pytest.approx(size, abs=0.01)  # a line a device, each rounded
    assert f"{size:.2f} MiB" in model["tags"]
    assert "0-1:K8V8 rest:K8V4" in model["tags"]


def test_users_at_once_are_answered_as_one_is_alone(serve, mapped):
    running = serve("mixed", "--users", "4", "--n-ctx", "256")
    prompts = [f"def function_{number}(a, b):\n    return" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(running.ask, prompts))
    assert all(answer["usage"]["completion_tokens"] == 16 for answer in together)
    assert len({answer["choices"][0]["text"] for answer in together}) > 1
    busy = [line for line in running.get("metrics").text.splitlines() if line.startswith("llamacpp:n_busy_slots")]
    assert float(busy[0].split()[1]) > 1  # they were decoded together


def test_several_models_and_one_model_in_several_caches(serve, mapped):
    running = serve("mixed", "named:8b", "--users", "1", "--n-ctx", "256")
    listed = {model["id"].lower(): model for model in running.get("v1/models").json()["data"]}
    assert set(listed) == {"mixed", "named:8b"} and listed["mixed"]["aliases"] == ["m"]
    assert "0-1:K8Vq4_0 rest:Kiq4_nlVq5_0" in listed["named:8b"]["tags"]
    for name in ("mixed", "named:8b", "m"):
        assert running.ask("def f(", model=name)["usage"]["completion_tokens"] == 16
    assert "llamacpp:" in running.get("metrics", params={"model": "named:8b"}).text
    everything = family(running.process.pid)
    assert len([process for process in everything if "llama-server" in process.name()]) == 3
    code, said = running.end(signal.SIGTERM)
    assert code == 0 and "Error" not in said

    running = serve("mixed", "--kv", "16,8/4,4/4", "--users", "1", "--n-ctx", "256")
    tags = {model["id"]: model["tags"] for model in running.get("v1/models").json()["data"]}
    assert set(tags) == {"mixed-f16", "mixed-K8V4", "mixed-K4V4"}
    assert all(each[1].startswith(name.partition("-")[2]) for name, each in tags.items())


@pytest.mark.parametrize(
    "victim, models", [("watcher", ("mixed",)), ("server", ("mixed",)), ("server", ("mixed", "mapped"))]
)
def test_a_kill_leaves_nothing_behind(serve, mapped, victim, models):
    running = serve(*models, "--users", "1", "--n-ctx", "256")
    everything = family(running.process.pid)
    (watcher,) = (process for process in everything if "llm_kvsplit.serve.watcher" in process.cmdline())
    if victim == "watcher":  # the server goes on without it
        watcher.kill()
        assert running.ask("def f(", model=models[0])["usage"]["completion_tokens"] == 16
        assert running.end()[0] == 0
        return
    running.process.kill()
    assert running.process.wait(20) == -signal.SIGKILL
    _, alive = psutil.wait_procs(everything, timeout=20)
    assert not alive, alive


@pytest.mark.parametrize("models", [("mixed",), ("mixed", "mapped")])
def test_the_end_does_not_wait_for_an_answer_that_is_being_streamed(serve, mapped, models):
    """llama-server alone waits for ever then, with one model, and for the answer's end with several."""
    running = serve(*models, "--users", "2", "--n-ctx", "2048")
    body = {"model": models[0], "prompt": "def f(", "max_tokens": 100000, "ignore_eos": True, "stream": True}
    with requests.post(f"{running.url}/v1/completions", json=body, stream=True, timeout=60) as answer:
        lines = answer.iter_lines()
        assert all(next(lines) is not None for _ in range(20))
        running.end(signal.SIGTERM)


def test_a_saved_conversation_comes_back_after_a_restart(serve, mapped, tmp_path):
    """Its tokens are not evaluated again, and it goes on as it would have."""
    text = demo.SMOKE_TEXT.read_text(encoding="utf-8")[:600]
    for model in ("mixed", "mapped"):
        arguments = (model, "--users", "1", "--n-ctx", "512", "--save-slots", str(tmp_path / "slots"))
        running = serve(*arguments)
        running.ask(text, id_slot=0)
        saved = running.post("slots/0?action=save", filename=f"{model}.bin")
        whole = running.ask(text + " ", id_slot=0)
        assert running.end()[0] == 0
        running = serve(*arguments)
        restored = running.post("slots/0?action=restore", filename=f"{model}.bin")
        assert restored["n_restored"] == saved["n_saved"] > 100
        again = running.ask(text + " ", id_slot=0)
        assert again["choices"][0]["text"] == whole["choices"][0]["text"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 100
        running.end()


def test_a_state_of_another_cache_is_refused_and_the_server_goes_on(serve, mapped, tmp_path):
    folder = ("--save-slots", str(tmp_path / "slots"))
    running = serve("mixed", "--users", "1", "--n-ctx", "512", *folder)
    running.ask("def f(", id_slot=0)
    running.post("slots/0?action=save", filename="state.bin")
    running.end()
    running = serve("mapped", "--users", "1", "--n-ctx", "512", *folder)
    refused = requests.post(f"{running.url}/slots/0?action=restore", json={"filename": "state.bin"}, timeout=60)
    assert refused.status_code == 400
    assert running.ask("def f(")["usage"]["completion_tokens"] == 16


def test_a_key_is_asked_for_and_kept_out_of_the_command_line(serve, mapped):
    for models in (("mixed",), ("mixed", "mapped")):
        running = serve(*models, "--users", "1", "--n-ctx", "256", "--api-key", "open-sesame")
        asked = {"model": models[-1], "prompt": "def f(", "max_tokens": 4}
        url = f"{running.url}/v1/completions"
        assert requests.post(url, json=asked, timeout=60).status_code == 401
        keyed = {"Authorization": "Bearer open-sesame"}
        assert requests.post(url, json=asked, headers=keyed, timeout=60).ok
        assert not [each for each in family(running.process.pid) if "open-sesame" in " ".join(each.cmdline())]
        running.end()


def test_ctrl_c_while_models_are_loaded(mapped):
    command = [sys.executable, "-m", "llm", "kvsplit", "serve", "mixed", "mapped", "--port", "0", "--no-page"]
    shell = {name: value for name, value in os.environ.items() if name != "LLAMA_CPP_LIB_PATH"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shell)
    while "llama-server" not in psutil.Process(process.pid).name():
        assert process.poll() is None
    everything = family(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said and len([line for line in said.splitlines() if line.startswith("Error: ")]) <= 1, (
        said
    )
    _, alive = psutil.wait_procs(everything, timeout=20)
    assert not alive, alive


def test_beyond_loopback_without_a_key_it_warns(serve, mapped):
    said = serve("mixed", "--users", "1", "--n-ctx", "256", "--host", "0.0.0.0").end()[1]
    assert "Note: whoever reaches 0.0.0.0:" in said and "--api-key KEY" in said


def test_no_other_page_in_a_browser_may_read_answers(serve, mapped):
    running = serve("mixed", "--users", "1", "--n-ctx", "256")
    elsewhere = running.get("v1/models", headers={"Origin": "https://example.com"})
    assert "Access-Control-Allow-Origin" not in elsewhere.headers
    here = running.get("v1/models", headers={"Origin": "http://localhost:3000"})
    assert here.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("nothing",), "nothing is neither a registered model nor a file: 'llm kvsplit models' lists the models."),
        (("mixed", "--kv", "7/4"), "'7/4' is not a pair of cache bits"),
        (("mixed", "--n-ctx", "99999"), "and a server gives no user more: write --n-ctx"),
        (("mixed", "--users", "0"), "--users must be 1 or more, not 0."),
        (("mixed", "mixed-K8V4", "--kv", "16,8/4"), "mixed-K8V4 is neither a registered model nor a file"),
        (("mixed", "--host", "no.such.host.invalid"), "Nothing can listen on port 8080 of no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_gets_one_sentence(llm, mapped, arguments, sentence):
    said = llm("kvsplit", "serve", *arguments, code=1).stderr
    assert said.startswith("Error: ") and said.count("\n") == 1 and sentence in said, said


def test_a_port_that_is_taken(llm, mapped):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = llm("kvsplit", "serve", "mixed", "--port", port, code=1).stderr
    assert said == (
        f"Error: Nothing can listen on port {port} of 127.0.0.1 (Address already in use): "
        "choose another --port or --host.\n"
    )


def test_a_model_that_does_not_fit_gets_the_numbers_and_what_would(mapped):
    planned = plan.served(["mixed"], [parse("f16")], 4, 1024)
    (each,) = planned
    plan.refuse_unless_they_fit(planned, each.footprint.total)
    with pytest.raises(plan.KvsplitError, match=r"mixed \(f16, 4 × 1024 tokens\) take .*: --kv 8/8 would fit\.$"):
        plan.refuse_unless_they_fit(planned, each.footprint.total - 1)
    half = plan.served(["mixed"], [parse("K4V4")], 4, 512)
    lowest = plan.served(["mixed"], [parse("K4V4")], 4, 1024)
    with pytest.raises(plan.KvsplitError, match=r"--n-ctx 512 would fit\.$"):
        plan.refuse_unless_they_fit(lowest, half[0].footprint.total)
    with pytest.raises(plan.KvsplitError, match="The weights alone take .*: use a smaller quantization"):
        plan.refuse_unless_they_fit(planned, 2**20)


def test_a_server_that_dies_at_its_start_is_quoted(serve, llm, mapped):
    """A chat template that llama-server refuses comes in by its own variable, which is a person's to set."""
    done = llm(
        "kvsplit", "serve", "mixed", "--port", "0", "--no-page", code=1, env={"LLAMA_ARG_FLASH_ATTN": "perhaps"}
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: llama-server ended before it was ready: ") and "perhaps" in last, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_our_page_shows_each_cache_and_asks_all(serve, mapped, tmp_path):
    running = serve("mixed", "--kv", "16,8/4,4/4", "--users", "1", "--n-ctx", "512")
    with browser(tmp_path / "browser") as page:
        page.open(running.url)
        page.until("document.querySelectorAll('#models section').length === 3")
        texts = "[...document.querySelectorAll('#models section')].map(s => ['h2', '.cache', '.memory', '.speed'].map(n => s.querySelector(n).textContent))"
        four = library.stored(parse("K4V4")).k.name
        types = {"f16": "f16", "K8V4": f"K8V4 q8_0/{four}", "K4V4": f"K4V4 {four}/{four}"}
        assert page.run(texts) == [
            [f"mixed-{cache}", shown, f"{size(kv_bytes(cache, 512, 1))} for 512 tokens", "–"]
            for cache, shown in types.items()
        ]
        page.run("document.getElementById('send').click()")
        page.until("!document.getElementById('send').disabled")
        assert all(speed.endswith(" tokens/s") for *_, speed in page.run(texts))
        assert page.run("document.getElementById('problem').textContent") == ""


def test_llm_itself_asks_a_running_server(serve, mapped, llm, user_path, logged):
    """As docs/use/serve.md shows: llm's own models for other servers, with no plugin of its own."""
    running = serve("mixed", "--users", "2", "--n-ctx", "512")
    (user_path / "extra-openai-models.yaml").write_text(
        f"- model_id: served\n  model_name: mixed\n  api_base: {running.url}/v1\n  supports_schema: true\n"
    )
    answer = llm("-m", "served", "-o", "max_tokens", "12", "-o", "temperature", "0", "def f(").stdout
    assert answer.strip()
    assert logged()["model"] == "served" and logged()["output_tokens"] == 12
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    formed = llm("-m", "served", "--schema", schema, "-o", "max_tokens", "40", "-o", "temperature", "0", "n?").stdout
    assert set(json.loads(formed)) == {"n"}
