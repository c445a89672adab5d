"""A Hub that fails in every way goes in; what was tried again, said and published is checked."""

import logging
import re

import pytest

from modeling_clipscratch.utils.hub_commit import commit_files, open_repository
from tests.loopback_hub import LoopbackHub

BEFORE = {"README.md": b"what was there", "old.safetensors": b"old"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "config.json").write_text("{}")
    return {name: tmp_path / name for name in ("model.safetensors", "config.json")}


@pytest.fixture
def push(hub, files):
    """Settings -> the address of a commit to `you/clip`, which is there with other files."""
    hub.add("you/clip", BEFORE)

    def call(repo_id="you/clip", **settings):
        where = {name: settings[name] for name in ("revision", "token") if name in settings}
        name = open_repository(repo_id, **settings)
        return commit_files(files, name, message="pushed", stale=lambda path: path.startswith("old"), **where)

    return call


def published(hub, files, name="you/clip", revision="main"):
    """Whether all of it is there, in one commit; it must be all or nothing."""
    repo = hub.repos["model", name]
    there = repo.files(revision)
    if repo.history[1:] != ["pushed"]:
        assert there == BEFORE and repo.history == ["initial commit"], "half of it was published"
        return False
    assert there == {"README.md": BEFORE["README.md"], **{path: file.read_bytes() for path, file in files.items()}}
    return True


def test_all_files_come_and_stale_ones_go_in_one_commit(hub, push, files):
    sha = push().rpartition("/")[2]
    assert published(hub, files) and hub.repos["model", "you/clip"].sha("main") == sha
    push()
    assert published(hub, files), "the same again is no commit"


def test_earlier_revisions_stay_readable(hub, push):
    before = hub.repos["model", "you/clip"].sha("main")
    push()
    assert hub.repos["model", "you/clip"].files(before) == BEFORE


def test_branch_is_made_and_main_stays(hub, push, files):
    push(revision="trial")
    assert published(hub, files, revision="trial") and hub.repos["model", "you/clip"].files() == BEFORE
    push(revision="trial")


def test_repository_is_made_private_where_that_is_asked_for(hub, push):
    assert push("fresh", private=True) and hub.repos["model", "you/fresh"].private
    push("you/fresh", private=True)
    assert push("you/open") and not hub.repos["model", "you/open"].private


# What passes is tried again


@pytest.mark.parametrize(
    ("pattern", "fault", "times_asked"),
    [
        ("PUT /_blobs", {"drop": "request"}, 2),
        ("PUT /_blobs", {"status": 503}, 2),
        ("POST .*/preupload", {"drop": "answer"}, 2),
        ("POST .*/commit", {"drop": "request"}, 2),
        ("POST .*/commit", {"status": 500, "times": 4}, 5),
        ("POST /api/repos/create", {"status": 502}, 2),
        ("GET .*/auth-check", {"drop": "answer"}, 2),
        ("POST .*/commit", {"seconds": 0.3}, 1),
    ],
)
def test_lost_connections_and_servers_in_trouble_are_tried_again(hub, push, files, naps, pattern, fault, times_asked):
    hub.fail(pattern, **fault)
    push()
    assert published(hub, files)
    assert sum(re.search(pattern, request) is not None for request in hub.seen) == times_asked
    assert len(naps) == times_asked - 1


def test_answer_that_was_lost_after_the_commit_makes_no_second_one(hub, push, files, naps, caplog):
    hub.fail("POST .*/commit", drop="answer")
    push()
    assert published(hub, files) and naps == [1]
    assert "the connection to the Hub was lost" in caplog.text and "trying again in 1 s" in caplog.text


def test_bytes_that_came_are_not_sent_again(hub, push, files, naps):
    hub.fail("POST .*/commit", status=500)
    push()
    assert sum(request.startswith("PUT /_blobs") for request in hub.seen) == 1


@pytest.mark.parametrize("headers", [{"Retry-After": "30"}, {"RateLimit": '"api";r=0;t=30'}])
def test_hub_that_asks_to_wait_is_waited_for(hub, push, files, naps, headers):
    hub.fail("POST .*/commit", status=429, headers=headers)
    push()
    assert published(hub, files) and naps == [30]


# What does not pass is said


@pytest.mark.parametrize(
    ("pattern", "fault", "sentence", "naps_taken"),
    [
        (
            "commit",
            {"status": 500, "times": 99},
            "trouble of its own (500: as the test wants it); see https",
            4,
        ),
        ("commit", {"status": 429, "times": 99}, "fewer requests (429); push again in a few minutes", 4),
        ("create", {"status": 429, "headers": {"Retry-After": "3600"}}, "(429); push again in 3600 s", 0),
        ("create", {"drop": "answer", "times": 99}, "cannot be reached", 4),
        ("commit", {"status": 409}, "someone else committed to it meanwhile", 0),
        ("commit", {"status": 412}, "someone else committed to it meanwhile", 0),
        ("commit", {"status": 401}, "the Hub does not know this token", 0),
        ("commit", {"status": 403}, "this token may not write there", 0),
        ("commit", {"status": 403, "message": "Private repository storage limit reached"}, "takes no more", 0),
        ("commit", {"status": 413}, "takes no more or no such large file", 0),
        ("commit", {"status": 400, "message": "odd"}, "BadRequestError: odd", 0),
    ],
)
def test_refusal_is_one_sentence_and_nothing_is_published(hub, push, files, naps, pattern, fault, sentence, naps_taken):
    hub.fail(f"POST .*/{pattern}", **fault)
    with pytest.raises(OSError) as said:
        push()
    assert sentence in str(said.value) and str(said.value).startswith("pushing to you/clip failed: ")
    assert "\n" not in str(said.value) and len(naps) == naps_taken
    assert not published(hub, files)


