"""Compiling a llama.cpp tree: libraries for the plugin, upstream's programs, a wheel; and whether bindings fit it."""
