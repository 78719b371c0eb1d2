"""llama.cpp's commits: fetched, checked, kept in one store, and laid out as folders."""
