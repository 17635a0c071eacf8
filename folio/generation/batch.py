"""Answers that are written together: prompts are read in parts, one at a time, and their answers join at any step.

A prompt is read once for all its answers. What an answer says depends on its prompt, settings, seed and number alone:
prompts are never read together, the parts of one begin at places of its own, and up to APART_ROWS rows of single tokens
are computed apart (NumpyTransformer). With more rows, and where torch computes them, the exception is a random number,
or the likeliest of two tokens, that falls within the rounding of the network's output. An answer whose window restarts
leaves the rows, is read like a prompt, and joins again.
"""

import time
from collections import deque

from folio.generation.answers import choose, choose_healed
from folio.generation.decoder import decoder_of
from folio.generation.sampling import as_array
from folio.generation.scoring import scored
from folio.generation.voices import Voices

# Seconds for which no stream may stall are 0.05; less, since paces vary.
STALL_SECONDS = 0.03
# Multiplications of one part of a prompt: 13 ms at the 20 billion per second of one slow core. The parts depend on the
# network alone, never on the pace: other parts round otherwise.
PART_PRODUCTS = 1 << 28
SHORTEST_PART, LONGEST_PART = 8, 256        # tokens
# Rows up to which each is computed apart. Share of the pace that is left (benchmarks/engine.py): 0.87 to 0.92 with 1
# row, 1.00 to 1.08 with 4, 0.87 to 0.93 with 8, 0.78 with 16, 0.74 to 0.80 with 32. With products of all rows 0 of 200
# texts differed in company, too, but that is no promise.
APART_ROWS = 8
# On other devices parts cost calls, not products.
DEVICE_PART = 2048


def part_length(net):
    """Return the number of tokens of a prompt that are read at a time: a power of two. Of a mixture: by one model."""
    if isinstance(net, Voices):
        return min(map(part_length, net.nets))
    parameters = list(net.parameters())
    if parameters[0].device.type != "cpu":
        return DEVICE_PART
    fitting = PART_PRODUCTS // sum(parameter.numel() for parameter in parameters)
    return min(LONGEST_PART, max(SHORTEST_PART, 1 << max(0, fitting.bit_length() - 1)))


class Reading:
    """A prompt, or tokens that follow what a Decoder of one sequence has read, and the answers that wait for them."""

    def __init__(self, decoder, ids, answers, part_len, repeated=None):
        """repeated: (ids, text or None, number of likeliest tokens or None) of a prompt that its answers repeat"""
        self.decoder, self.answers = decoder, answers
        self.is_done, self.error = False, None
        self._scores = None
        self._repeated = repeated
        self._ids = ids
        self._part_len = part_len
        self._work = self._parts()

    def _parts(self):
        if self._repeated is not None and self._repeated[2] is not None:
            self._scores = yield from scored(self.decoder.net, self._repeated[0], self._repeated[2], self._part_len)
        if any(answer.sequence.settings.tokens for answer in self.answers):
            yield from self.decoder.read_in_parts(self._ids, self._part_len)

    def read_part(self):
        """Read one part; an error ends it too. -> whether that was all"""
        try:
            self.is_done = next(self._work, self) is self
        except Exception as error:          # its answers alone fail
            self.is_done, self.error = True, error
        return self.is_done

    def begin(self, answers):
        """Choose the next token of these answers, when all is read. Raises the error that reading met."""
        if self.error is not None:
            raise self.error
        if self._repeated is not None:
            for answer in answers:
                answer.repeat(*self._repeated[:2], self._scores)
        for answer in answers:
            if not answer.sequence.settings.tokens:
                answer.stop("length")
        answers = [answer for answer in answers if answer.finish is None]
        if not answers:
            return
        if answers[0].sequence.healing is not None and not answers[0].count:
            choose_healed(answers, self.decoder)
        else:
            logits = as_array(self.decoder.logits)
            choose(answers, logits.repeat(len(answers), 0), self.decoder.tokens * len(answers),
                   lambda place, token: self.decoder.voice(0, [token]))


