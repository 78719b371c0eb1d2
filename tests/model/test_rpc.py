"""Several machines: real servers on loopback, one machine's answers, and what is said when a server is none."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from llm_kvsplit import demo, fit
from llm_kvsplit.commands import doctor
from llm_kvsplit.engine import library, loaded, servers
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import CachePair, LayerMap
from tests.support import rpc
from tests.support.commands import refused

#: The caches that are compared, one of them of types that only the series has.
CACHES = [
    CachePair.from_bits(16, 16),
    CachePair.from_bits(8, 4),
    CachePair.from_bits(6, 3),
    LayerMap.parse("0-1:8/8,rest:8/4"),
]
PROMPT = "The json module lets a program write what it holds as text, and read it again."


@pytest.fixture(scope="module")
def three():
    with rpc.rpc_server() as first, rpc.rpc_server() as second, rpc.rpc_server() as third:
        yield first, second, third


@pytest.fixture
def one():
    with rpc.rpc_server() as server:
        yield server


def opened(model, *far, layers=-1):
    """A model as each machine computes it: servers know no repacked weights."""
    return Weights(LoadOptions(model, layers, use_extra_bufts=False, servers=tuple(each.endpoint for each in far)))


def answered(weights, cache, n_tokens=24):
    """The logits after a prompt, the greedy tokens that follow, and the state after them."""
    context = Context(weights, ContextOptions(cache, 256, n_threads=rpc.THREADS))
    try:
        tokens = weights.tokenize(PROMPT, add_special=True, parse_special=False)
        logits = context.logits(tokens)
        chosen = [int(logits[-1].argmax())]
        for _ in range(n_tokens):
            chosen.append(int(context.logits(chosen[-1:])[-1].argmax()))
        return logits, chosen, context.state(), context.layer_devices
    finally:
        context.close()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_bits_of_one_machine(three, count):
    """Logits, answers and states are equal to the bit, and each server holds its share of the layers."""
    here, there = opened(demo.MODEL), opened(demo.MODEL, *three[:count])
    try:
        for cache in CACHES if count == 2 else CACHES[1:3]:
            logits, tokens, state, _ = answered(here, cache)
            far_logits, far_tokens, far_state, devices = answered(there, cache)
            assert np.array_equal(logits, far_logits), cache
            assert (tokens, state.tobytes()) == (far_tokens, far_state.tobytes())
            assert sorted(devices) == list(range(6)) and len(set(devices.values())) == count
    finally:
        there.close()
        here.close()


def test_a_state_of_one_machine_goes_on_with_others_and_back(three):
    cache = CachePair.from_bits(8, 4)
    here, there = opened(demo.MODEL), opened(demo.MODEL, *three[:2])
    try:
        tokens = here.tokenize(PROMPT, add_special=True, parse_special=False)
        options = ContextOptions(cache, 256, n_threads=rpc.THREADS)
        first, second = Context(here, options), Context(there, options)
        first.evaluate(tokens)
        assert second.restore(first.state(), tokens)
        expected = [first.logits(tokens[:1])[-1], second.logits(tokens[:1])[-1]]
        assert np.array_equal(*expected)
        first.clear()
        assert first.restore(second.state(), [*tokens, tokens[0]])
        assert np.array_equal(first.logits(tokens[1:2]), second.logits(tokens[1:2]))
        second.close()
        first.close()
    finally:
        there.close()
        here.close()


def test_some_layers_stay_here(three):
    there = opened(demo.MODEL, three[0], layers=3)
    try:
        _, _, _, devices = answered(there, CACHES[0], n_tokens=1)
        assert [name == "CPU" for _, name in sorted(devices.items())] == [True] * 4 + [False] * 2
    finally:
        there.close()


def test_as_many_layers_go_as_servers_have_room_for(three, monkeypatch):
    endpoints = (three[0].endpoint,)
    cache = CachePair.from_bits(16, 16)
    assert fit.layers_on_servers(demo.MODEL, endpoints, cache, 256) == -1
    room = demo.MODEL.stat().st_size // 2
    monkeypatch.setattr(servers, "devices", lambda _: [servers.Device(endpoints[0], "RPC0", room, room)])
    fit.layers_on_servers.cache_clear()
    assert 1 <= fit.layers_on_servers(demo.MODEL, endpoints, cache, 256) <= 3
    fit.layers_on_servers.cache_clear()


def test_a_conversation(llm, logged, three):
    """Asked and asked again in other processes: the state comes from the disk, and goes to the servers."""
    options = ("-m", "kvsplit-demo", "-o", "temperature", "0", "-o", "max_tokens", "40", "-o", "n_threads", "1")
    far = ("-o", "rpc", ",".join(each.endpoint for each in three[:2]), "-o", "kv_key_bits", "8")
    text = f"{PROMPT} " * 4
    alone = llm(*options, "-o", "kv_key_bits", "8", "-o", "kv_sessions", "false", text).stdout
    assert llm(*options, *far, text).stdout == alone
    assert llm("-c", *options[2:], *far, "And then?").stdout.strip()
    assert logged()["response_json"]["session"]["restored_tokens"] > 60


def test_a_model_is_registered_with_its_machines(run, three, tmp_path):
    model = tmp_path / "far.gguf"
    model.write_bytes(demo.MODEL.read_bytes())
    run("add", model, "--rpc", three[0].endpoint)
    assert f"rpc {three[0].endpoint}" in run("models")
    assert three[0].endpoint in run("fit", "far") and "layers 0 to 5" in run("fit", "far")
    assert "layers 0 to 5" not in run("fit", "far", "--rpc", "none")


def test_doctor_looks_at_the_machines_of_models(run, three, tmp_path):
    """The part of its report that is about them; all of it takes a while."""
    model = tmp_path / "far.gguf"
    model.write_bytes(demo.MODEL.read_bytes())
    run("add", model, "--rpc", three[0].endpoint)
    report = {"usable": True, "servers": [], "problems": []}
    doctor.look_at_servers(report, ("127.0.0.1:1",))
    assert [server["endpoint"] for server in report["servers"]] == [three[0].endpoint]
    assert report["servers"][0]["total"] > 2**20
    assert len(report["problems"]) == 1 and "127.0.0.1:1" in report["problems"][0]


def test_fit_counts_all_memory(three):
    endpoints = [each.endpoint for each in three]
    alone, _ = fit.device_memory()
    together, where = fit.device_memory(endpoints)
    assert together - alone > 2 * alone and endpoints[2] in where


def test_none_listens():
    endpoint = f"127.0.0.1:{rpc.free_port()}"
    with pytest.raises(KvsplitError, match=rf"^The RPC server {endpoint} cannot be used \(cannot connect: .*start it"):
        servers.devices([endpoint])


def test_another_protocol():
    with (
        rpc.listener(rpc.version(6, 1, 0)) as endpoint,
        pytest.raises(KvsplitError, match="protocol 6.1.0.* 7.0.0.*same llm-kvsplit"),
    ):
        servers.devices([endpoint])


def test_it_is_no_server_of_llama_cpp():
    mail = rpc.listener(lambda connection: connection.sendall(b"220 mail.example.org ESMTP\r\n"))
    with mail as endpoint, pytest.raises(KvsplitError, match=rf"^The RPC server {endpoint} cannot be used "):
        servers.devices([endpoint])


def asking(server, *more, **environment):
    """A long answer begun in a process; it has written some of it."""
    command = [sys.executable, "-m", "llm", "-m", "kvsplit-demo", PROMPT, "-n", "-o", "max_tokens", "2000"]
    command += ["-o", "rpc", server.endpoint, "-o", "temperature", "0", "-o", "n_threads", "1", *more]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment}
    )
    assert process.stdout.read(20)
    return process


def ended(process, seconds):
    """The exit code and what was said on stderr, within that time."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said.decode()


