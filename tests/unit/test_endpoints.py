"""How a person names the machines that compute for this one."""

import pytest

from llm_kvsplit import endpoints, registry
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.options import Options, effective_settings

ENTRY = registry.Entry("m", None, rpc="box,10.0.0.7:50053")


def test_hosts_and_ports():
    assert endpoints.parse("box, 10.0.0.7:50053") == ("box:50052", "10.0.0.7:50053")


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no host:port"), ("a:0", "no host:port"), ("a:70000", "no host:port"), ("::1", "no host:port"),
     ("a b", "no host:port"), ("a,a:50052", "twice"), (",".join(f"h{i}" for i in range(17)), "takes 16")],
)  # fmt: skip
def test_what_names_none(text, words):
    with pytest.raises(ValueError, match=words):
        endpoints.parse(text)


def test_what_is_asked_goes_before_what_is_registered():
    assert effective_settings(Options(), ENTRY).servers == ("box:50052", "10.0.0.7:50053")
    assert effective_settings(Options(rpc="other:1"), ENTRY).servers == ("other:1",)
    assert effective_settings(Options(rpc="none"), ENTRY).servers == ()


@pytest.mark.parametrize("options", [Options(rpc="a:b"), Options(n_gpu_layers=0)])
def test_one_sentence(options):
    with pytest.raises(KvsplitError, match=r"^[^.]+leave out rpc\.$|^rpc 'a:b' names no servers: .*, or none\.$"):
        effective_settings(options, ENTRY)
