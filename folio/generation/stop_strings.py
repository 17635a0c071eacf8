"""Truncate streamed text at the first stop string; hold back any suffix that could start one."""


class StopFilter:
    """Pass a streamed text on up to its first stop string.

    Of several stop strings the one that is complete first counts, so the result does not depend on how the text is cut
    into pieces.
    >>> text = StopFilter(["\\n\\n", "END"])
    >>> [text.add("One E"), text.add("N"), text.add("emy\\n"), text.add("\\nTwo"), text.ended]
    ['One ', '', 'ENemy', '', True]
    """

    def __init__(self, stops):
        self.stops = stops
        self.ended = False
        self._held = ""

    def add(self, text):
        """Return the text that has become certain with this piece; nothing more after a stop string."""
        if self.ended:
            return ""
        self._held += text
        found = [(start + len(stop), start) for stop in self.stops if (start := self._held.find(stop)) >= 0]
        if found:
            self.ended = True
            return self._held[:min(found)[1]]
        held_back = max((length for stop in self.stops for length in range(1, len(stop))
                         if self._held.endswith(stop[:length])), default=0)
        certain = len(self._held) - held_back
        certain, self._held = self._held[:certain], self._held[certain:]
        return certain

    def end(self):
        """Return the text that is still held back when nothing follows."""
        rest, self._held = "" if self.ended else self._held, ""
        return rest
