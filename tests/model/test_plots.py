"""Every picture is drawn from real results; the page is opened in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llm_kvsplit.bench import results
from llm_kvsplit.bench.memory import Sample
from llm_kvsplit.plots import watch
from llm_kvsplit.plots.page import page
from tests.support import commands

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    lengths = ("--seq-len", "128,512", "--repeats", "1")
    commands.process(folder, "bench", "kvsplit-demo", *lengths, "--layers", "--out", str(folder / "out"))
    return folder / "out"


def test_every_picture_is_drawn(bench, llm, tmp_path):
    done = llm("kvsplit", "plot", str(bench), "--out", str(tmp_path))
    assert done.stderr == ""
    names = {Path(line).name for line in done.stdout.splitlines()}
    from llm_kvsplit.plots import FIGURES

    assert names == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    for name in names:
        data = (tmp_path / name).read_bytes()
        assert data.startswith((b"\x89PNG", b"<?xml")) and len(data) > 3000


def test_pictures_have_units_a_caption_and_no_date(bench, llm, tmp_path):
    for _ in range(2):
        llm("kvsplit", "plot", str(bench), "--format", "svg", "--out", str(tmp_path))
        texts = {file.name: file.read_text() for file in tmp_path.glob("*.svg")}
        before = texts if _ == 0 else before  # noqa: F821 - the first round's
    assert before == texts  # the same results make the same files
    assert "KV cache (MiB)" in texts["kv-memory.svg"] and "context (tokens)" in texts["kv-memory.svg"]
    assert "(nats)" in texts["kl-divergence.svg"] and "(tokens/s)" in texts["speed.svg"]
    for text in texts.values():
        assert "kvsplit-demo (llama, 6 layers, F16) on " in re.sub(r"\s+", " ", text)


def test_of_results_without_something_that_picture_is_left(bench, llm, tmp_path):
    found = json.loads((bench / "results.json").read_text())
    found["runs"] = {name: run for name, run in found["runs"].items() if "/speed/" in name}
    (tmp_path / "results.json").write_text(json.dumps(found))
    done = llm("kvsplit", "plot", str(tmp_path), "--format", "svg")
    assert {Path(line).name for line in done.stdout.splitlines()} == {"kv-memory.svg", "speed.svg"}
    assert "Not drawn: layers" in done.stderr


@pytest.mark.parametrize("arguments", [("plot", "{bench}"), ("watch", "kvsplit-demo", "--out", "x.svg")])
def test_without_matplotlib(bench, llm, tmp_path, arguments):
    (tmp_path / "hide" / "matplotlib").mkdir(parents=True)
    (tmp_path / "hide" / "matplotlib" / "__init__.py").write_text("raise ImportError('hidden')\n")
    arguments = [argument.format(bench=bench) for argument in arguments]
    error = llm("kvsplit", *arguments, code=1, env={"PYTHONPATH": str(tmp_path / "hide")}).stderr.splitlines()[-1]
    assert error == "Error: Pictures need matplotlib, which is not installed: run 'llm install llm-kvsplit[plot]'."


def test_the_page_needs_no_matplotlib_and_no_network(bench, llm, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('hidden')\n")
    llm("kvsplit", "plot", str(bench), "--html", "--out", str(tmp_path), env={"PYTHONPATH": str(tmp_path)})
    text = (tmp_path / "results.html").read_text()
    assert not re.search(r"(src|href)=|@import|url\(", text)
    assert set(re.findall(r"https?://[^\s\"]+", text)) == {"http://www.w3.org/2000/svg"}


def test_a_name_cannot_write_into_the_page(bench):
    found = results.read(bench / "results.json")
    found.about["model"]["name"] = "</title></script><script>alert(1)</script>"
    text = page(found)
    assert "<script>alert" not in text


def browser(*arguments: str) -> str:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_in_a_browser(bench, tmp_path):
    found = results.read(bench / "results.json")
    file = tmp_path / "results.html"
    # A person at the page: points at a mark, then hides a configuration. What comes of it is written into the page.
    acts = """
<script>
window.addEventListener("load", () => {
  const figures = () => document.querySelectorAll("#charts figure").length;
  const marks = () => document.querySelectorAll('.point[data-pair="K8V4"]').length;
  const said = {figures: figures(), before: marks()};
  const point = document.querySelector('.point[data-pair="K8V4"][data-n="512"]');
  point.dispatchEvent(new MouseEvent("mousemove", {clientX: 50, clientY: 50, bubbles: true}));
  said.tip = document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent;
  [...document.querySelectorAll(".switch")].find(each => each.textContent === "K8V4").click();
  said.after = marks();
  said.errors = window.failed || [];
  document.body.append(Object.assign(document.createElement("pre"), {id: "said", textContent: JSON.stringify(said)}));
});
</script>"""
    catch = "<script>window.failed = []; window.onerror = words => window.failed.push(words);</script>"
    file.write_text(page(found).replace("<body>", "<body>" + catch).replace("</body>", acts + "</body>"))
    dom = browser("--dump-dom", file.as_uri())
    said = json.loads(re.search(r'<pre id="said">(.*?)</pre>', dom)[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert said["errors"] == []
    assert said["figures"] == 8
    assert said["before"] == 16 and said["after"] == 0
    assert said["tip"] == "K8V4, 512 tokens\n0.609 MiB"
    assert dom.count("<table>") == 5
    browser(f"--screenshot={tmp_path / 'page.png'}", "--window-size=1100,1800", file.as_uri())
    assert (tmp_path / "page.png").stat().st_size > 20000


def test_watch_sees_the_smaller_cache(llm, tmp_path):
    done = llm(
        "kvsplit", "watch", "kvsplit-demo", "--n-ctx", "2048", "--out", "w.gif", "--out", "w.svg", "--out", "w.png"
    )
    assert re.search(r"^f16 +cache +6.00 MiB, process at most", done.stdout, re.M)
    assert re.search(r"^K8V4 +cache +2.44 MiB, process at most", done.stdout, re.M)
    drawn = [line.split()[:2] for line in done.stdout.splitlines() if line.endswith(" tokens")]
    # The blocks' code points rise with their height.
    heights = {pair: sum(map(ord, blocks)) for pair, blocks in drawn}
    assert heights["K8V4"] < heights["f16"]
    from PIL import Image

    with Image.open(tmp_path / "w.gif") as picture:
        assert picture.is_animated
    assert "memory of the process (MiB)" in (tmp_path / "w.svg").read_text()


def test_the_moving_picture_goes_on_to_the_last_sample(tmp_path):
    """A frame for each fortieth of the time, and in each of them more of the line."""
    from PIL import Image

    samples = [Sample(0.1 * i, (100 + i) << 20, i) for i in range(1, 81)]
    watch.save({"f16": (6 << 20, samples)}, "made up", tmp_path / "w.gif")
    with Image.open(tmp_path / "w.gif") as picture:
        assert picture.n_frames == 40
