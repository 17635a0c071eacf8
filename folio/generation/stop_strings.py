"""Text up to the first of some texts at which it is to stop, however it comes in; what may become one of them is held back."""


class StopFilter:
    """Hands a text on as it comes, up to the first place where one of `stops` has come.

    The one that is complete first counts, so that it does not matter in which pieces the text comes in.
    >>> text = StopFilter(["\\n\\n", "END"])
    >>> [text.add("One E"), text.add("N"), text.add("emy\\n"), text.add("\\nTwo"), text.ended]
    ['One ', '', 'ENemy', '', True]
    """

    def __init__(self, stops):
        self.stops = stops
        self.ended = False
        self._held = ""

    def add(self, text):
        """The part of the text so far that has become certain with this piece; nothing any more once it has `ended`."""
        if self.ended:
            return ""
        self._held += text
        found = [(start + len(stop), start) for stop in self.stops if (start := self._held.find(stop)) >= 0]
        if found:
            self.ended = True
            return self._held[:min(found)[1]]
        certain = len(self._held) - max((beginning for stop in self.stops for beginning in range(1, len(stop))
                                         if self._held.endswith(stop[:beginning])), default=0)
        certain, self._held = self._held[:certain], self._held[certain:]
        return certain

    def end(self):
        """What is left where nothing follows: what was held back for nothing."""
        rest, self._held = "" if self.ended else self._held, ""
        return rest
