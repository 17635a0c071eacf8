"""The models of a project by the names of their runs: loaded at first use, reloaded when a run's weights get better."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folio
from folio.base.errors import FolioError, is_out_of_memory
from folio.base.home import Home
from folio.base.run_files import listed, meant, run_name
from folio.base.visible import on_one_line
from folio.formats.find_weights import WEIGHTS
from folio.server.mixtures import Mixtures

CHECKED = 1.0           # seconds between two looks at the same weights file
UNUSED = 2.0            # seconds without a request, after which nobody is about to use an engine that was replaced
LONGEST_ANSWER = 3600.0 # seconds: what takes longer is cut off with its engine
WARM_SECONDS = 10.0     # a model that has not written its first token by then is served all the same
POLLED = 0.1            # seconds between two looks at an engine that was replaced
log = logging.getLogger("folio.serve")


class UnknownModel(FolioError):
    """No run has this name."""


class ModelUnavailable(FolioError):
    """The model's weights cannot be read; the log says why."""


@dataclass(frozen=True)
class Served:
    """A model that is loaded, and the engine that runs it."""
    name: str               # of its run, by which clients call it
    model: Any              # folio.generation.language_model.LanguageModel
    engine: Any             # folio.generation.engine.Engine, wrapped
    fingerprint: str        # with the same one and the same seed, the same text
    created: int            # when its weights were written, in seconds since 1970
    path: Path              # of its weights


@dataclass
class _Entry:
    """A model that is loaded, with what is needed to see that its file has changed."""
    served: Served
    stamp: tuple[int, ...]          # of the file that was read last, whether it could be used or not
    checked: float                  # when the file was looked at, by time.monotonic()
    is_loading: bool = False


