"""A server on this machine that behaves like the part of GitHub's REST API that we use, and misbehaves on demand."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.support import loopback

REPOSITORY = "someone/llm-kvsplit"
TOKEN = "a-token"


class Hub:
    """``issues``, ``comments``, ``pulls``, ``refs``, ``releases`` are its state; ``calls`` every request that came.

    ``faults``: answers to give before doing anything, (status, headers) or "cut", each used once.
    ``after``: called with method and path once a write is done and before it is answered.
    """

    def __init__(self):
        self.issues, self.comments, self.pulls, self.releases = [], {}, [], []
        self.objects = {"commit0": {"tree": "tree0"}}
        self.refs = {"heads/main": "commit0"}
        self.calls, self.faults, self.after, self.page = [], [], lambda method, path: None, 100
        self._lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self):
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else {}
                with hub._lock:
                    status, answer, headers = hub.answer(self.command, self.path, body, self.headers)
                if status == "cut":
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_PUT = _any

            def log_message(self, *_):
                pass

        self.server = loopback.Server(Handler)
        self.url = self.server.url

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.calls if method != "GET"]

    def answer(self, method, target, body, headers):
        split = urlsplit(target)
        path = split.path.removeprefix(f"/repos/{REPOSITORY}/").removeprefix(f"/repos/{REPOSITORY}")
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        self.calls.append((method, path, body))
        if self.faults:
            fault = self.faults.pop(0)
            return ("cut", None, {}) if fault == "cut" else (fault[0], {"message": "no"}, fault[1])
        if not split.path.startswith(f"/repos/{REPOSITORY}"):
            return 404, {"message": "Not Found"}, {}
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}, {}
        for verb, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                answered = getattr(self, name)(*found.groups(), query=query, body=body)
                if method != "GET" and answered[0] < 300:
                    self.after(method, path)
                if isinstance(answered[1], list):
                    return self.paged(answered[1], split.path, query)
                return *answered, {}
        return 404, {"message": "Not Found"}, {}

    def paged(self, items, path, query):
        at, size = int(query.get("page", 1)), min(self.page, int(query.get("per_page", 30)))
        more = {name: value for name, value in query.items() if name != "page"}
        following = "&".join(f"{name}={value}" for name, value in {**more, "page": at + 1}.items())
        links = {"Link": f'<{self.url}{path}?{following}>; rel="next"'} if len(items) > at * size else {}
        return 200, items[(at - 1) * size : at * size], links

    ROUTES = (
        ("GET", "", "repository"),
        ("GET", "issues", "list_issues"),
        ("POST", "issues", "open_issue"),
        ("PATCH", r"issues/(\d+)", "change_issue"),
        ("GET", r"issues/(\d+)/comments", "list_comments"),
        ("POST", r"issues/(\d+)/comments", "comment"),
        ("GET", "git/ref/(.+)", "ref"),
        ("POST", "git/refs", "new_ref"),
        ("PATCH", "git/refs/(.+)", "move_ref"),
        ("GET", "git/commits/(.+)", "commit"),
        ("POST", "git/blobs", "new_blob"),
        ("POST", "git/trees", "new_tree"),
        ("POST", "git/commits", "new_commit"),
        ("GET", "pulls", "list_pulls"),
        ("POST", "pulls", "open_pull"),
        ("PATCH", r"pulls/(\d+)", "change_pull"),
        ("GET", "releases", "list_releases"),
    )

    def repository(self, query, body):
        return 200, {"default_branch": "main"}

    def list_issues(self, query, body):
        wanted = query.get("labels", "").split(",") if query.get("labels") else []
        found = [
            issue
            for issue in self.issues
            if set(wanted) <= {label["name"] for label in issue["labels"]}
            and query.get("state", "open") in ("all", issue["state"])
        ]
        return 200, found[::-1]  # the newest first, as GitHub does

    def open_issue(self, query, body):
        issue = {"number": len(self.issues) + 1, "state": "open", "labels": [], **body}
        issue["labels"] = [{"name": name} for name in body.get("labels", [])]
        self.issues.append(issue)
        return 201, issue

    def change_issue(self, number, query, body):
        issue = self.issues[int(number) - 1]
        if "labels" in body:
            body = {**body, "labels": [{"name": name} for name in body["labels"]]}
        issue.update(body)
        return 200, issue

    def list_comments(self, number, query, body):
        return 200, self.comments.get(int(number), [])

    def comment(self, number, query, body):
        self.comments.setdefault(int(number), []).append(body)
        return 201, body

    def ref(self, name, query, body):
        if name not in self.refs:
            return 404, {"message": "Not Found"}
        return 200, {"object": {"sha": self.refs[name]}}

    def new_ref(self, query, body):
        name = body["ref"].removeprefix("refs/")
        if name in self.refs:
            return 422, {"message": "Reference already exists"}
        self.refs[name] = body["sha"]
        return 201, {"object": {"sha": body["sha"]}}

    def move_ref(self, name, query, body):
        self.refs[name] = body["sha"]
        return 200, {"object": {"sha": body["sha"]}}

    def commit(self, sha, query, body):
        return 200, {"sha": sha, "tree": {"sha": self.objects[sha]["tree"]}}

    def new_blob(self, query, body):
        return 201, {"sha": self._store("blob", body)}

    def new_tree(self, query, body):
        return 201, {"sha": self._store("tree", body)}

    def new_commit(self, query, body):
        return 201, {"sha": self._store("commit", body)}

    def _store(self, kind, body):
        sha = kind + hashlib.sha1(json.dumps(body, sort_keys=True).encode()).hexdigest()[:10]
        self.objects[sha] = body
        return sha

    def list_pulls(self, query, body):
        owner = REPOSITORY.partition("/")[0]
        return 200, [
            pull
            for pull in self.pulls
            if query.get("head") in (None, f"{owner}:{pull['head']}")
            and query.get("state", "open") in ("all", pull["state"])
        ]

    def open_pull(self, query, body):
        pull = {"number": 100 + len(self.pulls), "state": "open", **body}
        self.pulls.append(pull)
        return 201, pull

    def change_pull(self, number, query, body):
        self.pulls[int(number) - 100].update(body)
        return 200, self.pulls[int(number) - 100]

    def list_releases(self, query, body):
        return 200, self.releases


@contextmanager
def serving():
    hub = Hub()
    with loopback.serving(hub.server):
        yield hub
