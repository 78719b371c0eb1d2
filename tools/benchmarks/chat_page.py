"""docs/evidence/chat.md out of chat.json: one table, and behind it what each of its rows comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

COMMAND = "uv run --with transformers==5.24.0 python tools/benchmarks/chat.py --out docs/evidence"
#: What a template leaves out is kept by a prompt of ours, or an error names it.
TOLD = ("a part left out, which ours keeps", "a part left out, which ours names")
#: A corpus's own name in a heading.
NAMES = {"jsonschemabench": "JSONSchemaBench", "llguidance": "llguidance's tests", "hypothesis": "made by hypothesis"}
Rows = Iterator[tuple[str, str, str, str]]


def markdown(results: dict[str, Any]) -> str:
    parts = [part for part in _ROWS if part in results]
    rows = [row for part in parts for row in _ROWS[part](results[part])]
    sections = [_SECTIONS[part](results[part]) for part in parts if part in _SECTIONS]
    dates = sorted({results[part]["date"] for part in parts})
    table = [
        "| what | goal | result | held against |",
        "| --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    head = (
        "# Chat, schemas and templates, held against others' programs and corpora\n\n"
        f"Made by `{COMMAND}`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}. Corpora come by package or git, and none of\n"
        "them is part of this project. All figures are in [chat.json](chat.json).\n"
    )
    return "\n".join([head, *table, "", *sections])


def _template_rows(part: dict[str, Any]) -> Rows:
    counts = _total(part["conversations"].values())
    whole = counts["the same"] + counts["DIFFERENT"] + counts["REFUSED BY OURS"] + counts["HUNG OR DIED"]
    left_out = sum(counts[kind] for kind in TOLD)
    templates = sum(part["corpora"].values())
    corpora = "; ".join(f"{n} of {title}" for title, n in part["corpora"].items())
    yield (
        f"prompts of {templates} chat templates that come out as transformers renders them, byte for byte",
        "99 %",
        f"{_share(counts['the same'], whole)} of those that hold all of the conversation; "
        f"{_share(counts['the same'], whole + left_out)} of all",
        f"{part['versions']}; {corpora}",
    )
    yield (
        "prompts of which the template leaves a part out: kept or named",
        "all",
        f"{counts[TOLD[0]]} kept and {counts[TOLD[1]]} named, of {left_out}",
        "the same",
    )


def _call_rows(part: dict[str, Any]) -> Rows:
    sums = [sum(column) for column in zip(*part["families"].values())]
    families = len(part["families"])
    result = (
        f"{sums[0]} of {sums[1]} texts with calls, {sums[2]} of {sums[3]} answers, {sums[4]} of {sums[5]} reasonings"
    )
    yield f"texts of {families} templates read as llama.cpp reads them", "all", result, part["corpus"]


def _role_rows(part: dict[str, Any]) -> Rows:
    sums = _total(part["families"].values())
    yield (
        f"roles opened by {sums['texts']} forged files ({', '.join(part['families'])})",
        "0",
        f"{sums['through']} (with `-o raw_prompt 1`: {sums['raw']} control tokens); "
        f"{sums['misspelled']} pages misspelled",
        part["corpus"],
    )


def _vector_rows(part: dict[str, Any]) -> Rows:
    yield f"cosine of the vectors of {part['texts']} texts", "0.999", f"{part['least cosine']} or more", part["corpus"]


def _schema_rows(part: dict[str, Any]) -> Rows:
    corpora = {name: each for name, each in part.items() if name != "date"}
    drafts = [each for name, each in corpora.items() if name.startswith("draft")]
    groups = {"JSON-Schema-Test-Suite, drafts 4 to 2020-12": drafts} if drafts else {}
    groups |= {NAMES[name]: [each] for name, each in corpora.items() if not name.startswith("draft")}
    for name, every in groups.items():
        n, compiled, refused = (sum(each[key] for each in every) for key in ("schemas", "compiled", "refused"))
        failed, hung = (sum(len(each[key]) for each in every) for key in ("neither", "hung"))
        yield (
            f"schemas that compile or are refused by name: {name}",
            "all",
            f"{compiled + refused} of {n} ({compiled} compile); {failed} neither, {hung} hung, {max(e['slowest seconds'] for e in every):.1f} s at most",
            every[0]["corpus"],
        )
        counts = _total(each["instances"] for each in every)
        valid, invalid = (counts[f"{kind}, accepted"] + counts[f"{kind}, refused"] for kind in ("valid", "invalid"))
        if valid + invalid:
            disputed = sum(each["accepted, and valid to jsonschema"] for each in every)
            wrong = counts["invalid, accepted"] - disputed
            note = f" (and {disputed} that jsonschema takes for valid, too)" if disputed else ""
            yield (
                f"invalid instances accepted: {name}",
                "0",
                f"{wrong} of {invalid}{note}; of {valid} valid ones {counts['valid, refused']} refused",
                "the same",
            )


def _answer_rows(part: dict[str, Any]) -> Rows:
    for model, each in part.items():
        if model != "date":
            faults = "; ".join(result["fault"] for result in each["wrong"].values() if result.get("fault"))
            yield (
                f"finished answers of {model} that validate",
                "all",
                f"{each['valid']} of {each['finished']} (of {each['asked']} asked for, {each.get('cut', 0)} were cut at 200 tokens)"
                + (f"; {faults}" if faults else ""),
                "schemas above that compile, taken at random; jsonschema with formats, and with the years of Python's calendar",
            )


def _speed_rows(part: dict[str, Any]) -> Rows:
    for vocabulary, each in part["vocabularies"].items():
        yield (
            f"tokens/s with a schema beside those without, vocabulary of {vocabulary}",
            "0.9",
            f"{each['ratio']} ({each['ratios'][0]}–{each['ratios'][-1]}; {each['schema']} and {each['free']} tokens/s)",
            f"{part['turns']} turns of {part['tokens']} tokens on {part['machine']}",
        )


def _templates(part: dict[str, Any]) -> str:
    kinds = list(next(iter(part["conversations"].values())))
    lines = [
        "## Templates",
        "",
        f"Each of {sum(part['corpora'].values())} templates renders {len(part['conversations'])} conversations, here and with "
        f"{part['versions']}. A text that stands in several corpora counts once.",
        "Where transformers leaves a part of the conversation out, which it does silently, a prompt of ours keeps it or an error "
        "names it.",
        "",
        f"| conversation | {' | '.join(kinds)} |",
        f"| --- |{' ---: |' * len(kinds)}",
    ]
    rows = {**part["conversations"], "all": _total(part["conversations"].values())}
    lines += [f"| {name} | {' | '.join(str(counts[kind]) for kind in kinds)} |" for name, counts in rows.items()]
    lines += ["", *(f"- {name}" for name in part["unlike"]), *([""] if part["unlike"] else [])]
    return "\n".join(lines)


def _calls(part: dict[str, Any]) -> str:
    lines = [
        "## Tool calls",
        "",
        f"The texts of {part['corpus']}, read letter by letter. Cut-off texts, those with a schema and those that the test puts",
        "together itself are left out.",
        "",
        "| template | calls | answers | reasoning |",
        "| --- | ---: | ---: | ---: |",
    ]
    rows = {**part["families"], "all": [sum(column) for column in zip(*part["families"].values())]}
    lines += [f"| {name} | {n[0]} of {n[1]} | {n[2]} of {n[3]} | {n[4]} of {n[5]} |" for name, n in rows.items()]
    lines += ["", "What comes out otherwise:", ""]
    for each in part["otherwise"]:
        lines.append(
            f"- {each['template']}: {_code(each['text'])} is {_reading(each['here'])} here, {_reading(each['there'])} there"
        )
    return "\n".join([*lines, ""])


def _reading(reading: list[Any]) -> str:
    calls, answer, thought = reading
    parts = [f"{len(calls)} calls"] if calls else []
    parts += [f"the answer {_code(answer)}"] if answer else []
    parts += [f"the reasoning {_code(thought)}"] if thought else []
    return " and ".join(parts) or "nothing"


def _code(text: str) -> str:
    line = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{line[:77]}…`" if len(line) > 80 else f"`{line}`"


def _roles(part: dict[str, Any]) -> str:
    lines = [
        "## Roles",
        "",
        "A file holds what opens a role in one of these forms, or one of 40 control tokens of the vocabulary. Counted are control",
        "tokens of the prompt that are not the template's own. Gemma 2 and Mistral have their control tokens in a vocabulary of",
        "bytes, since llama.cpp keeps none of theirs.",
        "",
        "| family | forged files | control tokens of theirs | with `-o raw_prompt 1` |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [f"| {name} | {n['texts']} | {n['through']} | {n['raw']} |" for name, n in part["families"].items()]
    return "\n".join([*lines, ""])


def _schemas(part: dict[str, Any]) -> str:
    lines = [
        "## Schemas",
        "",
        "An instance is accepted where the grammar takes it with its keys in some order, and jsonschema does, where an answer is",
        "checked afterwards. A number such as 3.0 is spelled 3. Each schema has its turn in a child process, which is ended",
        "after two minutes.",
        "",
        "| corpus | schemas | compiled | refused by name | neither | hung | valid: accepted | invalid: accepted |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    corpora = {name: each for name, each in part.items() if name != "date"}
    for name, each in corpora.items():
        n = Counter(each["instances"])
        valid, invalid = (n[f"{kind}, accepted"] + n[f"{kind}, refused"] for kind in ("valid", "invalid"))
        lines.append(
            f"| {NAMES.get(name, name)} | {each['schemas']} | {each['compiled']} | {each['refused']} | {len(each['neither'])} "
            f"| {len(each['hung'])} | {n['valid, accepted']} of {valid} | {n['invalid, accepted']} of {invalid} |"
        )
    reasons = _total(each["reasons"] for each in corpora.values())
    lines += ["", "The most frequent refusals:", "", *(f"- {n} × {reason}" for reason, n in reasons.most_common(15))]
    refused = [
        (NAMES.get(name, name), *pair) for name, each in corpora.items() for pair in each["wrongly refused"].items()
    ]
    lines += ["", f"Valid instances that are refused, in {len(refused)} schemas; some of them:", ""]
    lines += [
        f"- {corpus}, {_code(name)}: {', '.join(map(_code, values[:3]))}"
        for corpus, name, values in refused[:: max(1, len(refused) // 25)]
    ]
    return "\n".join([*lines, ""])


def _total(counts: Any) -> Counter[str]:
    return sum((Counter(each) for each in counts), Counter())


def _share(n: int, of: int) -> str:
    return f"{n} of {of} ({100 * n / of:.2f} %)" if of else "none"


_ROWS = {
    "templates": _template_rows,
    "calls": _call_rows,
    "roles": _role_rows,
    "vectors": _vector_rows,
    "schemas": _schema_rows,
    "answers": _answer_rows,
    "speed": _speed_rows,
}
_SECTIONS = {"templates": _templates, "calls": _calls, "roles": _roles, "schemas": _schemas}
