"""What a run learns from: its batches, their loss, how it is validated, and what its weights file says of that.

A run learns from a text (TextLessons), or from whatever another class of Lessons makes batches of. The loop, the step
and the reports ask the Lessons, and know none of them by name. A class of Lessons answers

    batch(step, schedule)       the Batch of a step, all rows, as NumPy arrays: a function of (seed, step)
    count(batch)                what divides the loss of a Batch of tensors, and the bytes of text in its targets
    loss(forward, *arrays)      the loss of a Batch's arrays, summed over what `count` counts
    forward(net)                what calls the network on a batch (folio/training/carried_state.py)
    evaluator(...)              what validates and writes samples: the calls of Evaluator (folio/training/report.py)

and what Lessons below has in common. `corpus` is what the batches are made of. Of it the decisions and predictions
before a run read train_tokens, train_bytes, val_tokens, val_bytes and text (TextParams), and the run's files
fingerprint and training_part.
"""

from functools import cached_property

import torch
import torch.nn.functional as F

from folio.base.errors import FolioError
from folio.chat.template import ChatTemplate
from folio.data.batches import IGNORED, batch_at, fitting_block_size, steps_per_epoch, windows_per_stream
from folio.evaluation.bits_per_byte import bytes_of_tokens
from folio.training import distributed, summary
from folio.training.carried_state import CarriedState, Stateless
from folio.training.report import Evaluator

_OF_TEXTS = {"batches": "random", "bpe_dropout": 0, "length_warmup": 0}     # settings, and what changes nothing


class Lessons:
    """What all kinds of lessons have in common."""

    learns = None               # TuningParams.learns of the runs that take these lessons
    unit = "byte"               # of what the loss is given in nats per
    remedy = "more text, more --bpe-dropout"        # against overfitting, beside fewer steps
    held_out = None             # what validation measures, as messages call it
    material = None             # what is read again in every epoch, as messages call it
    chat = None                 # ChatTemplate of a network that is taught to chat, or was before

    def __init__(self, tokenizer, corpus):
        self.tokenizer, self.corpus = tokenizer, corpus
        self.params = None

    def problems(self, params):
        """Yield a sentence for everything in the Params of a new run that these lessons do not do."""
        for name, usual in _OF_TEXTS.items():
            if (value := getattr(params.training, name)) not in (None, usual):
                yield f"{name}={value} is for texts, and this run learns from {self.learns}: leave it out."

    def settle(self, params):
        """Take the Params that the run has, settled and resolved. Called once, before the first batch."""
        self.params = params

    def start_from(self, model):
        """Take over what is to stay of a trained model. Called once, before a new run. model: LanguageModel"""

    def begin(self, evaluator):
        """Measure with the initial weights what is needed of them. Called once, before the first step of a new run."""

    def restore(self, contents):
        """Continue with what `in_resume_file` returned."""

    def start_in_words(self, score):
        """Return what the validation before the first step found. score: Score"""
        return f"{score.bits_per_byte:.4f} bits/{self.unit} on the {self.held_out}"

    def fitting_block_size(self, block_size):
        """Return the context of a new run that asks for block_size."""
        return block_size

    def steps_per_epoch(self, params):
        """Return the steps, a float, that read everything once. params: Params, not yet settled perhaps"""
        raise NotImplementedError

    @property
    def epoch(self):
        """The steps of an epoch, and what that reads; None of a text."""
        return self.steps_per_epoch(self.params), self.material

    def forward(self, net):
        """Return what calls the network on a batch."""
        return Stateless(net)

    def count(self, batch):
        """Return the number of this Batch's counted targets, and the bytes of text in them. Its arrays are tensors."""
        targets = batch.counted_targets
        return targets.numel(), self.token_sizes[targets].sum().item()

    def loss(self, forward, inputs, targets):
        """Return the summed cross-entropy of the counted targets, in nats. inputs, targets: (batch, time)"""
        logits = forward(inputs)                                                    # (batch, time, vocabulary)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    @cached_property
    def token_sizes(self):
        """The bytes of text in each token: (vocabulary,) integers, where the run computes."""
        return torch.from_numpy(bytes_of_tokens(self.tokenizer)).to(self.params.training.device)

    @property
    def opening(self):
        """The tokens that stand before a text that begins from nothing."""
        raise NotImplementedError

    @property
    def described(self):
        """What is learned from and what is held out, for the lines before the first step."""
        return (f"{self.corpus.train_bytes:,} bytes to learn from, {self.corpus.val_bytes:,} held out; "
                f"{self.corpus.train_tokens:,} tokens")

    def example(self):
        """Return what is shown before the first step: [(text of a token, whether it is learned)], or None."""

    def quality(self, run):
        """Return in plain words how good the best weights are, or None."""

    def in_resume_file(self):
        """Return what reopening the lessons needs, where that is more than the home has: a dictionary, or None."""

    def in_weights_file(self):
        """Return the fields of a weights file that say what the network has learned from."""
        return {"opening": self.opening, "learned_from": self.corpus.training_part,
                "chat": self.chat and self.chat.to_dict()}


