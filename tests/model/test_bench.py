"""bench and compare: what they measure, and that interruptions lose and change nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench import jobs, results, subject, summary
from llm_kvsplit.errors import KvsplitError
from tests.support import commands
from tests.support.ggufs import write_deepseek2, write_llama

BENCH = ("kvsplit", "bench", "kvsplit-demo", "--config", "f16,8/4", "--seq-len", "128,600", "--repeats", "2")


def untimed(whole):
    """The part of a results file that does not depend on the moment."""
    runs = {name: {k: v for k, v in run.items() if k != "timed"} for name, run in whole["runs"].items()}
    return {**whole, "runs": runs}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of one small bench, run without interruption."""
    folder = tmp_path_factory.mktemp("bench")
    env = {**os.environ, "LLM_USER_PATH": str(folder / "user")}
    (folder / "user").mkdir()
    command = [sys.executable, "-m", "llm", *BENCH, "--out", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_every_cell_is_measured(whole):
    found = results.read(whole / "results.json")
    assert found.pairs() == ["f16", "K8V4"] and found.lengths() == [128, 600]
    for cell in found.cells():
        assert cell["kv_bytes"] > 0 and cell["peak_bytes"][0] > 50e6
        assert cell["prompt_tps"][1] <= cell["prompt_tps"][0] <= cell["prompt_tps"][2]
    quantized = found.cell("K8V4", 600)
    assert 0 < quantized["kl_mean"][1] < quantized["kl_mean"][0] < quantized["kl_mean"][2] < 0.05
    assert quantized["kl_999"][0] > quantized["kl_mean"][0]
    assert quantized["damage"][0] == pytest.approx(quantized["kl_mean"][0] - found.cell("f16", 600)["kl_mean"][0])
    assert found.cell("f16", 600)["kl_mean"][0] < 0.1 * quantized["kl_mean"][0]  # the bundled model's weights are f16
    assert quantized["needles"][1] == 10


def test_the_allocated_bytes_are_padded_to_256_cells(whole):
    found = results.read(whole / "results.json")
    assert found.cell("f16", 128)["cells"] == 256
    assert found.cell("f16", 128)["kv_bytes"] == 256 * 6 * 2 * (64 + 64) * 2
    assert found.cell("K8V4", 600)["kv_bytes"] == 768 * 6 * 2 * 64 * (34 + 18) / 32


def test_a_length_without_quality_has_no_columns_for_it(whole):
    found = results.read(whole / "results.json")
    assert "damage" in summary.markdown(summary.rows(found, 600))
    del found.runs["f16/600/quality"]  # as in results that were made before there was a nudged f16
    assert "damage" not in summary.markdown(summary.rows(found, 600)) and "mean KL" in summary.markdown(
        summary.rows(found, 600)
    )
    del found.runs["K8V4/600/quality"]
    assert "perplexity" in summary.markdown(summary.rows(found, 128))
    assert "perplexity" not in summary.markdown(summary.rows(found, 600))


def test_the_csv_and_the_page_say_the_same(whole):
    import csv

    found = results.read(whole / "results.json")
    with (whole / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["configuration"], int(row["context_tokens"])) for row in rows] == [
        (cell["pair"], cell["n_ctx"]) for cell in found.cells()
    ]
    assert float(rows[-1]["kl_mean_nats"]) == found.cell("K8V4", 600)["kl_mean"][0]
    page = (whole / "summary.md").read_text()
    assert demo.MODEL_SHA256 in page and "| K8V4 |" in page


def start(*arguments, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "llm", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
        start_new_session=True,
    )


def wait_for_runs(file, count):
    for _ in range(600):
        if file.exists() and len(results.read(file).runs) >= count:  # never half a file
            return
        time.sleep(0.1)
    raise AssertionError("the bench measured nothing")


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_is_the_same_file(whole, tmp_path, user_path, kill):
    file = tmp_path / "results.json"
    for count in (1, 4):
        process = start(*BENCH, "--out", str(tmp_path))
        wait_for_runs(file, count)
        os.killpg(process.pid, kill)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
        assert process.returncode != 0 and "Traceback" not in stderr
        results.read(file)
        if kill == signal.SIGINT:
            assert "the same command goes on from there" in stderr
    process = start(*BENCH, "--out", str(tmp_path))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "measurements are there already" in stderr
    once, resumed = (json.loads(each.read_text()) for each in (whole / "results.json", file))
    assert untimed(once) == untimed(resumed)
    assert once != resumed  # since times never repeat
    # The text too, with the times of the one put into the other: the order of measuring leaves no trace.
    for name, run in once["runs"].items():
        if "timed" in run:
            resumed["runs"][name]["timed"] = run["timed"]
    again = results.Results(file, {k: v for k, v in resumed.items() if k not in ("schema", "runs")}, resumed["runs"])
    again.write()
    assert file.read_bytes() == (whole / "results.json").read_bytes()


