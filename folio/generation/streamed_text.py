"""The text of a sequence while it is generated: whole characters up to the first stop string, and who shaped them."""

from collections import deque

from folio.generation.stop_strings import StopFilter
from tokenizer import StreamingDecoder


def taken(sequence):
    """Return the bytes at the end of a prompt that the first tokens of its sequence repeat."""
    return b"" if sequence.healing is None else sequence.healing.taken


class StreamedText:
    """The text of a sequence's tokens: whole characters, up to the first stop string; and whose each piece is."""

    def __init__(self, tokenizer, sequence, names=()):
        """names: of the models of a mixture"""
        self._names = names
        self._held = deque()                # [characters, name of the model] of what is not yet certain
        self._characters = StreamingDecoder(tokenizer, len(taken(sequence)))
        self._filter = StopFilter(sequence.settings.stop)

    @property
    def ended(self):
        return self._filter.ended

    def add(self, token, voice=None):
        """Return the text that has become certain with this token, often a word, sometimes nothing yet: [(text, name)].

        voice: number of the model that shaped the token most, or None
        """
        text = self._characters.add(token)
        self._held.append([len(text), None if voice is None else self._names[voice]])
        return self._named(self._filter.add(text))

    def end(self):
        """Return the text that is left when no token follows, without an incomplete character: [(text, name)]."""
        return self._named(self._filter.end())

    def _named(self, text):
        found = []
        while text:
            length, name = self._held[0]
            piece, text = text[:length], text[length:]
            if found and found[-1][1] == name:
                found[-1] = found[-1][0] + piece, name
            elif piece:
                found.append((piece, name))
            self._held[0][0] -= len(piece)
            if not self._held[0][0]:
                self._held.popleft()
        return found


def without_names(texts):
    """Yield (index, text) of an iterator of (index, text, name). -> what it returns"""
    try:
        while True:
            index, text, _ = next(texts)
            yield index, text
    except StopIteration as end:
        return end.value
