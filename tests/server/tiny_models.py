"""Weights files of models that are small enough for a test."""

import os

import torch

from folio.formats import checkpoint, trained_model
from folio.networks.build import build_network
from Model_Params import ModelParams
from tokenizer import BPETokenizer

PARAMS = ModelParams(num_layers=1, num_heads=2, emb_len=16, block_size=32, vocab_size=258)


def write_weights(home, name, seed=0, written_at=None):
    """Write a model with random weights as a run of a project; written_at: seconds since 1970."""
    torch.manual_seed(seed)
    net = build_network(PARAMS)
    contents = trained_model.imported(name, net.params, net.state_dict(), BPETokenizer([(97, 98)]), [257])
    checkpoint.save(home.weights(name), contents)
    if written_at is not None:
        os.utime(home.weights(name), (written_at, written_at))
    return home.weights(name)
