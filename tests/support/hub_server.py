"""An HTTP server on the loopback interface that imitates the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "organisation/name"
MAIN, OLD = "a" * 40, "b" * 40
REVISIONS = {"main": MAIN, "v1": OLD, MAIN: MAIN, OLD: OLD}


class Hub(ThreadingHTTPServer):
    """Serves one model at two commits, and records the requests."""

    def __init__(self, repo: str = REPO) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo = repo
        self.commits: dict[str, dict[str, bytes]] = {MAIN: {}, OLD: {}}
        self.gated = False
        self.requests: list[str] = []
        self.authorizations: set[str | None] = set()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def downloaded(self) -> set[str]:
        found = (re.fullmatch(r"GET /.*/resolve/[^/]*/(.*)", request) for request in self.requests)
        return {match[1] for match in found if match}

    def stop(self) -> None:
        if self.thread.is_alive():
            self.shutdown()
            self.server_close()
            self.thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.server.authorizations.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if found := re.fullmatch(rf"/api/models/{self.server.repo}(?:/revision/(.+))?", path):
            self.answer_api(found[1] or "main", self.info)
        elif found := re.fullmatch(rf"/api/models/{self.server.repo}/tree/(.+)", path):
            self.answer_api(found[1], self.tree)
        elif found := re.fullmatch(rf"/{self.server.repo}/resolve/([^/]+)/(.+)", path):
            self.answer_file(REVISIONS.get(found[1]), found[2])
        else:
            self.fail(404, "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server requires

    def info(self, commit: str) -> object:
        files = [{"rfilename": name} for name in self.server.commits[commit]]
        return {
            "id": self.server.repo,
            "modelId": self.server.repo,
            "sha": commit,
            "siblings": files,
            "tags": [],
            "private": False,
        }

    def tree(self, commit: str) -> object:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.server.commits[commit].items()
        ]

    def answer_api(self, revision: str, content) -> None:
        commit = REVISIONS.get(revision)
        if commit is None:
            self.fail(404, "RevisionNotFound")
        else:
            self.answer(json.dumps(content(commit)).encode(), {"Content-Type": "application/json"})

    def answer_file(self, commit: str | None, name: str) -> None:
        if self.server.gated:
            self.fail(403, "GatedRepo")
        elif commit is None or name not in self.server.commits[commit]:
            self.fail(404, "EntryNotFound")
        else:
            data = self.server.commits[commit][name]
            self.answer(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit})

    def answer(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass
