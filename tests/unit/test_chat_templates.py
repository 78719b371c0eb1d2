"""Messages through templates: the environment that templates are written for, and nothing lost without a word."""

import re
import time

import pytest
from llm.parts import AttachmentPart, Message, TextPart

from llm_kvsplit.chat import render
from llm_kvsplit.errors import KvsplitError
from tests.support.chats import ASK, IDS, LOOK, call, results, say, thought

#: Writes whatever it is given, as most templates do.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def text(template, messages=(ASK,), **given):
    return render(list(messages), template, **given).text


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Ask"),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}{{ messages[0].content }}", '{"a": 2, "b": 1}Ask'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}{{ messages[0].content }}", "[1,2]Ask"),
        ("{{ [1] | tojson(indent=1) }}{{ messages[0].content }}", "[\n 1\n]Ask"),
        ("{{ '<é>' | tojson }}{{ messages[0].content }}", '"<é>"Ask'),
        ("{{ '%s-%02d' | format('a', 3) }}{{ messages[0].content }}", "a-03Ask"),
        ("{% set l = [] %}{% set _ = l.append(1) %}{{ l }}{{ messages[0].content }}", "[1]Ask"),
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}", "Ask"),
        ("{% for tool in tools %}x{% endfor %}{{ messages[0].content }}", "Ask"),
        ("{% if tools is not none %}tools{% endif %}{{ messages[0].content }}", "Ask"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ messages[0].content }}", "2Ask"),
        ("{{ strftime_now('%Y')[:2] }}{{ messages[0].content }}", "20Ask"),
        ("{{ ('<a>' | e) ~ messages[0].content }}", "&lt;a&gt;Ask"),
    ],
)
def test_the_environment_is_the_one_templates_are_written_for(template, expected):
    assert text(template) == expected


def test_escaping_is_as_in_html():
    messages = [say("user", "<b> & c")]
    assert text("{{ messages[0].content | e }}", messages) == "&lt;b&gt; &amp; c"
    assert text("{{ '<i>' | safe + messages[0].content }}", messages) == "<i>&lt;b&gt; &amp; c"


def test_typed_contents_where_a_template_wants_them():
    template = "{% for m in messages %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endfor %}"
    assert text(template, [say("user", "Is it?")]) == "Is it?"


def test_short_ids_where_a_template_wants_them():
    template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
        "{{ raise_exception('ids have nine characters') }}{% endif %}{{ c.function | tojson }}{{ c.id }}{% endfor %}"
        "{% if m.tool_call_id is defined %}={{ m.tool_call_id }}{% endif %}{% endfor %}{{ tools | tojson }}"
    )
    chain = [ASK, call({"at": "x"}), results("seen")]
    rendered = text(template, chain, tools=[LOOK])
    (identity,) = re.findall(r'{"at": "x"}}([0-9a-zA-Z]{9})seen=', rendered)
    assert f"seen={identity}[" in rendered
    assert text(template, chain, tools=[LOOK]) == rendered


def test_one_call_a_turn_where_a_template_wants_it():
    template = (
        "{% for m in messages %}{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}"
        "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    chain = [ASK, call({"at": "x"}, {"at": "y"}), results("one", "two")]
    assert text(template, chain) == 'Asklook{"at": "x"}onelook{"at": "y"}two'


def test_arguments_as_text_where_a_template_wants_them():
    template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ '<' + c.function.name + ' ' + c.function.arguments + '>' }}{% endfor %}{% endfor %}"
    )
    assert text(template, [ASK, call({"at": "é"}), results("seen")]) == 'Ask<look {"at": "é"}>seen'


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning", "thought"])
def test_reasoning_under_the_name_that_is_read(name):
    template = f"{{% for m in messages %}}{{{{ m.content }}}}{{{{ m.{name} or '' }}}}{{% endfor %}}"
    assert text(template, [ASK, thought("Pondered", "Said"), say("user", "More")]) == "AskSaidPonderedMore"


def test_the_system_text_is_folded_into_the_first_question():
    template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    assert text(template, [say("system", "Rule"), ASK]) == "Rule\n\nAsk"
    # Short texts occur elsewhere, and are missed nevertheless.
    assert text(template, [say("system", "k"), ASK]) == "k\n\nAsk"
    raising = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    assert text(raising, [say("system", "Rule"), ASK]) == "Rule\n\nAsk"


def test_tools_are_refused_in_words():
    for template in ("{{ messages[0].content }}", "{{ messages[0].content }}{# tools #}{% if tools %}{% endif %}"):
        with pytest.raises(KvsplitError, match="no place for tools"):
            text(template, tools=[LOOK])
    with pytest.raises(KvsplitError, match="no chat template"):
        text(None, tools=[LOOK])