class TextLessons(Lessons):
    """Learn from a text: predict every token of random, shuffled or consecutive sequences."""

    learns = "text"
    held_out = "text held out"
    epoch = None

    def problems(self, params):
        """Yield nothing: all settings are for texts."""
        return ()

    def fitting_block_size(self, block_size):
        """Return the largest context up to block_size of which the text has several."""
        return fitting_block_size(block_size, self.corpus.train_tokens)

    def steps_per_epoch(self, params):
        """Return the steps that read the text once, or every window of it where they are shuffled."""
        training = params.training
        return steps_per_epoch(self.corpus.train_tokens, batch_size=training.batch_size,
                               block_size=params.model.block_size, batches=training.batches)

    def forward(self, net):
        """Return what calls the network on a batch."""
        training, block_size = self.params.training, self.params.model.block_size
        if training.batches != "consecutive":
            return Stateless(net)
        windows = windows_per_stream(self.corpus.train_tokens, training.batch_size, block_size)
        return CarriedState(net, training.batch_size // distributed.count(), windows)

    def batch(self, step, schedule):
        """Return the Batch of a step."""
        training, block_size = self.params.training, self.params.model.block_size
        dropout, parts = schedule.bpe_dropout(step), schedule.parts_per_sequence(step, block_size)
        resegment = None
        if dropout:
            def resegment(windows, random):
                return self.tokenizer.resegment(windows, dropout, random)
        return batch_at(self.corpus.train, step, batch_size=training.batch_size * parts,
                        block_size=block_size // parts, seed=training.seed, resegment=resegment,
                        batches=training.batches)

    def start_from(self, model):
        """Let a model that was taught to chat stay one."""
        self.chat = model.chat

    def in_resume_file(self):
        """Return what `restore` takes: the chat entry of the model that the run started from, if it has one."""
        return self.chat and {"chat": self.chat.to_dict()}

    def restore(self, contents):
        """Continue with what `in_resume_file` returned."""
        if contents:
            self.chat = ChatTemplate.from_dict(contents["chat"], self.tokenizer)

    def evaluator(self, training, precision, micro_batches):
        """Return the Evaluator of a run."""
        return Evaluator(training, precision, micro_batches, self.corpus, self.tokenizer, self.opening)

    @cached_property
    def opening(self):
        """The tokens after which the network writes a new text, where no prompt precedes it.

        That is how documents start in the corpus: after a separator, else after the end of a line, else, where a
        character tokenizer has never seen one, after token 0.
        """
        if self.corpus.documents > 1 and self.tokenizer.end_of_text is not None:
            return [self.tokenizer.end_of_text]
        try:
            return self.tokenizer.encode("\n")
        except FolioError:
            return [0]

    def quality(self, run):
        """Return in plain words how well the best weights write, by the text's own yardsticks."""
        return summary.quality(run)
