# The kvsplit patch series, included by src/CMakeLists.txt.
#
# A patch that adds something a caller may ask for brings a file of its own in
# features/, so that no two patches touch the same lines. That file appends a
# name to LLAMA_KVSPLIT_FEATURES if the options of this build enable it.

set(LLAMA_KVSPLIT_SERIES 1)
set(LLAMA_KVSPLIT_FEATURES "")

file(GLOB LLAMA_KVSPLIT_FEATURE_FILES CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/features/*.cmake)
foreach (FEATURE_FILE ${LLAMA_KVSPLIT_FEATURE_FILES})
    include(${FEATURE_FILE})
endforeach()

list(TRANSFORM LLAMA_KVSPLIT_FEATURES REPLACE ".+" "\"\\0\"")
list(JOIN LLAMA_KVSPLIT_FEATURES ", " LLAMA_KVSPLIT_FEATURES_JSON)

target_sources(llama PRIVATE ${CMAKE_CURRENT_LIST_DIR}/llama-kvsplit.cpp)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/llama-kvsplit.cpp
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

configure_file(${CMAKE_CURRENT_LIST_DIR}/llama-kvsplit-info.h.in ${CMAKE_CURRENT_BINARY_DIR}/llama-kvsplit-info.h @ONLY)
target_include_directories(llama PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
