"""How large a network is, by the shapes of the network itself, and how large a one suits a text and a time."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache

from folio.networks import build as networks
from Model_Params import ModelParams, TrainingParams

# The widths to choose from; each has about twice the parameters of the one before.
WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# Training tokens per parameter inside the blocks. 20 are best where text is plentiful (Hoffmann et al., 2022), but for
# 2.5 million tokens (three minutes on two cores) 4 layers of width 128, 0.8 million parameters, have served well on
# half a megabyte and on a whole one.
TOKENS_PER_PARAMETER = 2
# Parameters inside the blocks, at most, per square root of the text's bytes. On 20 kB widths 32 to 96 came to within
# 0.02 nats per byte of each other and 128 was worse; on 100 kB 96 was better than 64 and 128 (benchmarks/README.md);
# half a megabyte bears 128, a megabyte also 192.
PARAMETERS_PER_ROOT_BYTE = 2300
# Floating-point operations per second of a usual machine: two cores; the others are guesses.
FLOPS_AT_HAND = {"cpu": 1.5e11, "mps": 1e12, "cuda": 1e13}


# --- How large a network is: asked of its outline, so that nothing here knows what a block is made of ---

@cache
def count_parameters(model: ModelParams) -> int:
    """Return the number of trainable parameters; tied weights count once."""
    return networks.count_parameters(networks.outline(model))


@cache
def block_matrices(model: ModelParams) -> Counter[tuple[int, int]]:
    """Return the shapes of the matrices in the blocks, and how many there are of each: {(rows, columns): count}."""
    # Layers after the first are all alike, and neither vocabulary nor context has a matrix in the blocks: two small
    # outlines tell the shapes of the largest network.
    small = replace(model.resolved(), vocab_size=1, block_size=2)
    first, two = (_matrices(networks.outline(replace(small, num_layers=number))) for number in (1, 2))
    later = two - first
    return first + Counter({shape: (small.num_layers - 1) * count for shape, count in later.items()})


def block_parameters(model: ModelParams) -> int:
    """Return the number of parameters in the matrices of the blocks."""
    return sum(count * rows * columns for (rows, columns), count in block_matrices(model).items())


@cache
def head_parameters(model: ModelParams) -> int:
    """Return the number of parameters in the matrix that makes logits; it may be the embedding as well."""
    return networks.outline(replace(model, num_layers=1, block_size=2)).head.weight.numel()


def _matrices(net):
    """Return {(rows, columns): count} of what Muon and weight decay are for."""
    return Counter(tuple(parameter.shape) for parameter in net.blocks.parameters() if parameter.ndim == 2)


# --- How large a one suits ---

def sized(model: ModelParams, training: TrainingParams, corpus, kind: str) -> ModelParams:
    """Return ModelParams with those of emb_len, num_layers and num_heads that are None chosen for text and time.

    corpus: a Corpus; kind: cpu, cuda or mps. Two machines of a kind choose the same.
    """
    return model.sized(width_for(corpus.train_bytes, training, model, kind))


def width_for(train_bytes: int, training: TrainingParams, model: ModelParams, kind: str) -> int:
    """Return the largest width at which the blocks have no more parameters than the text and the time are good for."""
    if training.steps:
        by_time = training.steps * training.batch_size * model.block_size / TOKENS_PER_PARAMETER
    else:               # 6 operations per parameter and token (Kaplan et al., 2020), TOKENS_PER_PARAMETER tokens each
        by_time = math.sqrt(60 * training.minutes * FLOPS_AT_HAND[kind] / (6 * TOKENS_PER_PARAMETER))
    most = min(by_time, PARAMETERS_PER_ROOT_BYTE * math.sqrt(train_bytes))
    return max((width for width in WIDTHS if block_parameters(model.sized(width)) <= most), default=WIDTHS[0])
