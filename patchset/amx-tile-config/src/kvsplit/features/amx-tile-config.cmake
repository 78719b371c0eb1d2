list(APPEND LLAMA_KVSPLIT_FEATURES amx-tile-config)
