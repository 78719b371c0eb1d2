"""Language models and projectors for attachments, all with random weights, by what they are called in the tests."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_kvsplit import registry
from llm_kvsplit.media import AUDIO, IMAGE

from . import projectors
from .ggufs import write_llama

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
_ROLES = ("<system>", "<user>", "<assistant>")
#: Width of the language models.
WIDTH = 128


@dataclass(frozen=True)
class Sighted:
    name: str
    model: Path
    mmproj: Path
    takes: tuple[str, ...]

    def register(self) -> None:
        registry.add(registry.Entry(self.name, self.model, mmproj=self.mmproj, media=self.takes))


def _attentive() -> dict[str, np.ndarray]:
    """Weights with which what was read before weighs as much as the last token."""
    random = np.random.default_rng(5)
    names = [f"blk.{i}.attn_{side}.weight" for i in range(2) for side in ("q", "k", "v", "output")]
    return {name: random.normal(0, 0.3, (WIDTH, WIDTH)) for name in names}


def write(folder: Path) -> dict[str, Sighted]:
    plain = write_llama(
        folder / "plain.gguf",
        n_ctx=2048,
        n_embd=WIDTH,
        specials=(*_ROLES, "<fake_token_around_image>", "<global-img>"),
        words=("ĊĊ",),  # idefics3 looks it up
        chat_template=TEMPLATE,
        tensors=_attentive(),
        seed=3,
    )
    wide = projectors.write_qwen2vl_text(folder / "wide.gguf", chat_template=TEMPLATE)
    made = (
        Sighted("llava", plain, projectors.write_llava(folder / "llava.mmproj", WIDTH), (IMAGE,)),
        Sighted("tiles", plain, projectors.write_idefics3(folder / "tiles.mmproj", WIDTH), (IMAGE,)),
        Sighted("mrope", wide, projectors.write_qwen2vl(folder / "mrope.mmproj", WIDTH), (IMAGE,)),
        Sighted("ultravox", plain, projectors.write_ultravox(folder / "ultravox.mmproj", WIDTH), (AUDIO,)),
        Sighted("both", plain, projectors.write_llava(folder / "both.mmproj", WIDTH, audio=True), (IMAGE, AUDIO)),
    )
    return {each.name: each for each in made}
