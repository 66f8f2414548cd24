"""The loopback Hub's pages; its state and rules are in `hub_server`."""

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml

from tests.hub.transport import HubError, Transport

if TYPE_CHECKING:
    from tests.hub.server import Blob, Commit, Repo

DATE = "2025-01-01T00:00:00.000Z"  # of everything
API_REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[\w.-]+/[\w.-]+)"
FILE_REPO = r"/(?P<prefix>datasets/|spaces/|)(?P<name>[\w.-]+/[\w.-]+)"
# Method, path, name of the handler's method. Paths are matched still quoted: a revision may hold a quoted slash.
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("DELETE", r"/api/repos/delete", "delete_repo"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET", API_REPO, "info"),
    ("GET", API_REPO + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", API_REPO + r"/refs", "refs"),
    ("GET", API_REPO + r"/commits/(?P<revision>[^/]+)", "commits"),
    ("GET", API_REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
    ("POST", API_REPO + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", API_REPO + r"/branch/(?P<branch>[^/]+)", "create_branch"),
    ("POST", API_REPO + r"/tag/(?P<revision>[^/]+)", "create_tag"),
    ("POST", API_REPO + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", API_REPO + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", FILE_REPO + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("GET", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_get"),
    ("GET", FILE_REPO + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class HubHandler(Transport):
    """The pages, by their names in `ROUTES`."""

    routes = ROUTES

    def _repo(self, kind: str, name: str) -> "Repo":
        return self.hub.repo(kind, name, self.user)

    def _writable(self, kind: str, name: str) -> "Repo":
        self.hub.check_write(self.user)
        return self._repo(kind, name)

    # Accounts and repositories

    def _whoami(self) -> None:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "loopback", "role": self.user}
        self._json({"type": "user", "name": "org", "orgs": [], "auth": {"accessToken": token}})

    def _create_repo(self) -> None:
        self.hub.check_write(self.user)
        body = json.loads(self._read())
        kind, name = body.get("type", "model"), f"{body.get('organization') or 'org'}/{body['name']}"
        url = f"{self.hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"
        try:
            self.hub.create(kind, name, body.get("private") is True or body.get("visibility") == "private")
        except HubError as error:  # it is there already
            self._json({"error": str(error), "url": url}, error.status, error.headers)
        else:
            self._json({"url": url, "id": name})

    def _delete_repo(self) -> None:
        body = json.loads(self._read())
        repo = self._writable(body.get("type", "model"), f"{body.get('organization') or 'org'}/{body['name']}")
        del self.hub.repos[repo.kind, repo.name]
        self._send(b"OK")

    def _validate_yaml(self) -> None:
        content = json.loads(self._read())["content"]
        front = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(front[1]) if front else None
        except yaml.YAMLError as error:
            self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        warnings = [] if isinstance(metadata, dict) else [{"message": "empty or missing yaml metadata in repo card"}]
        self._json({"errors": [], "warnings": warnings})

    def _info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self._repo(kind, name)
        commit = repo.at(revision)
        files = [{"rfilename": path, "size": len(blob.data), "blobId": blob.oid} for path, blob in commit.files.items()]
        about = {"id": name, "_id": name, "sha": commit.oid, "private": repo.private, "author": name.split("/")[0]}
        counts = {"likes": 0, "downloads": 0, "tags": [], "disabled": False, "gated": False}
        self._json({**about, **counts, "modelId": name, "siblings": files, "lastModified": DATE, "createdAt": DATE})

    def _refs(self, kind: str, name: str) -> None:
        repo = self._repo(kind, name)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.branches.items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.tags.items()]
        self._json({"branches": branches, "tags": tags, "converts": []})

    def _commits(self, kind: str, name: str, revision: str) -> None:
        history = self._repo(kind, name).history(revision)
        self._page([{"id": c.oid, "title": c.title, "message": "", "authors": [], "date": DATE} for c in history])

    def _create_branch(self, kind: str, name: str, branch: str) -> None:
        repo = self._writable(kind, name)
        start = json.loads(self._read() or b"{}").get("startingPoint", "main")
        if branch in repo.branches:
            raise HubError(409, "Reference already exists")
        repo.branches[branch] = repo.at(start).oid
        self._json({})

    def _create_tag(self, kind: str, name: str, revision: str) -> None:
        repo, tag = self._writable(kind, name), json.loads(self._read())["tag"]
        if tag in repo.tags:
            raise HubError(409, "Tag reference exists already")
        repo.tags[tag] = repo.at(revision).oid
        self._json({})

    # Listing

    def _tree(self, kind: str, name: str, revision: str, path: str) -> None:
        commit = self._repo(kind, name).at(revision)
        prefix = f"{path}/" if path else ""
        inside = sorted(p for p in commit.files if p.startswith(prefix))
        if path and not inside:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        files, folders = [], set()
        for p in inside:
            parts = p[len(prefix) :].split("/")
            folders |= {prefix + "/".join(parts[:n]) for n in range(1, len(parts))}
            files.append(p)
        if self.query.get("recursive", "false").lower() != "true":
            files = [p for p in files if "/" not in p[len(prefix) :]]
            folders = {p for p in folders if "/" not in p[len(prefix) :]}
        self._page([self._entry(commit, p) for p in sorted(folders)] + [self._entry(commit, p) for p in files])

    def _paths_info(self, kind: str, name: str, revision: str) -> None:
        commit = self._repo(kind, name).at(revision)
        body = self._read()
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode()).get("paths", [])
        self._json(
            [self._entry(commit, p) for p in paths if any(f == p or f.startswith(f"{p}/") for f in commit.files)]
        )

    def _entry(self, commit: "Commit", path: str) -> dict[str, Any]:
        blob = commit.files.get(path)
        last = {"lastCommit": {"id": commit.oid, "title": commit.title, "date": DATE}}
        if blob is None:
            return {
                "type": "directory",
                "path": path,
                "size": 0,
                "oid": hashlib.sha1(path.encode()).hexdigest(),
                **last,
            }
        entry = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid, **last}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}
        return entry

    # Writing

    def _preupload(self, kind: str, name: str, revision: str) -> None:
        files = self._writable(kind, name).at(revision).files
        answers = []
        for asked in json.loads(self._read())["files"]:
            blob: Blob | None = files.get(asked["path"])
            mode = self.hub.upload_mode(asked["path"], asked["size"])
            oid = blob.etag if blob is not None else None
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _commit(self, kind: str, name: str, revision: str) -> None:
        repo = self._writable(kind, name)
        lines = [json.loads(line) for line in self._read("commit").splitlines()]
        commit = self.hub.apply(repo, revision, lines)
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{self.hub.endpoint}/{prefix}{name}/commit/{commit.oid}"
        self._json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _lfs_batch(self, kind: str, name: str) -> None:
        self._writable(kind, name)
        objects = []
        for asked in json.loads(self._read())["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.endpoint}/lfs/verify"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str) -> None:
        data = self._read("lfs")
        if hashlib.sha256(data).hexdigest() != oid:
            raise ValueError("the content is not what its SHA-256 says")
        self.hub.objects[oid] = data
        self._send(b"", headers={"ETag": f'"{oid}"'})

    def _lfs_verify(self) -> None:
        body = json.loads(self._read())
        if len(self.hub.objects.get(body["oid"], b"")) != body["size"]:
            raise HubError(404, "the object was not uploaded")
        self._json({})

    # Reading

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        commit = self._repo(kind, name).at(revision)
        blob = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.oid}
        if blob is None:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", headers)
        elif blob.lfs:
            self.hub.objects.setdefault(blob.sha256, blob.data)
            linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
            # Another host than the endpoint's, as on the Hub: the client keeps the headers of this answer then.
            location = f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/lfs/{blob.sha256}"
            self._send(b"", 302, {**headers, **linked, "Location": location})
        else:
            self._content(blob.data, {**headers, "ETag": f'"{blob.oid}"'})

    def _lfs_get(self, oid: str) -> None:
        if oid not in self.hub.objects:
            raise HubError(404, "no such object")
        self._content(self.hub.objects[oid], {"ETag": f'"{oid}"'})
