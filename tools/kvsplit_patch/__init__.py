"""The companion: carries the patch series to new llama.cpp commits, builds it, proves that it still means the same."""
