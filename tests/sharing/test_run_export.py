"""Command lines go in; what they write, or refuse, is checked. The exports themselves have tests of their own."""

import os
import shutil
import stat

import pytest
import run_export

from modeling_clipscratch.utils.atomic_files import check_new_folder, write_new_folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runs/a"], "nothing to write: give --output_dir for ONNX files, --page for a page, or both"),
        (["runs/a", "--output_dir", "onnx", "--labels", "cat", "dog"], "--labels and --template are of the page"),
        (["runs/a", "--output_dir", "onnx", "--pictures", "holidays"], "--labels and --template are of the page"),
        (["runs/a", "--output_dir", "onnx", "--template", "a {}"], "--labels and --template are of the page"),
        (["runs/a", "--page", "site", "--precision", "fp32"], "--precision is of the ONNX files; give --output_dir"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_export.main(arguments)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "page=.*site is there already"),
        (["--labels", "cat"], "1 label given"),
        (["--template", "no braces"], "no braces"),
        (["--pictures", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_what_the_page_lacks_is_known_before_the_first_export(monkeypatch, tmp_path, words, sentence):
    monkeypatch.setattr(run_export, "export_onnx", lambda *args, **more: pytest.fail("it was exported"))
    page = tmp_path / "site"
    if not words:
        page.write_text("there")
    with pytest.raises(ValueError, match=sentence):
        run_export.main(["runs/a", "--output_dir", str(tmp_path / "onnx"), "--page", str(page), *words])


def test_the_command_line_reaches_both_exports(monkeypatch, capsys, tmp_path):
    called = {}

    def export_onnx(folder, output_dir, *, precisions):
        called["onnx"] = (folder, output_dir, precisions)
        return {"largest_distance": {"int8": {"text": 0.01, "vision": 0.02}}}

    def write_page(folder, page, **settings):
        called["page"] = (folder, page, settings)
        return f"{page}/index.html"

    monkeypatch.setattr(run_export, "export_onnx", export_onnx)
    monkeypatch.setattr(run_export, "write_page", write_page)
    monkeypatch.chdir(tmp_path)
    run_export.main(["runs/a", "--output_dir", "o", "--precision", "int8", "--page", "p", "--labels", "cat", "dog"])
    assert called["onnx"] == ("runs/a", "o", ["int8"])
    assert called["page"][:2] == ("runs/a", "p") and called["page"][2]["labels"] == ["cat", "dog"]
    said = capsys.readouterr().out
    assert "int8: largest distance to PyTorch's embeddings: text 1.0e-02, vision 2.0e-02" in said
    assert "wrote p/index.html" in said


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def stop(where):
        (where / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_new_folder(tmp_path / "new", stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    check_new_folder("page", tmp_path / "new")  # an empty folder is as good as none
    write_new_folder(tmp_path / "new", lambda where: (where / "file").write_text("whole"))
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "file"]
    os.chmod(tmp_path / "new" / "file", 0o600)
    write_new_folder(tmp_path / "again", lambda where: shutil.move(tmp_path / "new" / "file", where / "file"))
    assert (tmp_path / "again" / "file").stat().st_mode == (tmp_path / "new").stat().st_mode & 0o666 | stat.S_IFREG
    shutil.move(tmp_path / "again" / "file", tmp_path / "new" / "file")
    with pytest.raises(ValueError, match="page=.*new is there already; delete it, or choose another name"):
        check_new_folder("page", tmp_path / "new")


def test_an_empty_folder_behind_a_link_is_filled(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there")
    check_new_folder("page", link)
    write_new_folder(link, lambda where: (where / "file").write_text("whole"))
    assert link.is_symlink() and (tmp_path / "there" / "file").read_text() == "whole"


def test_a_mounted_disk_is_refused():
    with pytest.raises(ValueError, match="page=/ is where a disk is mounted"):
        check_new_folder("page", "/")
