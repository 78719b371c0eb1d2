"""The only package that imports llama_cpp: load a model, keep its KV cache, generate tokens."""
