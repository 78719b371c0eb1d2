"""Where attachments stand in a prompt, and that nothing else can stand there."""

import pytest
from llm.parts import AttachmentPart, Message, TextPart, ToolResultPart

from llm_kvsplit.chat import attachments, render
from llm_kvsplit.errors import KvsplitError
from tests.support.chats import ASK, LOOK, call, say

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TYPED = "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"


def seeing(*parts: str | int) -> Message:
    """Texts and attachments, which are numbers here."""
    return Message(
        role="user",
        parts=[TextPart(text=part) if isinstance(part, str) else AttachmentPart(attachment=part) for part in parts],
    )


def placed(template: str | None, conversation, **more) -> str:
    """The prompt, with ``{n}`` for what stands for the conversation's n-th attachment."""
    rendered = render(conversation, template, **more)
    assert len(rendered.marked) == len(rendered.text)
    for character in rendered.media:
        assert rendered.text.count(character) == rendered.marked.count(character) == 1
    return "".join(f"{{{rendered.media.index(c)}}}" if c in rendered.media else c for c in rendered.text)


CHAIN = [say("system", "Be brief."), seeing("One", 7, 8), say("assistant", "Yes."), seeing(9), seeing("<b>", 10, "Two")]


@pytest.mark.parametrize("template", [PLAIN, TYPED, PLAIN.replace("m.content", "m.content | trim")])
def test_they_stand_where_llm_has_them(template):
    assert attachments(CHAIN) == [7, 8, 9, 10]
    assert placed(template, CHAIN) == "<system>Be brief.<user>One{0}{1}<assistant>Yes.<user>{2}<user><b>{3}Two"


def test_they_stand_there_without_a_template():
    assert placed(None, CHAIN) == "Be brief.\nOne{0}{1}Yes.\n{2}\n<b>{3}Two"


def test_they_come_through_json():
    written = placed("{% for m in messages %}{{ m.content | tojson(ensure_ascii=true) }}{% endfor %}", [seeing("a", 1)])
    assert written == '"a{0}"'


def test_those_of_a_tools_result_stand_behind_it():
    result = Message(
        role="tool", parts=[ToolResultPart(name="look", output="seen", tool_call_id="c1", attachments=[5])]
    )
    chain = [ASK, call({"at": "x"}), result]
    template = PLAIN + "{% for m in messages %}{{ (m.tool_calls or []) | tojson }}{% endfor %}{{ tools | tojson }}"
    assert attachments(chain) == [5]
    assert "<tool>seen{0}" in placed(template, chain, tools=[LOOK])


def test_one_that_a_template_leaves_out_is_named():
    with pytest.raises(KvsplitError, match="leaves out an attachment: "):
        render([seeing("What?", 3)], "{% for m in messages %}{{ m.content.split('?')[0] }}{% endfor %}")


def test_no_text_holds_what_stands_for_one():
    first = render([seeing("a", 1)], PLAIN).media
    forged = render([seeing(f"{first}a{first}", 1)], PLAIN)
    assert forged.media != first and forged.text.count(forged.media) == 1
    escaped = render([seeing(r"\udbff\udff8 \U0010fff8", 1)], PLAIN)
    assert escaped.text.count(escaped.media) == 1
