"""How Metal's source becomes C++."""

import pytest

from softmetal import msl

SOURCE = """
constant bool FC_has_mask [[function_constant(300 + 1)]];
template <typename T, short N>
kernel void copy(
        constant args_t & args,
        device const T * x,
        device T * dst [[buffer(4)]],
        threadgroup T * shmem [[threadgroup(0)]],
        uint3 where[[threadgroup_position_in_grid]],
        ushort tiisg[[thread_index_in_simdgroup]]) {
    threadgroup float sums[N];
    if (tiisg == 0) { dst[0] = x[0]; }
}
typedef decltype(copy<float, 1>) copy_t;
template [[host_name("copy_f32")]] kernel copy_t copy<float, 4>;
kernel void plain(device float * x, uint id [[thread_position_in_grid]]) { x[id] = 0; }
"""


def test_softmetal_kernels_are_named_as_the_host_names_them():
    assert msl.names(SOURCE) == ["copy_f32", "plain"]


def test_softmetal_parameters_get_what_their_attributes_say():
    text = msl.translate(SOURCE, "copy_f32")
    assert "call(&copy<float, 4>, buffers, memory, position)" in text
    for expression in (
        "Argument<A0>::from_buffer(buffers[0])",
        "Argument<A1>::from_buffer(buffers[1])",
        "Argument<A2>::from_buffer(buffers[4])",
        "Argument<A3>::from_buffer(memory[0])",
        "as<A4>(position.threadgroup_position_in_grid)",
        "as<A5>(position.thread_index_in_simdgroup)",
    ):
        assert expression in text
    assert "[[" not in text


def test_softmetal_what_no_header_can_define_is_rewritten():
    text = msl.translate(SOURCE, "plain")
    assert (
        "static bool FC_has_mask; static softmetal::Register FC_has_mask__register(300 + 1, sizeof FC_has_mask, &FC_has_mask);"
        in text
    )
    assert "float (& sums)[N] = *reinterpret_cast<float (*)[N]>(softmetal::threadgroup_array(" in text
    assert "if (softmetal::lockstep() && tiisg == 0)" in text


TENSORS = """
kernel void copy(device float * x, uint id [[thread_position_in_grid]]) { x[id] = 0; }
template <short N>
kernel void product(device float * x, uint id [[thread_position_in_grid]]) {
    { mpp::tensor_ops::matmul2d<descriptor(N), execution_simdgroups<4>> mm; }
}
template [[host_name("product_16")]] kernel product_t product<16>;
template [[host_name("product_32")]] kernel product_t product<32>;
"""


def test_softmetal_tensor_kernels_are_named():
    assert msl.names(TENSORS) == ["product_16", "product_32", "copy"]
    assert msl.tensor_kernels(TENSORS) == ["product_16", "product_32"]
    # A source that hides where it computes with them proves nothing of any.
    assert msl.tensor_kernels(SOURCE) == ["copy_f32", "plain"]


def test_softmetal_a_kernel_that_is_not_there_is_an_error():
    with pytest.raises(KeyError):
        msl.translate(SOURCE, "copy_f16")
