"""One answer, top to bottom: load, render, restore, generate, store.

It imports all of the engine, so llm's model imports it when a question comes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from . import chat, fit, forms, gguf, notes, registry, schemas
from .builds import choice, pair_speed
from .builds.shelf import Build
from .chat import generic_tools, reasoning
from .chat import tokens as prompt_tokens
from .chat.generic_tools import Reader
from .chat.reply import Call, Form, ReplyParser, Text, form
from .engine import generate, library, loaded, servers, spelling
from .engine.context import Context, ContextOptions, refuse_unknown
from .engine.generate import Outcome
from .engine.guide import Prelude
from .engine.projector import Part, Projector, ProjectorOptions
from .engine.sampling import Sampling
from .engine.weights import LoadOptions, Weights
from .errors import KvsplitError
from .grammar import Grammar
from .kvtypes import LayerMap
from .media import Medium
from .options import COMPLETION_TOKENS, Options, Settings, effective_settings, stop_texts
from .registry import Entry
from .sessions import recall


@dataclass(frozen=True)
class Question:
    entry: Entry
    #: llm's prompt, with the options in it.
    prompt: Any
    settings: Settings
    #: What the answer has to look like, if it is not free.
    grammar: Grammar | None
    #: The conversation to keep the KV state for, if any.
    session: str | None
    #: Whether the text is shown as it comes, so that what comes after it makes nobody wait.
    stream: bool


def session(prompt: Any, conversation: Any) -> str | None:
    """The conversation to keep the KV state for. To be called in the thread of llm's command, whose options it looks at."""
    return conversation.id if conversation is not None and recall.should_store(prompt.options.kv_sessions) else None


def prepare(entry: Entry, prompt: Any, conversation: Any, *, session: str | None, stream: bool) -> Question:
    """Check what was asked for, then see to the library, which may be compiled for minutes where there is none.

    Raises KvsplitError, click.Abort on Ctrl-C.
    """
    settings = effective_settings(prompt.options, entry)
    form = forms.wanted(prompt.options.schema_of(prompt), prompt.options.regex, prompt.options.grammar)
    if prompt.options.generic_tools and prompt.tools:
        form = generic_tools.grammar(prompt.tools, form)
    # llama.cpp is given whole files and caches it can make: its own words for others are poor.
    header = gguf.read(entry.path)
    if reason := gguf.refusal(header, settings.cache):
        raise KvsplitError(f"{entry.name} {reason}.")
    library.load()
    refuse_unknown(ContextOptions(settings.cache, settings.n_ctx or header.n_ctx_train))
    _note_speed(choice.ensure(), settings, header.n_layer, conversation and conversation.id)
    for name in form.unchecked_formats if form else ():
        notes.once(f"the schema's format {name} is not known, and any text will do.", conversation and conversation.id)
    return Question(entry, prompt, settings, form, session, stream)


def generated(
    question: Question, report: Callable[[Outcome, dict[str, Any]], None], stopped: Callable[[], bool]
) -> Generator[Text | Call | generic_tools.Event, None, None]:
    """The answer in pieces. However it ends, ``report`` gets its outcome and what llm should log of it.

    What is logged may grow once more, when the KV state is stored. Raises KvsplitError.
    """
    prompt, settings, options = question.prompt, question.settings, question.prompt.options
    with loaded.exclusive(), library.verbose(bool(options.verbose)), servers.waiting_until(stopped):
        weights = _load(question, settings)
        generic = bool(options.generic_tools)
        rendered = chat.render(
            generic_tools.written_out(prompt.messages, prompt.tools) if generic else prompt.messages,
            weights.chat_templates,
            bos=weights.bos,
            eos=weights.eos,
            tools=() if generic else prompt.tools,
            thinking=options.thinking,
            answer_only=question.grammar is not None and options.thinking is False,
        )
        for note in rendered.notes:
            notes.once(note, question.session)
        projector = _projector(question, weights) if rendered.media else None
        tokens = spelling.begun_with(loaded.tokens(), _tokens(question, rendered, weights, projector), weights)
        n_ctx_limit = settings.n_ctx or weights.n_ctx_train
        cache = ContextOptions(settings.cache, n_ctx_limit, options.n_threads, options.flash_attn)
        stored = None
        if options.kv_sessions is not False:
            stored = recall.find(weights, cache, tokens, n_ctx_limit)
        if stored:
            tokens = spelling.begun_with(stored[0].tokens.tolist(), tokens, weights)
        longest = max(len(tokens), len(stored[0].tokens) if stored else 0)
        max_tokens = options.max_tokens
        if max_tokens is None and not weights.chat_templates:
            max_tokens = COMPLETION_TOKENS
        tools = {} if generic else {tool.name: tool.input_schema or {} for tool in prompt.tools}
        reader = Reader(prompt.tools) if generic and prompt.tools else None
        how = form(rendered.template, reasoning.known(rendered.template, weights.is_token))
        context = _context(weights, settings, cache, longest, max_tokens)
        restored = recall.restore(context, stored, tokens) if stored else None
        request = generate.Request(
            tokens=tokens,
            sampling=_sampling(options),
            max_tokens=max_tokens,
            stop=stop_texts(options.stop),
            n_ctx_limit=context.n_ctx if settings.n_ctx else weights.n_ctx_train,
            visible=how.visible,
            projector=projector,
            grammar=question.grammar,
            preludes=_preludes(how, tools=bool(tools)),
            opened=Prelude(rendered.reasoning.opening, rendered.reasoning.closing) if rendered.reasoning else None,
        )
        outcome = Outcome()
        parser = ReplyParser(tools, how, reasoning=rendered.reasoning, prompt=rendered.text)
        try:
            pieces = generate.generate(context, request, outcome, stopped)
            yield from _parts(pieces, parser, outcome, question.grammar, reader)
        finally:
            logged = _logged(context, outcome, restored)
            report(outcome, logged)
        if question.session is not None:
            _keep(recall.deferred_save(context, question.entry.name, question.session), logged, wait=question.stream)


