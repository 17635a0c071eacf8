"""folio/base/files.py: files that are replaced together are all old or all new, wherever the process is killed."""

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from conftest import FullDisk
from folio.base import files
from tokenizer import FILES, BPETokenizer, load

OLD = BPETokenizer.train(["to be or not to be, " * 9], 270)
NEW = BPETokenizer.train(["whether 'tis nobler in the mind, " * 9], 280)


def names_in(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def states(tmp_path, monkeypatch):
    """Return states(function, folder) -> copies of the folder before and after every change on the disk."""
    def collect(function, folder):
        copies = []

        def copy():
            copies.append(shutil.copytree(folder, tmp_path / f"state-{len(copies)}"))

        def watched(call):
            def calling(*arguments, **named):
                copy()
                result = call(*arguments, **named)
                copy()
                return result
            return calling

        with monkeypatch.context() as patch:
            for module, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (Path, "open"), (Path, "unlink")):
                patch.setattr(module, name, watched(getattr(module, name)))
            function(folder)
        return copies
    return collect


def test_a_tokenizer_is_the_old_one_or_the_new_one_wherever_its_writer_is_killed(tmp_path, states):
    OLD.save(tmp_path / "saved")
    left = states(NEW.save, tmp_path / "saved")
    assert len(left) > 6 * len(FILES)               # each is opened, synced and renamed
    found = [load(folder).fingerprint for folder in left]
    switch = found.index(NEW.fingerprint)           # there is one moment that decides
    assert found == [OLD.fingerprint] * switch + [NEW.fingerprint] * (len(found) - switch)
    for folder, expected in zip(left, found):
        files.remove_leftovers(folder / "*")
        assert names_in(folder) == sorted(FILES) and load(folder).fingerprint == expected


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_ctrl_c_at_any_moment_leaves_the_old_tokenizer_or_the_new_one(tmp_path, monkeypatch, after):
    found = []
    while not found or found[-1] is not None:           # until the writer ends before the interruption comes
        folder = tmp_path / str(len(found))
        OLD.save(folder)
        calls, interrupt_at = [], len(found)

        def interrupted(call):
            def calling(*arguments, **named):
                calls.append(call)
                if len(calls) - 1 != interrupt_at:
                    return call(*arguments, **named)
                if after:
                    call(*arguments, **named)
                raise KeyboardInterrupt
            return calling

        with monkeypatch.context() as patch:
            for module, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (Path, "open"), (Path, "unlink")):
                patch.setattr(module, name, interrupted(getattr(module, name)))
            try:
                NEW.save(folder)
            except KeyboardInterrupt:
                patch.undo()
                assert names_in(folder) == sorted(FILES)            # before a reader completes anything
                found.append(load(folder).fingerprint)
            else:
                found.append(None)
        assert names_in(folder) == sorted(FILES)
    found.pop()
    switch = found.index(NEW.fingerprint)
    assert len(found) > 3 * len(FILES)
    assert found == [OLD.fingerprint] * switch + [NEW.fingerprint] * (len(found) - switch)


def test_the_next_writer_completes_what_was_decided_wherever_the_last_one_was_killed(tmp_path, states):
    OLD.save(tmp_path / "saved")
    for folder in states(NEW.save, tmp_path / "saved"):
        OLD.save(folder)
        assert load(folder).fingerprint == OLD.fingerprint
        files.remove_leftovers(folder / "*")
        assert names_in(folder) == sorted(FILES)


def test_a_reader_killed_while_it_completes_a_set_leaves_that_to_the_next(tmp_path, monkeypatch):
    OLD.save(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "finish_replacing", lambda folder: None)
        NEW.save(tmp_path)
    rename, calls = files._rename, []

    def fail_at_the_third(temporary, path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        rename(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_rename", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path)
    assert load(tmp_path).fingerprint == NEW.fingerprint
    assert names_in(tmp_path) == sorted(FILES)


def test_saving_over_an_unfinished_set_ends_with_the_last_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files, "finish_replacing", lambda folder: None)
        OLD.save(tmp_path)
    assert not set(FILES) & set(names_in(tmp_path))
    NEW.save(tmp_path)
    assert load(tmp_path).fingerprint == NEW.fingerprint and names_in(tmp_path) == sorted(FILES)


def test_a_set_that_fails_half_way_names_its_folder_and_leaves_nothing(tmp_path, monkeypatch):
    OLD.save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    with pytest.raises(TypeError):
        files.replace_together(tmp_path, {"stoi.json": b"new", "itos.json": "no bytes"})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        files.replace_together(tmp_path / "file", {"stoi.json": b"new"})
    assert str(caught.value.filename) == str(tmp_path / "file")
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    assert names_in(tmp_path) == sorted([*FILES, "file"])


@pytest.mark.parametrize("file", range(len(FILES)))
def test_a_set_that_is_interrupted_after_the_decision_is_completed_first(tmp_path, monkeypatch, file):
    OLD.save(tmp_path)
    rename, calls = files._rename, []

    def interrupted(temporary, path):
        calls.append(path)
        if len(calls) == 2 + file:          # the first one is that of the marker, which decides
            raise KeyboardInterrupt
        rename(temporary, path)

    monkeypatch.setattr(files, "_rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        NEW.save(tmp_path)
    assert names_in(tmp_path) == sorted(FILES) and load(tmp_path).fingerprint == NEW.fingerprint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("mode", ["rb", "a"])
def test_a_pipe_in_the_place_of_a_file_is_refused_without_waiting_for_it(tmp_path, mode):
    os.mkfifo(tmp_path / "pipe")
    for other_end in (None, os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)):
        with pytest.raises(OSError) as refused:
            open(tmp_path / "pipe", mode, opener=files.ordinary)
        if mode == "rb" or other_end is not None:       # else the system has no reader for it
            assert refused.value.filename == str(tmp_path / "pipe") and "a pipe" in refused.value.strerror
    os.close(other_end)


def test_an_ordinary_file_is_opened_and_a_folder_is_called_one(tmp_path):
    for more in ("one", "two"):
        with open(tmp_path / "file", "a", opener=files.ordinary) as file:
            file.write(more)
    with open(tmp_path / "file", "rb", opener=files.ordinary) as file:
        assert file.read() == b"onetwo"
    with pytest.raises(PermissionError if sys.platform == "win32" else IsADirectoryError):
        open(tmp_path, "rb", opener=files.ordinary)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_tokenizer_with_a_pipe_for_a_file_is_refused(tmp_path):
    OLD.save(tmp_path)
    (tmp_path / "merges.json").unlink()
    os.mkfifo(tmp_path / "merges.json")
    with pytest.raises(OSError, match="a pipe or a device") as refused:
        load(tmp_path)
    assert str(refused.value.filename) == str(tmp_path / "merges.json")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows opens no folder")
def test_a_rename_is_made_to_last_by_a_sync_of_its_folder(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino) or fsync(descriptor))
    with files.replacing(tmp_path / "a.txt") as file:
        file.write(b"text")
    assert synced == [(tmp_path / "a.txt").stat().st_ino, tmp_path.stat().st_ino]


