"""A C++ project of two functions, for what compiles trees."""

FILES = {
    "CMakeLists.txt": "cmake_minimum_required(VERSION 3.14)\nproject(small CXX)\n"
    "set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
    "add_library(llama SHARED one.cpp two.cpp)\nset_target_properties(llama PROPERTIES VERSION 1.2.3 SOVERSION 1)\n",
    "one.cpp": 'extern "C" int one() { return 1; }\n',
    "two.cpp": 'extern "C" int two() { return 2; }\n',
}


def small(folder, **changed):
    """Lay it out in ``folder``, with ``changed`` files."""
    folder.mkdir()
    for name, text in {**FILES, **changed}.items():
        (folder / name).write_text(text)
    return folder
