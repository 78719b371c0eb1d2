"""A software Metal device: ggml's Metal backend, its Objective-C and its kernels, on a Linux CPU (docs/maintain/metal.md)."""
