"""What is only on one side of a split, for training or held out: whole files, scripts and columns of tables."""

import unicodedata
from collections import Counter
from functools import cache

from folio.base.spelling import counted
from folio.base.visible import on_one_line

EVERY = 31              # characters of the training part: one of so many is looked at
LEAST_SHARE = 0.01      # of the letters on one side: a script that is mentioned
FAR_LESS = 0.01         # times its share on the other side: a few letters, as in a name or a formula
LEAST_EXPECTED = 20     # letters or values on the other side, if the shares were equal: fewer may be missing by chance
MOST_COLUMNS = 100      # that are looked for: one without a value takes 0.1 ms a megabyte
_CALLED = {"CJK": "Chinese", "HANGUL": "Korean", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}


class Files:
    """Notes where the files of a text begin in it."""

    def __init__(self):
        self._starts = []               # (path, number of its first document, its first byte)

    def add(self, path, choice):
        """Note the file that the next group is from. choice: the Choice, before it has taken that group"""
        if not self._starts or self._starts[-1][0] != path:
            self._starts.append((path, choice.documents, choice.bytes))

    def start_of(self, paths, text_bytes):
        """Return the first byte of the first of these files, or of the end of the text."""
        return next((start for path, _, start in self._starts if path in paths), text_bytes)

    def held_out(self, split, choice):
        """Return the paths of those files of which a Split holds out everything."""
        ends = [*self._starts[1:], (None, choice.documents, choice.bytes)]
        return tuple(path for (path, first, start), (_, last, _) in zip(self._starts, ends)
                     if (start >= split.position if split.position is not None
                         else split.held_out.issuperset(range(first, last))))


class Scripts:
    """Counts letters of each script on both sides."""

    def __init__(self):
        self._characters, self._passed = (Counter(), Counter()), 0      # training, held out

    def watch(self, parts):
        """Pass a stream of (texts, is_val, ends_document) on."""
        for part in parts:
            texts, is_val, _ = part
            text, step = "".join(texts), 1 if is_val else EVERY
            self._characters[is_val].update(text[-self._passed % step::step])
            self._passed += len(text)
            yield part

    def one_sided(self):
        """Return ((name of a script, whether it is held out), ...) for each that is on one side only, or nearly so."""
        counts = [Counter(), Counter()]
        for characters, letters in zip(self._characters, counts):
            for character, count in characters.items():
                if character.isalpha():
                    letters[_script(character)] += count
        totals = [letters.total() for letters in counts]
        found = []
        for here in (1, 0):
            for script, count in counts[here].items():
                share = count / totals[here]
                expected = share * totals[1 - here]
                if share >= LEAST_SHARE and expected >= LEAST_EXPECTED and (
                        counts[1 - here][script] < FAR_LESS * expected):
                    found.append((script, bool(here)))
        return tuple(found)


class Columns:
    """Counts the "column: value" lines of some columns, until a column is known to be on both sides."""

    def __init__(self, names):
        self._is_seen = {name: [False, False] for name in names[:MOST_COLUMNS]}         # training, held out
        self._lines, self._documents = {name: [0, 0] for name in self._is_seen}, [0, 0]

    def watch(self, parts):
        """Pass a stream of (texts, is_val, ends_document) on."""
        for part in parts:
            texts, is_val, ends_document = part
            if self._is_seen:
                self._look_at(texts, is_val)
            self._documents[is_val] += len(texts) * ends_document
            yield part

    def _look_at(self, texts, is_val):
        step = 1 if is_val else EVERY               # documents: one of so many is counted
        counted_lines = "\n".join(["", *texts[-self._documents[is_val] % step::step]])
        lines = counted_lines if all(seen[is_val] for seen in self._is_seen.values()) else "\n".join(["", *texts])
        for name, is_seen in list(self._is_seen.items()):
            label = f"\n{name}: "
            is_seen[is_val] = is_seen[is_val] or label in lines
            self._lines[name][is_val] += step * counted_lines.count(label)
            if all(is_seen):
                del self._is_seen[name]

    def one_sided(self):
        """Return ((name of a column, whether it is held out), ...) for each that has values on one side only."""
        return tuple((name, bool(here)) for name, is_seen in self._is_seen.items() for here in (1, 0)
                     if is_seen[here] and self._lines[name][here] * self._documents[1 - here]
                     >= LEAST_EXPECTED * max(1, self._documents[here]))


@cache
def _script(letter):
    """Return the name of a letter's script.
    >>> _script("a"), _script("\u03b1"), _script("\u4e2d")
    ('Latin', 'Greek', 'Chinese')
    """
    word = unicodedata.name(letter, "other").partition(" ")[0].partition("-")[0]
    return _CALLED.get(word, word.capitalize())


def one_sided(survey, written):
    """Yield a sentence about everything that is only for training or only held out. written: TokenCounts"""
    if names := [on_one_line(path.name) for path in survey.held_out_files]:
        others = f" and {counted(len(names) - 3, 'more file')}" if len(names) > 3 else ""
        yield f"Held out as a whole: {', '.join(names[:3])}{others}."
    for script, is_held_out in written.one_sided_scripts:
        if is_held_out:
            yield f"{script} letters are only in the held-out part: nothing is learned about them."
        else:
            yield f"{script} letters are only in the training part: what is learned about them is not measured."
    for is_held_out in (True, False):
        names = [on_one_line(name) for name, is_here in written.one_sided_columns if is_here == is_held_out]
        if names:
            others = ", ..." if len(names) > 3 else ""
            columns = f"{counted(len(names), 'column')} ({', '.join(map(repr, names[:3]))}{others})"
            verb = "have" if len(names) > 1 else "has"
            if is_held_out:
                yield f"{columns} {verb} values only in held-out rows: nothing is learned about them."
            else:
                yield f"{columns} {verb} values only in training rows: what is learned about them is not measured."
    if not survey.likeness_counts:
        yield ("Most documents differ from others only in numbers and a few words, as rows and logs do: some held-out "
               "documents have near-duplicates in the training part.")
