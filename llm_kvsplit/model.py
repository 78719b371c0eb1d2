"""llm's words in, llm's events out: the plugin's Model and AsyncModel."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import llm
from llm.parts import StreamEvent

from .errors import KvsplitError
from .options import COMPLETION_TOKENS, Options, Settings, settle, stop_texts

if TYPE_CHECKING:
    from .builds.shelf import Build
    from .engine.context import Context, ContextOptions
    from .engine.generate import Outcome
    from .engine.weights import Weights
    from .registry import Entry


class _Local:
    """What both models share: the entry in the registry and the way from prompt to events."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    Options = Options

    def __init__(self, entry: "Entry") -> None:
        self.model_id = entry.name
        self.entry = entry

    def __str__(self) -> str:
        return f"KV split: {self.model_id}"

    def _prepare(self, prompt: Any, conversation: Any) -> Settings:
        """Check what was asked for, then see to the library, which may be compiled for minutes where there is none.

        Raises KvsplitError, click.Abort on Ctrl-C.
        """
        from . import gguf
        from .builds import choice
        from .engine import library

        settings = settle(prompt.options, self.entry)
        # llama.cpp is given whole files and caches it can make: its own words for others are poor.
        header = gguf.read(self.entry.path)
        if reason := gguf.refusal(header, settings.pair.k, settings.pair.v):
            raise KvsplitError(f"{self.model_id} {reason}.")
        library.load()
        _note_speed(choice.ensure(), settings, conversation and conversation.id)
        return settings

    def _answer(
        self,
        prompt: Any,
        settings: Settings,
        response: Any,
        *,
        stream: bool,
        session: str | None,
        stopped: Callable[[], bool],
    ) -> Iterator[StreamEvent]:
        """``session``: the conversation to keep the KV state for, if any."""
        # Imported here, since llm imports every plugin for every command.
        from . import chat, reply
        from .engine import generate as engine
        from .engine import library, loaded, spelling
        from .engine.context import ContextOptions
        from .engine.sampling import json_grammar
        from .sessions import recall

        with loaded.exclusive(), library.verbose(bool(prompt.options.verbose)):
            weights = _load(self.entry, settings)
            rendered = chat.render(
                prompt.messages,
                weights.chat_template,
                bos=weights.bos,
                eos=weights.eos,
                tools=prompt.tools,
                thinking=prompt.options.thinking,
            )
            tokens = spelling.begun_with(loaded.tokens(), _tokens(weights, rendered.text), weights)
            n_ctx_limit = settings.n_ctx or weights.n_ctx_train
            cache = ContextOptions(settings.pair, n_ctx_limit, prompt.options.n_threads, prompt.options.flash_attn)
            found = None
            if prompt.options.kv_sessions is not False:
                found = recall.find(weights, cache, tokens, n_ctx_limit)
            if found:
                tokens = spelling.begun_with(found[0].tokens.tolist(), tokens, weights)
            longest = max(len(tokens), len(found[0].tokens) if found else 0)
            max_tokens = prompt.options.max_tokens
            if max_tokens is None and weights.chat_template is None:
                max_tokens = COMPLETION_TOKENS
            context = _context(weights, settings, cache, longest, max_tokens)
            restored = recall.restore(context, found, tokens) if found else None
            request = engine.Request(
                tokens=tokens,
                sampling=_sampling(prompt.options, json_grammar(prompt.schema) if prompt.schema else None),
                max_tokens=max_tokens,
                stop=stop_texts(prompt.options.stop),
                n_ctx_limit=context.n_ctx if settings.n_ctx else weights.n_ctx_train,
                visible=reply.MARKERS,
            )
            outcome = engine.Outcome()
            parser = reply.ReplyParser(tools=bool(prompt.tools), reasoning_open=rendered.reasoning_open)
            try:
                for text in engine.generate(context, request, outcome, stopped):
                    yield from _events(parser.feed(text), response)
                yield from _events(parser.finish(), response)
            finally:
                report = _report(response, self.model_id, context, outcome, restored)
            if session is not None:
                _keep(recall.keeper(context, self.model_id, session), report, wait=stream)


class KvsplitModel(_Local, llm.Model):
    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[StreamEvent]:
        settings = self._prepare(prompt, conversation)
        session = _session(prompt, conversation)
        with _interrupt() as stopped:
            yield from self._answer(prompt, settings, response, stream=stream, session=session, stopped=stopped)


class AsyncKvsplitModel(_Local, llm.AsyncModel):
    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        # One thread for the whole answer: llama.cpp's context and the lock around it belong to it.
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        cancelled = threading.Event()
        session = _session(prompt, conversation)

        def work() -> None:
            try:
                settings = self._prepare(prompt, conversation)
                stopped = cancelled.is_set
                for event in self._answer(prompt, settings, response, stream=stream, session=session, stopped=stopped):
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


