"""Check what is published, and what is reported when the Hub refuses."""

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
    """Settings -> commit to `you/clip`, which holds other files."""
    hub.add("you/clip", BEFORE)

    def call(repo_id="you/clip", **settings):
        where = {name: settings[name] for name in ("revision", "token") if name in settings}
        name = open_repository(repo_id, **settings)
        commit_files(files, name, message="pushed", stale=lambda path: path.startswith("old"), **where)

    return call


def published(hub, files, name="you/clip"):
    """Whether all files are there, in one commit; otherwise none may be."""
    repo = hub.repos["model", name]
    if repo.history[1:] != ["pushed"]:
        assert repo.files() == BEFORE and repo.history == ["initial commit"], "half of it was published"
        return False
    return repo.files() == {"README.md": b"old card", **{path: file.read_bytes() for path, file in files.items()}}


def test_all_files_are_added_and_stale_ones_deleted_in_one_commit(hub, push, files):
    before = hub.repos["model", "you/clip"].sha("main")
    push()
    assert published(hub, files)
    push()
    assert published(hub, files), "the same again makes no commit"
    assert hub.repos["model", "you/clip"].files(before) == BEFORE


def test_a_repository_is_created_private_only_if_requested(hub, push):
    push("fresh", private=True)
    push("you/open")
    assert hub.repos["model", "you/fresh"].private and not hub.repos["model", "you/open"].private
    with pytest.raises(ValueError, match="you/open exists and is public"):
        push("you/open", private=True)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 500, "times": 99}, "500 Internal Server Error"),
        ({"status": 412, "message": "A commit has happened since"}, "A commit has happened since"),
        ({"status": 403, "message": "storage limit reached"}, "storage limit reached"),
    ],
)
def test_a_refusal_is_the_library_s_message_on_one_line(hub, push, files, naps, fault, message):
    hub.fail("POST .*/commit", **fault)
    with pytest.raises(OSError, match=f"^pushing to you/clip failed: .*{message}") as caught:
        push()
    assert "\n" not in str(caught.value)
    assert not published(hub, files)


def test_a_commit_of_somebody_else_is_not_overwritten(hub, push):
    repo = hub.repos["model", "you/clip"]
    hub.fail("POST .*/preupload", meanwhile=lambda: repo.commit({"theirs": b""}, "theirs"))
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
        ("you/my clip", "hf_owner"): "Repo id must",
    }
    for (repo_id, token), message in refused.items():
        with pytest.raises(OSError, match=f"pushing to {repo_id} failed: .*(?:{message})"):
            push(repo_id, token=token)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="pushing needs a token; create one with write access at https"):
        push()
    assert not published(hub, files) and not published(hub, files, "other/clip")
