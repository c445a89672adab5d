"""Serve a Hub on 127.0.0.1 that `huggingface_hub` can talk to, and that fails on demand.

It serves models and datasets: owners of tokens, creation, information, trees, branches, atomic commits (files in the
commit, none by LFS), downloads with ranges, private and gated repositories.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong with a request whose "METHOD path" matches the pattern."""

    pattern: str
    status: int | None = None  # with None the request is served
    drop: bool = False  # the connection closes in the middle of the answer
    meanwhile: Callable[[], object] | None = None  # called before the answer
    message: str = "requested by the test"
    times: int = 1


@dataclass
class Repo:
    """Commits with all their files, and the branches that point at them."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict = field(default_factory=dict)  # sha -> {path: bytes}
    history: list = field(default_factory=list)  # messages of all commits, the oldest first
    branches: dict = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> str:
        content = [self.name, *self.history, message, *(f"{path} {git_hash(files[path])}" for path in sorted(files))]
        sha = self.branches[branch] = hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.history.append(message)
        return sha

    def sha(self, revision: str) -> str | None:
        revision = revision.removeprefix("refs/heads/")
        matches = (sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision))
        return self.branches.get(revision) or next(matches, None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.sha(revision)]


class LoopbackHub:
    """`with LoopbackHub() as hub:` serves at `hub.url` until the end."""

    def __init__(self):
        self.tokens = {"hf_owner": ("you", True), "hf_reader": ("you", False)}  # {token: (user, may write)}
        self.repos = {}  # {(kind, name): Repo}; kinds are model and dataset
        self.seen = []  # "METHOD path" of every request, in order
        self.faults, self.lock = [], threading.RLock()

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.hub, self.server.daemon_threads = self, True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes] | Path, *, kind: str = "model", **settings) -> Repo:
        """Add a repository with one commit of these files, or of those of a folder."""
        if isinstance(files, Path):
            files = {str(p.relative_to(files)): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        repo = self.repos[kind, name] = Repo(name, **settings)
        repo.commit(files, "initial commit")
        return repo

    def fail(self, pattern: str, **what) -> Fault:
        self.faults.append(Fault(pattern, **what))
        return self.faults[-1]

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            self.seen.append(request)
            found = next((f for f in self.faults if f.times > 0 and re.search(f.pattern, request)), None)
            if found is not None:
                found.times -= 1
            return found

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a process that uses this Hub and no other."""
        return {
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
            "HF_TOKEN": "hf_owner",
        }  # fmt: skip


class Refused(Exception):
    def __init__(self, status, message, code=None):
        self.status, self.message, self.code = status, message, code


