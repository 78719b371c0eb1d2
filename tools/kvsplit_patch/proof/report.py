"""The last verdict as JSON, as JUnit XML for a CI's test tab, and as Markdown to paste into a review."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict

from .verify import Check, Verdict


def as_json(verdict: Verdict) -> str:
    return json.dumps(asdict(verdict), indent=1)


def as_junit(verdict: Verdict) -> str:
    failures = sum(bool(check.problems) for check in verdict.checks)
    suite = ET.Element(
        "testsuite",
        name="kvsplit-patch verify",
        tests=str(len(verdict.checks)),
        failures=str(failures),
        skipped=str(sum(check.skipped for check in verdict.checks)),
        time=str(sum(check.seconds for check in verdict.checks)),
        timestamp=verdict.created,
    )
    for check in verdict.checks:
        case = ET.SubElement(suite, "testcase", classname="kvsplit_patch", name=check.name, time=str(check.seconds))
        if check.problems:
            failure = ET.SubElement(case, "failure", message=_printable(check.problems[0]))
            failure.text = _printable("\n".join(check.problems))
        elif check.skipped:
            ET.SubElement(case, "skipped", message="an earlier check failed")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def as_markdown(verdict: Verdict) -> str:
    target = verdict.target
    name = target.get("tag") or target.get("commit") or target.get("asked") or "the base"
    lines = [f"## kvsplit-patch verify: {name}", "", f"{verdict.created}, llama.cpp `{target.get('commit', '?')}`", ""]
    lines += ["| check | result | seconds |", "|---|---|---|"]
    lines += [f"| {check.name} | {_result(check)} | {check.seconds:g} |" for check in verdict.checks]
    for check in verdict.checks:
        if check.problems:
            lines += ["", f"**{check.name}**", "", *(f"- {problem}" for problem in check.problems)]
        if names := check.details.get("not proven"):
            lines += ["", f"**{check.name}** cannot run {', '.join(names)}: only a GPU that has them proves them."]
        if check.name == "smoke" and check.details:
            lines += ["", *smoke_table(check.details)]
    return "\n".join(lines) + "\n"


def _result(check: Check) -> str:
    if check.skipped:
        return "skipped"
    count = len(check.problems)
    if count:
        return f"{count} problem{'s' if count > 1 else ''}"
    unproven = len(check.details.get("not proven", ()))
    return f"ok, but for {unproven} kernel{'s' if unproven > 1 else ''} not proven" if unproven else "ok"


def smoke_table(details: dict) -> list[str]:
    lines = [
        "| phase | cache | perplexity | mean KLD | 99.9 % KLD | top-1 same | K + V MiB | tokens/s to f16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for phase, results in details["results"].items():
        for cache, r in results.items():
            speed = details["speed"].get(cache, {}).get(phase)
            lines.append(
                f"| {phase} | {cache} | {r['ppl']:.4f} | {r['kld']:.6f} | {r['kld_999']:.4f} | {r['same_top']:.2f} % "
                f"| {r['k_mib']:.2f} + {r['v_mib']:.2f} | {f'{speed:.2f}' if speed else ''} |"
            )
    return lines


def _printable(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold."""
    return "".join(c for c in text if c in "\t\n" or c >= " ")
