"""Learn from conversations: the loss counts what the assistant says and the token that ends its turn."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import tokenizer as tokenizers
from folio.base.defaults import CHAT_STEPS_AT_LEAST
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.spelling import counted
from folio.chat import plain_text
from folio.chat.messages import ASSISTANT, USER, Message
from folio.chat.template import ChatTemplate, taught
from folio.data import corpus
from folio.data.batches import IGNORED
from folio.data.chat_batches import Batches, Dialogues, PlainText
from folio.data.conversations import named_conversations, project_conversations
from folio.evaluation.bits_per_byte import Score
from folio.generation.decoder import generate
from folio.training import distributed
from folio.training.lessons import Lessons
from folio.training.report import (
    EVALUATION_SHARE,
    SAMPLE_TEMPERATURE,
    TRAIN_EVAL_SHARE,
    Evaluator,
    evaluation_steps,
    train_eval_tokens,
)
from folio.training.step import LAST_GOOD
from Model_Params import Params, TextParams

# Where they take a small part of the time. In a run of 28 conversations, whose epochs are of one step, `patience` would
# else be those few steps: it kept weights 9 of whose 100 answers ended.
EVALUATIONS_PER_EPOCH, EVALUATIONS_AT_MOST = 2, 20


# --- What is learned from ---

def open_dialogues(home: Home, paths: list[str], params: Params, tokenizer, opening: list[int],
                   say: Callable[[str], None] = print) -> tuple[Any, Dialogues]:
    """Return the tokenizer of a model to be taught, with what it lacks for that, and the Dialogues in files.

    paths: as the command line has them; none: those in the project's text. params: of the run; tokenizer, opening: the
    model's. Raises FolioError where there is nothing to learn, or the text to mix in has another tokenizer.
    """
    tokenizer = taught(tokenizer)
    conversations = (named_conversations(home, paths, params.text, say) if paths else
                     project_conversations(home, say))
    plain = None
    if params.tuning.mix:
        own, plain = corpus.open_corpus(home, say=say)
        if taught(own).fingerprint != tokenizer.fingerprint:
            raise FolioError(f"mix={params.tuning.mix} reads the project's text, whose tokenizer (in {home.tokenizer}) "
                             "is another than the weights': leave --mix out, or name the home that the weights "
                             "were trained in by --home.")
        if plain.train_tokens <= params.model.block_size:
            raise FolioError(f"mix={params.tuning.mix} needs more than {params.model.block_size} tokens of text, and "
                             f"the project has {plain.train_tokens:,}: leave --mix out.")
    text = replace(params.text, tokenizer=tokenizer.kind, vocab_size=None,
                   pattern=tokenizer.pattern or TextParams.pattern)
    sources = [str(Path(path).resolve()) for path in paths]
    return tokenizer, Dialogues(conversations, ChatTemplate(tokenizer), params.model.block_size, text, sources, opening,
                                plain, say)


def usual_length(dialogues: Dialogues, params: Params) -> dict[str, Any]:
    """Return {field: value} of the length of a run that was given none: params' epochs, or the least steps.

    params: of the run, its context known

    >>> from types import SimpleNamespace
    >>> params = Params(training=replace(Params().training, minutes=None, epochs=3.0, batch_size=4))
    >>> [usual_length(SimpleNamespace(train_tokens=steps * 4 * 256), params) for steps in (10, 160)]
    [{'steps': 80, 'epochs': None}, {'epochs': 3.0}]
    """
    epochs = params.training.epochs
    tokens_per_step = params.training.batch_size * params.model.block_size
    if epochs * dialogues.train_tokens < CHAT_STEPS_AT_LEAST * tokens_per_step:
        return {"steps": CHAT_STEPS_AT_LEAST, "epochs": None}
    return {"epochs": epochs}


def reopen_dialogues(home: Home, contents: dict[str, Any], params: Params, say: Callable[[str], None] = print
                     ) -> tuple[Any, Dialogues]:
    """Return the tokenizer and the Dialogues of a run, from the contents of its resume file and its Params."""
    stored = contents["lessons"]
    return open_dialogues(home, list(stored["sources"]), params, tokenizers.from_dict(stored["tokenizer"]),
                          list(stored["opening"]), say)


# --- How it is learned ---

class ChatLessons(Lessons):
    """Learn from Dialogues."""

    learns = "chat"
    remedy = "more conversations"
    held_out = "answers held out"
    material = "conversations"

    def __init__(self, tokenizer, corpus):
        super().__init__(tokenizer, corpus)
        self.chat = corpus.template

    @cached_property
    def batches(self):
        """The Batches of the run."""
        return self._batches(self.params)

    def batches_of(self, sequences, batch_size):
        """Return the Batches of some Sequences, without text."""
        return Batches(sequences, batch_size=batch_size, block_size=self.params.model.block_size,
                       packing=_packing(self.params), seed=self.params.training.seed)

    def steps_per_epoch(self, params):
        """Return the steps, a float, in which every conversation comes once."""
        return self._batches(params).steps_per_epoch

    def problems(self, params):
        """Yield a sentence for everything in the Params of a new run that these lessons do not do."""
        yield from super().problems(params)
        if _packing(params) and params.model.is_recurrent:
            yield (f"packing=True is for transformers: the family {params.model.family} carries its state from one "
                   "conversation of a row into the next. Leave it out.")

    def _batches(self, params):
        """Return the Batches of a run with these Params."""
        mix = params.tuning.mix
        return Batches(self.corpus.train, batch_size=params.training.batch_size, block_size=params.model.block_size,
                       packing=_packing(params), seed=params.training.seed,
                       text=PlainText(self.corpus.plain.train, mix) if mix else None)

    def batch(self, step, schedule):
        """Return the Batch of a step; with a row for every process, if need be one in which nothing is learned."""
        batch = self.batches.at(step)
        missing = distributed.count() - len(batch)
        if missing <= 0:
            return batch
        return batch.mapped(partial(_with_empty_rows, count=missing))

    def loss(self, forward, inputs, targets, *segments):
        """Return the summed cross-entropy of the counted targets, in nats; logits are made of no others.

        inputs, targets, segments: (batch, time)
        """
        targets = targets.flatten()
        counted_ones = (targets != IGNORED).nonzero().squeeze(1)
        x = forward.read(inputs, *segments).flatten(0, 1).index_select(0, counted_ones)
        return F.cross_entropy(forward.predict(x).float(), targets[counted_ones], reduction="sum")

    def evaluator(self, training, precision, micro_batches):
        """Return the ChatEvaluator of a run."""
        return ChatEvaluator(training, precision, micro_batches, self)

    @property
    def opening(self):
        """The tokens that stand before a text that begins from nothing: the initial model's."""
        return self.corpus.opening

    @property
    def described(self):
        """What is learned from and what is held out."""
        learned = int((self.corpus.train.targets != IGNORED).sum())
        return (f"{counted(len(self.corpus.train), 'conversation')} to learn from, {len(self.corpus.val):,} held out; "
                f"{learned:,} of {self.corpus.train_tokens:,} tokens are learned,")

    def example(self):
        """Return the tokens of the first conversation: [(text, whether it is learned)]."""
        first = self.corpus.train.first(1)
        ids = [*first.ids.tolist(), 0]
        learned = [False, *(first.targets != IGNORED).tolist()]
        ids[1:] = [int(token) for token in np.where(first.targets != IGNORED, first.targets, [*ids[1:-1], -1])]
        names = {token: name for name, token in self.tokenizer.special_ids.items()}
        return [(names.get(token) or self.tokenizer.decode([token]), is_learned)
                for token, is_learned in zip(ids, learned) if token >= 0]

    def in_resume_file(self):
        """Return what the files of a resumed run are read with, and the tokenizer that the home need not have."""
        return {"sources": list(self.corpus.sources), "tokenizer": self.tokenizer.to_dict(), "opening": self.opening}


