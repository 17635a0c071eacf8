"""Damaged files: what is read of them is right, or refused with a message, or made anew, and never silently another.

Files with a checksum, and those that can be made again, have to give what the whole file gives. Logs, settings and
histories have none: there a damage may end in another value or in a refusal, but in nothing else.
"""

import os
import shutil

import pytest

from campaigns import projects, readers
from campaigns.engine import Campaign, Fall, answer_or_refusal

# name -> its path in a home, how it is read, whether what comes of it has to be the same, cases: all, and a sample
FILES = {
    "weights": (lambda home: home.weights("k"), readers.weights, True, 1200, 15),
    "resume": (lambda home: home.resume("k"), readers.resume, True, 1200, 15),
    "tokens": (lambda home: next(home.tokens.glob("*.npy")), readers.text, True, 1600, 25),
    "corpus": (lambda home: home.tokens / "corpus.json", readers.text, True, 2000, 25),
    "stoi": (lambda home: home.tokenizer / "stoi.json", readers.tokenizer, True, 600, 15),
    "itos": (lambda home: home.tokenizer / "itos.json", readers.tokenizer, True, 600, 15),
    "merges": (lambda home: home.tokenizer / "merges.json", readers.tokenizer, True, 600, 15),
    "vocab_size": (lambda home: home.tokenizer / "vocab_size.json", readers.tokenizer, True, 600, 15),
    "log": (lambda home: home.log("k"), readers.log, False, 600, 15),
    "settings": (lambda home: home.folder / "settings.json", readers.settings, False, 600, 15),
    "history": (lambda home: home.history, readers.history, False, 400, 15),
}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files(kind, trained_home, attack):
    """attack fails with the cases that fell."""
    *_, full, sample = FILES[kind]
    attack(Damages(kind, trained_home), full, sample)


class Damages(Campaign):
    """One damage to one file, and reading it."""

    seconds = 20

    def __init__(self, kind, home):
        self.name, self.kind, self.source = f"damages {kind}", kind, home
        self.damage = ""

    def set_up(self, folder):
        self.home = projects.copy(self.source, folder / "home")
        readers.write_settings(self.home)
        readers.write_history(self.home)
        find, self.read, self.has_to_be_same, *_ = FILES[self.kind]
        self.path = find(self.home)
        self.content = self.path.read_bytes()
        self.right = self.read(self.home)
        self.pristine = projects.Pristine(self.home)
        self.others = [path for path in self.pristine.files if path != self.path]

    def describe(self):
        return self.damage

    def attempt(self, number, draw):
        self.pristine.restore()
        self.damage = self._damage(draw)
        found, refusal = answer_or_refusal(lambda: self.read(self.home))
        if refusal is None and self.has_to_be_same and found != self.right:
            different = ", ".join(name for name, value in self.right.items() if found[name] != value)
            raise Fall(f"Another result, and no word of it: {different}")

    def _damage(self, draw):
        """Damage the file. -> what was done"""
        if draw.random() < 0.05:
            return self._replace(draw)
        content, done = bytearray(self.content), []
        while not done or bytes(content) == self.content:
            damage = draw.choice(_DAMAGES)
            done.append(damage(content, draw))
        self.path.unlink()
        self.path.write_bytes(content)
        if self.kind in ("tokens", "corpus") and draw.random() < 0.3:
            os.utime(self.home.train_data / "input.txt")        # so that the text is looked at again
            done.append("the text's time is another")
        return ", ".join(done)

    def _replace(self, draw):
        """Put something else in the place of the file."""
        self.path.unlink()
        by = draw.choice(["nothing", "a folder", "a dangling link", "another file", "another file", "another file"])
        if by == "a folder":
            self.path.mkdir()
        elif by == "a dangling link":
            os.symlink(self.home.folder / "gone", self.path)
        elif by == "another file":
            other = draw.choice(self.others)
            shutil.copy(other, self.path)
            by = other.name
        return f"replaced by {by}"


# --- Damages: each changes a bytearray and says what it did ---

def _span(content, draw):
    """A place and a length, short ones more often."""
    start = draw.randrange(len(content) + 1)
    return start, start + min(len(content) - start, int(len(content) ** draw.random()))


def _flip(content, draw):
    places = [draw.randrange(len(content)) for _ in range(draw.choice([1, 1, 1, 4, 30]))] if content else []
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    return f"bits flipped in bytes {places[:5]}"


def _truncate(content, draw):
    end = draw.choice([0, len(content) // 2, max(0, len(content) - 1), draw.randrange(len(content) + 1)])
    del content[end:]
    return f"cut off at {end}"


def _hole(content, draw):
    start, end = _span(content, draw)
    content[start:end] = bytes(end - start)
    return f"zeros from {start} to {end}"


def _noise(content, draw):
    start, end = _span(content, draw)
    content[start:end] = draw.randbytes(end - start)
    return f"noise from {start} to {end}"


def _all_ones(content, draw):
    start, end = _span(content, draw)
    content[start:end] = b"\xff" * (end - start)
    return f"0xff from {start} to {end}"


def _swap(content, draw):
    size = draw.choice([1, 2, 4, 16, 512, 4096])
    first, second = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    one, other = content[first:min(first + size, second)], content[second:second + size]
    content[second:second + size], content[first:min(first + size, second)] = one, other
    return f"blocks of {size} at {first} and {second} swapped"


def _extend(content, draw):
    more = draw.choice([b"\0" * 4096, b"\n", b"{}", draw.randbytes(100), bytes(content)])
    content += more
    return f"{len(more)} bytes added at the end"


def _insert(content, draw):
    place = draw.randrange(len(content) + 1)
    more = draw.choice([b"0", b'"', b"[", b"}", b",", b"-", b"\0", b"\xff", draw.randbytes(20)])
    content[place:place] = more
    return f"{more!r} put in at {place}"


def _take_out(content, draw):
    start, end = _span(content, draw)
    del content[start:end]
    return f"bytes {start} to {end} taken out"


def _empty(content, draw):
    content.clear()
    return "emptied"


def _digit(content, draw):
    """Another number where there is one, as a hand or a bad merge of two versions makes."""
    places = [place for place, value in enumerate(content[:20_000]) if 48 <= value <= 57]
    if not places:
        return _flip(content, draw)
    place = draw.choice(places)
    content[place:place + 1] = draw.choice(
        [b"0", b"9", b"-1", b"1e9", b"99999999", b"true", b"null", b'"x"', b"[7]", b"{}", b"0.5", b"NaN"])
    return f"another value at {place}"


def _word(content, draw):
    """Another value for a field of a JSON file."""
    places = [place for place, value in enumerate(content[:20_000]) if value == ord(":")]
    if not places:
        return _flip(content, draw)
    place = draw.choice(places) + 1
    end = next((end for end in range(place, len(content)) if content[end] in b",}\n"), len(content))
    content[place:end] = draw.choice(
        [b"null", b"true", b"[]", b"{}", b"-8477", b"98477", b"1e400", b'"refusf"', b'"../x"', b"[[1]]", b'[["a"]]'])
    return f"another value from {place} to {end}"


_DAMAGES = [_flip, _flip, _truncate, _hole, _noise, _all_ones, _swap, _swap, _extend, _insert, _take_out, _empty,
            _digit, _word]
