"""Direct preference optimization (DPO; Rafailov et al., 2023): make chosen answers likelier than rejected ones.

The loss of a pair is

    -log sigmoid(beta * (log p(chosen) - log p(rejected) - (log r(chosen) - log r(rejected))))

p: the probability of an answer's tokens after its prompt, by the network; r: by the reference, the network as it was
before the first step. What the reference says never changes. So it is computed once, before training, and there is no
second network in memory. A resume file has it.

The loss says nothing of any other text, and what it does to that is mostly bad: from 600 pairs the shipped model
learned to end 96 % of sentences in "?", and predicted its plays 12 % worse. So each pair comes with a stretch of the
text that the project trains on, whose loss is added (as PPO-ptx does; Ouyang et al., 2022).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tokenizer as tokenizers
from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.spelling import counted
from folio.chat.template import ChatTemplate, ends_of_text
from folio.data.batches import IGNORED, Batch
from folio.data.preferences import PairCorpus, batch_of, pair_corpus, pairs_of_step
from folio.evaluation.bits_per_byte import Score, evaluate, window_len
from folio.formats import checkpoint
from folio.generation.decoder import generate
from folio.training.lessons import Lessons
from folio.training.report import EVALUATION_SHARE, SAMPLE_TEMPERATURE, Evaluator
from folio.training.step import LAST_GOOD
from Model_Params import Params

STRETCH = 64                # tokens of ordinary text for each pair: half the work of a step where answers are short
FEWEST_STEPS = 10           # from one validation to the next: a run of an epoch or two has a hundred


@dataclass(frozen=True)
class PairBatch(Batch):
    """Pairs of answers, the chosen one first: inputs and targets are (pairs, 2, time)."""
    reference: Any          # (pairs,) float32: how much likelier the chosen answer was to the reference, in nats
    text: Any               # (pairs, tokens + 1) int64: a stretch of ordinary text for each pair; or (pairs, 0)


def log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each row's counted targets, summed, in nats.

    logits: (batch, time, vocabulary), targets: (batch, time) -> (batch,) float32
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view_as(targets).sum(-1)


def margins(forward, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how much likelier each chosen answer is than the rejected one, in nats.

    inputs, targets: (pairs, 2, time) -> (pairs,) float32
    """
    answers = targets.flatten(0, 1)                                                     # (2 pairs, time)
    chosen, rejected = log_probabilities(forward(inputs.flatten(0, 1)), answers).view(-1, 2).unbind(-1)
    return chosen - rejected


def dpo_losses(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the loss of each pair, in nats. policy, reference: margins, (pairs,) -> (pairs,)"""
    return -F.logsigmoid(beta * (policy - reference))


# --- What is learned from ---

def open_pairs(home: Home, paths: list[str], params: Params, start, say: Callable[[str], None] = print
               ) -> tuple[Any, PairCorpus]:
    """Return the tokenizer of a LanguageModel to start from, and the pairs in files; none: the choices that are kept.

    params: of the run. Raises FolioError or OSError where there are no pairs.
    """
    if not paths and not home.preferences.exists():
        raise FileNotFoundError(f"No choice has been kept in {home.preferences} yet: choose among several answers in "
                                f"{command('run.py', '--samples', 2)} by /keep, or name a file after --preferences.")
    return start.tokenizer, pair_corpus(home, paths or [home.preferences], start.tokenizer, start.chat, start.opening,
                                        params.model.block_size, params.text, say)


def reopen_pairs(home: Home, contents: dict[str, Any], params: Params, say: Callable[[str], None] = print
                 ) -> tuple[Any, PairCorpus]:
    """Return the tokenizer and the pairs of a run, from the contents of its resume file and its Params."""
    stored = contents["lessons"]
    tokenizer = tokenizers.from_dict(stored["tokenizer"])
    chat = stored["chat"] and ChatTemplate.from_dict(stored["chat"], tokenizer)
    return tokenizer, pair_corpus(home, list(stored["sources"]), tokenizer, chat, list(stored["opening"]),
                                  params.model.block_size, params.text, say)


# --- How it is learned ---

class PreferenceLessons(Lessons):
    """Learn from pairs of answers. `corpus` is a PairCorpus."""

    learns = "preferences"
    unit = "pair"
    remedy = "more pairs"
    held_out = "pairs held out"
    material = "pairs"

    def __init__(self, tokenizer, corpus):
        super().__init__(tokenizer, corpus)
        self.chat = corpus.chat
        self._reference = None      # {side: margins of its pairs by the reference; "text_bpb": what it measured}

    @property
    def opening(self):
        """The tokens that stand before a text that begins from nothing: the initial model's."""
        return self.corpus.opening

    def begin(self, evaluator):
        """Compute what the reference says of all pairs: the network as it is before the first step."""
        self._reference = {side: evaluator.margins(pairs, 0) for side, pairs in self.corpus.sides.items()}
        self._reference["text_bpb"] = torch.tensor(evaluator.text_score(0).bits_per_byte)

    def in_resume_file(self):
        """Return what the pairs are read again with, and what the reference said of them: it is gone by then."""
        corpus = self.corpus
        return {"sources": list(corpus.sources), "tokenizer": self.tokenizer.to_dict(), "opening": corpus.opening,
                "chat": self.chat and self.chat.to_dict(), "reference": self._reference}

    def restore(self, contents):
        """Continue with what `in_resume_file` returned."""
        self._reference = contents["reference"]

    def steps_per_epoch(self, params):
        """Return the steps, a float, that take every pair once."""
        return len(self.corpus.train) / params.training.batch_size

    def batch(self, step, schedule):
        """Return the PairBatch of a step."""
        training = self.params.training
        chosen = pairs_of_step(len(self.corpus.train), step, training.batch_size, training.seed)
        batch = batch_of([self.corpus.train[number] for number in chosen])
        return PairBatch(batch.inputs, batch.targets, self._reference["train"].numpy()[chosen], self._stretches(step))

    def _stretches(self, step):
        """Return a random stretch of ordinary text for each pair of a step."""
        training, text = self.params.training, self.corpus.ordinary_text
        if text is None or not self.params.tuning.preference_text:
            return np.zeros((training.batch_size, 0), np.int64)
        length = min(STRETCH, self.params.model.block_size, len(text) - 1)
        starts = np.random.default_rng((training.seed, step)).integers(len(text) - length, size=training.batch_size)
        return text[starts[:, None] + np.arange(length + 1)]

    def count(self, batch):
        """Return the number of pairs. They count no bytes: the loss is not one of predicted text."""
        return len(batch), 0

    def loss(self, forward, inputs, targets, reference, text):
        """Return the summed loss of pairs, in nats, with the mean loss per token of the text of each.

        inputs, targets: (pairs, 2, time); reference: (pairs,); text: (pairs, tokens + 1), or (pairs, 0)
        """
        loss = self._losses(margins(forward, inputs, targets), reference).sum()
        if text.shape[1]:
            nats = -log_probabilities(forward(text[:, :-1]), text[:, 1:]).sum() / (text.shape[1] - 1)
            loss = loss + self.params.tuning.preference_text * nats
        return loss

    def score(self, policy, text):
        """Return the PairScore of the held-out pairs. policy: margins, (pairs,); text: Score"""
        reference, pairs = self._reference["val"], len(policy)
        nats = self._losses(policy, reference).double().sum().item()
        return PairScore(nats, pairs, pairs, (policy > reference).sum().item(), text)

    def _losses(self, policy, reference):
        return dpo_losses(policy, reference, self.params.tuning.preference_beta)

    def evaluator(self, training, precision, micro_batches):
        """Return the Evaluator of a run."""
        return PairEvaluator(training, precision, micro_batches, self)

    @property
    def described(self):
        """What is learned from and what is held out."""
        return (f"{counted(len(self.corpus.train), 'pair')} of answers to learn from, {len(self.corpus.val):,} held "
                "out; tokens")

    def start_in_words(self, score):
        """Return what was measured before the first step."""
        return f"{score.text.bits_per_byte:.4f} bits/byte on {self._measured_text}"

    def quality(self, run):
        """Return how well the best weights predict ordinary text, compared with the initial ones."""
        before = self._reference["text_bpb"].item()
        after = checkpoint.load_metadata(run.home.weights(run.name))["val_bpb"]
        return (f"{before:.4f} bits/byte before and {after:.4f} after ({after / before - 1:+.1%}) on "
                f"{self._measured_text}")

    @property
    def _measured_text(self):
        return "the held-out chosen answers" if self.corpus.held_out_text is None else "the text held out"


@dataclass(frozen=True)
class PairScore(Score):
    """Summed loss of held-out pairs in nats. `tokens` and `bytes`, by which it is divided, are the pairs."""
    ordered: int            # pairs whose chosen answer has become likelier, compared with the rejected one
    text: Score             # of the held-out text of the project; where there is none, of the chosen answers

    @property
    def bits_per_byte(self):
        return self.text.bits_per_byte

    @property
    def ordered_share(self):
        """The share of pairs that the network orders right, compared with the reference."""
        return self.ordered / self.tokens

    def in_words(self, unit):
        """Return the figures for a line of the terminal."""
        return (f"val {self.nats_per_byte:.3f} nats/{unit}, {self.ordered_share:.0%} ordered right, text "
                f"{self.bits_per_byte:.3f} bits/byte")

    def in_report(self):
        """Return the fields of a report in the log."""
        return {"val_nats_per_pair": self.nats_per_byte, "val_ordered": self.ordered_share,
                "val_bpb": self.bits_per_byte}


class PairEvaluator(Evaluator):
    """Measure a network on held-out pairs and, where the project has one, on its held-out text."""

    def __init__(self, training, precision, micro_batches, lessons):
        super().__init__(training, precision, micro_batches, lessons.corpus, lessons.tokenizer, lessons.opening)
        self.lessons = lessons
        every = math.ceil(self.expected_steps / EVALUATION_SHARE)
        self.interval = training.eval_interval or max(FEWEST_STEPS, every)

    def validate(self, step):
        """Return the PairScore; every process computes all of it. Raises FolioError where it is not finite."""
        score = self.lessons.score(self.margins(self.corpus.val, step), self.text_score(step))
        if not math.isfinite(score.nats):
            raise FolioError(f"After step {step} the loss on the held-out pairs is {score.nats}. {LAST_GOOD}")
        return score

    def measure_training_text(self, step):
        """Return None: the loss of the steps says how well the pairs to learn from are known."""

    def seconds_of_validation(self, step, clock):
        """Return how long `validate` takes."""
        started_at = clock()
        self.validate(step)
        return clock() - started_at

    def margins(self, pairs, step):
        """Return how much likelier the network finds the chosen answers: (pairs,) float32 on the CPU, in nats."""
        return self.micro_batches.fit(
            lambda: torch.cat([margins(self._logits, *tensors) for tensors in self._batches(pairs)]).cpu(), step)

    def text_score(self, step):
        """Return the Score on the held-out text of the project; where there is none, on the chosen answers."""
        if (text := self.corpus.held_out_text) is not None:
            return self._measured(evaluate, *text, block_size=window_len(self.precision.working_net), step=step)
        return self.micro_batches.fit(self._score_of_chosen, step)

    def _score_of_chosen(self):
        """Return the Score on the chosen answers held out."""
        nats, tokens, text_bytes = 0.0, 0, 0
        for inputs, targets in self._batches(self.corpus.val):
            chosen = targets[:, 0]
            nats -= log_probabilities(self._logits(inputs[:, 0]), chosen).double().sum().item()
            counted_targets = chosen[chosen != IGNORED].cpu().numpy()
            tokens, text_bytes = tokens + len(counted_targets), text_bytes + self.token_bytes[counted_targets].sum()
        return Score(nats, tokens, int(text_bytes))

    def sample(self):
        """Return a held-out prompt and what the network answers."""
        ids, answers = (array[0, 0] for array in next(self._batches(self.corpus.val[:1])))
        first = (answers != IGNORED).nonzero()[0].item()
        prompt = ids[:first + 1].tolist()
        net, chat = self.precision.net, self.lessons.chat
        net.eval()
        tokens = list(generate(net, prompt, tokens=self.training.sample_tokens, temperature=SAMPLE_TEMPERATURE,
                               sampling_seed=self.training.seed,
                               ends=ends_of_text(self.tokenizer) if chat is None else chat.ends))
        net.train()
        return self.tokenizer.decode(prompt + tokens).strip()

    def _batches(self, pairs):
        """Yield (inputs, targets) of some pairs at a time, as tensors: (pairs, 2, time) each."""
        for first in range(0, len(pairs), self.rows):
            batch = batch_of(pairs[first:first + self.rows])
            yield tuple(torch.from_numpy(array).to(self.training.device) for array in (batch.inputs, batch.targets))

    @property
    def rows(self):
        """How many pairs are computed at once."""
        return max(1, self.micro_batches.rows(2 * self.precision.net.params.block_size))

    @torch.inference_mode()
    def _logits(self, inputs):
        net = self.precision.working_net
        net.eval()
        logits = net(inputs)
        net.train()
        return logits