def test_a_second_call_measures_nothing_and_a_wider_one_adds(whole, llm, tmp_path):
    import shutil

    shutil.copytree(whole, tmp_path / "out")
    before = results.read(tmp_path / "out" / "results.json").runs
    done = llm(*BENCH, "--out", "out")
    assert "8 of 8 measurements" not in done.stderr and f"{len(before)} of {len(before)} measurements" in done.stderr
    llm("kvsplit", "bench", "kvsplit-demo", "--config", "K5V5", "--seq-len", "128", "--repeats", "1", "--out", "out")
    after = results.read(tmp_path / "out" / "results.json").runs
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"K5V5/128/speed/0", "K5V5/128/quality"}


def test_results_of_something_else_are_not_mixed(whole, llm, tmp_path):
    import shutil

    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "t.txt").write_text(demo.SMOKE_TEXT.read_text()[::-1])
    errors = llm(*BENCH, "--out", "out", "--text", "t.txt", code=1).stderr.splitlines()
    assert "was made with another text" in errors[-1]


def test_predictions_from_before_there_was_damage_are_read_and_measured_again(whole, tmp_path):
    data = json.loads((whole / "results.json").read_text())
    del data["runs"]["f16/600/quality"], data["runs"]["K8V4/600/quality"]["kl_blocks"]
    (tmp_path / "results.json").write_text(json.dumps(data))
    old = results.read(tmp_path / "results.json")
    assert old.cell("K8V4", 600)["kl_mean"] and "damage" not in old.cell("K8V4", 600)
    gone = data["runs"].keys() - results.open_folder(tmp_path, old.about).runs.keys()
    assert gone == {"K8V4/600/quality"}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "runs": {"a": 3}}', "\x00" * 50])
def test_a_corrupt_file_is_one_sentence_and_left_alone(llm, tmp_path, damage):
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "results.json"
    file.write_text(damage)
    for arguments in ((*BENCH, "--out", "out"), ("kvsplit", "plot", "out")):
        errors = llm(*arguments, code=1).stderr.splitlines()
        assert errors[-1].startswith("Error: out/results.json is not what 'llm kvsplit bench' writes")
        assert file.read_text() == damage


def test_another_schema_is_told(whole, tmp_path):
    data = json.loads((whole / "results.json").read_text()) | {"schema": 99}
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(KvsplitError, match="has schema 99, and this version reads 1"):
        results.read(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "--seq-len", "0"), "--seq-len must be 64 or more, not 0"),
        (("bench", "--seq-len", "-128"), "--seq-len must be 64 or more, not -128"),
        (("bench", "--seq-len", "many"), "is not a list of lengths"),
        (("bench", "--config", "K7V4"), "'K7V4' is not a pair of cache bits"),
        (("bench", "--repeats", "0"), "--repeats must be 1 or more, not 0"),
        (("bench", "--depth", "-1"), "--depth must be 1 or more, not -1"),
        (("bench", "--threads", "0"), "--threads must be 1 or more, not 0"),
        (("bench", "--seq-len", "1000000000"), "f16 at 1000000000 tokens takes 3."),
        (("bench", "--text", "gone.txt"), "gone.txt cannot be read as text"),
        (("compare", "--n-ctx", "0"), "--n-ctx must be 1 or more, not 0"),
        (("compare", "--n-ctx", "-3"), "--n-ctx must be 1 or more, not -3"),
        (("compare", "--pairs", "8/4,8/"), "'8/' is not a pair of cache bits"),
        (("compare", "--n-ctx", "1000000000"), "2 x 1000000000 are needed"),
        (("watch", "--n-ctx", "-1"), "--n-ctx must be 1 or more, not -1"),
        (("watch", "--out", "a.jpg"), "must end in .gif, .svg or .png"),
    ],
)
def test_errors_are_one_sentence(llm, arguments, words):
    errors = llm("kvsplit", arguments[0], "kvsplit-demo", *arguments[1:], code=1).stderr.splitlines()
    assert [line for line in errors if line.startswith("Error: ")] == errors[-1:]
    assert words in errors[-1]


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_a_text_shorter_than_the_context(llm, tmp_path, command):
    (tmp_path / "short.txt").write_text("Too short a text. " * 20)
    errors = llm("kvsplit", command, "kvsplit-demo", "--text", "short.txt", code=1).stderr.splitlines()
    assert re.search(r"^Error: The text has \d+ tokens, and \d+ x \d+ are needed: give a longer one", errors[-1])


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(monkeypatch):
    from llm_kvsplit import fit

    found = subject.named("kvsplit-demo")
    with (
        fit.simulation(found.load_options()) as weights,
        pytest.raises(
            KvsplitError, match=r"K8V4 at 2048 tokens takes 37.\d+ MiB with the weights, and there are 10.00 MiB"
        ),
    ):
        jobs.refuse_unless_it_fits(weights, [subject.parse_caches("8/4")[0]], 2048, 10 * 2**20)


