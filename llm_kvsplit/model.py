"""llm's words in, llm's events out: the plugin's Model and AsyncModel, around ``answer.py``."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import llm
from llm.parts import StreamEvent

from .options import Options
from .registry import no_projector

if TYPE_CHECKING:
    from .answer import Question
    from .chat import generic_tools
    from .chat.reply import Call, Text
    from .engine.generate import Outcome
    from .registry import Entry


class _Local:
    """What both models share: the entry in the registry and the way from question to events."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    attachment_types: set[str] | frozenset[str] = frozenset()
    Options = Options

    def __init__(self, entry: Entry) -> None:
        self.model_id = entry.name
        self.entry = entry
        if entry.media:
            from .media import TYPES

            # A set of each model's own, where llm has one for all.
            self.attachment_types = set().union(*(TYPES.get(kind, ()) for kind in entry.media))

    def _validate_attachments(self, attachments: Any = None) -> None:
        if attachments and not self.entry.media:
            raise no_projector(self.entry)
        super()._validate_attachments(attachments)  # type: ignore[misc]  # llm's

    def __str__(self) -> str:
        return f"KV split: {self.model_id}"

    def _events(self, question: Question, response: Any, stopped: Callable[[], bool]) -> Iterator[StreamEvent]:
        from . import answer

        def report(outcome: Outcome, logged: dict[str, Any]) -> None:
            details = {"cached_tokens": outcome.reused_tokens}
            response.set_usage(input=outcome.prompt_tokens, output=outcome.completion_tokens, details=details)
            response.set_resolved_model(self.model_id)
            response.response_json = logged

        events = _Events(response)
        with closing(answer.generated(question, report, stopped)) as pieces:
            for piece in pieces:
                yield from events.of(piece)


class KvsplitModel(_Local, llm.Model):
    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[StreamEvent]:
        # Imported here, since llm imports every plugin for every command.
        from . import answer

        session = answer.session(prompt, conversation)
        question = answer.prepare(self.entry, prompt, conversation, session=session, stream=stream)
        with _interrupt() as stopped:
            yield from self._events(question, response, stopped)


class AsyncKvsplitModel(_Local, llm.AsyncModel):
    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        from . import answer

        # One thread for the whole answer: llama.cpp's context and the lock around it belong to it.
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[StreamEvent | BaseException | None] = asyncio.Queue()
        cancelled = threading.Event()
        session = answer.session(prompt, conversation)

        def work() -> None:
            try:
                question = answer.prepare(self.entry, prompt, conversation, session=session, stream=stream)
                for event in self._events(question, response, cancelled.is_set):
                    loop.call_soon_threadsafe(queue.put_nowait, event)
                loop.call_soon_threadsafe(queue.put_nowait, None)
            except BaseException as ex:  # whatever it is, it is raised where the answer is awaited
                loop.call_soon_threadsafe(queue.put_nowait, ex)

        thread = threading.Thread(target=work, name=f"kvsplit {self.model_id}", daemon=True)
        thread.start()
        try:
            while (event := await queue.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            cancelled.set()


class _Events:
    """The parts of an answer as llm's events. Those of one call have one id."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._id = ""

    def of(self, piece: Text | Call | generic_tools.Event) -> Iterator[StreamEvent]:
        from .chat import generic_tools
        from .chat.reply import Text

        if isinstance(piece, Text):
            yield StreamEvent(type="reasoning" if piece.reasoning else "text", chunk=piece.text)
        elif isinstance(piece, generic_tools.CallBegun):
            yield self._begun(piece.name)
        elif isinstance(piece, generic_tools.CallArguments):
            yield self._arguments(piece.text)
        elif isinstance(piece, generic_tools.CallEnded):
            self._add(piece.call)
        else:
            yield self._begun(piece.name)
            yield self._arguments(json.dumps(piece.arguments))
            self._add(piece)

    def _begun(self, name: str) -> StreamEvent:
        self._id = f"tc_{uuid.uuid4().hex[:26]}"  # as long as those that llm makes
        return StreamEvent(type="tool_call_name", chunk=name, tool_call_id=self._id)

    def _arguments(self, text: str) -> StreamEvent:
        return StreamEvent(type="tool_call_args", chunk=text, tool_call_id=self._id)

    def _add(self, call: Call) -> None:
        """Once the call is whole: llm carries out what it is given here."""
        self._response.add_tool_call(llm.ToolCall(name=call.name, arguments=call.arguments, tool_call_id=self._id))


@contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the answer, which llm then logs as far as it came; a second one ends the program."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def handle(_number: int, _frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
