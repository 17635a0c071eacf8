"""Random texts, documents, settings and command lines: what comes of them is right by a plain way too, or a message."""

import gzip
import io
import json
import os
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from itertools import chain, pairwise

import pytest
import regex

import init
import run
import train
from campaigns import processes, projects
from campaigns.engine import Campaign, Fall, answer_or_refusal
from folio.base.errors import is_out_of_memory
from folio.base.fields import takes_several, value_type
from folio.data import sources
from folio.generation import language_model
from folio.kernels.splitting import SPLIT_PATTERNS
from folio.readers import source
from folio.training.loop import Run
from Model_Params import GenerationParams, ModelParams, TextParams, TrainingParams
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, StreamingDecoder, from_dict


class _Fuzz(Campaign):
    seconds = 30

    def __init__(self, home):
        self.source = home
        self.case = ""

    def describe(self):
        return self.case[:400]


# --- Tokenizers ---

class Tokenizers(_Fuzz):
    """Learned from a random text, compared with the rules as they are written down, and there and back."""

    name = "fuzz tokenizers"

    def attempt(self, number, draw):
        learned_from, text = random_text(draw, 400), random_text(draw, draw.choice([0, 5, 60, 600, 12_000]))
        if draw.random() < 0.2:
            tokenizer = CharTokenizer.train([learned_from + text], draw.choice([(), (END_OF_TEXT,)]))
            self.case = f"char, {text!r}"
        else:
            pattern = draw.choice(list(SPLIT_PATTERNS))
            tokenizer = BPETokenizer.train([learned_from], draw.randint(257, 320), pattern)
            self.case = f"{pattern}, learned from {learned_from!r}, {text!r}"
            _same("merges", tokenizer.merges, plain_merges(learned_from, pattern, len(tokenizer.merges)))
            content = draw.randbytes(draw.choice([1, 10, 300])) + text.encode()[:draw.randint(0, 50)]
            _same("bytes there and back", tokenizer.decode_bytes(tokenizer.encode_bytes(content)), content)
            if len(text) < 1000:
                _same("ids", tokenizer.encode(text), plain_encode(text, tokenizer))
        ids = tokenizer.encode(text)
        _same("text there and back", tokenizer.decode(ids), text)
        _same("allow_special there and back", tokenizer.decode(tokenizer.encode(text, allow_special=True)), text)
        together, ends = tokenizer.encode_many([text, learned_from if tokenizer.kind == "bpe" else "", "", text])
        _same("many together", together[:len(ids)].tolist() + together[ends[-2]:].tolist(), ids + ids)
        decoder = StreamingDecoder(tokenizer)
        _same("as a stream", "".join(map(decoder.add, ids)) + decoder.end(), text)
        _same("made again from its values", from_dict(json.loads(json.dumps(tokenizer.to_dict()))).encode(text), ids)
        _, refusal = answer_or_refusal(lambda: tokenizer.encode(text + "\ud800"))
        if refusal is None:
            raise Fall("Half a surrogate pair is encoded")


def plain_merges(text, pattern, number):
    """The merges of a text by the rules alone: the most frequent pair, ties to the smallest ids, none seen once."""
    found = Counter(regex.findall(SPLIT_PATTERNS[pattern], text))
    pieces = [(list(piece.encode()), count) for piece, count in found.items()]
    merges = []
    while len(merges) < number:
        counts = Counter()
        for ids, count in pieces:
            for pair in pairwise(ids):
                counts[pair] += count
        pair = min(counts, key=lambda each: (-counts[each], each), default=None)
        if pair is None or counts[pair] < 2:
            break
        pieces = [(_merged(ids, pair, 256 + len(merges)), count) for ids, count in pieces]
        merges.append(pair)
    return merges


def plain_encode(text, tokenizer):
    """Each piece merged by one merge after the other, in the order learned."""
    result = []
    for piece in regex.findall(SPLIT_PATTERNS[tokenizer.pattern], text):
        ids = list(piece.encode())
        for number, pair in enumerate(tokenizer.merges):
            ids = _merged(ids, pair, 256 + number)
        result += ids
    return result


def _merged(ids, pair, new_id):
    result, place = [], 0
    while place < len(ids):
        is_pair = tuple(ids[place:place + 2]) == pair
        result.append(new_id if is_pair else ids[place])
        place += 1 + is_pair
    return result


