list(APPEND LLAMA_KVSPLIT_FEATURES kv-4-bits)

target_sources(llama PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../kv-4-bits.cpp)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/../kv-4-bits.cpp
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