@pytest.mark.parametrize(("pattern", "fault"), [("PUT /_blobs", {}), ("POST .*/commit", {"status": 500})])
def test_commit_of_someone_else_is_not_overwritten(hub, push, naps, pattern, fault):
    repo = hub.repos["model", "you/clip"]
    hub.fail(pattern, meanwhile=lambda: repo.commit({"theirs": b""}, "theirs"), **fault)
    with pytest.raises(OSError, match=r"someone else committed to it meanwhile; look at http.*/commits, then"):
        push()
    assert repo.history == ["initial commit", "theirs"] and set(repo.files()) == {"theirs"}


def test_file_that_is_too_large_is_said(hub, push, files):
    hub.largest = 100
    with pytest.raises(OSError, match=r"no such large file .*7000 bytes are too large"):
        push()
    assert not published(hub, files)


def test_card_that_the_hub_cannot_read_is_said(hub, push, files, tmp_path):
    files["README.md"] = tmp_path / "README.md"
    files["README.md"].write_text("---\ntags: [\n---\n")
    with pytest.raises(OSError, match=r"ValueError: Invalid metadata in README.md. - not YAML"):
        push()
    assert not published(hub, {})


def test_who_may_not_write_is_told_what_to_do(hub, push, files, monkeypatch):
    hub.add("other/clip", BEFORE)
    hub.add("other/hidden", BEFORE, private=True)
    hub.add("other/gated", BEFORE, gated=True)
    refused = {
        ("you/clip", "hf_wrong"): "the Hub does not know this token",
        ("you/clip", "hf_reader"): "this token may not write there",
        ("other/clip", "hf_owner"): "this token may not write there",
        ("other/hidden", "hf_owner"): "this token may not write there",
        ("other/gated", "hf_owner"): "it is gated and your account not on its list; ask for access at http",
    }
    for (repo_id, token), sentence in refused.items():
        with pytest.raises(OSError) as said:
            push(repo_id, token=token)
        assert sentence in str(said.value), (repo_id, token)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="pushing needs a token; make one that may write at https"):
        push()
    assert not published(hub, files) and not published(hub, files, "other/clip")


def test_reader_on_the_list_of_a_gated_repository_may_write_if_the_owner_lets_them(hub, push, files):
    hub.add("other/gated", BEFORE, gated=True, writers={"you"})
    push("other/gated")
    assert published(hub, files, "other/gated")


@pytest.mark.parametrize(
    "repo_id", ["a/b/c", "you/my clip", "you/-clip", "you/a..b", "/clip", "you/clip.git", "you/" + 97 * "x"]
)
def test_malformed_name_is_refused_before_anything_is_asked(hub, repo_id):
    with pytest.raises(ValueError, match="is no name of a repository; give you/name"):
        open_repository(repo_id)
    assert not hub.seen


def test_public_repository_is_not_taken_for_a_private_one(hub, push):
    with pytest.raises(ValueError, match="you/clip is there and public"):
        push(private=True)


def test_repository_that_is_not_to_be_made_must_be_there(hub):
    with pytest.raises(OSError, match="there is no such repository, or this token may not see it"):
        open_repository("you/nowhere", create=False)
    assert not hub.repos


def test_name_alone_is_a_repository_of_the_token_s_owner(hub):
    hub.add("you/clip", {"README.md": b"card"})
    assert open_repository("clip", create=False) == "you/clip"


def test_revision_that_is_not_there_is_said(hub, push, files):
    with pytest.raises(OSError, match="it has no such revision; give a branch. Nothing was published."):
        commit_files(files, "you/clip", message="pushed", revision="nowhere")
    assert not published(hub, files)


def test_hub_out_of_reach_is_said(hub, push, naps):
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(OSError, match=rf"the Hub \({hub.url}\) cannot be reached \(.*\); check the connection"):
        push()
    assert naps == [1, 2, 4, 8]


def test_switched_off_hub_is_said(hub, push, monkeypatch, naps):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set; unset it to push"):
        push()
    assert not naps


def test_two_hubs_do_not_meet():
    """Else a fault of one test could be met by another."""
    with LoopbackHub() as one, LoopbackHub() as two:
        one.add("you/clip", {})
        assert one.url != two.url and not two.repos


def test_no_token_is_logged(hub, push, naps, caplog):
    caplog.set_level(logging.DEBUG)
    hub.fail("POST .*/commit", status=500)
    push()
    assert "hf_owner" not in caplog.text