def _projector(question: Question, weights: Weights) -> Projector:
    entry, options = question.entry, question.prompt.options
    if entry.mmproj is None:
        raise registry.no_projector(entry)
    use_gpu = question.settings.n_gpu_layers != 0
    return loaded.projector(ProjectorOptions(entry.mmproj, use_gpu, options.n_threads, options.flash_attn))


def _tokens(question: Question, rendered: chat.Rendered, weights: Weights, projector: Projector | None) -> list[int]:
    raw = bool(question.prompt.options.raw_prompt)
    if projector is None:
        return prompt_tokens.tokens(rendered, weights, raw=raw)
    media = [_medium(attachment) for attachment in chat.attachments(question.prompt.messages)]
    parts = prompt_tokens.with_media(rendered, weights, raw=raw)
    given: list[Part] = [media[part] if isinstance(part, int) else (part.text, part.special) for part in parts]
    return [*prompt_tokens.beginning(rendered, weights, raw=raw), *projector.tokens(given)]


def _medium(attachment: Any) -> Medium:
    """An attachment with its bytes, fetched where llm has no more than a path or an address."""
    name = attachment.path or attachment.url or "The attachment"
    try:
        return Medium(name, attachment.content_bytes() or b"")
    except OSError as error:
        raise KvsplitError(f"{name} cannot be read ({error.strerror or error}): check the file.") from error
    except Exception as error:  # whatever llm's client for addresses raises
        words = " ".join(str(error).split()) or type(error).__name__
        raise KvsplitError(f"{name} could not be fetched ({words}): check the address.") from error


def _preludes(how: Form, *, tools: bool) -> tuple[Prelude, ...]:
    """What may come before an answer that follows a grammar: reasoning, or calls, which last to the end."""
    opened = [Prelude(marker.opening.rstrip("\n"), marker.closing) for marker in how.reasoning]
    if how.channels:
        opened.append(Prelude("<|channel|>", "<|channel|>final<|message|>"))
    return (*opened, *(Prelude(opening, None) for opening in how.wrappers if tools))


def _parts(
    texts: Iterator[str], parser: ReplyParser, outcome: Outcome, form: Grammar | None, reader: Reader | None
) -> Iterator[Text | Call | generic_tools.Event]:
    """The parts of a reply. An answer that follows a grammar is what it is: no reasoning or call is looked for in it,
    but for those that ``reader`` knows the grammar to have."""
    answer, length = "", 0
    for text in texts:
        length += len(text)
        after = 0 if outcome.answer_at is None else min(len(text), length - outcome.answer_at)
        before, text = text[: len(text) - after], text[len(text) - after :]
        if before:
            yield from parser.feed(before)
        if text:
            if not answer:
                yield from parser.finish()
            answer += text
            yield from reader.feed(text) if reader else (Text(text),)
    if not answer:
        yield from parser.finish()
    if reader:
        yield from reader.finish()
    if form is not None:
        _note_form(form, "" if reader and reader.called else answer, outcome)


