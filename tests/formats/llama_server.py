"""llama.cpp as the oracle of GGUF files: its server in this process, and models that are worth asking."""

import codecs
import gc
import json
import random
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from folio.formats import checkpoint, trained_model
from folio.generation.decoder import Decoder
from folio.networks.build import build_network
from test_tokenizer import SAMPLES

xllamacpp = pytest.importorskip("xllamacpp")


class Server:
    """llama-server with one model, computing in float32 on one thread."""

    def __init__(self, server):
        self._server = server

    def ask(self, route, **body):
        """Return what the server answers to a request: POST with a body, else GET."""
        request = urllib.request.Request(self._server.listening_address + route,
                                         json.dumps(body).encode("utf-8") if body else None,
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text, parse_special):
        """Return the ids of a text."""
        return self.ask("/tokenize", content=text, parse_special=parse_special, add_special=True)["tokens"]

    def greedy(self, ids, count, alternatives):
        """Continue ids with the likeliest tokens. -> ids, their text, log-probabilities [(id, {id: value})]

        Where a token ends inside a character, the server says nothing of its log-probabilities.
        """
        answer = self.ask("/completion", prompt=ids, n_predict=count, temperature=0, top_k=1, return_tokens=True,
                          n_probs=alternatives, post_sampling_probs=False, cache_prompt=False, ignore_eos=False)
        places = [(place["id"], {each["id"]: each["logprob"] for each in place["top_logprobs"]})
                  for place in answer["completion_probabilities"]]
        return answer["tokens"], answer["content"], places


@contextmanager
def serving(path, context=0):
    """Yield a Server for a GGUF file on 127.0.0.1, and end it. context: in tokens; 0: the file's"""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = str(path), context, 1, False
    params.hostnames, params.cpuparams.n_threads, params.cpuparams_batch.n_threads = ["127.0.0.1"], 1, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.verbosity = 0
    holder = [xllamacpp.Server(params)]
    server = Server(holder[0])
    try:
        yield server
    finally:
        holder.clear()
        server._server = None
        gc.collect()                # its destructor ends the server's threads


def greedy_by_folio(model, ids, count):
    """Continue ids with the likeliest tokens. -> ids, log-probabilities: (count, vocabulary)"""
    decoder, tokens, rows = Decoder(model.net, [list(ids)]), [], []
    for _ in range(count):
        rows.append(torch.as_tensor(decoder.logits[0]).double().log_softmax(-1).numpy())
        tokens.append(int(rows[-1].argmax()))
        decoder.read([[tokens[-1]]])
    return tokens, np.array(rows)


def difference(server, model, ids, count):
    """Continue ids with llama.cpp and with Folio: tokens and text are equal. -> difference of log-probabilities"""
    expected, rows = greedy_by_folio(model, ids, count)
    tokens, text, places = server.greedy(ids, count, alternatives=50)
    assert tokens == expected[:len(tokens)]
    if len(tokens) < count:             # llama.cpp ends where the text does
        assert tokens[-1] == model.tokenizer.end_of_text
    assert text == "".join(model.tokenizer.decode([token]) for token in tokens
                           if token < model.tokenizer.vocab_size - len(model.tokenizer.special_tokens))
    return largest_difference(model, tokens, rows, places)


def largest_difference(model, tokens, rows, places):
    """Return the largest difference of log-probabilities. tokens, places: of llama.cpp; rows: of Folio, as many"""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    whole = []                          # the places at which no character is incomplete
    for place, token in enumerate(tokens):
        decoder.decode(model.tokenizer.token_bytes[token])
        if not decoder.getstate()[0]:
            whole.append(place)
    assert [token for token, _ in places] == [tokens[place] for place in whole] and places
    return max(abs(rows[place][token] - value) for place, (_, found) in zip(whole, places)
               for token, value in found.items())


def random_model(tokenizer, folder, params, opening=(10,)):
    """Return the TrainedModel of a network with random weights that depends strongly on what it has read.

    It writes ASCII: the server replaces bytes that are no characters.
    """
    torch.manual_seed(1)
    others = [number for number, token in enumerate(tokenizer.token_bytes) if not token.isascii()]
    net = build_network(params)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
            else:
                parameter.normal_(std=0.5 if "embedding" in name else 1.5 * parameter.shape[1] ** -0.5)
        net.head.weight[others] = 0
    contents = trained_model.imported("tiny", net.params, net.state_dict(), tokenizer, list(opening))
    checkpoint.save(folder / "weights-tiny.pth", contents)
    return trained_model.load(folder / "weights-tiny.pth")


def fuzz_texts(text, special, count):
    """Return texts of all kinds: parts of `text`, many scripts, control characters, special tokens spelled out."""
    draw = random.Random(1)
    alphabets = ["ab' s.1\u00e9\u0301\u4e2d\u3000\xa0\x85\u017f\u0130\u200d\U0001f469\0\t\r\n",
                 "0123456789 \u0663\u00bd\u2167"]

    def piece():
        kind = draw.randrange(5)
        if kind == 0:
            start = draw.randrange(len(text))
            return text[start:start + draw.randrange(200)]
        if kind == 1:
            return draw.choice(SAMPLES)[:80]
        if kind == 2:
            return draw.choice([*special, "<|", "|>", "<|end", "'S", "'ll", "'\u017f", " \r\n", "\n\n "])
        return "".join(draw.choices(draw.choice(alphabets), k=draw.randrange(12)))
    return ["".join(piece() for _ in range(draw.randrange(1, 6))) for _ in range(count)]
