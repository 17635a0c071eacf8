"""Which files of a folder are read, which are skipped, and why: hidden and ignored ones, and those that are no text."""

from collections import defaultdict
from functools import cache

from folio.base.errors import FolioError
from folio.base.spelling import counted
from folio.base.visible import on_one_line

MOST_ROWS = 10
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")       # byte order marks of encodings that spell text with NUL
_HIDDEN, _IGNORED = "hidden", "named in a .gitignore"


class FolderReport:
    """Counts the files that are read and those that are skipped, by kind and by reason."""

    def __init__(self, strict=False):
        """strict: whether `check` refuses what is skipped, unless it is hidden or ignored"""
        self.strict = strict
        self.notes = []                 # sentences for the user
        self._read, self._skipped = defaultdict(list), defaultdict(list)        # {kind or reason: [path]}
        self._first = None              # (path, sentence) of the first file that was skipped for what is in it

    def take(self, path):
        """Count a file that is read. Raises FolioError if it is of a kind that is refused."""
        from folio.readers.kinds import kind_of  # imports NumPy, which init.py --help can do without
        from folio.readers.source import Source
        self._read[kind_of(Source(path)).name].append(path)

    def skip(self, path, reason, sentence=None):
        """Count a file that is skipped. sentence: says why, of a file that is neither hidden nor ignored"""
        self._skipped[reason].append(path)
        if sentence and self._first is None:
            self._first = path, sentence

    @property
    def first_refused(self):
        """The path of the first file that was skipped for what is in it, or None."""
        return self._first and self._first[0]

    def check(self):
        """Raise FolioError where `strict` does not allow that files are skipped. It names the first."""
        if self.strict and self._first:
            path, sentence = self._first
            raise FolioError(f"{sentence.removesuffix('.')}. (--strict: no file is skipped. "
                             f"Take {on_one_line(str(path))} away, or leave out --strict.)")

    def rows(self):
        """Return [(what was done, how many files, what they are, an example)], at most MOST_ROWS, the most files first.

        There is no row where all files are of one kind and none is skipped for what is in it or is ignored.
        """
        if len(self._read) <= 1 and not self._skipped.keys() - {_HIDDEN}:
            return []
        rows = [(done, len(paths), what, paths[0].name) for done, groups in (("read", self._read),
                ("skipped", self._skipped)) for what, paths in groups.items()]
        rows.sort(key=lambda row: -row[1])
        if len(rows) > MOST_ROWS:
            rest = rows[MOST_ROWS - 1:]
            rows[MOST_ROWS - 1:] = [("others", sum(row[1] for row in rest), "of other kinds", rest[0][3])]
        return rows

    def table(self):
        """Yield the lines that `rows` makes.
        >>> from pathlib import Path
        >>> report = FolderReport()
        >>> report.skip(Path("notes/b.bin"), "no text", "...")
        >>> print("\\n".join(report.table()))
        skipped  1 file   no text: b.bin
        """
        for done, number, what, example in self.rows():
            others = ", ..." if number > 1 else ""
            yield f"{done:<8} {counted(number, 'file'):<8} {on_one_line(what)}: {on_one_line(example)}{others}"
        yield from self.notes


class LeftOut:
    """Tells which entries of a folder are hidden, or named in a .gitignore in it or below, and reports them."""

    def __init__(self, folder, is_own, report):
        """is_own: path of a folder -> whether it is Folio's own, of which nothing is said"""
        self.folder, self.is_own, self.report = folder, is_own, report
        self._rules_of = cache(self._read_rules)

    def __call__(self, relative, is_folder):
        """Whether to leave a file or folder out, with everything in it. relative: its path in the folder"""
        path = self.folder / relative
        if is_folder and self.is_own(path):
            return True
        is_hidden = relative.name.startswith(".")
        if is_hidden or self._is_ignored(relative, is_folder):
            self.report.skip(path, _HIDDEN if is_hidden else _IGNORED)
            return True
        return False

    def _is_ignored(self, relative, is_folder):
        decision = None                 # the innermost .gitignore that says anything decides
        for above in reversed(relative.parents):
            if rules := self._rules_of(above):
                name = relative.relative_to(above).as_posix() + "/" * is_folder
                said = rules.check_file(name).include
                decision = decision if said is None else said
        return bool(decision)

    def _read_rules(self, subfolder):
        path = self.folder / subfolder / ".gitignore"
        if not path.is_file():
            return None
        try:
            import pathspec
        except ImportError:
            note = ("There is a .gitignore, which is not respected, as pathspec is not installed: "
                    "python -m pip install pathspec")
            if note not in self.report.notes:
                self.report.notes.append(note)
            return None
        try:
            return pathspec.GitIgnoreSpec.from_lines(path.read_text("utf-8", errors="surrogateescape").splitlines())
        except (OSError, ValueError) as error:
            self.report.notes.append(f"{path} is not respected, as it cannot be read ({error}).")
            return None


def why_skipped(path, reading):
    """Return (reason, sentence) for a file in a folder that is no text, or of which not even the beginning can be read.

    None for a text. reading: TextParams. A text in an unknown encoding is one: whoever has it has to decide.
    """
    from folio.data.sources import Documents
    from folio.readers.kinds import PLAIN_TEXT, kind_of
    from folio.readers.source import Source
    try:
        source = Source(path)
        if kind_of(source) is not PLAIN_TEXT:
            next(iter(Documents([path], reading)), None)
        elif reading.invalid_bytes == "refuse" and reading.encoding is None:
            block = next(source.blocks(), b"")
            if b"\0" in block and not block.startswith(_MARKS):
                return "no text but a binary file", f"{source} looks like a binary file, not text."
    except FolioError as error:
        reason = str(error).replace(str(path), "").strip().partition(". ")[0].partition(": ")[0]
        return reason.removeprefix("is ").removesuffix("."), str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})", f"{path} cannot be read ({error.strerror})."
    return None
