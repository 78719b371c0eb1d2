"""Make the demo model's corpus: CPython's library and documentation, as text, tokenizer and tokens.

    python prepare.py --stdlib .../lib/python3.13 [...] --docs .../html/_sources --out data --smoke smoke.txt

Nothing is downloaded: the README beside this file says where the two inputs come from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"

# llama.cpp must cut text into words exactly as we do, so these are patterns that it knows by name.
# A line end is always a word of its own here. Patterns that join it to the punctuation before ("):\n" as one
# token) teach a model that after a bare "):", where people end their prompts, the line goes on.
PRE_TOKENIZER = "deepseek-coder"
WORDS = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"]

# Not by CPython's authors, generated, or tables rather than text.
SKIPPED_PARTS = {
    "site-packages",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "encodings",
    "pydoc_data",
    "crashers",
    "__pycache__",
}
# A file that states a licence of its own stays out: what we ship is then under the PSF licence alone.
OWN_LICENCE = re.compile(
    r"Permission\s+(to\s+use|is\s+hereby)|Redistribution\s+and\s+use|provided 'as-is'|SPDX-License"
    r"|Apache (Software )?Licen|\bGPL|MIT [Ll]icen|BSD [Ll]icen"
)

# Half of all text. It is kept apart: more Python than the model can learn by heart is good to begin with,
# but a model that ends on it answers everything with self.assertEqual.
TESTS = "Lib/test/"

HELD_OUT_ONE_IN = 20
RUN = 8  # words; a held-out file shares at most MAX_SHARED of its runs of RUN words with training text
MAX_SHARED = 0.05
SMOKE_BYTES = 200_000
SMOKE_FILE_BYTES = range(4_000, 45_000)  # so that the smoke text holds many different files


def read(path: Path) -> str | None:
    """The file's text with "\\n" line ends and one at its end; None if it should not be used."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n") + "\n"
    return None if len(text) < 200 or OWN_LICENCE.search(text) else text


def collect(stdlib: list[Path], docs: Path) -> dict[str, str]:
    """Documents by name. Of a module in several library versions, the version named first counts."""
    documents: dict[str, str] = {}
    for root, pattern, prefix in [(root, "*.py", "Lib") for root in stdlib] + [(docs, "*.rst.txt", "Doc")]:
        for path in sorted(root.rglob(pattern)):
            inside = path.relative_to(root)
            generated = inside.name.startswith(("_sysconfigdata", "license.rst"))
            if generated or SKIPPED_PARTS.intersection(inside.parts):
                continue
            name = f"{prefix}/{inside.as_posix().removesuffix('.txt')}"
            if name not in documents and (text := read(path)):
                documents[name] = text
    return documents


def runs(text: str) -> set[int]:
    """Hashes of every RUN consecutive words."""
    words = text.split()
    return {hash(tuple(words[i : i + RUN])) for i in range(len(words) - RUN + 1)}


def split(documents: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names of the training and held-out documents.

    A hash of the name picks the candidates, CPython's own tests aside. One that repeats training text
    (module documentation is often a docstring again) goes to neither side.
    """

    def picked(name: str) -> bool:
        number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
        return number % HELD_OUT_ONE_IN == 0 and not name.startswith(TESTS)

    train = [name for name in documents if not picked(name)]
    seen: set[int] = set()
    for name in train:
        seen |= runs(documents[name])

    def shared(name: str) -> float:
        own = runs(documents[name])
        return len(own & seen) / max(len(own), 1)

    return train, [name for name in documents if picked(name) and shared(name) <= MAX_SHARED]


def choose_smoke(held_out: list[str], documents: dict[str, str]) -> list[str]:
    """Half library, half documentation, about SMOKE_BYTES together."""
    chosen: list[str] = []
    for prefix in ("Lib/", "Doc/"):
        size = 0
        for name in held_out:
            length = len(documents[name].encode())
            if name.startswith(prefix) and length in SMOKE_FILE_BYTES and size + length <= SMOKE_BYTES // 2:
                chosen.append(name)
                size += length
    return chosen


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of VOCAB_SIZE tokens; END_OF_TEXT is token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in WORDS),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=[END_OF_TEXT],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All texts as one row of uint16 tokens, END_OF_TEXT after each."""
    end = [tokenizer.token_to_id(END_OF_TEXT)]
    return np.concatenate([np.array(e.ids + end, np.uint16) for e in tokenizer.encode_batch(texts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stdlib", type=Path, nargs="+", required=True, help="lib/python3.x, newest first")
    parser.add_argument("--docs", type=Path, required=True, help="the documentation's _sources folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokens and tokenizer")
    parser.add_argument("--smoke", type=Path, required=True, help="where to write the held-out smoke text")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    documents = collect(args.stdlib, args.docs)
    train, held_out = split(documents)
    smoke = choose_smoke(held_out, documents)
    parts = {
        "library": [name for name in train if not name.startswith(TESTS)],
        "tests": [name for name in train if name.startswith(TESTS)],
        "valid": [name for name in held_out if name not in smoke],
        "smoke": smoke,
    }

    tokenizer = train_tokenizer(documents[name] for name in train)
    tokenizer.save(str(args.out / "tokenizer.json"))
    report = {}
    for part, names in parts.items():
        texts = [documents[name] for name in names]
        tokens = encode(tokenizer, texts) if texts else np.empty(0, np.uint16)
        tokens.tofile(args.out / f"{part}.bin")
        size = sum(len(text.encode()) for text in texts)
        report[part] = {"documents": len(names), "bytes": size, "tokens": len(tokens)}
    (args.out / "split.json").write_text(json.dumps(parts, indent=1))
    args.smoke.write_text("\n".join(documents[name] for name in smoke), encoding="utf-8", newline="\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
