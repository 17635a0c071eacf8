"""Notice mojibake: UTF-8 that was decoded as another encoding once, and saved like that ("Ã¼" for "ü")."""

import re
from collections import Counter

# Characters looked at in one pass over the files: what comes often enough to matter is in them, and ftfy takes about a
# second for a million suspicious ones.
_SAMPLE = 1 << 18
_LEAST = 3              # places: fewer may be a text about encodings, or a typing error
_LONGEST_LINE = 2000    # characters of a line that are looked at
# The first byte of a character in UTF-8 and the one after it, as Windows-1252 or Latin-1 show them. "â€" begins quotes.
_AFTER = "\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c" \
         "\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
# Windows-1251 shows most Cyrillic letters as the letters Er or Es and one more.
_SUSPICIOUS = re.compile(f"[\u00c2-\u00f4][{_AFTER}]{{1,3}}"
                         "|[\u0420\u0421\u0413\u0432][\u0080-\u00bf\u0400-\u045f\u2010-\u2122]")


class Mojibake:
    """Count mojibake in the first part of a text. Without ftfy, which tells it from rare but right characters: none."""

    def __init__(self):
        self._left = _SAMPLE
        self._found = Counter()         # (what stands there, what is meant) -> places
        self._told = None

    def look_at(self, text: str) -> None:
        """Look at the next part of a text, until enough has been seen."""
        if self._left <= 0 or text.isascii():
            return
        text = text[:self._left]
        self._left -= len(text)
        places = list(_SUSPICIOUS.finditer(text))
        if not places:
            return
        try:
            from ftfy import fix_encoding
        except ImportError:
            self._left = 0
            return
        end = 0
        for place in places:
            if place.start() < end:
                continue
            start, end = text.rfind("\n", 0, place.start()) + 1, text.find("\n", place.start())
            end = len(text) if end < 0 else end
            line = text[start:min(end, start + _LONGEST_LINE)]
            if (meant := fix_encoding(line)) != line:
                self._found.update(_differences(line, meant))

    def tell(self, found: Counter) -> None:
        """Set the sentence about it in Mending.found, in place of the one that was there before, if there is any."""
        found.pop(self._told, None)
        if (count := self._found.total()) < _LEAST:
            return
        (wrong, meant), times = self._found.most_common(1)[0]
        self._told = (f"{wrong!r} stands {times:,} times where {meant!r} is meant: {{count|place|places}} in the part "
                      "that was looked at are UTF-8 that was read in a wrong encoding once and saved like that. It is "
                      "read as it stands; to mend a file: ftfy FILE --output NEW")
        found[self._told] = count


def _differences(line, meant):
    """Yield (what stands there, what is meant) for each place where a mended line differs.

    >>> list(_differences("schÃ¶n grÃ¼n", "schön grün"))
    [('Ã¶', 'ö'), ('Ã¼', 'ü')]
    """
    at = 0
    for place in re.finditer(r"[^\x00-\x7f]+", meant):
        before = meant[at:place.start()] if at else meant[:place.start()]
        rest = re.match(re.escape(before) + r"([^\x00-\x7f]+)", line)
        if rest is None:
            return
        if rest[1] != place[0]:
            yield rest[1], place[0]
        line, at = line[rest.end():], place.end()