# --- Documents ---

class DocumentFiles(_Fuzz):
    """Known documents, written in some format with line ends, marks and bytes as programs leave them, and read."""

    name = "fuzz documents"

    def set_up(self, folder):
        self.folder = folder
        self.block_bytes = source.BLOCK_BYTES
        try:
            import pyarrow  # noqa: F401  (only whether it is there)
            self.formats = ["plain", "jsonl", "parquet"]
        except ImportError:
            self.formats = ["plain", "jsonl"]

    def attempt(self, number, draw):
        kind, how = draw.choice(self.formats), draw.choice(["refuse", "keep", "replace"])
        texts = [random_text(draw, draw.choice([1, 20, 400])) for _ in range(draw.randint(1, 5))]
        documents = [regex.sub(rf"\r|\ufeff|{regex.escape(END_OF_TEXT)}", "", text) or "x" for text in texts]
        if kind == "plain":
            documents = [document + "\n" for document in documents[:-1]] + documents[-1:]
        line_end = draw.choice([b"\n", b"\n", b"\r\n"])
        with_mark, with_dirt = draw.random() < 0.3, draw.random() < 0.3
        dirty = [document.encode() for document in documents]
        if with_dirt:
            dirty = [self._dirty(content, draw) if draw.random() < 0.7 else content for content in dirty]
        expected = [content.decode("utf-8", "surrogateescape" if how == "keep" else "replace") for content in dirty]
        if how == "replace":
            expected = [text.replace("\0", "\ufffd") for text in expected]
        is_refused = how == "refuse" and any(b"\0" in content or not _is_utf8(content) for content in dirty)
        dirty = [content.replace(b"\n", line_end) for content in dirty]
        path = self._write(dirty, kind, b"\xef\xbb\xbf" if with_mark else b"", line_end, draw)
        self.case = f"{path.name}, {how}, {line_end}, mark {with_mark}, {dirty!r}"
        source.BLOCK_BYTES = draw.choice([3, 4, 7, 50, self.block_bytes])     # 3: a mark is not cut
        read, refusal = answer_or_refusal(lambda: _together(sources.Documents([path], TextParams(invalid_bytes=how))))
        if is_refused != (refusal is not None):
            raise Fall("What is no text was not refused" if is_refused else f"Text was refused: {refusal}")
        if not is_refused:
            _same(f"documents ({kind})", read, expected)

    def _dirty(self, content, draw):
        place = draw.randrange(len(content))            # not behind the end of a line, where a separator follows
        while content[place] & 0xC0 == 0x80:
            place -= 1
        return content[:place] + draw.choice([b"\xff", b"\x80", b"\xe4\xf6", b"\0", b"\xed\xa0\x80"]) + content[place:]

    def _write(self, contents, kind, mark, line_end, draw):
        pack = draw.random() < 0.3 and kind != "parquet"
        path = self.folder / ({"plain": "text.txt"}.get(kind, f"text.{kind}") + ".gz" * pack)
        if kind == "parquet":
            import pyarrow
            from pyarrow import parquet
            column = pyarrow.array([mark + content for content in contents], pyarrow.binary())
            parquet.write_table(pyarrow.table({"text": column}), path)
            return path
        if kind == "plain":
            written = mark + (END_OF_TEXT.encode() + line_end).join(contents)
        else:
            texts = [content.decode("utf-8", "surrogateescape") for content in contents]
            lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
            written = mark + "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n" * draw.randint(0, 2)
        if pack:
            cut = draw.randint(0, len(written))
            written = gzip.compress(written[:cut]) + gzip.compress(written[cut:])
        path.write_bytes(written)
        return path


def _together(documents):
    """The whole documents, of the chunks that they are read in."""
    result, parts = [], []
    for chunk, ends_document in documents:
        parts.append(chunk)
        if ends_document:
            result.append("".join(parts))
            parts = []
    if parts:
        raise Fall("The last document has no end")
    return result


def _is_utf8(content):
    try:
        content.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


# --- Generation ---

