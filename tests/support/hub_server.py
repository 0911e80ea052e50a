"""An HTTP server on the loopback interface that imitates the Hugging Face hub."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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
        self.refusal: tuple[int, str, str] | None = None  # of every request: status, code and message of the error
        self.truncated: set[str] = set()  # files of which half is sent
        self.created: dict[str, Any] = {}  # what was asked for when a model was last created
        self.message = ""  # of the last commit
        self.branches: dict[str, str] = {}  # new ones, with their commits
        self.moved: dict[str, str] = {}  # branches that are at another commit now
        self.requests: list[str] = []
        self.authorizations: set[str | None] = set()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def branch(self, name: str) -> None:
        self.branches[name] = hashlib.sha1(name.encode()).hexdigest()
        self.commits[self.branches[name]] = dict(self.commits[MAIN])

    def commit_of(self, revision: str) -> str | None:
        known = REVISIONS | dict(zip(self.commits, self.commits, strict=True)) | self.branches | self.moved
        return known.get(revision)

    @property
    def downloaded(self) -> set[str]:
        found = (re.fullmatch(r"GET /.*/resolve/[^/]*/(.*)", request) for request in self.requests)
        return {match[1] for match in found if match}

    def stop(self) -> None:
        if self.thread.is_alive():
            self.shutdown()
            self.server_close()
            self.thread.join()


def upload(hub: Hub, directory: Path, commit: str = MAIN, subfolder: str = "") -> None:
    """Put the files of a directory into the model, in place of others unless they go into a subfolder."""
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    beginning = f"{subfolder}/" if subfolder else ""
    kept = hub.commits[commit] if subfolder else {}
    hub.commits[commit] = kept | {beginning + name: path.read_bytes() for name, path in files.items()}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.server.authorizations.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if self.server.refusal is not None:
            self.fail(*self.server.refusal)
        elif found := re.fullmatch(rf"/api/models/{self.server.repo}(?:/revision/(.+))?", path):
            self.answer_api(found[1] or "main", self.info)
        elif found := re.fullmatch(rf"/api/models/{self.server.repo}/tree/(.+)", path):
            self.answer_api(found[1], self.tree)
        elif found := re.fullmatch(rf"/{self.server.repo}/resolve/([^/]+)/(.+)", path):
            self.answer_file(self.server.commit_of(found[1]), found[2])
        else:
            self.fail(404, "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server requires

    def do_POST(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.server.authorizations.add(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        model = f"/api/models/{self.server.repo}"
        if self.server.gated:
            self.fail(403, "GatedRepo")
        elif path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer_json({"url": f"{self.server.endpoint}/{self.server.repo}", "id": self.server.repo})
        elif found := re.fullmatch(rf"{model}/branch/(.+)", path):
            self.server.branch(found[1])
            self.answer_json({})
        elif re.fullmatch(rf"{model}/preupload/(.+)", path):
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer_json({"files": files})
        elif found := re.fullmatch(rf"{model}/commit/(.+)", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()], query == "create_pr=1")
        else:
            self.fail(404, "RepoNotFound")

    def commit(self, revision: str, lines: list[dict[str, Any]], is_pull_request: bool) -> None:
        files = self.server.commits[self.server.commit_of(revision)]
        for line in () if is_pull_request else lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                del files[value["path"]]
        answer = {"commitUrl": f"{self.server.endpoint}/{self.server.repo}/commit/{MAIN}", "commitOid": MAIN}
        if is_pull_request:
            answer["pullRequestUrl"] = f"{self.server.endpoint}/{self.server.repo}/discussions/1"
        self.answer_json(answer)

    def answer_json(self, content: object) -> None:
        self.answer(json.dumps(content).encode(), {"Content-Type": "application/json"}, with_body=True)

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
        commit = self.server.commit_of(revision)
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
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
            self.answer(data, headers, n_sent=len(data) // 2 if name in self.server.truncated else None)

    def answer(self, data: bytes, headers: dict[str, str], with_body: bool = False, n_sent: int | None = None) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" or with_body:
            self.wfile.write(data[:n_sent])

    def fail(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass
