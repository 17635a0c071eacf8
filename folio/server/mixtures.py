"""Mixtures of a server's models: an engine for each set of models, in which every request has shares of its own."""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from folio.base.errors import FolioError
from folio.base.files import fingerprint

MOST_MIXED = 8          # models of one mixture: each is computed for every token


class CannotMix(FolioError):
    """These models or shares make no mixture."""


class Mixtures:
    """The mixtures that were asked for, the last few of which have an engine."""

    def __init__(self, models: Any):
        """models: a folio.server.models.Models"""
        self._models = models
        self._made: OrderedDict[tuple[str, ...], tuple[list[Any], Any]] = OrderedDict()    # names -> parts, Served
        self._kinds: dict[tuple, tuple] = {}        # path, time in ns, bytes -> tokenizer's fingerprint, chat entry
        self._lock = threading.Lock()

    async def get(self, name: str | None, shares: Mapping[str, float] | None, blend: str) -> tuple[Any, Any]:
        """Return the Served that answers a request, and the Mix of its models; without shares one model, and None.

        name: of the model that has what the shares leave, None for the default; shares: {name: share} of the others
        Raises CannotMix, and what Models.get raises.
        """
        first = await self._models.get(name)
        wanted = {other: share for other, share in (shares or {}).items() if share or other == first.name}
        if not wanted:
            return first, None
        from folio.generation.voices import Mix
        if len(wanted) >= MOST_MIXED:
            raise CannotMix(f"mix has {len(wanted)} models; {MOST_MIXED - 1} is the most beside the first.")
        try:
            mix = Mix.of((first.name, *sorted({*wanted} - {first.name})), wanted, blend)
            if {*wanted} <= self._models.paths().keys():    # else each request would load one in another's place
                self._models.make_room(1 + len(wanted))
            parts = [first, *[await self._models.get(other) for other in sorted(wanted)]]
            return self._mixture(parts), mix
        except FolioError as error:
            if type(error) is not FolioError:
                raise
            raise CannotMix(str(error)) from None

    def _mixture(self, parts):
        """Return the Served of these models' mixture: a new one where there is none, or where one was loaded again."""
        names = tuple(part.name for part in parts)
        with self._lock:
            known, served = self._made.get(names, ([], None))
            if len(known) == len(parts) and all(one is other for one, other in zip(known, parts)):
                self._made.move_to_end(names)
                return served
            others = {part.name: part.model for part in parts[1:]}
            model = _named(parts[0]).mixed_with(others)
            served, retired = self._models.served_mixture(parts, model), served
            self._made[names] = parts, served
            while len(self._made) > self._models.limit:
                _, (_, oldest) = self._made.popitem(last=False)
                self._models.retire(oldest)
        if retired is not None:
            self._models.retire(retired)
        return served

    def partners(self, served: Any) -> list[str]:
        """Return the names of the models that can be mixed with one: those with its tokenizer and its way to chat."""
        from folio.formats.checkpoint import load_metadata
        chat = served.model.chat and served.model.chat.to_dict()
        wanted, found = (served.model.tokenizer.fingerprint, chat or None), []
        for name, path in self._models.paths().items():
            with suppress(FolioError, OSError, KeyError, TypeError):
                status = os.stat(path)
                key = path, status.st_mtime_ns, status.st_size
                if key not in self._kinds:
                    contents = load_metadata(path)
                    self._kinds[key] = fingerprint(contents["tokenizer"]), contents.get("chat") or None
                if self._kinds[key] == wanted and name != served.name:
                    found.append(name)
        return found

    def loaded(self) -> list[Any]:
        """Return the Served of each mixture that has an engine."""
        with self._lock:
            return [served for _, served in self._made.values()]

    def close(self, grace: float = 0.0) -> None:
        """End all engines of mixtures."""
        made = self.loaded()
        with self._lock:
            self._made.clear()
        for served in made:
            served.engine.close(grace)


def _named(part):
    """Return a model under the name by which clients call it."""
    from dataclasses import replace
    return replace(part.model, name=part.name)