def test_a_server_is_killed_in_the_midst_of_an_answer(user_path, one):
    process = asking(one)
    one.kill(signal.SIGKILL)
    code, said = ended(process, 60)
    assert code == 1 and said.startswith(f"Error: The RPC server {one.endpoint} was lost ("), said
    assert said.count("\n") == 1 and one.process.wait() == -signal.SIGKILL


def test_a_server_hangs(user_path, one):
    """It takes the bytes and never answers, as a stopped process does; the limit is five minutes otherwise."""
    process = asking(one, GGML_RPC_TIMEOUT="2")
    one.kill(signal.SIGSTOP)
    code, said = ended(process, 60)
    assert code == 1 and "was lost (no answer within 2 s)" in said and said.count("\n") == 1, said


def test_ctrl_c_while_a_server_hangs(user_path, one):
    process = asking(one)
    one.kill(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    code, said = ended(process, 60)  # and not the five minutes
    assert code == 0 and not said, said


def test_ctrl_c_while_a_server_is_looked_for(user_path):
    """Before there is an answer to end, Ctrl-C is Python's own; here none answers the handshake."""
    greeted = threading.Event()

    def silent(connection):
        connection.recv(64)
        greeted.set()
        while connection.recv(64):
            pass

    with rpc.listener(silent) as endpoint:
        command = [sys.executable, "-m", "llm", "kvsplit", "fit", "kvsplit-demo", "--rpc", endpoint]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert greeted.wait(60)
        process.send_signal(signal.SIGINT)
        code, said = ended(process, 60)
    assert code == 1 and said.strip() == "Aborted!", said


def test_a_server_is_free_again_once_its_client_is_killed(user_path, one):
    process = asking(one)
    process.kill()
    assert ended(process, 60)[0] == -signal.SIGKILL
    assert servers.devices([one.endpoint])


def test_a_library_that_would_not_survive_the_loss_of_a_server(monkeypatch):
    monkeypatch.delattr(library.load(), "ggml_backend_rpc_get_status")
    with pytest.raises(KvsplitError, match=r"cannot use other machines: 'llm kvsplit backend .*leave out -o rpc\.$"):
        servers.devices(["127.0.0.1:1"])


def test_a_server_that_serves_someone_else(one):
    weights = opened(demo.MODEL, one)
    try:
        command = [sys.executable, "-c", f"from llm_kvsplit.engine import servers; servers.devices(['{one.endpoint}'])"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GGML_RPC_TIMEOUT": "2"})
        assert "serves one at a time" in done.stderr
    finally:
        weights.close()
    assert servers.devices([one.endpoint])


def test_the_next_question_of_a_process_finds_the_server_that_was_started_anew():
    port = rpc.free_port()
    options = ContextOptions(CachePair.from_bits(8, 4), 256, n_threads=rpc.THREADS)
    with rpc.rpc_server(port) as server:
        load = LoadOptions(demo.MODEL, servers=(server.endpoint,))
        loaded.weights(load)
        loaded.context(options, may_grow=False).evaluate([1, 2, 3])
        server.kill(signal.SIGKILL)
        server.process.wait()
        with pytest.raises(KvsplitError, match="was lost"):
            loaded.context(options, may_grow=False).evaluate([4])
    try:
        with pytest.raises(KvsplitError, match="cannot connect"):
            loaded.weights(load)
        with rpc.rpc_server(port):
            loaded.weights(load)
            loaded.context(options, may_grow=False).evaluate([1, 2, 3])
            loaded.close()
    finally:
        loaded.close()


def test_ctrl_c_ends_a_server():
    port = rpc.free_port()
    with rpc.rpc_server(port) as server:
        server.kill(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert server.process.stderr.read() == "Stopped.\n"
    with rpc.rpc_server(port):
        pass


def test_a_port_that_is_taken(run, one):
    port = one.endpoint.partition(":")[2]
    assert f"Port {port} of 127.0.0.1 is taken" in refused(run, "rpc-server", "--port", port)


def test_a_host_that_is_none_of_this_machine(run):
    assert "192.0.2.1" in refused(run, "rpc-server", "--host", "192.0.2.1")
    assert "no IPv4 address" in refused(run, "rpc-server", "--host", "box")


def test_a_server_for_everyone_warns():
    process = subprocess.Popen(
        rpc.command("--host", "0.0.0.0", "--port", rpc.free_port()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr.readline().startswith("Warning: whoever reaches 0.0.0.0:")
        assert process.stderr.readline().startswith("Listening on")
    finally:
        process.kill()
        process.communicate()


def test_a_real_model(smollm2, three):
    here, there = opened(smollm2), opened(smollm2, *three[:2])
    try:
        logits, tokens, _, _ = answered(here, CACHES[1], n_tokens=8)
        far_logits, far_tokens, _, devices = answered(there, CACHES[1], n_tokens=8)
        assert np.array_equal(logits, far_logits) and tokens == far_tokens
        assert len(set(devices.values())) == 2
    finally:
        there.close()
        here.close()
