"""llama.cpp's own web page, built from the series' tree, in a browser: a question, its answer, and the cache beside it."""

import shutil

import pytest

from llm_kvsplit import demo, registry
from llm_kvsplit.serve import server
from tests.model.test_serve import serve  # noqa: F401
from tests.support.browser import CHROMIUM, browser
from tests.support.library import BUILD

pytestmark = [
    pytest.mark.build,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None or shutil.which("npm") is None, reason="needs chromium and npm"),
]


def test_a_question_on_llama_cpps_page_is_answered_and_its_cache_is_named(serve, user_path, tmp_path):  # noqa: F811
    registry.add(registry.Entry("mixed", demo.MODEL, kv_key_bits=8, kv_value_bits=4))
    registry.add(registry.Entry("mapped", demo.MODEL, kv_layers="0-1:8/8,rest:8/4"))
    running = serve("mixed", "mapped", "--users", "1", "--n-ctx", "512", "--page")
    assert list((BUILD / "programs").glob(f"{server.NAME}-page-*"))
    with browser(tmp_path / "browser") as page:
        page.open(running.url)
        page.until("document.querySelector('textarea') !== null")
        page.until("/mixed|mapped/.test(document.body.innerText)")
        page.run("document.querySelector('textarea').focus()")
        page.press("def f(")
        page.until("/\\d+ tokens\\s+[\\d.]+s/.test(document.body.innerText)")  # an answer's tokens and seconds
        page.run(
            "[...document.querySelectorAll('button')].filter(b => /mixed|mapped/.test(b.innerText)).at(-1).click()"
        )
        page.until("document.body.innerText.includes('K8V4 q8_0/')")
        listed = page.run("document.body.innerText")
        assert "0-1:K8V8 rest:K8V4" in listed and listed.count(" KiB") == 2
        page.open(f"{running.url}/{server.BESIDE}")
        page.until("document.querySelectorAll('#models section').length === 2")
        assert page.run("document.getElementById('chat').hidden") is False
