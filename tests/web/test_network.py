"""The network in the page: the logits of Model.py and of the LSTM for every family, with WebAssembly and without."""

import base64
import json
import re
import subprocess
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from folio.formats import page, trained_model
from folio.formats.trained_model import TrainedModel
from Model_Params import ModelParams
from node_program import NODE, WEB
from test_lstm import SMALL
from test_model import COMBINATIONS, TINY, network, some_tokens
from tokenizer import CharTokenizer

SHAPES = [dict(num_kv_heads=2), dict(num_kv_heads=1, head_len=10), dict(head_len=14, hidden_len=20, num_kv_heads=2),
          dict(rope_base=500.0, norm_eps=0.1), dict(family="classic", mlp="gelu", emb_len=22, num_heads=2),
          dict(family="classic", num_layers=1, num_heads=1, head_len=7), dict(num_layers=1, num_heads=1),
          dict(vocab_size=257, block_size=75, emb_len=32)]
LSTMS = [dict(), dict(tied_head=True), dict(num_layers=1, hidden_len=9, emb_len=7), dict(num_layers=3, block_size=80)]
# What each case does: reads all at once, token by token, in uneven pieces, and from a copy of a state.
PROGRAM = """
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
const lists = (arrays) => arrays.map((logits) => Array.from(logits));
async function results({ model, ids, useWasm }) {
  const { params, weights } = await loadModel(model);
  const network = createNetwork(params, weights, useWasm);
  const all = network.readAll(network.emptyState(), ids);
  const single = network.emptyState();
  const tokens = ids.map((id) => network.read(single, [id]));
  const half = ids.length >> 1, pieces = network.emptyState();
  network.read(pieces, ids.slice(0, half));
  const copy = pieces.copy();
  network.read(pieces, [ids[0], ids[0]]);
  const last = network.read(copy, ids.slice(half));
  return { isWasm: network.memory.isWasm, context: network.context, vocabSize: network.vocabSize,
    length: copy.length, all: lists(all), tokens: lists(tokens), last: Array.from(last) };
}
"""
RUN = "Promise.all(cases.map(results)).then((done) => process.stdout.write(JSON.stringify(done)));"


def script(*names):
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in names)


