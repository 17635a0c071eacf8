"""How a training step calls its network: each batch by itself, or with the state that the batch before left.

Both classes answer the same calls; TrainStep (folio/training/step.py) takes either:

    begin(step)             a step starts, or starts again after running out of memory; its first rows come next
    forward(tokens)         the next rows of the batch -> logits; Stateless has its two halves, read and predict, too
    end()                   the step succeeded
    tensors(), restore()    what a resume file keeps
"""


class Stateless:
    """Call the network on each batch by itself."""

    def __init__(self, net):
        self.net = net

    def begin(self, step):
        """Nothing to prepare."""

    def __call__(self, tokens):
        """tokens: (rows, time) -> logits: (rows, time, vocabulary)"""
        return self.net(tokens)

    def read(self, tokens, *segments):
        """Do the same without the head: tokens: (rows, time) -> x, what `predict` takes"""
        return self.net.read(tokens, *segments)

    def predict(self, x):
        """x: (any, channels) -> logits: (any, vocabulary)"""
        return self.net.predict(x)

    def end(self):
        """Nothing to keep."""

    def tensors(self):
        """Return None: there is no state."""

    def restore(self, tensors):
        """Nothing to restore."""


class CarriedState:
    """Truncated backpropagation through time: carry the recurrent state from one batch to the next.

    The state is carried over, its gradient is not (Williams and Peng, 1990). Each row of a batch continues the same row
    of the batch before. The rows of a step may come in parts, in order. The state that a step leaves counts only from
    `end` on, so a step can be repeated.
    """

    def __init__(self, net, rows, steps_per_epoch):
        """rows: sequences in a batch; steps_per_epoch: steps after which all rows start again with an empty state."""
        self.net, self.rows, self.steps_per_epoch = net, rows, steps_per_epoch
        self.state = net.empty_state(rows)          # after the last step that ended
        self._states = []                           # after each part of this step

    def begin(self, step):
        """Start a step, or repeat it: its first rows come next."""
        if step % self.steps_per_epoch == 0:
            self.state = self.net.empty_state(self.rows)
        self._states = []

    def __call__(self, tokens):
        """tokens: (rows, time), the next rows of the batch -> logits: (rows, time, vocabulary)"""
        first = sum(state.count for state in self._states)
        logits, state = self.net.continue_from(self.state.select(slice(first, first + len(tokens))), tokens)
        self._states.append(state.detach())
        return logits

    def end(self):
        """End the step: the next one continues from the state that this one left."""
        self.state = self.state.joined(self._states)
        assert self.state.count == self.rows, "a step has to read every row"

    def tensors(self):
        """Return {name: tensor} of the state after the last step."""
        return vars(self.state)

    def restore(self, tensors):
        """Continue from a state that `tensors` returned, on any device."""
        self.state = type(self.state)(**{name: part.to(vars(self.state)[name]) for name, part in tensors.items()})
