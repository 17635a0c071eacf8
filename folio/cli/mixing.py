"""Mixtures of models on the command line: shares as they are typed, the models they name, a color for each."""

from collections.abc import Callable, Iterable
from typing import Any

from folio.base.errors import FolioError
from folio.base.lines import styled

# Styles of the words of each model. The first keeps the terminal's own color; the others are among the eight that
# every terminal's theme makes readable. From the sixth model on they come again.
VOICES = "", "\x1b[36m", "\x1b[33m", "\x1b[35m", "\x1b[32m"
BLENDS = "probabilities", "logits"              # as in folio.generation.voices, which imports torch


def shares_of(words: Iterable[str], flag: str = "--mix") -> dict[str, float]:
    """Return {name: share} of words such as "letters=0.3". Raises FolioError.

    flag: what they follow, for messages
    >>> shares_of(["letters=0.3", "sea=.1"])
    {'letters': 0.3, 'sea': 0.1}
    """
    shares = {}
    for word in words:
        name, equals, share = word.rpartition("=")
        if not equals or not name:
            raise FolioError(f"{flag} {word} names no share: write {flag} {word.strip('=') or 'NAME'}=0.3.")
        try:
            number = float(share)
        except ValueError:
            raise FolioError(f"{flag} {word}: {share or 'nothing'} is no number; a share is one from 0 to 1.") from None
        if not 0 <= number <= 1:
            raise FolioError(f"{flag} {word}: a share is a number from 0 to 1.")
        if name in shares:
            raise FolioError(f"{flag} names {name} twice: give it one share.")
        shares[name] = number
    return shares


class Mixer:
    """A model and others that are mixed into it, loaded when they are first named."""

    def __init__(self, model: Any, load: Callable[[str], Any]):
        """model: the LanguageModel that has what the others leave; load: a function of a name -> LanguageModel"""
        self.model, self._load = model, load
        self._others = {}

    def mixed(self, words: Iterable[str], blend: str | None = None, flag: str = "--mix") -> Any:
        """Return the mixture that words such as "letters=0.3" ask for, or the model itself for none.

        Raises FolioError or OSError where one of them cannot be mixed.
        """
        shares = shares_of(words, flag)
        for name in shares:
            if name not in self._others:
                self._others[name] = self._load(name)
        if not shares:
            return self.model
        others = {name: self._others[name] for name in shares}
        names = [self.model.name, *(other.name for other in others.values())]
        if len({*names}) == len(names):         # of their runs: shorter than a path
            shares = {others[name].name: share for name, share in shares.items()}
            others = {other.name: other for other in others.values()}
        return self.model.mixed_with(others, shares, blend or BLENDS[0])


def style_of(model: Any, name: str | None = None) -> str:
    """Return the style of what a model of a mixture has shaped; "" for a single model."""
    return "" if name is None else VOICES[model.voices.index(name) % len(VOICES)]


def legend(model: Any, has_colors: bool) -> str:
    """Return a line with the share of each model of a mixture, in its color."""
    shares = [f"{name} {100 * share:.3g} %" for name, share in model.shares.items()]
    if has_colors:
        shares = [styled(share, style_of(model, name)) for share, name in zip(shares, model.voices)]
    return ", ".join(shares)
