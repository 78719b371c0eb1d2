"""Fewer threads than were asked for, as OpenMP grants them under a limit: the work buffer was planned for more."""

import pytest

#: So many tokens of the demo model are one unit of work fewer for 4 threads than for 5, and for 8 than for 9.
PROMPT = "x = 1\n" * 60

K8V4 = ("-o", "kv_key_bits", "8", "-o", "kv_value_bits", "4")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("cache", "planned", "granted"),
    [(K8V4, 5, 4), ((), 5, 4), ((), 9, 8)],  # f16 asks for more at 4 threads with AVX2, at 8 with AVX-512
    ids=["K8V4", "f16, AVX2", "f16, AVX-512"],
)
def test_a_limit_on_threads_does_not_end_the_process(llm, logged, cache, planned, granted):
    # Without that, a process that dies may wait for the debugger that is to print where.
    limit = {"OMP_THREAD_LIMIT": str(granted), "GGML_NO_BACKTRACE": "1"}
    ask = ("-m", "kvsplit-demo", *cache, "-o", "n_threads", str(planned), "-o", "max_tokens", "2", PROMPT)
    llm(*ask, env=limit)
    response = logged()
    assert 193 <= response["input_tokens"] <= 256
    assert response["output_tokens"] >= 1