def test_a_full_disk_is_said_with_the_file_that_did_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls=0))
    with pytest.raises(OSError) as caught, files.replacing(tmp_path / "wanted.json") as file:
        file.write(b"{}")
    assert caught.value.filename == str(tmp_path / "wanted.json") and os.listdir(tmp_path) == []


# --- A folder as a whole ---

def written(folder, content):
    with files.replacing_folder(folder) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text(content)


def content_of(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_folder_is_the_old_one_or_the_new_one_wherever_its_writer_is_killed(tmp_path, states):
    place = tmp_path / "place"
    written(place / "out", "old")
    left = states(lambda place: written(place / "out", "new"), place)
    found = []
    for state in left:
        visible = state / "out"
        if not visible.exists():        # between the two renames
            visible, = state.glob(".out.*.old")
        found.append(content_of(visible))
    old, new = {"a": "old", "b": "old"}, {"a": "new", "b": "new"}
    switch = found.index(new)
    assert found == [old] * switch + [new] * (len(found) - switch) and switch > 6
    assert names_in(place) == ["out"]


def test_a_folder_that_fails_to_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    written(tmp_path / "out", "old")
    with pytest.raises(OSError) as caught:
        with files.replacing_folder(tmp_path / "out") as temporary:
            (temporary / "a").write_text("new")
            raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "out")
    assert names_in(tmp_path) == ["out"] and content_of(tmp_path / "out") == {"a": "old", "b": "old"}


def test_a_folder_whose_second_rename_fails_gets_its_place_back(tmp_path, monkeypatch):
    written(tmp_path / "out", "old")
    rename, calls = os.replace, []

    def failing(origin, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error", str(target))
        rename(origin, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        written(tmp_path / "out", "new")
    assert len(calls) == 3
    assert names_in(tmp_path) == ["out"] and content_of(tmp_path / "out") == {"a": "old", "b": "old"}


def test_only_a_folder_of_the_same_kind_may_be_replaced(tmp_path):
    folder = tmp_path / "out"
    files.refuse_foreign_folder(folder, "a pair", "a|b")
    folder.mkdir()
    files.refuse_foreign_folder(folder, "a pair", "a|b")
    written(folder, "old")
    files.refuse_foreign_folder(folder, "a pair", "a|b")
    (folder / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"holds thesis.tex, and is not a pair; it was left as it is"):
        files.refuse_foreign_folder(folder, "a pair", "a|b")
    with pytest.raises(FileExistsError, match=r"is no folder, and a pair is to be written there"):
        files.refuse_foreign_folder(folder / "a", "a pair", "a|b")


def test_a_link_to_a_folder_stays_one_and_nothing_is_left_beside_it(tmp_path):
    (tmp_path / "disk").mkdir()
    written(tmp_path / "disk" / "real", "old")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "disk" / "real", target_is_directory=True)
    except OSError:
        pytest.skip("this user may make no links")
    written(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and content_of(tmp_path / "disk" / "real") == {"a": "new", "b": "new"}
    assert names_in(tmp_path) == ["disk", "link"] and names_in(tmp_path / "disk") == ["real"]


@pytest.mark.parametrize("spelled", [".", "../here"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, spelled):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(FileExistsError, match=r"is the current folder, which cannot be replaced. Name another folder"):
        written(spelled, "new")
    assert names_in(tmp_path) == ["here"] and os.listdir() == []


@pytest.mark.parametrize("name", ["out", "deep/out"])
def test_an_error_about_a_temporary_name_says_what_was_to_be_written(tmp_path, monkeypatch, name):
    def refused(path, *arguments, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError) as caught, files.replacing(tmp_path / name):
        pass
    assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(PermissionError) as caught, files.replacing_folder(tmp_path / name) as folder:
        with files.replacing(folder / "model"):
            pass
    assert caught.value.filename == str(tmp_path / name)
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError) as caught, files.replacing_folder(tmp_path / name):
        pass
    assert caught.value.filename in (str(tmp_path / name), str((tmp_path / name).parent))
