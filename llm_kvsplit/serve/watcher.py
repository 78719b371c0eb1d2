"""Run as a program beside ``llama-server``: reads its log, says when it is ready, and quotes why it is not.

It ends when the log does, which is when the server and its instances have ended, however that came about.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

_POLL = 0.2
#: Seconds between looks at whether it still listens, and those that it has for its end once it does not. While an answer
#: is streamed, llama-server stops listening and then waits for itself; a second signal ends it.
_LOOK, _GRACE = 1.0, 4.0
#: "0.00.123.456 E srv  load_model: text", perhaps behind "[45321] " of an instance and between colours.
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_INSTANCE = re.compile(r"\[ *\d+\] ?")
_ENTRY = re.compile(r"(?:[\d.]+ )?([EWID]) (?:\w+ +)?")


class Log:
    """The server's lines, from a thread."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self.first_error = ""
        self.last_line = ""
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for raw in sys.stdin.buffer:
            line = _COLOUR.sub("", raw.decode(errors="replace")).rstrip()
            text = _INSTANCE.sub("", line, count=1) if line.startswith("[") else line
            if not text:
                continue
            entry = _ENTRY.match(text)
            if entry and entry[1] == "E" and not self.first_error:
                self.first_error = text[entry.end() :]
            self.last_line = text
            if self.show:
                print(line, file=sys.stderr, flush=True)
        self.ended.set()

    @property
    def reason(self) -> str:
        """Why it ended or failed, in its own words; "" where it wrote none."""
        return (self.first_error or self.last_line).strip().rstrip(".")


def main(task: dict[str, Any]) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server ends by itself, and this with it
    log, server = Log(task["verbose"]), os.getppid()
    failed: set[str] = set()
    while not log.ended.is_set():
        states = _states(task["url"], task["models"])
        for name in (name for name, state in states.items() if state == "failed" and name not in failed):
            failed.add(name)
            _say_error(f"{name} could not be loaded by llama-server: {log.reason or 'it gave no reason'}.")
        if len(failed) == len(task["models"]):
            _send(signal.SIGKILL, server)  # nothing is left to serve
        elif states and not set(states.values()) - {"loaded", "failed"}:
            break
        log.ended.wait(_POLL)
    else:
        if log.reason:
            _say_error(f"llama-server ended before it was ready: {log.reason}. With --verbose it shows its whole log.")
        else:
            _say_error("llama-server was ended before it was ready: by Ctrl-C, or since it had too little memory.")
        return
    ready = [name for name in task["models"] if name not in failed]
    print(
        f"Serving {', '.join(ready)} at {task['url']} (OpenAI's API at {task['url']}/v1). Ctrl-C ends it.", flush=True
    )
    log.show = True
    while not log.ended.wait(_LOOK):
        if not _listens(task["url"]):
            for number in (signal.SIGTERM, signal.SIGKILL):
                if not log.ended.wait(_GRACE):
                    _send(number, server)


def _listens(url: str) -> bool:
    address = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        pass  # it is busy
    return True


def _send(number: signal.Signals, server: int) -> None:
    """To the server, unless it has ended: its number may be another's by now."""
    if os.getppid() == server:
        os.kill(server, number)


def _states(url: str, models: list[str]) -> dict[str, str]:
    """The state of each model: "loaded", "failed", or another word while it loads; nothing while nothing answers."""
    if len(models) == 1:
        return {models[0]: "loaded"} if _get(f"{url}/health") is not None else {}
    listed = _get(f"{url}/models") or {"data": []}
    return {
        each["id"]: "failed" if each["status"].get("failed") else each["status"]["value"] for each in listed["data"]
    }


def _get(url: str) -> Any:
    """The JSON there; None where nothing answers, or not yet with success."""
    key = os.environ.get("LLAMA_API_KEY", "").partition(",")[0]
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None


def _say_error(text: str) -> None:
    print(f"Error: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