class Generation(_Fuzz):
    """Any settings: a text, the same again with the same seed, or a refusal."""

    name = "fuzz generation"

    def set_up(self, folder):
        self.model = language_model.load(self.source.weights("k"))

    def attempt(self, number, draw):
        prompt = random_text(draw, draw.choice([0, 1, 30, 2000])) + "\ud800" * (draw.random() < 0.03)
        settings = {each.name: _some_value(each, draw) for each in fields(GenerationParams) if draw.random() < 0.25}
        settings = {"tokens": draw.randint(0, 30), "seed": draw.randint(0, 99)} | settings
        if isinstance(settings["tokens"], (int, float)) and settings["tokens"] > 1000:
            settings["tokens"] = draw.randint(0, 30)            # it would be right to make them all
        if isinstance(settings.get("beams"), int) and settings["beams"] > 20:
            settings["beams"] = draw.choice([1, 3, 20, 5000])
        self.case = f"{settings}, {prompt[:100]!r}"
        text, refusal = answer_or_refusal(lambda: self.model.complete(prompt, **settings))
        if refusal is None:
            if not isinstance(text, str):
                raise Fall(f"An answer that is a {type(text).__name__}")
            if settings["seed"] is not None:
                _same("the same again", self.model.complete(prompt, **settings), text)
            for stop in [settings["stop"]] if isinstance(settings.get("stop"), str) else settings.get("stop") or ():
                if stop and stop in text:
                    raise Fall("The answer goes on beyond a text to stop at")


# --- Command lines ---

class CommandLines(_Fuzz):
    """Any flags and values, given to the scripts up to their first step: they work, or end with a message."""

    name = "fuzz command lines"
    seconds = 90

    def set_up(self, folder):
        self.home = projects.copy(self.source, folder / "home")
        self.pristine = projects.Pristine(self.home)
        (folder / "here").mkdir()
        os.chdir(folder / "here")
        (folder / "here" / "settings.json").write_text('{"num_layers": 2, "tokens": 3}')
        Run.train = _stop_here

    def attempt(self, number, draw):
        self.pristine.restore()
        script = draw.choice([init, train, train, run])
        params = {init: [TextParams], train: [TrainingParams, ModelParams, TextParams], run: [GenerationParams]}[script]
        words = list(chain.from_iterable(_some_words(params, draw) for _ in range(draw.randint(0, 5))))
        words += {init: [], train: ["--threads", "1"], run: ["--tokens", "2"]}[script]
        if script is train and draw.random() < 0.7:
            words = [*map(str, projects.TINY), *words]
        words += ["--home", str(self.home.folder)]
        self.case = f"{script.__name__}.py {words}"
        said, told = io.StringIO(), io.StringIO()
        sys.argv = [f"{script.__name__}.py", *words]
        sys.stdin = io.TextIOWrapper(io.BytesIO(b"MERRAN:\n"), encoding="utf-8")
        with redirect_stdout(said), redirect_stderr(told):
            code, message = self._ended(script.main)
        if code == 2 and not message:
            message = told.getvalue()
        if code not in (0, 1, 2, None):
            raise Fall(f"Exit code {code}")
        if code in (1, 2) and not 0 < len(message.strip()) < 6000:
            raise Fall(f"Exit code {code} with a message of {len(message)} characters")
        if code == 2 and any(not (character.isprintable() or character in "\n\t") for character in message):
            raise Fall(f"Commands to the terminal in a message: {message!r}")

    def _ended(self, main):
        """-> exit code and message, as the front door would have them"""
        try:
            result, refusal = answer_or_refusal(main)
            return (1, refusal) if refusal is not None else (result, "")
        except _FirstStep:
            return 0, ""
        except SystemExit as end:
            return end.code, ""
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return 1, "There is not enough memory."


class _FirstStep(Exception):
    """The script would train now."""


def _stop_here(self):
    raise _FirstStep


_WORDS = ["-", "--", "x", "", "MERRAN:", "-h", "--help", "--version", "-x", "--=", "--resume", "--name=../x",
          "--name=k", "--name=x", "--save-config=made.json", "--config", "--config=settings.json",
          "--config=nowhere.json", "--preset=personal", "--preset", "--preset=x", "--start-from=k", "--start-from=x",
          "--weights=k", "--samples=2", "--samples=-1", "--samples=1" + "0" * 30, "--device=cpu", "--device=x",
          processes.MARK, "\udcff", "*.txt", "Ω"]
