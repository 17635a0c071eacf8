"""Windows that go on where the last ones ended: the state that a network left there is where it begins (Williams and Peng, 1990).

What is learned from still ends at the window's beginning, which is why this is called truncated backpropagation through time: the state is carried over,
its gradient is not.
"""



class Streams:
    """A network that reads several streams side by side, a window of each in a step; called like the network: tokens -> logits.

    A step may read them in parts, some rows after the others, and may be begun again: the state that it leaves counts only when it is kept.
    """

    def __init__(self, net, count):
        self.net, self.count = net, count
        self.state = net.empty_state(count)         # after the last step that was kept
        self.begin()

    def begin(self, anew=False):
        """Begin a step, or begin it again: what comes next are the first rows; anew: of the first windows, before which nothing was read."""
        if anew:
            self.state = self.net.empty_state(self.count)
        self.read = []                              # the states after the parts so far

    def __call__(self, tokens):
        """tokens: (rows, time), the next window of the next streams -> logits: (rows, time, vocabulary)"""
        first = sum(state.count for state in self.read)
        logits, state = self.net.continue_from(self.state.select(slice(first, first + len(tokens))), tokens)
        self.read.append(state.detach())
        return logits

    def keep(self):
        """End the step: the next one goes on from the state that this one left."""
        self.state = self.state.joined(self.read)
        assert self.state.count == self.count, "a step reads all streams"

    def tensors(self):
        """The state after the last step, by the names of its parts."""
        return vars(self.state)

    def restore(self, tensors):
        """Go on from a state that `tensors` gave, on any device."""
        self.state = type(self.state)(**{name: part.to(vars(self.state)[name]) for name, part in tensors.items()})
