"""A Hub on loopback: as much of the Hub's HTTP interface as the unmodified huggingface_hub client calls, in memory.

Models, datasets and Spaces under `org/name`; branches, tags, commits; regular and LFS files; private repositories; the
failures that the client tells apart by status and `X-Error-Code`. A commit is applied whole or not at all.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.hub.handler import HubHandler
from tests.hub.transport import HubError

LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".png", ".tar.gz", ".zip")
LFS_SIZE = 10 * 2**20  # bytes from which every file is one


@dataclass(frozen=True)
class Blob:
    """A file's content; `lfs` ones are known by their SHA-256, others by git's hash."""

    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    parent: str | None
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str  # model, dataset or space
    name: str  # org/name
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        content = json.dumps([title, parent, len(self.commits), {path: blob.oid for path, blob in files.items()}])
        commit = Commit(hashlib.sha1(f"{self.kind} {self.name} {content}".encode()).hexdigest(), title, parent, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a full hash."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        commits = [self.at(revision)]
        while commits[-1].parent is not None:
            commits.append(self.commits[commits[-1].parent])
        return commits


class HubServer:
    """
    The server and its state. `with HubServer() as hub:` serves at `hub.endpoint`.

    Attributes:
        token: may read and write; `read_token` may only read. Public repositories can be read without either.
        page_size: entries of a tree or a history that one answer holds.
        home: folder of the client's cache in `env` and `run`.
        cuts: how many uploads are still cut; see `cut_uploads`.
        requests: method and path of each request so far.
    """

    token = "hf_loopback_write"
    read_token = "hf_loopback_read"

    def __init__(self, page_size: int = 1000):
        self.page_size = page_size
        self.home = Path("hf_home")
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS content by SHA-256
        self.lock = threading.RLock()
        self.requests: list[tuple[str, str]] = []
        self.cuts, self.cut_where, self.cut_after = 0, "", 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def env(self) -> dict[str, str]:
        """Environment of a process that knows only this Hub, with the cache at `home`."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
        }
        hub = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_TOKEN": self.token}
        switches = dict.fromkeys(
            ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"), "1"
        )
        return {**kept, **hub, **switches, "OMP_NUM_THREADS": "1"}

    def run(self, code: str, cwd: Path, without_package: bool = False, **env: str) -> str:
        """
        Run code in a fresh interpreter, in another folder; returns what it prints. Its errors are raised.

        With `without_package` the interpreter has all that is installed but this project's package: that is linked in
        by files of `site-packages` that Python doesn't read when it starts without `site`.
        """
        code, switches = textwrap.dedent(code), []
        if without_package:
            folders = [path for path in sys.path if path.endswith("site-packages")]
            missing = "import importlib.util\nassert importlib.util.find_spec('scalpel_hf') is None"
            code, switches = f"import sys\nsys.path += {folders}\n{missing}\n{code}", ["-S", "-E"]
        command = [sys.executable, *switches, "-c", code]
        settings: dict[str, Any] = {"env": {**self.env, **env}, "cwd": cwd, "input": ""}  # nobody answers questions
        done = subprocess.run(command, **settings, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{code}\n{done.stderr}")
        return done.stdout

    def cut_uploads(self, times: int = 1, where: str = "lfs", after: int = 100) -> None:
        """Cut the connection of the next `times` uploads after `after` bytes of their body: of LFS files (`where` is
        `lfs`), or of the commit itself (`commit`)."""
        self.cuts, self.cut_where, self.cut_after = times, where, after

    def takes_cut(self, where: str) -> bool:
        with self.lock:
            if not self.cuts or where != self.cut_where:
                return False
            self.cuts -= 1
            return True

    # Who may do what

    def user(self, authorization: str | None) -> str | None:
        """`write`, `read` or `None` for nobody."""
        if authorization is None:
            return None
        roles = {f"Bearer {self.token}": "write", f"Bearer {self.read_token}": "read"}
        if authorization not in roles:
            raise HubError(401, "Invalid credentials in Authorization header")
        return roles[authorization]

    def check_write(self, user: str | None) -> None:
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user != "write":
            raise HubError(403, "You don't have the rights to write with this token")

    def repo(self, kind: str, name: str, user: str | None) -> Repo:
        """A repository that the user may see; the Hub doesn't tell strangers apart what is private from what isn't."""
        repo = self.repos.get((kind, name))
        if repo is None or (repo.private and user is None):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    # What can be done

    def create(self, kind: str, name: str, private: bool) -> Repo:
        with self.lock:
            if (kind, name) in self.repos:
                raise HubError(409, f"You already created this {kind} repo: {name}")
            repo = self.repos[kind, name] = Repo(kind, name, private)
            repo.commit("main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})
            return repo

    def upload_mode(self, path: str, size: int) -> str:
        return "lfs" if path.endswith(LFS_SUFFIXES) or size >= LFS_SIZE else "regular"

    def apply(self, repo: Repo, branch: str, lines: Iterable[dict[str, Any]]) -> Commit:
        """Apply a commit's header and operations to a branch."""
        with self.lock:
            if branch not in repo.branches:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = repo.at(branch)
            files, title = dict(head.files), ""
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    title = value["summary"]
                    if value.get("parentCommit", head.oid) != head.oid:
                        raise HubError(412, "A commit has happened since. Please refresh and try again.")
                else:
                    OPERATIONS[line["key"]](self, files, value)
            return repo.commit(branch, title, files)

    def _add_file(self, files: dict[str, Blob], value: dict[str, Any]) -> None:
        files[value["path"]] = Blob(base64.b64decode(value["content"]), False)

    def _add_lfs_file(self, files: dict[str, Blob], value: dict[str, Any]) -> None:
        if value["oid"] not in self.objects:
            raise HubError(400, f"LFS pointer of {value['path']} points to a file that does not exist")
        files[value["path"]] = Blob(self.objects[value["oid"]], True)

    def _delete_file(self, files: dict[str, Blob], value: dict[str, Any]) -> None:
        if value["path"] not in files:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        del files[value["path"]]

    def _delete_folder(self, files: dict[str, Blob], value: dict[str, Any]) -> None:
        inside = [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]
        if not inside:
            raise HubError(404, "A folder with this name doesn't exist", "EntryNotFound")
        for path in inside:
            del files[path]


OPERATIONS: dict[str, Callable[[HubServer, dict[str, Blob], dict[str, Any]], None]] = {
    "file": HubServer._add_file,
    "lfsFile": HubServer._add_lfs_file,
    "deletedFile": HubServer._delete_file,
    "deletedFolder": HubServer._delete_folder,
}
