"""Batches: windows of the text as a function of seed and step."""


import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from folio.data.batches import batch_at, fitting_block_size


def arrays_of(batch):
    return batch.inputs, batch.targets


def test_targets_are_the_inputs_one_token_later():
    tokens = np.arange(1000, 1100, dtype=np.uint16)
    inputs, targets = arrays_of(batch_at(tokens, 3, batch_size=5, block_size=7, seed=1))
    assert inputs.shape == targets.shape == (5, 7) and inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()                        # in this text the next token is the next number
    assert (np.diff(inputs, axis=1) == 1).all()


def test_a_batch_is_a_function_of_seed_and_step_alone():
    tokens = np.arange(10_000)

    def starts(seed, step):
        return batch_at(tokens, step, batch_size=16, block_size=4, seed=seed).inputs[:, 0].tolist()
    before = starts(1, 5)
    np.random.default_rng().random()
    np.random.seed(3)
    torch.manual_seed(3)
    assert starts(1, 5) == before
    assert len({tuple(starts(seed, step)) for seed in range(5) for step in range(20)}) == 100
    assert starts(2**63 - 1, 10**9)                             # the largest seed there is


def test_every_window_of_the_text_is_reached_and_no_other():
    tokens = np.arange(12)
    seen = {tuple(row) for step in range(60) for row in np.column_stack(
        [part[:, [0, -1]] for part in arrays_of(batch_at(tokens, step, batch_size=8, block_size=9, seed=0))]).tolist()}
    assert seen == {(start, start + 8, start + 1, start + 9) for start in range(3)}


def test_windows_may_come_in_other_tokens_and_keep_their_length():
    def doubled(windows, random):
        return [window.repeat(2) if window[0] % 2 else window[:3] for window in windows]
    plain, _ = arrays_of(batch_at(np.arange(100), 0, batch_size=8, block_size=5, seed=0))
    inputs, targets = arrays_of(batch_at(np.arange(100), 0, batch_size=8, block_size=5, seed=0, resegment=doubled))
    for window, before, after in zip(plain.tolist(), inputs.tolist(), targets.tolist()):
        longer = np.repeat(window, 2).tolist()
        assert before == (longer[:5] if window[0] % 2 else window)      # too short a window stays as it is
        assert after == (longer[1:6] if window[0] % 2 else [*window[1:], window[-1] + 1])
    assert {window[0] % 2 for window in plain.tolist()} == {0, 1}


def test_the_shortest_text_has_one_window():
    inputs, targets = arrays_of(batch_at(np.arange(3), 0, batch_size=2, block_size=2, seed=0))
    assert inputs.tolist() == [[0, 1]] * 2 and targets.tolist() == [[1, 2]] * 2


@given(st.integers(2, 4096), st.integers(3, 100_000))
def test_a_context_shrinks_until_the_text_is_long_enough_for_it(block_size, train_tokens):
    fitted = fitting_block_size(block_size, train_tokens)
    assert 2 <= fitted <= block_size and fitted < train_tokens
    if train_tokens >= 8 * block_size:
        assert fitted == block_size
    else:
        assert fitted & (fitted - 1) == 0
        assert fitted == 2 or 8 * fitted <= train_tokens < 16 * fitted      # the largest power of two there is room for