def _packing(params):
    """Return whether conversations share rows in a run with these Params."""
    wanted = params.tuning.packing
    return not params.model.is_recurrent if wanted is None else wanted


def _with_empty_rows(array, count):
    """Return an array with rows at its end in which nothing is learned: of targets, inputs and segments alike."""
    return np.concatenate([array, np.full((count, *array.shape[1:]), IGNORED if array.min() < 0 else 0, array.dtype)])


class ChatEvaluator(Evaluator):
    """Measure a network on answers, and let it answer questions that it has not learned from."""

    def __init__(self, training, precision, micro_batches, lessons):
        super().__init__(training, precision, micro_batches, lessons.corpus, lessons.tokenizer, lessons.opening)
        self.lessons = lessons
        self.interval = training.eval_interval or self._default_interval()
        self._val = lessons.batches_of(lessons.corpus.val, micro_batches.share).all()

    def _default_interval(self):
        """Return the steps from one evaluation to the next: half an epoch, or more where answers held out are many.

        A run of known length has EVALUATIONS_AT_MOST.
        """
        steps = evaluation_steps(self.corpus.val_tokens, self.tokens_per_step)
        return max(1, round(self.lessons.batches.steps_per_epoch / EVALUATIONS_PER_EPOCH),
                   math.ceil((self.training.steps or 0) / EVALUATIONS_AT_MOST),
                   math.ceil(steps / (EVALUATION_SHARE - TRAIN_EVAL_SHARE)))

    def validate(self, step):
        """Return the Score on the answers held out. step: the steps done so far

        Raises FolioError where it is not finite.
        """
        score = self._score(self._val, step)
        if not math.isfinite(score.nats):
            raise FolioError(f"After step {step} the loss on the answers held out is {score.nats}. {LAST_GOOD}")
        return score

    def measure_training_text(self, step):
        """Return the Score on some of the answers that are learned, or None as long as that costs too much.

        step: the steps done so far
        """
        tokens = train_eval_tokens(self.corpus.val_tokens, self.interval, self.tokens_per_step)
        if evaluation_steps(tokens, self.tokens_per_step) > TRAIN_EVAL_SHARE * step:
            return None
        return self._score(self._train, step)

    def seconds_of_validation(self, step, clock):
        """Return about how long `validate` takes, from the time of one batch of it."""
        started_at = clock()
        self._score(self._val[:1], step)
        return (clock() - started_at) * len(self._val)

    def sample(self):
        """Return a question that was held out, and the network's answer."""
        conversation = self.lessons.corpus.conversations.val[0]
        template, net = self.lessons.chat, self.precision.net
        place = next(place for place, message in enumerate(conversation) if message.role == ASSISTANT)
        messages, _ = template.fitted(conversation[:place], net.context, self.training.sample_tokens, False)
        net.eval()
        answer = list(generate(net, template.prompt(messages), tokens=self.training.sample_tokens,
                               temperature=SAMPLE_TEMPERATURE, sampling_seed=self.training.seed, ends=template.ends))
        net.train()
        answer = self.tokenizer.decode(answer)
        questions = [message for message in messages if message.role == USER][-1:]
        return plain_text.written([*questions, Message(ASSISTANT, answer)]).strip()

    @cached_property
    def _train(self):
        """The batches of the first training conversations, about as many tokens as the ones held out."""
        sequences = self.lessons.corpus.train
        tokens = train_eval_tokens(self.corpus.val_tokens, self.interval, self.tokens_per_step)
        count = max(1, int((sequences.starts <= tokens).sum()) - 1)
        return self.lessons.batches_of(sequences.first(count), self.micro_batches.share).all()

    @torch.inference_mode()
    def _score(self, batches, step):
        """Return the Score on batches, each process having computed its rows."""
        net = self.precision.working_net
        net.eval()
        nats, tokens, text_bytes = self.micro_batches.fit(lambda: self._sums(net, batches), step)
        net.train()
        nats, tokens, text_bytes = distributed.sums(nats, tokens, text_bytes)
        return Score(nats, tokens, text_bytes)

    def _sums(self, net, batches):
        forward, nats, tokens, text_bytes = self.lessons.forward(net), 0.0, 0, 0
        for batch in batches:
            own = batch.rows(distributed.share(len(batch)))
            for first in range(0, len(own), rows := self.micro_batches.rows(batch.row_tokens)):
                part = own.rows(slice(first, first + rows)).mapped(
                    lambda array: torch.from_numpy(array).to(self.training.device))
                count, size = self.lessons.count(part)
                nats += self.lessons.loss(forward, *part.arrays).item() if count else 0.0
                tokens, text_bytes = tokens + count, text_bytes + size
        return nats, tokens, text_bytes