class Answer(BaseHTTPRequestHandler):
    """Answer one request."""

    def do_GET(self):
        self.fault = self.server.hub.fault(f"{self.command} {unquote(self.path)}")
        try:
            if self.fault and self.fault.meanwhile:
                self.fault.meanwhile()
            if self.fault and self.fault.status:
                self.body()
                return self.answer(self.fault.status, {"error": self.fault.message})
            self.user, self.may_write = self.who()
            self.route()
        except Refused as no:
            code = {"X-Error-Code": no.code} if no.code else {}
            self.answer(no.status, {"error": no.message}, {**code, "X-Error-Message": no.message})

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments):
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def json(self):
        return json.loads(self.body() or b"{}")

    def who(self):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.server.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.server.hub.tokens.get(token, (None, False))

    def answer(self, status: int, content=b"", headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "X-Request-Id": "loopback", **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.drop:
            self.close_connection = True
            data = data[: len(data) // 2]
        self.wfile.write(data)

    def route(self):
        address = urlsplit(self.path)
        words = [unquote(word) for word in address.path.strip("/").split("/")]
        self.query = parse_qs(address.query)
        match words:
            case ["api", "repos", "create"]:
                return self.create()
            case ["api", "validate-yaml"]:
                return self.answer(200, {"errors": [], "warnings": []})
            case ["api", ("models" | "datasets") as kinds, owner, name, *rest]:
                return self.ask(kinds[:-1], f"{owner}/{name}", rest)
            case ["datasets", owner, name, "resolve", revision, *path]:
                return self.resolve("dataset", f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                return self.resolve("model", f"{owner}/{name}", revision, "/".join(path))
        raise Refused(404, f"no such place: {self.path}")

    def ask(self, kind, name, rest):
        repo = self.find(kind, name)
        match rest:
            case [] | ["revision", _]:
                revision = rest[1] if rest else "main"
                return self.answer(200, self.info(repo, self.sha(repo, revision)))
            case ["auth-check", *write]:
                if write:
                    self.check_write(repo)
                return self.answer(200, {})
            case ["tree", revision, *under]:
                return self.answer(200, self.tree(repo, self.sha(repo, revision), "/".join(under)))
        self.check_write(repo)
        match rest:
            case ["branch", branch]:
                if branch in repo.branches:
                    raise Refused(409, "Reference already exists")
                repo.branches[branch] = self.sha(repo, self.json().get("startingPoint") or "main")
                return self.answer(200, {})
            case ["preupload", revision]:
                files = repo.commits[self.sha(repo, revision)]
                paths = [file["path"] for file in self.json()["files"]]
                mode = {"uploadMode": "regular", "shouldIgnore": False}
                return self.answer(200, {"files": [{"path": p, **mode, "oid": git_hash(files.get(p))} for p in paths]})
            case ["commit", revision]:
                return self.commit(repo, revision)
        raise Refused(404, f"no such question: {self.path}")

    def find(self, kind, name) -> Repo:
        repo = self.server.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self.belongs(repo)):
            raise Refused(404, "Repository not found", "RepoNotFound")  # the real one hides private repositories, too
        return repo

    def belongs(self, repo):
        return self.user == repo.name.split("/")[0]

    def check_write(self, repo):
        if not self.may_write or not self.belongs(repo):
            raise Refused(403, "you don't have the rights to write here")

    def create(self):
        asked, hub = self.json(), self.server.hub
        owner = asked.get("organization") or self.user
        name = f"{owner}/{asked['name']}"
        if not self.may_write or owner != self.user:
            raise Refused(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        with hub.lock:
            if ("model", name) in hub.repos:
                return self.answer(409, {"error": "You already created this repo", "url": f"{hub.url}/{name}"})
            hub.add(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        self.answer(200, {"url": f"{hub.url}/{name}"})

    def info(self, repo, sha):
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        access = {"private": repo.private, "gated": "manual" if repo.gated else False}
        return {"id": repo.name, "modelId": repo.name, "sha": sha, "siblings": siblings, "tags": [], **access}

    def tree(self, repo, sha, under):
        files = repo.commits[sha]
        parents = {str(parent) for path in files for parent in Path(path).parents} - {"."}
        wanted = [path for path in sorted({*files, *parents}) if path.startswith(f"{under}/" if under else "")]
        if self.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            wanted = [path for path in wanted if "/" not in path[len(f"{under}/") if under else 0 :]]
        if under and not wanted:
            raise Refused(404, f"{under} does not exist", "EntryNotFound")
        return [self.entry(files, path) for path in wanted]

    def entry(self, files, path):
        if path not in files:
            return {"type": "directory", "path": path, "oid": git_hash(path.encode())}
        data = files[path]
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
        return entry

    def sha(self, repo, revision):
        sha = repo.sha(revision)
        if sha is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def commit(self, repo, branch):
        lines = [json.loads(line) for line in self.body().splitlines()]
        with self.server.hub.lock:
            head = self.sha(repo, branch)
            files, header = dict(repo.commits[head]), lines[0]["value"]
            if header.get("parentCommit", head) != head:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                else:
                    del files[value["path"]]
            sha = repo.commit(files, header["summary"], branch)
        url = f"{self.server.hub.url}/{repo.name}/commit/{sha}"
        self.answer(200, {"commitUrl": url, "commitOid": sha, "success": True})

    def resolve(self, kind, name, revision, path):
        repo = self.find(kind, name)
        if repo.gated and not self.belongs(repo):
            raise Refused(403 if self.user else 401, f"Access to {name} is restricted", "GatedRepo")
        sha = self.sha(repo, revision)
        data = repo.commits[sha].get(path)
        if data is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        headers = {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return self.answer(200, data, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        self.answer(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


def git_hash(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