def _note_form(form: Grammar, answer: str, outcome: Outcome) -> None:
    """Say where the answer was cut short. Raises KvsplitError where a schema it only came near to is not met."""
    if outcome.finish_reason == "interrupted":
        return
    if outcome.cut:
        cause = "the context or -o max_tokens" if outcome.finish_reason == "length" else "-o stop"
        print(f"Note: {cause} cut the answer before it was whole by {form.name}.", file=sys.stderr)
    elif answer and form.approximated:
        keywords = " and ".join(form.approximated)
        if fault := schemas.fault(form.schema, answer):
            raise KvsplitError(f"The answer does not follow the schema, whose {keywords} was taken for anyOf: {fault}.")
        print(f"Note: {keywords} was taken for anyOf; the answer was checked, and follows the schema.", file=sys.stderr)


def _note_speed(chosen: Build, settings: Settings, n_layer: int, conversation: str | None) -> None:
    """Say so where a pair is slow with this library, or its attention off the GPU; once in a conversation."""
    for pair in dict.fromkeys(settings.cache.pairs(n_layer)):
        if not pair.quantized:
            continue
        speed = pair_speed.of(chosen, pair)
        if speed is not None and (sentence := pair_speed.sentence(speed, pair, chosen)):
            notes.once(sentence, conversation)


def _load(question: Question, settings: Settings) -> Weights:
    path, layers = question.entry.path, settings.n_gpu_layers
    if settings.servers and layers < 0:
        n_layer = gguf.read(path).n_layer
        layers = fit.layers_on_servers(path, settings.servers, settings.cache, settings.n_ctx)
        if 0 <= layers <= n_layer:
            text = f"the servers have room for {layers} of {n_layer} layers; this machine's CPU keeps the others."
            notes.once(text, question.session)
    return loaded.weights(LoadOptions(path, layers, choice.extra_bufts(), servers=settings.servers))


def _context(
    weights: Weights, settings: Settings, cache: ContextOptions, n_tokens: int, max_tokens: int | None
) -> Context:
    n_ctx = settings.n_ctx or generate.context_size(n_tokens, max_tokens, weights.n_ctx_train)
    if n_ctx > weights.n_ctx_train:
        print(
            f"Warning: the model was trained for {weights.n_ctx_train} tokens of context; beyond that, at {n_ctx}, "
            "its answers get worse.",
            file=sys.stderr,
        )
    cache, may_grow = replace(cache, n_ctx=n_ctx), settings.n_ctx is None
    if not loaded.is_reusable(cache, may_grow=may_grow):
        fit.refuse_unless_it_fits(weights.options.path, settings.cache, n_ctx, settings.servers)
    return loaded.context(cache, may_grow=may_grow)


def _sampling(options: Options) -> Sampling:
    names = (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
    )
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return Sampling(**given)


def _logged(context: Context, outcome: Outcome, restored: float | None) -> dict[str, Any]:
    """What llm logs of the answer, for ``llm logs --json``.

    ``restored``: seconds that restoring a stored state took, if one was.
    """
    return {
        "kv_cache": {
            **_types(context),
            "n_ctx": context.n_ctx,
            **asdict(context.kv_size),
        },
        "backend": choice.current().id,
        "session": _restored(outcome, restored),
        **asdict(outcome),
    }


def _types(context: Context) -> dict[str, str]:
    """The type of either side, "mixed" where layers differ, and the layer map if there is one."""
    cache = context.options.cache
    pairs = library.stored(cache).pairs(context.weights.header.n_layer)
    sides = zip(*((pair.k.name, pair.v.name) for pair in pairs))
    key_type, value_type = (names[0] if len(set(names)) == 1 else "mixed" for names in sides)
    layers = {"layers": str(cache)} if isinstance(cache, LayerMap) else {}
    return {"key_type": key_type, "value_type": value_type, **layers}


def _restored(outcome: Outcome, seconds: float | None) -> dict[str, Any]:
    if seconds is None:
        return {"restored_tokens": 0}
    return {"restored_tokens": outcome.reused_tokens, "restored_seconds": round(seconds, 4)}


def _keep(write: Callable[[], Any], logged: dict[str, Any], *, wait: bool) -> None:
    """Store the KV state after the text is out: a streamed answer is on the screen by now, another one is not yet."""

    def work() -> None:
        if saved := write():
            logged["session"].update(saved_bytes=saved.bytes, saved_seconds=round(saved.seconds, 4))

    if wait:
        work()
    else:
        threading.Thread(target=work, name="kvsplit session").start()
