# Metal computes attention with keys and values of different types; their kernels come from the embedded source.
if (GGML_METAL AND GGML_METAL_EMBED_LIBRARY)
    list(APPEND LLAMA_KVSPLIT_FEATURES metal-mixed-kv)
endif()