_WRONG = [None, True, "", "x", "nan", "1e400", "0x10", "１", "None", "True", "1_000", " 5", processes.MARK, "\ud800",
          b"x", [], (1, 2), {}]
_EXTREME = [-1, 0, 1, 3.5, float("nan"), float("inf"), 1e308, -1e308, 1e-308, 2**31, 2**63, 10**30, int("9" * 400)]


def _some_words(params, draw):
    """A flag with a value or without one, right or wrong."""
    if draw.random() < 0.15:
        return [draw.choice(_WORDS)]
    each = draw.choice([each for part in params for each in fields(part)])
    flag = "--" + each.name.replace("_", draw.choice("--_"))
    if draw.random() < 0.1:
        place = draw.randrange(2, len(flag))
        flag = flag[:place] + draw.choice(["", "x", flag[place] * 2]) + flag[place + 1:]
    value = _some_value(each, draw)
    if each.name == "threads" and value not in (0, -1):
        value = 1                   # many threads are many, and no fault
    value = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return draw.choice([[flag, value], [flag, value], [f"{flag}={value}"], [flag]])


def _some_value(each, draw):
    """A value for a dataclass field, more often right than wrong."""
    kind, told = value_type(each), each.metadata
    if draw.random() < 0.2:
        return draw.choice(_WRONG + _EXTREME)
    if kind in (int, float) and draw.random() < 0.2:
        return draw.choice(_EXTREME)
    if takes_several(each):
        return draw.choice([(), ("a",), ("\n", "the"), "e", ["x", "y"]])
    if told["choices"]:
        return draw.choice(told["choices"])
    if kind is bool:
        return draw.choice([True, False])
    if kind is int:
        return draw.choice([1, 2, 3, 8, 64, 300, 1000, draw.randint(0, 10_000)])
    if kind is float:
        return draw.choice([0.0, 0.1, 0.5, 0.9, 1.0, draw.random(), 10 * draw.random()])
    return draw.choice(["text", "auto", "cpu"])


# --- Texts ---

_LETTERS = ["abcde", "etaoin shrdlu ", "ABC", "0123456789", " \n\t", "\r\n", ".,;:!?'\"()-", "'s't're've'm'll'd",
            "äöüßéñ", "中文字符", "עברית", "हिन्दी", "👩‍👩‍👧", "\u0301\u200d\ufe0f",
            "\u00a0\u2003\u3000\u0085\u2028", "\x00\x01\x1b\x7f", "²½Ⅷ٣", "\U0001f600\U000e0001\U0010ffff", "=", "_"]


def random_text(draw, length):
    """About so many characters: words of few letters that come again, runs, and now and then a separator."""
    words = ["".join(draw.choices(letters, k=draw.randint(1, 6))) for letters in draw.choices(_LETTERS, k=8)]
    words.append(END_OF_TEXT)
    parts, so_far = [], 0
    while so_far < length:
        word = draw.choice(words) * draw.choice([1, 1, 1, 1, 2, 9]) + draw.choice(["", "", " ", "\n"])
        parts.append(word)
        so_far += len(word)
    return "".join(parts)


def _same(what, found, expected):
    if isinstance(expected, list) and len(found) == len(expected) and found and isinstance(found[0], str):
        found, expected = next(((one, other) for one, other in zip(found, expected) if one != other), ("", ""))
    if found != expected:
        pairs = enumerate(zip(found, expected))
        place = next((place for place, (one, other) in pairs if one != other), min(len(found), len(expected)))
        there, right = repr(found[place:place + 20]), repr(expected[place:place + 20])
        raise Fall(f"Not the same: {what}") from AssertionError(f"at {place}: {there[:150]} for {right[:150]}")


CAMPAIGNS = {"tokenizers": (Tokenizers, 3500, 40), "documents": (DocumentFiles, 3000, 40),
             "generation": (Generation, 1500, 15), "command lines": (CommandLines, 2000, 15)}


@pytest.mark.parametrize("kind", CAMPAIGNS)
def test_fuzz(kind, trained_home, attack):
    """attack fails with the cases that fell."""
    campaign, full, sample = CAMPAIGNS[kind]
    attack(campaign(trained_home), full, sample)