def test_text_beside_a_call_becomes_a_turn_where_it_would_be_dropped():
    template = (
        "{% for m in messages %}[{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}"
        "{% else %}{{ m.content }}{% endif %}]{% endfor %}"
    )
    rendered = text(template, [ASK, call({"at": "x"}, text="I look."), results("seen")])
    assert rendered == '[Ask][I look.][{"name": "look", "arguments": {"at": "x"}}][seen]'


def test_calls_and_results_are_written_as_text_where_a_template_has_no_place_for_them():
    template = "{% for m in messages %}{% if m.role in ('user', 'assistant') %}[{{ m.content }}]{% endif %}{% endfor %}"
    chain = [ASK, call({"at": "x"}), results("seen"), say("assistant", "Yes."), say("user", "Thanks")]
    assert text(template, chain) == '[Ask][{"name": "look", "arguments": {"at": "x"}}][seen][Yes.][Thanks]'


def test_what_is_left_out_is_named():
    with pytest.raises(KvsplitError, match=r"leaves out a question: "):
        text("{{ messages[-1].content }}", [say("user", "One"), ASK])
    with pytest.raises(KvsplitError, match="leaves out a question and an answer: "):
        text("{{ messages[-1].content }}", [ASK, say("assistant", "Yes."), say("user", "More")])
    picture = Message(role="user", parts=[TextPart(text="What?"), AttachmentPart()])
    with pytest.raises(KvsplitError, match="leaves out an attachment: "):
        text("{% for m in messages %}{{ m.content.split('?')[0] }}{% endfor %}", [picture])


def test_where_a_template_writes_calls_or_no_question_at_all_a_note_will_do():
    template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
        "{% endfor %}"
    )
    rendered = render([ASK, call({"at": "x"}), results("seen")], template, tools=[LOOK])
    assert rendered.notes == ["The model's chat template leaves out the tools that are offered."]
    rendered = render([say("system", "Be brief."), ASK], "Always the same.")
    assert rendered.text == "Always the same."
    assert rendered.notes == ["The model's chat template leaves out the system prompt and a question."]
    assert render([ASK], CHATML).notes == []


def test_the_templates_own_reason_is_told():
    with pytest.raises(KvsplitError, match=r"does not take this conversation: not today\."):
        text("{{ raise_exception('not today.') }}")


def test_the_template_for_tools_is_used_for_tools():
    templates = {"default": "{{ messages[0].content }}", "tool_use": "{{ messages[0].content }}{{ tools | tojson }}"}
    assert "look" in text(templates, tools=[LOOK])
    assert text(templates) == "Ask"
    chain = [ASK, call({"at": "x"}), results("seen")]
    templates = {"default": "{{ messages[0].content }}", "tool_use": CHATML}
    assert "<tool_call>" in text(templates, chain)


@pytest.mark.parametrize(
    ("condition", "on"),
    [
        ("enable_thinking is defined and enable_thinking", True),
        ("not enable_thinking is defined or enable_thinking", True),
        ("thinking", True),
        ("reasoning", True),
        ("thinking_mode == 'enabled' or thinking_mode == 'x' and 'disabled'", True),
        ("thinking_option == 'on' and thinking_option != 'off'", True),
        ("thinking_budget != 0", True),
        ("my_own_think_switch", True),
        ("effort_of_reasoning == 'high' or effort_of_reasoning == 'x' and 'minimal'", True),
    ],
)
def test_the_switch_is_found_whatever_it_is_called(condition, on):
    template = f"{{% if {condition} %}}<plan>{{% endif %}}{{{{ messages[0].content }}}}"
    assert text(template, thinking=True) == "<plan>Ask"
    assert text(template, thinking=False) == "Ask"
    assert render([ASK], template, thinking=True).switched


def test_a_switch_that_is_a_word_in_the_question():
    template = (
        "{% set ns = namespace(on=true) %}{% for m in messages %}"
        "{% if '/no_think' in m.content %}{% set ns.on = false %}{% elif '/think' in m.content %}{% set ns.on = true %}{% endif %}"
        "{{ m.content.replace('/think', '').replace('/no_think', '').strip() }}{% endfor %}{% if ns.on %}<think>{% endif %}"
    )
    assert text(template, thinking=True) == text(template) == "Ask<think>"
    off = render([ASK], template, thinking=False)
    assert (off.text, off.notes) == ("Ask", [])
    mentioned = "{# '/think' '/no_think' #}{{ messages[0].content }}"
    assert text(mentioned, thinking=False) == "Ask"
    assert not render([ASK], mentioned, thinking=False).switched


