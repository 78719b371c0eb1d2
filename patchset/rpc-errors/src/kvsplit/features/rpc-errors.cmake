# The loss of an RPC server is an error that can be asked for, and does not end the process.
if (GGML_RPC)
    list(APPEND LLAMA_KVSPLIT_FEATURES rpc-errors)
endif()