def test_latent_attention_refuses_unequal_bits(llm, tmp_path):
    path = write_deepseek2(tmp_path / "mla.gguf")
    error = llm("kvsplit", "compare", str(path), code=1).stderr.splitlines()[-1]
    assert error == (
        "Error: K8V4 cannot be measured: mla uses multi-head latent attention, where keys and values must have the same bits."
    )


def test_a_measurement_whose_parent_is_gone_says_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "llm_kvsplit.bench.child"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("when", ["at once", "at work"])
def test_a_measurement_that_is_killed_is_told(when):
    """As the system does it when memory runs out."""
    from llm_kvsplit.bench import child

    found = subject.named("kvsplit-demo")
    common = subject.common_order(found, None, 1)
    (job,) = jobs.speeds(subject.parse_caches("8/4"), [8192], 1, common)
    pids = []

    def started(pid):
        pids.append(pid)
        if when == "at once":
            os.kill(pid, signal.SIGKILL)

    def done(_tokens):
        os.kill(pids[0], signal.SIGKILL)

    with pytest.raises(
        KvsplitError, match="^Measuring K8V4 at 8192 tokens was killed by signal 9: memory may have run out"
    ):
        child.run(job.order, done, started)


# --- compare -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    return commands.process(folder, "compare", "kvsplit-demo", "--n-ctx", "256", "--pairs", "8/8,8/4,4/4")


def test_compare_ends_with_a_recommendation_that_llm_takes(compared, llm):
    assert re.search(r"^K8V4 +312.00 KiB +59% ", compared, re.M)
    assert "\nRecommended: K8V4, the smallest cache whose damage is surely below 0.01 nats" in compared
    for command in compared.splitlines()[-1].split("&&"):
        words = command.split()
        assert words[:5] == ["llm", "models", "options", "set", "kvsplit-demo"]
        llm(*words[1:])
    assert "kv_key_bits: 8" in llm("models", "options", "show", "kvsplit-demo").stdout


def test_compare_takes_a_file_and_other_pairs(llm, tmp_path):
    path = write_llama(tmp_path / "tiny.gguf", n_ctx=256)
    out = llm("kvsplit", "compare", str(path), "--n-ctx", "128", "--pairs", "8/5,5/5").stdout
    assert re.search(r"^K8V5 ", out, re.M) and re.search(r"^K5V5 ", out, re.M)
    assert out.splitlines()[-1].strip().startswith(f"llm kvsplit add {path} --kv-key-bits 5 --kv-value-bits 5")


def test_an_interrupted_compare_goes_on(tmp_path, user_path):
    command = (
        "kvsplit",
        "compare",
        "kvsplit-demo",
        "--n-ctx",
        "256",
        "--pairs",
        "8/8,8/5,8/4,5/8,5/5,4/8",
        "--threads",
        "1",
    )
    process = start(*command, KVSPLIT_CACHE=str(tmp_path))
    for _ in range(6000):
        if any(results.read(file).runs for file in tmp_path.glob("compare/*/results.json")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0 and "goes on from there" in stderr
    process = start(*command, KVSPLIT_CACHE=str(tmp_path))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0 and re.search(r"^[1-7] of 8 measurements are there already", stderr, re.M)
    assert not list(tmp_path.glob("compare/*"))  # whole now: the next one measures anew


def test_a_comparison_says_in_words_what_it_measures_and_is_short(tmp_path, user_path):
    process = start(
        "kvsplit", "compare", "kvsplit-demo", "--n-ctx", "256", "--pairs", "8/4", KVSPLIT_CACHE=str(tmp_path)
    )
    stdout, stderr = process.communicate(timeout=300)
    assert stderr == "f16, K8V4: predictions and speeds\n"
    assert re.search(
        r"^In one of a thousand places K8V4 moves at least \d+% of the probability to other tokens", stdout, re.M
    )


def test_compare_and_bench_measure_the_same(whole):
    """The same caches on the same windows, side by side or each in a process of its own."""
    from llm_kvsplit.bench import comparison, quality
    from llm_kvsplit.engine.weights import Weights

    found = subject.named("kvsplit-demo")
    weights, pairs = Weights(found.load_options()), [quality.F16, *subject.parse_caches("8/4")]
    tokens = subject.text_tokens(weights, subject.read_text(None))

    class Silent:
        describe = __call__ = lambda self, *_: None

    with quality.caches(weights, pairs, 600, None) as contexts:
        texts = quality.windows(tokens, 600, comparison.windows(600))
        runs = {f"window/{i}": comparison.measure(contexts, text, Silent()) for i, text in enumerate(texts)}
        direct = quality.measure(weights, pairs, texts)
    weights.close()
    compared = comparison.combined(results.Results("unused", {}, runs), pairs, 600)
    ours = compared.cell("K8V4", 600)
    assert ours["kl_mean"][0] == pytest.approx(direct[pairs[1]].kl.mean(), rel=0.02)  # the last 16 come one by one
    assert ours["kv_bytes"] == results.read(whole / "results.json").cell("K8V4", 600)["kv_bytes"]
    assert ours["prompt_tps"][1] > 0 and ours["generation_tps"][1] > 0