def in_node(program, input=""):
    """Run the page's program up to the networks and then `program` in Node. -> what it writes, parsed"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.js"
        path.write_text(script(*page.WORKER_SCRIPTS[:5]) + program, encoding="utf-8")
        done = subprocess.run([NODE, path], input=json.dumps(input), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def trained(net):
    """A network as a TrainedModel, with as many characters as it has tokens."""
    characters = CharTokenizer(map(chr, range(0x100, 0x100 + net.params.vocab_size)))
    return TrainedModel(Path("weights-tiny.pth"), {"name": "tiny", "step": 1, "val_bpb": None}, net, characters, [0])


def expected(net, ids):
    with torch.inference_mode():
        return net(torch.tensor([ids]))[0].numpy()


@pytest.fixture(scope="module")
def cases():
    """Every family and variant: [(parts, network, ids, what Node says with WebAssembly, and without)]"""
    nets = [(parts, network(replace(TINY, **parts))) for parts in [*COMBINATIONS, *SHAPES]]
    nets += [(parts, network(replace(SMALL, **parts))) for parts in LSTMS]
    ids = [some_tokens(net.params, net.params.block_size).tolist() for _, net in nets]
    models = [page.packed(trained(net), "f32") for _, net in nets]
    inputs = [{"model": model, "ids": each, "useWasm": use_wasm}
              for use_wasm in (True, False) for model, each in zip(models, ids)]
    found = in_node(PROGRAM + RUN, inputs)
    return list(zip(*zip(*nets), ids, found[:len(nets)], found[len(nets):]))


def test_the_logits_of_every_family_and_variant_are_those_of_python(cases):
    for parts, net, ids, *found in cases:
        logits = expected(net, ids)
        assert logits.std() > 0.1, parts
        for said in found:
            for way, theirs in (("all", logits), ("tokens", logits), ("last", logits[-1])):
                np.testing.assert_allclose(said[way], theirs, rtol=0, atol=1e-4, err_msg=f"{parts} {way}")


def test_javascript_alone_computes_the_same_as_webassembly(cases):
    for parts, _, _, with_wasm, without in cases:
        assert (with_wasm["isWasm"], without["isWasm"]) == (True, False)
        np.testing.assert_allclose(with_wasm["tokens"], without["tokens"], rtol=0, atol=1e-5, err_msg=str(parts))


def test_a_network_says_its_context_and_its_vocabulary(cases):
    for _, net, ids, found, _ in cases:
        assert (found["context"], found["vocabSize"]) == (net.context, net.params.vocab_size)
        assert found["length"] == len(ids)


def test_more_states_than_have_room_are_read_side_by_side():
    net = network(TINY)
    program = """
    (async () => {
      const { params, weights } = await loadModel(JSON.parse(require("fs").readFileSync(0, "utf8")));
      const network = createNetwork(params, weights);
      const states = Array.from({ length: 3 * MOST_PLACED }, () => network.emptyState());
      let logits;
      for (let token = 0; token < 4; token++) {
        logits = states.map((state, index) => Array.from(network.read(state, [(index + token) % 50])));
      }
      const used = network.memory.used;
      for (let count = 0; count < 1000; count++) {
        network.read(network.emptyState(), [1]);
      }
      console.log(JSON.stringify({ logits, grown: network.memory.used - used, places: network.places.owners.size }));
    })();
    """
    found = in_node(program, page.packed(trained(net), "f32"))
    theirs = [expected(net, [(index + token) % 50 for token in range(4)])[-1] for index in range(len(found["logits"]))]
    np.testing.assert_allclose(found["logits"], theirs, rtol=0, atol=1e-4)
    assert found["grown"] == 0 and found["places"] == 16


def test_where_memory_ends_the_states_share_what_there_is():
    net = network(TINY)
    program = """
    (async () => {
      const { params, weights } = await loadModel(JSON.parse(require("fs").readFileSync(0, "utf8")));
      const network = createNetwork(params, weights), states = [0, 1, 2, 3].map(() => network.emptyState());
      let left = 0;
      const grow = network.memory.grow.bind(network.memory);
      network.memory.grow = (missing) => {
        if (left-- <= 0) throw new RangeError("no memory");
        grow(missing);
      };
      network.places.size = 1 << 20;
      const said = [];
      try { network.read(states[0], [1]); } catch (error) { said.push(error.message); }
      left = 2;
      for (const id of [7, 8]) {
        states.forEach((state, index) => said.push(Array.from(network.read(state, [id + index]))));
      }
      console.log(JSON.stringify({ said, places: network.places.owners.size }));
    })();
    """
    found = in_node(program, page.packed(trained(net), "f32"))
    assert found["said"].pop(0) == "The browser has not enough memory for this model." and found["places"] == 2
    theirs = [logits for index in range(4) for logits in expected(net, [7 + index, 8 + index])]
    np.testing.assert_allclose(found["said"], theirs[::2] + theirs[1::2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("ids, message", [
    ([], "There are no tokens to read."), ([1] * 17, "17 tokens do not fit into a context of block_size=16."),
    ([1, 50], "Token id 50 is outside the vocabulary, which has the ids 0 to 49."),
    ([1.5], "Token id 1.5 is outside"), ([-1], "Token id -1 is outside")])
def test_what_cannot_be_read_is_refused_in_one_sentence_and_changes_nothing(ids, message):
    program = """
    (async () => {
      const { model, ids } = JSON.parse(require("fs").readFileSync(0, "utf8"));
      const { params, weights } = await loadModel(model);
      const network = createNetwork(params, weights), state = network.emptyState();
      try { network.read(state, ids); } catch (error) { console.log(JSON.stringify([error.message, state.length])); }
    })();
    """
    said, length = in_node(program, {"model": page.packed(trained(network(TINY)), "f32"), "ids": ids})
    assert said.startswith(message) and length == 0


def test_where_webassembly_is_missing_or_forbidden_javascript_computes():
    program = """
    const found = [new Memory().isWasm];
    WebAssembly.Module = function () { throw new Error("forbidden"); };
    found.push(new Memory().isWasm);
    delete globalThis.WebAssembly;
    found.push(new Memory().isWasm);
    console.log(JSON.stringify(found));
    """
    assert in_node(program) == [True, False, False]


def test_memory_that_grows_keeps_what_it_has():
    program = """
    console.log(JSON.stringify([true, false].map((useWasm) => {
      const memory = new Memory(useWasm), places = [];
      for (let size = 1; size < 200000; size *= 3) {
        const at = memory.allocate(size);
        places.push(at);
        memory.floats.fill(size, at, at + size);
      }
      const zeros = memory.allocate(10);
      return [places.every((at) => at % LANES === 0), places.map((at) => memory.floats[at]),
        Array.from(memory.floats.slice(zeros, zeros + 12))];
    })));
    """
    for aligned, firsts, zeros in in_node(program):
        assert aligned and firsts == [3 ** power for power in range(len(firsts))] and zeros == [0] * 12


def test_the_compiled_kernel_is_the_one_that_is_written():
    wasmtime = pytest.importorskip("wasmtime")
    [committed] = re.findall(r"const KERNEL = `\n([A-Za-z0-9+/=\n]+)`;", script("kernel.js"))
    compiled = bytes(wasmtime.wat2wasm(script("kernel.wat")))
    assert base64.b64decode(committed.replace("\n", "")) == compiled


# --- The model that comes with the repository ---

@pytest.fixture(scope="module")
def shipped():
    return trained_model.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")


@pytest.mark.parametrize("type, tolerance", [("f32", 2e-4), ("f16", 2e-4), ("int8", 2e-4)])
def test_each_type_of_weights_is_read_as_it_was_rounded(shipped, type, tolerance, plays):
    ids = shipped.tokenizer.encode(plays[100_000:101_500])[:256]
    program = """
    (async () => {
      const { model, ids } = JSON.parse(require("fs").readFileSync(0, "utf8"));
      const { params, weights } = await loadModel(model);
      const network = createNetwork(params, weights);
      console.log(JSON.stringify(network.readAll(network.emptyState(), ids).map((logits) => Array.from(logits))));
    })();
    """
    found = in_node(program, {"model": page.packed(shipped, type), "ids": ids})
    np.testing.assert_allclose(found, expected(rounded(shipped.net, type), ids), rtol=0, atol=tolerance)


def rounded(net, type):
    """A copy of a network with weights of this type."""
    net = deepcopy(net)
    for parameter in net.parameters():
        if parameter.ndim == 2 and type == "f16":
            parameter.data = parameter.half().float()
        elif parameter.ndim == 2 and type == "int8":
            scales = parameter.abs().amax(1, keepdim=True) / 127
            parameter.data = (parameter / scales).round() * scales
    return net


def test_a_long_context_turns_far_positions_by_the_angles_of_python():
    net = network(ModelParams(vocab_size=50, block_size=2000, emb_len=24, num_layers=1, num_heads=2))
    ids = some_tokens(net.params, 2000).tolist()
    [found] = in_node(PROGRAM + RUN, [{"model": page.packed(trained(net), "f32"), "ids": ids, "useWasm": True}])
    np.testing.assert_allclose(found["last"], expected(net, ids)[-1], rtol=0, atol=1e-4)