def test_where_there_is_no_switch_that_is_said():
    template = "{% if keep_past_thinking %}x{% endif %}Reasoning: {{ reasoning_effort }}{{ messages[0].content }}"
    rendered = render([ASK], template, thinking=True)
    assert (rendered.text, rendered.switched) == ("Reasoning: Ask", False)


def test_for_a_schema_reasoning_is_closed():
    opening = "{{ messages[0].content }}<think>\n"
    assert render([ASK], opening).reasoning is not None
    closed = render([ASK], opening, answer_only=True)
    assert closed.reasoning is None and closed.text == "Ask<think>\n</think>\n\n"
    switched = "{{ messages[0].content }}{% if enable_thinking == false %}<think></think>{% else %}<think>{% endif %}"
    assert text(switched, answer_only=True) == "Ask<think></think>"


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
        "{{ ns.x | tojson }}",
        "{% set ns = namespace(x=9) %}{% for a in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ 'a' * 3000000000 }}",
        "{{ 9 ** 99999 }}",
        "{{ 'a' | center(3000000000) }}",
        "{{ 'a'.ljust(3000000000) }}",
        "{{ '%3000000000d' % 1 }}",
        "{{ '%3000000000d' | format(1) }}",
        "{{ '{:3000000000d}'.format(1) }}",
        "{{ [1] | tojson(indent=3000000000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{% set l = [1] %}{% for a in range(60) %}{% set _ = l.extend(l) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(500) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson(indent=9999) }}",
        "{{ range(99999) | list | tojson(indent=9999) }}",
        "{{ range(99999) | list | tojson(separators=('a' * 100000, ':')) }}",
        "{{ range(99999) | list | tojson(indent='a' * 100000) }}",
        "{{ (['a'] * 10**6) | join('b' * 10**5) }}",
        "{{ ('b' * 10**5).join('a' * 10**6) }}",
        "{{ ('b' * 10**5).join(range(99999) | map('string')) }}",
        "{{ ('a\n' * 10**6) | indent(9999) }}",
        "{{ ('a\n' * 10**5) | indent('b' * 10**5) }}",
        "{{ [1] | batch(10**9, 'x') | list }}",
        "{{ 1.5 | round(10**9) }}",
        "{{ ([[1] * 1000] * 10000) | sum(start=[]) }}",
        "{{ '%(a)3000000000s' | format(a=1) }}",
        "{{ ('%9999d' * 20000) % ((1,) * 20000) }}",
        "{{ ('{0}' * 100000).format('a' * 100000) }}",
        "{{ ('{a}' * 100000).format_map({'a': 'a' * 100000}) }}",
        "{{ ('%(a)s' * 100000) % {'a': 'a' * 100000} }}",
        "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
        "{{ strftime_now('%1000000000Y') }}",
        "{{ ('a ' * 10**7) | title }}",
        "{{ ('a,' * 10**7).split(',') }}",
        "{{ ('http://a.bc ' * 10**6) | urlize }}",
        # Lists that hold one list many times: written out, compared, looked up.
        *(
            "{% set ns = namespace(x=(1,), y=(1,)) %}"
            "{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% set ns.y = (ns.y, ns.y) %}{% endfor %}" + use
            for use in (
                "{{ ns.x == ns.y }}",
                "{{ ns.x in [ns.y] }}",
                "{{ {ns.x: 1} }}",
                "{{ '%s' % ns.x }}",
                "{{ ns | string }}",
            )
        ),
        # What is kept adds up.
        *(
            f"{{% set l, x, y = [], 'a,' * 10**6, [1] * 10**6 %}}{{% for i in range(99999) %}}{{% set _ = l.append({part}) %}}{{% endfor %}}"
            for part in (
                "x[1:]",
                "x | upper",
                "x.split(',')",
                "y[1:]",
                "y.copy()",
                "range(99999) | list",
                "'' | center(9999)",
            )
        ),
    ],
)
def test_a_template_can_neither_run_for_ever_nor_eat_the_memory(template, monkeypatch):
    monkeypatch.setattr("llm_kvsplit.chat.template_limits.SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(KvsplitError, match="chat template"):
        text(template + "{{ messages[0].content }}")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}{{ messages[0].content }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.clear() }}{{ messages[0].content }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.mro() }}",
    ],
)
def test_a_template_cannot_reach_out(template):
    with pytest.raises(KvsplitError):
        text(template)


def test_ids_are_kept_where_a_template_takes_them():
    template = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{% endfor %}"
    assert IDS[0] in text(template, [ASK, call({"at": "x"}), results("seen")])