class Models:
    """The models of a project. All methods are thread-safe.

    A replaced model, or one that had to make room, ends the requests that it has; then its engine is closed.
    """

    def __init__(self, home: Home, first: Path | None = None, limit: int = 2, device: str = "cpu", rows: int = 32,
                 queue: int = 256, wrap: Callable[[Any, str], Any] = lambda engine, name: engine):
        """first: the weights that a request without a model gets, in the project or elsewhere (default: the newest);
        limit: how many models are in memory; rows, queue: of each engine; wrap: (engine, name) -> what requests get as
        engine.

        Nothing is loaded yet. Raises FileNotFoundError where the project has no weights.
        """
        from folio.formats.find_weights import newest_weights
        self.home, self.limit, self.device, self.rows, self.queue, self.wrap = home, limit, device, rows, queue, wrap
        self.first = newest_weights(home) if first is None else Path(first)
        self._loaded: OrderedDict[str, _Entry] = OrderedDict()      # the least recently used first
        self._retired: dict[threading.Thread, Any] = {}
        self._lock = threading.Lock()                               # of both
        self._loader = ThreadPoolExecutor(1, "folio-load")          # one at a time: a load takes all of a core
        self._objects: dict[Path, tuple[tuple[int, ...], dict[str, Any] | None]] = {}
        self._closing = threading.Event()
        self.mixtures = Mixtures(self)

    @property
    def default(self) -> str:
        """Name of the model that a request without one gets."""
        return run_name(self.first, WEIGHTS)

    def paths(self) -> dict[str, Path]:
        """Return {name: path of its weights}, the default first, then the newest."""
        found = {self.default: self.first}
        for path in self.home.newest(WEIGHTS):
            found.setdefault(run_name(path, WEIGHTS), path)
        return found

    def names(self) -> list[dict[str, Any]]:
        """Return the models as objects of GET /v1/models, less those whose weights cannot be read."""
        found = [self._object(name, path) for name, path in self.paths().items()]
        return [each for each in found if each]

    async def get(self, name: str | None = None) -> Served:
        """Return a model by name, loaded if need be in another thread; the default for None.

        A model whose weights file has changed is loaded again in the background, and answers from the old weights until
        then. Raises UnknownModel, ModelUnavailable.
        """
        try:
            return self._ready(name) or await asyncio.wrap_future(self._submit(name))
        except asyncio.CancelledError:
            if self._closing.is_set() and not asyncio.current_task().cancelling():      # not the task, but the load
                raise _ending() from None
            raise

    def get_now(self, name: str | None = None) -> Served:
        """Return what `get` returns; the calling thread waits."""
        return self._ready(name) or self._submit(name).result()

    def load_first(self) -> Served:
        """Return the default model, loaded. Raises FolioError or OSError that says why it cannot be used."""
        served, stamp = self._read(self.default, self.first)
        with self._lock:
            self._loaded[self.default] = _Entry(served, stamp, time.monotonic())
        return served

    def loaded(self) -> list[Served]:
        """Return the models in memory, the least recently used first."""
        with self._lock:
            return [entry.served for entry in self._loaded.values()]

    def with_engines(self) -> list[Served]:
        """Return the models in memory and the mixtures of them that have an engine of their own."""
        return [*self.loaded(), *self.mixtures.loaded()]

    def make_room(self, count: int) -> None:
        """Keep so many models in memory from now on, where the limit is lower."""
        with self._lock:
            self.limit = max(self.limit, count)

    def close(self, grace: float = 0.0) -> None:
        """End all engines; the requests that run have `grace` seconds to end. A second call does nothing."""
        self._closing.set()
        self._loader.shutdown(wait=True, cancel_futures=True)
        self.mixtures.close(grace)
        with self._lock:
            entries, retired = list(self._loaded.values()), dict(self._retired)
            self._loaded.clear()
        ends = [threading.Thread(target=entry.served.engine.close, args=(grace,), daemon=True) for entry in entries]
        for thread in ends:
            thread.start()
        for engine in retired.values():
            engine.close(0)
        for thread in [*ends, *retired]:
            thread.join()

    # --- Loading ---

    def _ready(self, name):
        """Return a model that is loaded, or None; have it loaded again where its file has changed."""
        name = name or self.default
        with self._lock:
            entry = self._loaded.get(name)
            if entry is None:
                return None
            self._loaded.move_to_end(name)
            now = time.monotonic()
            if now - entry.checked >= CHECKED and not entry.is_loading and not self._closing.is_set():
                entry.checked = now
                # A file that is gone for the moment is no reason to stop.
                if _stamp(entry.served.path) not in (None, entry.stamp):
                    entry.is_loading = True
                    self._loader.submit(self._reload, name, entry)
            return entry.served

    def _submit(self, name):
        """Return the future of a model that the loader's thread loads."""
        try:
            return self._loader.submit(self._load, name or self.default)
        except RuntimeError:
            raise _ending() from None

    def _load(self, name):
        """Return a model, loaded unless it is. In the loader's thread."""
        with self._lock:
            if name in self._loaded:
                return self._loaded[name].served
        path = self.paths().get(name)
        if path is None:
            names = list(self.paths())
            raise UnknownModel(f"There is no model {on_one_line(name[:100])}{meant(name[:100], names)} "
                               f"This server has {listed(names)}.")
        self._wait_for_room()
        try:
            served, stamp = self._read(name, path)
        except (FolioError, OSError) as error:
            log.error("The model %s cannot be loaded: %s", on_one_line(name), on_one_line(str(error)))
            raise ModelUnavailable(f"The weights of the model {on_one_line(name)} cannot be read; "
                                   "the server's log says why.") from None
        with self._lock:
            self._loaded[name] = _Entry(served, stamp, time.monotonic())
            while len(self._loaded) > self.limit:
                self._retire(self._loaded.popitem(last=False)[1].served)
        return served

    def _reload(self, name, entry):
        """Replace a model by what its file holds now. Where that is no model, say so and keep the old one."""
        stamp = _stamp(entry.served.path)
        try:
            self._wait_for_room()
            served, stamp = self._read(name, entry.served.path)
        except Exception as error:      # whatever it is, the old weights still serve
            log.error("The new weights of %s cannot be loaded, and the old ones are kept: %s", on_one_line(name),
                      on_one_line(str(error)))
            with self._lock:
                entry.stamp, entry.is_loading = stamp or entry.stamp, False
            return
        with self._lock:
            if self._loaded.get(name) is entry:
                self._loaded[name] = _Entry(served, stamp, time.monotonic())
                log.info("%s has new weights, of step %s", on_one_line(name), f"{served.model.step:,}")
                self._retire(entry.served)
            else:                       # it had to make room in the meantime
                self._retire(served)

    def _wait_for_room(self):
        """Wait while as many replaced models as may be in memory still end their requests."""
        while not self._closing.is_set():
            with self._lock:
                if len(self._retired) < max(1, self.limit):
                    return
            time.sleep(POLLED)

    def _read(self, name, path):
        """Return the model in a file as a Served, and the file's stamp."""
        from folio.formats.checkpoint import load_metadata
        from folio.generation.engine import Engine
        from folio.generation.language_model import load
        while True:
            stamp = _stamp(path)
            try:
                model, checksum = load(path, self.device), str(load_metadata(path).get("checksum"))
            except Exception as error:
                if is_out_of_memory(error):
                    raise FolioError(f"there is not enough memory for {path}") from None
                raise
            if stamp is not None and stamp == _stamp(path):     # else it was replaced in between
                break
        where = "" if self.device == "cpu" else f"-{self.device}"
        fingerprint = f"folio-{checksum[:8]}-{folio.__version__}{where}"
        engine = Engine(model, rows=self.rows, queue=self.queue)
        _warm_up(engine, model)
        return Served(name, model, self.wrap(engine, name), fingerprint, stamp[0] // 10 ** 9, path), stamp

    def served_mixture(self, parts: list[Served], model: Any) -> Served:
        """Return a mixture of models that are loaded, with an engine of its own."""
        from folio.generation.engine import Engine
        engine = Engine(model, rows=self.rows, queue=self.queue)
        return Served(model.name, model, self.wrap(engine, model.name), "+".join(part.fingerprint for part in parts),
                      max(part.created for part in parts), parts[0].path)

    def retire(self, served: Served) -> None:
        """Have an engine closed when its last request has ended."""
        with self._lock:
            self._retire(served)

    def _retire(self, served):
        """Have an engine closed when its last request has ended. The lock is held."""
        def end():
            unused_since = time.monotonic()
            while time.monotonic() - unused_since < UNUSED and not self._closing.is_set():
                time.sleep(POLLED)
                stats = served.engine.stats
                if stats.running or stats.waiting:
                    unused_since = time.monotonic()
            # An answer may have begun since: it ends first.
            served.engine.close(0 if self._closing.is_set() else LONGEST_ANSWER)
            with self._lock:
                self._retired.pop(thread, None)
        thread = threading.Thread(target=end, name="folio-retire", daemon=True)
        self._retired[thread] = served.engine
        thread.start()

    # --- The list ---

    def _object(self, name, path):
        """Return the object of a model that GET /v1/models lists, or None where its file cannot be read."""
        from folio.formats.checkpoint import load_metadata
        stamp = _stamp(path)
        if stamp is None:
            return None
        if self._objects.get(path, ((), None))[0] != stamp:
            known = None
            with contextlib.suppress(FolioError, OSError, KeyError, TypeError, ValueError):
                contents = load_metadata(path)
                parent = (contents.get("started_from") or {}).get("name")
                known = {"id": name, "object": "model", "created": stamp[0] // 10 ** 9, "owned_by": "folio",
                         "max_model_len": int(contents["params"]["block_size"]), "root": name, "parent": parent,
                         "chat": bool(contents.get("chat"))}
            self._objects[path] = stamp, known
        return self._objects[path][1]


def _warm_up(engine, model):
    """Have an engine write a token, so that what it prepares once (200 ms) is there before a client waits for it."""
    from folio.generation.engine import Request
    from Model_Params import GenerationParams
    text = model.tokenizer.decode_bytes(model.opening).decode("utf-8", errors="replace")
    done = threading.Event()
    engine.submit(Request(prompts=[text], settings=GenerationParams(tokens=1),
                          deliver=lambda events: done.set() if events[-1].finish else None))
    done.wait(WARM_SECONDS)


def _ending():
    return ModelUnavailable("The server is ending and loads no more models.")


def _stamp(path):
    """Return numbers that differ where a file was written anew: time in ns, bytes, inode; None where there is none."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size, status.st_ino
    return None
