"""Keep a choice among several answers: a JSON line for each answer that was not chosen.

    {"prompt": "MERRAN:\n", "chosen": "I will!", "rejected": "I cannot."}
    {"messages": [{"role": "user", "content": "How many?"}], "chosen": "Three.", "rejected": "Many."}

train.py --preferences learns from such a file (folio/data/preferences.py).
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import ordinary
from folio.chat.messages import ASSISTANT, Message

WAITED = 10             # seconds for another process that appends to the same file
LONGEST_PROMPT = 1 << 16        # characters of a text: no context reaches back further than its last ones


def keep_choice(path: str | Path, prompt: str | Sequence[Message], chosen: str, others: Iterable[str]) -> int:
    """Append to a file that `chosen` was preferred to each of the other answers. -> lines written

    prompt: the text, or the conversation, that was answered. Where a conversation ends with the beginning of the
    answer, that becomes part of each answer. An answer that is empty or says the same is no choice: it
    gets no line. The lines are written whole or not at all, and several processes may append at the same time.
    Raises FolioError where the chosen answer is empty or nothing differs from it, OSError where nothing can be written.
    """
    begun = ""
    if not isinstance(prompt, str) and prompt and prompt[-1].role == ASSISTANT:
        *prompt, last = prompt
        begun = last.content
    chosen, others = begun + chosen, [begun + other for other in others]
    if not chosen.strip():
        raise FolioError("An empty answer cannot be kept.")
    different = [other for other in dict.fromkeys(others) if other.strip() not in ("", chosen.strip())]
    if not different:
        raise FolioError("There is no other answer that this one was preferred to: a choice takes two that differ.")
    key = {"prompt": prompt[-LONGEST_PROMPT:]} if isinstance(prompt, str) else {
        "messages": [{"role": message.role, "content": message.content} for message in prompt]}
    records = [key | {"chosen": chosen, "rejected": other} for other in different]
    _append(Path(path), "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return len(records)


class Choices:
    """The choices of a session, kept in a file; tells at the first one where, and what for."""

    def __init__(self, path: str | Path, say: Callable[[str], None]):
        """say: is told once a session, in a sentence"""
        self.path, self._say, self._is_told = Path(path), say, False

    def keep(self, request: dict[str, Any], chosen: str, others: Iterable[str]) -> None:
        """Keep that `chosen` was preferred. request: what was answered, as stream_each takes it

        Raises FolioError and OSError like keep_choice.
        """
        keep_choice(self.path, request.get("messages") or request.get("prompt", ""), chosen, others)
        if not self._is_told:
            self._say(f"Your choices are kept in {self.path}; {command('train.py', '--start-from', 'NAME')} "
                      "--preferences learns from them.")
            self._is_told = True


def _append(path, lines):
    """Append lines to a file, which is as it was before if that fails."""
    content = lines.encode("utf-8", errors="replace")       # half a surrogate pair has no place in UTF-8
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path), open(path, "ab+", buffering=0, opener=ordinary) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":           # a line that was written by hand, or by a process that was killed
                content = b"\n" + content
        try:
            written = 0
            while written < len(content):
                written += file.write(content[written:])
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


@contextmanager
def _alone(path):
    """Hold the lock of a file, for which another process waits."""
    from filelock import FileLock, Timeout  # comes with torch
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=WAITED):
            yield
    except Timeout:
        raise OSError(f"{path} is held by another process; the choice was not kept. Try again.") from None
