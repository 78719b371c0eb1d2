# CUDA reads keys and values of different types as they are.
if (GGML_CUDA)
    list(APPEND LLAMA_KVSPLIT_FEATURES cuda-mixed-kv)
endif()
