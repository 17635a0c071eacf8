"""folio/data/folder_report.py: what of a folder is read and what is skipped is counted and said, or refused."""

import os
import sys
from pathlib import Path

import pytest

from conftest import refusal
from folio.data import corpus
from folio.data.folder_report import FolderReport
from folio.data.paths import find_files
from Model_Params import TextParams
from small_texts import SMALL, WORDS, json_lines, message_of, run_init

BINARY = b"\x01\x02\0\0" + bytes(range(256))
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256))
FOLDER = {"a.txt": WORDS, "notes/b.md": WORDS, "c.jsonl": json_lines([WORDS] * 3), "photo.png": PICTURE,
          "x.dat": BINARY, "notes/x.dat": BINARY, "other.jsonl": json_lines([WORDS], field="body"),
          ".hidden/x.txt": WORDS, ".env": "secret"}


def found_in(project, report=None, reading=TextParams()):
    files = find_files([project.train_data], [project.tokens, project.downloads], reading, report)
    return [file.relative_to(project.train_data).as_posix() for file in files]


def test_texts_are_read_and_everything_else_is_counted_with_its_reason(home):
    report = FolderReport()
    assert found_in(home(FOLDER), report) == ["a.txt", "c.jsonl", "notes/b.md"]
    rows = {what: (done, number) for done, number, what, _ in report.rows()}
    assert rows.pop("no text but a binary file") == ("skipped", 2)
    assert rows.pop("a PNG picture") == ("skipped", 1)
    assert rows.pop("hidden") == ("skipped", 2)
    assert rows.pop("plain text") == ("read", 2) and rows.pop("a file of JSON lines") == ("read", 1)
    [(reason, about)] = rows.items()
    assert "has no field 'text', only 'id', 'body'" in reason and about == ("skipped", 1)


def test_init_prints_the_table_and_trains_on_the_texts(home):
    done = run_init(home(FOLDER), "--vocab-size", 300)
    assert done.returncode == 0, done.stderr
    assert "skipped  2 files  no text but a binary file: x.dat, ...\n" in done.stdout
    assert "5 documents" in done.stdout and "secret" not in done.stdout


def test_a_file_skipped_for_want_of_a_package_is_followed_by_the_command_that_installs_it():
    report = FolderReport()
    for path in ("a.pdf", "b.pdf"):
        report.skip(Path(path), "a PDF", f"{path} is a PDF, not readable yet: python -m pip install x==1")
    report.skip(Path("c.png"), "a PNG picture", "c.png is a PNG picture.")
    assert list(report.table())[2:] == ["To read what is skipped for want of a package: python -m pip install x==1"]


def test_strict_refuses_and_names_the_first_file_and_nothing_is_written(home):
    project = home(FOLDER)
    message = refusal(run_init(project, "--strict"))
    assert "x.dat looks like a binary file" in message
    assert "--strict" in message and not project.tokens.exists()
    for name in ("photo.png", "x.dat", "notes/x.dat", "other.jsonl"):
        (project.train_data / name).unlink()
    assert run_init(project, "--strict", "--vocab-size", 300).returncode == 0         # hidden files are no matter


def test_a_file_that_is_named_is_refused_aloud(home):
    project = home(FOLDER)
    for name, what in {"photo.png": "is a PNG picture", "x.dat": "binary", "other.jsonl": "has no field"}.items():
        message = message_of(corpus.open_corpus, project, SMALL, [project.train_data / name])
        assert name in message and what in message


def test_a_folder_without_any_text_is_refused_with_the_reason_for_the_first_file(home):
    assert "looks like a binary file" in message_of(corpus.open_corpus, home({"x.dat": BINARY}), SMALL)


def test_text_in_an_unknown_encoding_is_not_skipped(home):
    project = home({"a.txt": WORDS, "b.txt": "Größe".encode("latin-1") * 30})
    assert "b.txt" in message_of(corpus.open_corpus, project, SMALL)


def test_a_folder_of_texts_of_one_kind_needs_no_table(home):
    report = FolderReport()
    found_in(home({"a.txt": WORDS, "b.txt": WORDS, ".DS_Store": PICTURE}), report)
    assert report.rows() == []


def test_the_table_has_ten_lines_at_most_with_the_most_files_first():
    report = FolderReport()
    for number in range(1, 15):
        for copy in range(number):
            report.skip(Path(f"{number}-{copy}"), f"reason {number}", "sentence")
    rows = report.rows()
    assert len(rows) == 10 == len(list(report.table()))
    assert [row[1] for row in rows[:9]] == list(range(14, 5, -1)) and rows[9][1] == sum(range(1, 6))


def test_what_a_gitignore_names_is_left_out(home):
    pytest.importorskip("pathspec")
    report = FolderReport()
    project = home({".gitignore": "*.log\nbuild/\n/top.txt\n", "a.log": WORDS, "build/x.txt": WORDS, "top.txt": WORDS,
                    "src/top.txt": WORDS, "src/.gitignore": "!keep.log\n*.tmp\n", "src/keep.log": WORDS,
                    "src/b.tmp": WORDS, "b.tmp": WORDS})
    assert found_in(project, report) == ["b.tmp", "src/keep.log", "src/top.txt"]
    ignored = next(row for row in report.rows() if row[2] == "named in a .gitignore")
    assert ignored[:2] == ("skipped", 4)        # build counts once


def test_without_pathspec_a_gitignore_is_not_respected_and_that_is_said(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "pathspec", None)
    report = FolderReport()
    assert found_in(home({".gitignore": "*.log", "a.log": WORDS, "b.txt": WORDS}), report) == ["a.log", "b.txt"]
    assert [note for note in report.notes if "pip install pathspec" in note] == report.notes != []


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such names")
def test_names_with_line_ends_are_shown_on_one_line(home):
    report = FolderReport()
    found_in(home({"a.txt": WORDS, "two\nlines.dat": BINARY}), report)
    assert [line for line in report.table() if "two⏎lines.dat" in line and "\n" not in line]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be read here")
def test_files_that_may_not_be_read_are_skipped(home):
    project = home({"a.txt": WORDS, "b.txt": WORDS})
    (project.train_data / "b.txt").chmod(0)
    report = FolderReport()
    assert found_in(project, report) == ["a.txt"] and report.first_refused.name == "b.txt"


def test_circular_links_and_links_to_nothing_end_nothing(home):
    project = home({"a.txt": WORDS})
    try:
        (project.train_data / "loop").symlink_to(project.train_data, target_is_directory=True)
        (project.train_data / "nothing").symlink_to(project.train_data / "gone.txt")
    except OSError:
        pytest.skip("this system lets only administrators make links")
    report = FolderReport()
    assert found_in(project, report) == ["a.txt"]
    assert report.first_refused.name == "nothing"


def test_a_file_that_vanishes_while_it_is_read_is_named(home, monkeypatch):
    project = home({"a.txt": WORDS, "b.txt": WORDS})
    survey = corpus.survey_text

    def vanishing(documents, *arguments, **options):
        (project.train_data / "b.txt").unlink()
        return survey(documents, *arguments, **options)
    monkeypatch.setattr(corpus, "survey_text", vanishing)
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        corpus.open_corpus(project, SMALL)
    assert not project.tokens.exists()
