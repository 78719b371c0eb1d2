"""Builds of llama.cpp's libraries: the shelf of them, which to load, getting one, and trying it."""
