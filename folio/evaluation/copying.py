"""How much of what a model writes is in its training text, compared with text of the same kind that is not."""

from dataclasses import asdict, dataclass

from tqdm import tqdm

from folio.evaluation.passages import without_cut_characters
from folio.evaluation.suffixes import longest_matches

SEARCHED_BYTES = 64_000_000         # of the training text at most: one to two minutes


@dataclass(frozen=True)
class MatchLengths:
    """Lengths of the longest matches in the training text that start at each byte of a text."""
    bytes: int
    mean: float
    longest: int
    stretch: str                # the longest match


@dataclass(frozen=True)
class Copying:
    """Matches of generated text beside those of held-out text, which shares phrases with the training text too."""
    written: MatchLengths
    held_out: MatchLengths
    searched_bytes: int         # of the training text
    train_bytes: int


def sample_texts(model, samples, settings):
    """Generate texts from an empty prompt: a list of `samples` bytes objects.

    model: LanguageModel; settings: GenerationParams.
    """
    texts = [""] * samples
    with tqdm(desc="Writing", unit=" characters", leave=False, disable=None, delay=1) as bar:
        for sample, text in model.stream_each([""] * samples, **asdict(settings)):
            texts[sample] += text
            bar.update(len(text))
    return [text.encode("utf-8") for text in texts]


def measure_copying(written, held_out, training_text):
    """Search generated and held-out text in the training text. -> Copying, or None if nothing was generated

    written: a list of bytes; held_out: bytes, of which as many are searched for as were generated;
    training_text: folio.data.corpus.ReadText, or what has its `train_bytes` and `training_text()`.
    """
    passages = [text for text in written if text]
    if not passages:
        return None
    baseline = spread(held_out, list(map(len, passages)))
    train_bytes, searched = training_text.train_bytes, 0

    def chunks():
        """Yield the first SEARCHED_BYTES of the training text."""
        nonlocal searched
        with tqdm(total=min(train_bytes, SEARCHED_BYTES), desc="Looking for copies", unit="B", unit_scale=True,
                  leave=False, disable=None, delay=1) as bar:
            for content in training_text.training_text():
                content = content[:SEARCHED_BYTES - searched]
                yield content
                searched += len(content)
                bar.update(len(content))
                if searched == SEARCHED_BYTES:
                    break

    matches = longest_matches(chunks(), passages + baseline)
    return Copying(_match_lengths(passages, matches), _match_lengths(baseline, matches[len(passages):]),
                   searched, train_bytes)


def spread(content, lengths):
    """Return parts of `content` of these lengths, from its first byte to its last with equal gaps.

    If it has fewer bytes than the sum of the lengths, it is returned as one part.
    >>> spread(b"abcdefghijk", [2, 3, 1])
    [b'ab', b'efg', b'k']
    """
    spare = len(content) - sum(lengths)
    if spare < 0:
        return [content]
    gaps = max(1, len(lengths) - 1)
    starts = [sum(lengths[:number]) + spare * number // gaps for number in range(len(lengths))]
    return [content[start:start + length] for start, length in zip(starts, lengths)]


def _match_lengths(passages, matches):
    """passages: a list of bytes; matches: for each of them an array (bytes,) of lengths. -> MatchLengths"""
    found = [(length, passage[start:start + length]) for passage, lengths in zip(passages, matches)
             for start, length in enumerate(lengths.tolist())]
    longest, stretch = max(found, key=lambda match: match[0])
    mean = sum(length for length, _ in found) / len(found)
    return MatchLengths(len(found), mean, longest, without_cut_characters(stretch))
