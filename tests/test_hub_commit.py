"""Check what is reported and published when the Hub fails in every way."""

import pytest

from modeling_clipscratch.utils.hub_commit import commit_files, open_repository

BEFORE = {"README.md": b"old card", "old.safetensors": b"old"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "config.json").write_text("{}")
    return {name: tmp_path / name for name in ("model.safetensors", "config.json")}


@pytest.fixture
def push(hub, files):
    """Settings -> the address of a commit to `you/clip`, which holds other files."""
    hub.add("you/clip", BEFORE)

    def call(repo_id="you/clip", **settings):
        where = {name: settings[name] for name in ("revision", "token") if name in settings}
        name = open_repository(repo_id, **settings)
        return commit_files(files, name, message="pushed", stale=lambda path: path.startswith("old"), **where)

    return call


def published(hub, files, name="you/clip", revision="main"):
    """Whether all files are there, in one commit; otherwise none may be."""
    repo = hub.repos["model", name]
    content = repo.files(revision)
    if repo.history[1:] != ["pushed"]:
        assert content == BEFORE and repo.history == ["initial commit"], "half of it was published"
        return False
    assert content == {"README.md": BEFORE["README.md"], **{path: file.read_bytes() for path, file in files.items()}}
    return True


def test_all_files_are_added_and_stale_ones_deleted_in_one_commit(hub, push, files):
    before = hub.repos["model", "you/clip"].sha("main")
    sha = push().rpartition("/")[2]
    assert published(hub, files) and hub.repos["model", "you/clip"].sha("main") == sha
    push()
    assert published(hub, files), "the same again makes no commit"
    assert hub.repos["model", "you/clip"].files(before) == BEFORE


def test_a_repository_is_created_private_only_if_requested(hub, push):
    assert push("fresh", private=True) and hub.repos["model", "you/fresh"].private
    push("you/fresh", private=True)
    assert push("you/open") and not hub.repos["model", "you/open"].private


@pytest.mark.parametrize(
    ("pattern", "fault", "message"),
    [
        ("commit", {"status": 500, "times": 99}, "500 Internal Server Error"),
        ("create", {"drop": "answer", "times": 99}, "peer closed connection"),
        ("commit", {"status": 412, "message": "A commit has happened since"}, "A commit has happened since"),
        ("commit", {"status": 401, "message": "odd"}, "401 .*odd"),
        ("commit", {"status": 403, "message": "storage limit reached"}, "storage limit reached"),
        ("commit", {"status": 400, "message": "odd"}, "Bad request .*odd"),
    ],
)
def test_a_refusal_is_the_library_s_message_on_one_line(hub, push, files, naps, pattern, fault, message):
    hub.fail(f"POST .*/{pattern}", **fault)
    with pytest.raises(OSError, match=f"^pushing to you/clip failed: .*{message}") as caught:
        push()
    assert "\n" not in str(caught.value)
    assert not published(hub, files)


def test_a_commit_of_somebody_else_is_not_overwritten(hub, push):
    repo = hub.repos["model", "you/clip"]
    hub.fail("PUT /_blobs", meanwhile=lambda: repo.commit({"theirs": b""}, "theirs"))
    with pytest.raises(OSError, match="A commit has happened since"):
        push()
    assert repo.history == ["initial commit", "theirs"] and set(repo.files()) == {"theirs"}


def test_who_may_not_write_is_refused(hub, push, files, monkeypatch):
    for name, access in (("clip", {}), ("hidden", {"private": True}), ("gated", {"gated": True})):
        hub.add(f"other/{name}", BEFORE, **access)
    refused = {
        ("you/clip", "hf_wrong"): "Invalid credentials",
        ("you/clip", "hf_reader"): "don't have the rights",
        ("other/clip", "hf_owner"): "don't have the rights",
        ("other/hidden", "hf_owner"): "don't have the rights",
        ("other/gated", "hf_owner"): "gated|restricted|don't have the rights",
    }
    for (repo_id, token), message in refused.items():
        with pytest.raises(OSError, match=f"pushing to {repo_id} failed: .*(?:{message})"):
            push(repo_id, token=token)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="pushing needs a token; create one with write access at https"):
        push()
    assert not published(hub, files) and not published(hub, files, "other/clip")


@pytest.mark.parametrize("repo_id", ["a/b/c", "you/my clip", "you/-clip", "you/a..b", "/clip", "you/clip.git"])
def test_a_malformed_name_is_refused_before_the_hub_is_asked(hub, repo_id):
    with pytest.raises(ValueError, match=f"repo_id='{repo_id}' is malformed: "):
        open_repository(repo_id)
    assert not hub.seen


def test_what_is_missing_or_public_is_refused(hub, push, files):
    with pytest.raises(ValueError, match="you/clip exists and is public"):
        push(private=True)
    with pytest.raises(OSError, match="pushing to you/clip failed: .*Invalid rev id: nowhere"):
        commit_files(files, "you/clip", message="pushed", revision="nowhere")
    assert not published(hub, files)


def test_an_unreachable_hub_is_reported(hub, push, naps, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match="offline mode .*HF_HUB_OFFLINE"):
            push()
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(OSError, match="pushing to you/clip failed: .*Connection refused"):
        push()