class Batch:
    """The answers with one precision that are read and written."""

    def __init__(self, net, precision, apart_rows=APART_ROWS):
        """apart_rows: rows up to which each is computed apart, so that it says the same in any company

        Raises FolioError for a precision that the network does not have.
        """
        self.net, self.apart_rows = net, apart_rows
        self.part_len = part_length(net)
        self.readings = deque()                 # read in turns, a part at a time
        self.answers = []                       # the rows
        self._empty = decoder_of(net, (), precision, apart=True)
        self._decoder = self._empty.without_sequences()

    @property
    def rows(self):
        """The number of answers that have a row, or will have one when their Reading is done; for any thread."""
        return len(self.answers) + sum(len(reading.answers) for reading in list(self.readings))

    def reading(self, ids, answers, repeated=None, mix=None):
        """Return the Reading of a new prompt; it is read once it is in `readings`. mix: of a mixture, for this one"""
        decoder = self._empty.without_sequences()
        if mix is not None:
            decoder.net = decoder.net.with_mix(mix)
        return Reading(decoder, ids, answers, self.part_len, repeated)

    def _reading_again(self, answer, decoder, row):
        """Return the Reading of an answer whose window restarts, and of which a decoder has this row."""
        return Reading(decoder.without_sequences(row), [*decoder.tokens[row], *answer.pending], [answer], self.part_len)

    def begin(self, reading, answers):
        """Let answers of a Reading that is done join the rows, with their first token."""
        reading.begin(answers)
        for answer in answers:
            if answer.finish is None:
                self._join(answer, reading.decoder)

    def _join(self, answer, decoder):
        """Give an answer a row, or a Reading where there is more to read before."""
        if decoder.will_restart(0):
            self.readings.append(self._reading_again(answer, decoder, 0))
        elif len(answer.pending) > 1:
            self.readings.append(Reading(decoder.branch([0]), answer.pending, [answer], self.part_len))
        else:
            self._decoder.join(decoder)
            self.answers.append(answer)

    def read_parts(self, seconds):
        """Read prompts, part by part, as long as another part fits into these seconds; one part at least.

        -> the Readings that are done
        """
        done, slowest, until = [], 0.0, time.perf_counter() + seconds
        while self.readings:
            begun, reading = time.perf_counter(), self.readings.popleft()
            (done if reading.read_part() else self.readings).append(reading)
            now = time.perf_counter()
            slowest = max(slowest, now - begun)
            if now + slowest > until:
                break
        return done

    def write(self):
        """Write one token of each row. -> the answers that did"""
        answers = list(self.answers)
        if answers:
            self._decoder.apart = len(answers) <= self.apart_rows
            self._decoder.read([answer.pending for answer in answers])
            choose(answers, as_array(self._decoder.logits), self._decoder.tokens,
                   lambda place, token: self._decoder.voice(place, [token]))
        return answers

    def let_go(self):
        """Free the rows of answers that have ended, and of those whose window restarts: these are read again."""
        self.readings = deque(reading for reading in self.readings
                              if any(answer.finish is None for answer in reading.answers))
        count = len(self.answers)
        order = list(range(count))
        for place in reversed(range(count)):
            answer, restarts = self.answers[place], self._decoder.will_restart(place)
            if answer.finish is None and restarts:
                self.readings.append(self._reading_again(answer, self._decoder, place))
            if answer.finish is not None or restarts:
                order[place] = order[-1]
                order.pop()
        if len(order) < count:
            self._decoder.select(order)
            self.answers = [self.answers[place] for place in order]

    def clear(self):
        """Forget all answers. -> them"""
        answers = [*self.answers, *(answer for reading in self.readings for answer in reading.answers)]
        self.answers, self.readings = [], deque()
        self._decoder = self._empty.without_sequences()
        return answers
