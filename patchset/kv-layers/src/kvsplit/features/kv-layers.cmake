list(APPEND LLAMA_KVSPLIT_FEATURES kv-layers)

target_sources(llama PRIVATE ${CMAKE_CURRENT_LIST_DIR}/../kv-layers.cpp)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/../kv-layers.cpp
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
