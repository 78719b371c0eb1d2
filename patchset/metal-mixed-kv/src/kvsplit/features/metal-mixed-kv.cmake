# Metal computes attention with keys and values of different types.
if (GGML_METAL)
    list(APPEND LLAMA_KVSPLIT_FEATURES metal-mixed-kv)
endif()