def _session(prompt: Any, conversation: Any) -> str | None:
    from .sessions import recall

    if conversation is None or not recall.wanted(prompt.options.kv_sessions):
        return None
    return conversation.id


def _keep(write: Callable[[], Any], report: dict[str, Any], *, wait: bool) -> None:
    """Store the KV state after the text is out: a streamed answer is on the screen by now, another one is not yet."""

    def work() -> None:
        if saved := write():
            report["session"].update(saved_bytes=saved.bytes, saved_seconds=round(saved.seconds, 4))

    if wait:
        work()
    else:
        threading.Thread(target=work, name="kvsplit session").start()


def _load(entry: "Entry", settings: Settings) -> "Weights":
    from .builds import choice, probe
    from .engine import loaded
    from .engine.weights import LoadOptions

    extra_bufts = probe.result(choice.ensure()).extra_bufts
    return loaded.weights(LoadOptions(entry.path, settings.n_gpu_layers, extra_bufts))


def _note_speed(chosen: "Build", settings: Settings, conversation: str | None) -> None:
    """Say so where the pair is slow with this library, or its attention off the GPU; once in a conversation."""
    from . import notes
    from .builds import pair_speed

    if not settings.pair.quantized:
        return
    speed = pair_speed.of(chosen, settings.pair)
    if speed is not None and (sentence := pair_speed.sentence(speed, settings.pair, chosen)):
        notes.once(sentence, conversation)


def _tokens(weights: "Weights", text: str) -> list[int]:
    # Many templates write the BOS token themselves; two of them harm some models.
    written = bool(weights.bos) and text.startswith(weights.bos)
    return weights.tokenize(text, add_special=not written, parse_special=True)


def _context(
    weights: "Weights", settings: Settings, cache: "ContextOptions", n_tokens: int, max_tokens: int | None
) -> "Context":
    from . import fit
    from .engine import generate as engine
    from .engine import loaded

    n_ctx = settings.n_ctx or engine.context_size(n_tokens, max_tokens, weights.n_ctx_train)
    if n_ctx > weights.n_ctx_train:
        print(
            f"Warning: the model was trained for {weights.n_ctx_train} tokens of context; beyond that, at {n_ctx}, "
            "its answers get worse.",
            file=sys.stderr,
        )
    cache, may_grow = replace(cache, n_ctx=n_ctx), settings.n_ctx is None
    if not loaded.serves(cache, may_grow=may_grow):
        fit.refuse_unless_it_fits(weights.options.path, settings.pair, n_ctx)
    return loaded.context(cache, may_grow=may_grow)


def _sampling(options: Options, grammar: str | None) -> Any:
    from .engine.sampling import Sampling

    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return Sampling(**given, grammar=grammar)


def _events(pieces: Any, response: Any) -> Iterator[StreamEvent]:
    import json

    from .reply import Call

    for piece in pieces:
        if isinstance(piece, Call):
            call = llm.ToolCall(name=piece.name, arguments=piece.arguments, tool_call_id=None)
            response.add_tool_call(call)
            call_id = response._tool_calls[-1].tool_call_id
            yield StreamEvent(type="tool_call_name", chunk=piece.name, tool_call_id=call_id)
            yield StreamEvent(type="tool_call_args", chunk=json.dumps(piece.arguments), tool_call_id=call_id)
        else:
            yield StreamEvent(type="reasoning" if piece.reasoning else "text", chunk=piece.text)


def _report(
    response: Any, model_id: str, context: "Context", outcome: "Outcome", restored: float | None
) -> dict[str, Any]:
    """What llm logs of the answer, for ``llm logs --json`` and ``llm -u``.

    ``restored``: seconds that restoring a stored state took, if one was.
    """
    from .builds import choice

    response.set_usage(
        input=outcome.prompt_tokens, output=outcome.completion_tokens, details={"cached_tokens": outcome.reused_tokens}
    )
    response.set_resolved_model(model_id)
    pair = context.options.pair
    response.response_json = {
        "kv_cache": {
            "key_type": pair.k.name,
            "value_type": pair.v.name,
            "n_ctx": context.n_ctx,
            **asdict(context.kv_size),
        },
        "backend": choice.current().id,
        "session": _restored(outcome, restored),
        **asdict(outcome),
    }
    return response.response_json


def _restored(outcome: "Outcome", seconds: float | None) -> dict[str, Any]:
    if seconds is None:
        return {"restored_tokens": 0}
    return {"restored_tokens": outcome.reused_tokens, "restored_seconds": round(seconds, 4)}


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
