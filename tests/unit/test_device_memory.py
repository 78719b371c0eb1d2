"""The memory of GPUs, as ggml lists its devices."""

import pytest

from llm_kvsplit.fit import memory_of_gpus


def device(name, kind, free, total):
    return {"name": name, "description": name, "type": kind, "free_bytes": free, "total_bytes": total}


CPU, ACCEL = device("CPU", "cpu", 7, 8), device("BLAS", "accel", 0, 0)
LARGE, OTHER, IGPU = device("H100", "gpu", 70, 80), device("L4", "gpu", 20, 24), device("UHD", "igpu", 5, 6)


@pytest.mark.parametrize(
    ("devices", "memory"),
    [
        ([CPU, ACCEL], None),
        ([LARGE, CPU], (70, "H100")),
        ([LARGE, LARGE, CPU], (140, "2 H100")),
        ([LARGE, OTHER, LARGE, CPU], (160, "2 H100 and L4")),
        ([IGPU, LARGE, CPU], (70, "H100")),  # llama.cpp leaves a processor's own GPU out beside others
        ([IGPU, CPU], (5, "UHD")),
        ([device("Metal", "gpu", 0, 9), CPU], (9, "Metal")),  # free memory is not known
    ],
)
def test_layers_are_spread_over_all_gpus(devices, memory):
    assert memory_of_gpus(devices) == memory
