"""The loopback Hub, asked by the unmodified client."""

import urllib.error
import urllib.request
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.server import HubServer

NAME = "org/thing"


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def status(error: pytest.ExceptionInfo) -> int:
    return error.value.response.status_code


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repository_keeps_what_is_committed(api: HfApi, kind: str, tmp_path: Path) -> None:
    api.create_repo(NAME, repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    weights = bytes(range(256)) * 20
    operations = [add("a.txt", b"one"), add("folder/b.safetensors", weights)]
    first = api.create_commit(NAME, operations, commit_message="first", repo_type=kind)
    operations = [add("a.txt", b"two"), CommitOperationDelete("folder/")]
    second = api.create_commit(NAME, operations, commit_message="second", repo_type=kind)

    assert [c.title for c in api.list_repo_commits(NAME, repo_type=kind)] == ["second", "first", "initial commit"]
    assert api.repo_info(NAME, repo_type=kind).sha == second.oid
    assert api.list_repo_files(NAME, repo_type=kind) == [".gitattributes", "a.txt"]
    for revision, files in (
        (first.oid, {"a.txt": b"one", "folder/b.safetensors": weights}),
        ("main", {"a.txt": b"two"}),
    ):
        for path, content in files.items():
            got = api.hf_hub_download(NAME, path, repo_type=kind, revision=revision, cache_dir=tmp_path)
            assert Path(got).read_bytes() == content
            assert (first.oid if revision != "main" else second.oid) in got
    (info,) = api.get_paths_info(NAME, ["folder/b.safetensors"], repo_type=kind, revision=first.oid)
    assert info.lfs.size == len(weights)


def test_content_that_is_there_is_not_uploaded_again(api: HfApi, hub: HubServer) -> None:
    for name in ("org/one", "org/two"):
        api.create_repo(name)
        api.create_commit(name, [add("model.safetensors", b"w" * 500)], commit_message="weights")
    assert len([path for method, path in hub.requests if method == "PUT"]) == 1
    before = api.model_info("org/two").sha
    api.create_commit("org/two", [add("model.safetensors", b"w" * 500)], commit_message="the same")
    assert api.model_info("org/two").sha == before


def test_branches_tags_and_pages(api: HfApi, hub: HubServer) -> None:
    hub.page_size = 3
    api.create_repo(NAME)
    paths = [f"folder/{i:02d}.txt" for i in range(8)]
    api.create_commit(NAME, [add(path, path.encode()) for path in paths], commit_message="files")
    api.create_tag(NAME, tag="v1")
    api.create_branch(NAME, branch="other/one")
    api.create_commit(NAME, [add("new.txt", b"new")], commit_message="more", revision="other/one")
    assert [entry.path for entry in api.list_repo_tree(NAME, "folder")] == paths
    assert {entry.path for entry in api.list_repo_tree(NAME)} == {".gitattributes", "folder"}
    assert len([path for _, path in hub.requests if path.endswith("/tree/main/folder")]) == 3
    assert "new.txt" in api.list_repo_files(NAME, revision="other/one")
    assert "new.txt" not in api.list_repo_files(NAME, revision="v1")
    refs = api.list_repo_refs(NAME)
    assert [b.name for b in refs.branches] == ["main", "other/one"] and [t.name for t in refs.tags] == ["v1"]


def test_whoami_and_rights(api: HfApi, hub: HubServer) -> None:
    assert api.whoami()["name"] == "org"
    api.create_repo(NAME, private=True)
    nobody, reader, stranger = (HfApi(endpoint=hub.endpoint, token=t) for t in (False, hub.read_token, "hf_wrong"))
    assert reader.model_info(NAME).private
    with pytest.raises(RepositoryNotFoundError) as error:
        nobody.model_info(NAME)
    assert status(error) == 401
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        stranger.model_info(NAME)
    assert status(error) == 401
    with pytest.raises(HfHubHTTPError, match="rights to write") as error:
        reader.create_commit(NAME, [add("a.txt", b"a")], commit_message="mine")
    assert status(error) == 403
    with pytest.raises(HfHubHTTPError) as error:
        reader.create_repo("org/new")
    assert status(error) == 403


def test_what_is_not_there(api: HfApi, hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError) as error:
        api.model_info("org/nothing")
    assert status(error) == 404
    api.create_repo(NAME)
    with pytest.raises(RevisionNotFoundError):
        api.model_info(NAME, revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(NAME, "no.txt", endpoint=hub.endpoint, token=hub.token, cache_dir=tmp_path)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(NAME, "nowhere"))
    with pytest.raises(RepositoryNotFoundError):  # a model's name is no data set's
        api.dataset_info(NAME)
    assert not api.file_exists(NAME, "no.txt") and api.file_exists(NAME, ".gitattributes")


def test_failures_have_the_hubs_codes(api: HfApi, hub: HubServer) -> None:
    api.create_repo(NAME)
    api.create_repo("org/secret", private=True)
    api.create_repo(NAME, repo_type="space", space_sdk="gradio")
    for path, status_code, code in (
        ("/api/models/org/none", 401, "RepoNotFound"),  # strangers can't tell what is private from what isn't there
        ("/api/models/org/secret", 401, "RepoNotFound"),
        (f"/api/datasets/{NAME}", 401, "RepoNotFound"),
        (f"/{NAME}/resolve/v9/a.txt", 404, "RevisionNotFound"),
        (f"/{NAME}/resolve/main/a.txt", 404, "EntryNotFound"),
        (f"/spaces/{NAME}/resolve/main/app.py", 404, "EntryNotFound"),
        (f"/api/models/{NAME}/tree/v9", 404, "RevisionNotFound"),
        ("/api/whoami-v2", 401, None),
        ("/no/such/page/at/all", 404, None),
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{hub.endpoint}{path}", "bytes=0-")
        assert (error.value.code, error.value.headers["X-Error-Code"]) == (status_code, code), path
        assert error.value.headers["X-Error-Message"]


def test_the_interpreter_that_cannot_find_the_package(hub: HubServer, tmp_path: Path) -> None:
    look = "import importlib.util, os\nprint(importlib.util.find_spec('scalpel_hf') is not None, os.environ.get('A'))"
    assert hub.run(look, tmp_path).split() == ["True", "None"]
    assert hub.run(look, tmp_path, without_package=True, A="1").split() == ["False", "1"]
    with pytest.raises(RuntimeError, match="no_such_name"):
        hub.run("no_such_name", tmp_path)


def test_conflicts(api: HfApi, hub: HubServer) -> None:
    api.create_repo(NAME)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo(NAME)
    assert status(error) == 409
    api.create_repo(NAME, exist_ok=True)
    old = api.model_info(NAME).sha
    api.create_commit(NAME, [add("a.txt", b"a")], commit_message="a", parent_commit=old)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit(NAME, [add("b.txt", b"b")], commit_message="b", parent_commit=old)
    assert status(error) == 412
    assert "b.txt" not in api.list_repo_files(NAME)
    with pytest.raises(EntryNotFoundError):  # nothing of a commit with a wrong operation is applied
        operations = [add("c.txt", b"c"), CommitOperationDelete("none.txt")]
        api.create_commit(NAME, operations, commit_message="c")
    assert "c.txt" not in api.list_repo_files(NAME)
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.create_commit(NAME, [add("README.md", b"---\na: [\n---\n")], commit_message="card")


def test_headers_and_ranges(api: HfApi, hub: HubServer) -> None:
    api.create_repo(NAME)
    oid = api.create_commit(
        NAME, [add("w.safetensors", bytes(range(100))), add("a.txt", b"0123456789")], commit_message="files"
    ).oid
    small = get(f"{hub.endpoint}/{NAME}/resolve/main/a.txt", "bytes=2-4")
    assert (small.status, small.read(), small.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert small.headers["X-Repo-Commit"] == oid
    large = get(f"{hub.endpoint}/{NAME}/resolve/{oid}/w.safetensors", "bytes=90-")
    assert (large.status, large.read()) == (206, bytes(range(90, 100)))
    with pytest.raises(urllib.error.HTTPError) as error:
        get(f"{hub.endpoint}/{NAME}/resolve/main/a.txt", "bytes=10-")
    assert error.value.code == 416
    metadata = api.get_hf_file_metadata(url=f"{hub.endpoint}/{NAME}/resolve/main/w.safetensors")
    assert (metadata.size, metadata.commit_hash, len(metadata.etag)) == (100, oid, 64)


def get(url: str, asked: str) -> urllib.request.addinfourl:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, headers={"Range": asked}))


def test_a_cut_connection_leaves_the_repository_as_it_was(
    api: HfApi, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between the client's tries
    api.create_repo(NAME)
    before = api.model_info(NAME).sha
    for where, times in (("lfs", 100), ("commit", 1)):
        hub.cut_uploads(times, where)
        with pytest.raises((RuntimeError, httpx2.TransportError)):
            api.create_commit(NAME, [add("w.safetensors", b"w" * 5000)], commit_message="weights")
        assert hub.cuts < times
        hub.cut_uploads(0)
        assert api.model_info(NAME).sha == before
    hub.cut_uploads(1)  # once: the client's own second try succeeds
    api.create_commit(NAME, [add("x.safetensors", b"x" * 5000)], commit_message="weights")
    assert hub.cuts == 0 and "x.safetensors" in api.list_repo_files(NAME)
