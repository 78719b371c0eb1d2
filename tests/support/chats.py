"""Conversations for the tests of the chat room."""

from typing import Any

from llm import Tool
from llm.parts import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

IDS = ("tc_00000000000000000000000001", "tc_00000000000000000000000002")
LOOK = Tool(name="look", description="Look.", input_schema={"type": "object", "properties": {"at": {"type": "string"}}})


def say(role: str, text: str) -> Message:
    return Message(role=role, parts=[TextPart(text=text)])


def thought(reasoning: str, text: str) -> Message:
    return Message(role="assistant", parts=[ReasoningPart(text=reasoning), TextPart(text=text)])


def call(*arguments: dict[str, Any], text: str = "", name: str = "look") -> Message:
    calls = [ToolCallPart(name=name, arguments=given, tool_call_id=IDS[n]) for n, given in enumerate(arguments)]
    return Message(role="assistant", parts=[*([TextPart(text=text)] if text else []), *calls])


def results(*outputs: str) -> Message:
    return Message(
        role="tool",
        parts=[ToolResultPart(name="look", output=output, tool_call_id=IDS[n]) for n, output in enumerate(outputs)],
    )


ASK = say("user", "Ask")
