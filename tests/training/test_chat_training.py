"""Training on conversations: what is learned, packing that changes nothing, exact resuming, refusals, the script."""

import json
import re
import time
from contextlib import closing
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import train
from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.chat.template import END, START, ChatTemplate, taught
from folio.data import corpus
from folio.data.batches import IGNORED
from folio.data.chat_batches import Dialogues
from folio.data.conversations import Conversations
from folio.formats import checkpoint
from folio.formats.run_list import list_runs
from folio.generation import language_model
from folio.networks import build as networks
from folio.training.chat import ChatLessons
from folio.training.loop import Run
from Model_Params import ModelParams, Params, TuningParams
from test_distributed import launch
from tokenizer import BPETokenizer
from training_runs import (  # noqa: F401  (fixtures)
    MODEL,
    TRAINING,
    make_run,
    project,
    run_train,
    same_weights,
    train_here,
    wait_for,
    weights_of,
    without_times,
)

QUESTIONS = ("How many are there?", "Who sails tonight?", "What did you see?", "Where is the ferry?")
ANSWERS = ("Three.", "Nobody does.", "A light on the water, and then none.", "At the quay.")
SMALL = ("--batch-size 2 --steps 12 --eval-interval 4 --sample-tokens 5 --threads 1 --precision fp32 --device cpu "
         "--learning-rate 0.01 --warmup-steps 2").split()


def conversations(count):
    """Conversations of one or two turns, all different."""
    made = []
    for number in range(count):
        turns = [Message("user", f"{number}: {QUESTIONS[number % 4]}"), Message("assistant", ANSWERS[number % 4])]
        if number % 3 == 0:
            turns += [Message("user", "Again?"), Message("assistant", f"{number} times.")]
        made.append(turns)
    return made


def written(path, count=40):
    """A file of conversations in OpenAI's form. -> its path"""
    lines = (json.dumps({"messages": [vars(message) for message in each]}) for each in conversations(count))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer():
    text = " ".join(QUESTIONS + ANSWERS) + " user assistant system"
    return taught(BPETokenizer.train([text], 280))


@pytest.fixture
def make_chat_run(tokenizer, tmp_path):
    """Makes runs that learn from conversations: make_chat_run(steps=3, packing=False, family="lstm") -> Run"""
    from folio.base.home import Home

    def make(name="test", talks=24, **changes):
        tuning = TuningParams(learns="chat", **{key: changes.pop(key) for key in list(changes)
                                                if hasattr(TuningParams(), key)})
        model_changes = {key: changes.pop(key) for key in list(changes) if hasattr(MODEL, key)}
        if model_changes.get("family") == "lstm":
            model_changes |= {"num_heads": None}
        model = replace(MODEL, vocab_size=tokenizer.vocab_size, **{"block_size": 64} | model_changes)
        made = Home(tmp_path)
        made.saved_weights.mkdir(exist_ok=True)
        many = conversations(talks)
        dialogues = Dialogues(Conversations(many[4:], many[:4], "x"), ChatTemplate(tokenizer), model.block_size)
        training = replace(TRAINING, **{"bpe_dropout": 0.0} | changes)
        params = Params(model=model.resolved(), training=training.resolved(), tuning=tuning)
        assert not list(params.problems())
        return Run(made, name, params, ChatLessons(tokenizer, dialogues), started_at=time.perf_counter())
    return make


FAMILIES = [{}, {"positions": "none"}, {"num_kv_heads": 1}, {"family": "classic"}, {"attention_dropout": 0.0, "norm":
            "layer", "mlp": "gelu"}]


def gradients(net, loss):
    return torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)


def assert_alike(found, expected):
    """Gradients are the same to a millionth of the largest number; only the loss is in float32."""
    largest = max(gradient.abs().max().item() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("changes", FAMILIES)
def test_the_gradient_of_packed_conversations_is_that_of_each_by_itself(make_chat_run, changes):
    run = make_chat_run(block_size=160, **changes)
    net = run.net.double()
    batch = run._batch(0)
    assert any(len(set(row.tolist())) > 2 for row in batch.segments)
    loss = run.lessons.loss(run.lessons.forward(net), *batch.arrays)
    packed = gradients(net, loss)
    alone = [torch.zeros_like(gradient) for gradient in packed]
    total = 0.0
    for inputs, targets, segments in zip(*batch.arrays):
        for segment in set(segments.tolist()):
            own = segments == segment
            if (targets[own] == IGNORED).all():
                continue
            logits = net(inputs[own][None])[0]
            each = F.cross_entropy(logits.float(), targets[own], ignore_index=IGNORED, reduction="sum")
            total += each.item()
            alone = [sum_ + gradient for sum_, gradient in zip(alone, gradients(net, each))]
    assert loss.item() == pytest.approx(total, rel=1e-6)
    assert_alike(packed, alone)


@pytest.mark.parametrize("family", ["folio", "classic", "lstm"])
def test_the_gradient_of_padded_conversations_is_that_of_each_by_itself(make_chat_run, family):
    run = make_chat_run(family=family, packing=False, dropout=0.0)
    net = run.net.double()
    batch = run._batch(0)
    padded = gradients(net, run.lessons.loss(run.lessons.forward(net), *batch.arrays))
    alone = 0.0
    for inputs, targets in zip(*batch.arrays):
        length = int((targets != IGNORED).nonzero().max()) + 1
        alone = alone + F.cross_entropy(net(inputs[None, :length])[0].float(), targets[:length], ignore_index=IGNORED,
                                        reduction="sum")
    assert_alike(padded, gradients(net, alone))


def test_a_packed_batch_is_computed_alike_in_micro_batches_and_with_a_fused_kernel(make_chat_run, monkeypatch):
    from folio.kernels import attention
    run = make_chat_run()
    batch = run._batch(0)
    tokens = batch.counted_targets.numel()
    whole = run.train_step._gradient(batch, 0, tokens)
    expected = [parameter.grad.clone() for parameter in run.net.parameters()]
    run.micro_batches.size = 1
    monkeypatch.setattr(attention, "FUSED_ATTENTION_LEN", 8)
    assert run.train_step._gradient(batch, 0, tokens) == pytest.approx(whole, rel=1e-5)
    for parameter, gradient in zip(run.net.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_answers_are_learned_by_heart_and_end_where_they_should(make_chat_run):
    run = make_chat_run(steps=150, batch_size=4, eval_interval=50, talks=8, learning_rate=0.02)
    run.train()
    asked = run.corpus.conversations.train[0]
    template = run.lessons.chat
    from folio.generation.decoder import generate
    answer = list(generate(run.net.eval(), template.prompt(asked[:1]), tokens=40, temperature=0.0, sampling_seed=1,
                           ends=template.ends))
    assert run.tokenizer.decode(answer).strip() == asked[1].content and len(answer) < 40


def test_against_overfitting_more_conversations_are_advised(make_chat_run, capsys):
    run = make_chat_run()
    run.progress.validations_since_best = 3
    run.reporter.warn_of_overfitting(out_of_patience=False)
    assert "more conversations or fewer steps help" in capsys.readouterr().out


def test_validation_counts_answers_alone(make_chat_run):
    run = make_chat_run(block_size=128)
    run.net.eval()
    nats = answer_bytes = 0
    for messages in run.corpus.conversations.val:
        ids, learned = run.lessons.chat.encode(messages)
        with torch.no_grad():
            losses = F.cross_entropy(run.net(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]), reduction="none")
        nats += losses[torch.tensor(learned[1:])].sum().item()
        answer_bytes += sum(len(message.content) for message in messages if message.role == "assistant")
    score = run.evaluate()
    assert score.bytes == answer_bytes and score.nats == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_a_killed_run_ends_as_if_nothing_had_happened(make_chat_run, packing):
    whole = make_chat_run("whole", packing=packing, steps=10)
    whole.train()
    first = make_chat_run("first", packing=packing, steps=10)
    for _ in range(7):
        first.step()
    first.save_resume()
    contents = checkpoint.load(first.home.resume("first"))
    again = make_chat_run("first", packing=packing, steps=10)
    with closing(again.reporter.log):
        again.restore(contents)
    while not again.done:
        again.step()
    assert same_weights(again.net.state_dict(), whole.net.state_dict())


def test_new_tokens_have_rows_near_the_mean_that_differ(tokenizer):
    params = ModelParams(vocab_size=tokenizer.vocab_size - 2, emb_len=16, num_layers=1, num_heads=2, block_size=16)
    for tied in (False, True):
        old = networks.build_network(replace(params, tied_head=tied))
        new, again = (networks.build_network(replace(params, tied_head=tied, vocab_size=tokenizer.vocab_size))
                      for _ in range(2))
        for net in (new, again):
            networks.take_over(net, old, seed=3)
        for name in ("embedding.weight", "head.weight"):
            rows, before = new.state_dict()[name], old.state_dict()[name]
            assert torch.equal(rows[:-2], before) and not torch.equal(rows[-1], rows[-2])
            assert ((rows[-2:] - before.mean(0)).abs() < 0.6 * before.std(0)).all()
            assert torch.equal(rows, again.state_dict()[name])


# --- The script ---

@pytest.fixture
def with_base(home, plays, monkeypatch, capsys):
    """A home with a small trained model named base, and conversations beside it. -> Home, the path of these"""
    made = home(plays[:20_000])
    corpus.open_corpus(made, replace(train.PRESETS["default"].text, vocab_size=300))
    train_here(made, monkeypatch, capsys, "--emb-len", 16, "--num-layers", 1, "--num-heads", 2, "--block-size", 64,
               *SMALL, "--name", "base")
    return made, written(made.folder / "dialogues.jsonl")


def test_a_model_that_was_taught_to_chat_knows_its_template_and_the_home_stays_as_it_was(
        with_base, monkeypatch, capsys):
    made, path = with_base
    before = {file.name: file.read_bytes() for file in made.tokenizer.iterdir()}
    _, out = train_here(made, monkeypatch, capsys, "--start-from", "base", "--chat", path, *SMALL)
    assert {file.name: file.read_bytes() for file in made.tokenizer.iterdir()} == before
    assert re.search(r"\d+ conversations to learn from, \d held out; [\d,]+ of [\d,]+ tokens are learned", out)
    contents = checkpoint.load(made.weights("chat"))
    assert contents["chat"] == {"template": "chatml", "start": START, "end": END}
    assert contents["opening"] == checkpoint.load(made.weights("base"))["opening"]      # a text begins as it did
    model = language_model.load(made.weights("chat"))
    assert model.tokenizer.vocab_size == 302 and model.chat.end_id == 301
    assert isinstance("".join(model.reply([Message("user", "How many?")], tokens=5)), str)
    [run] = list_runs(made, ["chat"])
    assert run.differs["learns"] == "chat" and "compile" not in run.differs and "patience" not in run.differs
    example = out[out.index("The first conversation"):].splitlines()[:13]
    assert "<|im_start|>" in example[1] and any("<|im_end|>]]" in line for line in example)
    assert re.search(r"\| > \d+: ", out)                                # a sample: a question that was held out
    # Taught again, from the model that has the tokens already.
    _, out = train_here(made, monkeypatch, capsys, "--start-from", "chat", "--chat", path, *SMALL)
    assert language_model.load(made.weights("chat-2")).tokenizer.vocab_size == 302


def test_few_conversations_are_read_often_enough_and_measured_seldom_enough(with_base, monkeypatch, capsys):
    made, _ = with_base
    path = written(made.folder / "few.jsonl", 20)
    flags = ("--start-from", "base", "--chat", path, "--batch-size", 16, "--sample-tokens", 0, *SMALL[8:12])
    _, out = train_here(made, monkeypatch, capsys, *flags)
    assert "chat: 80 steps" in out
    assert [int(step) for step in re.findall(r"step (\d+) .*val", out)[:3]] == [4, 8, 12]
    _, out = train_here(made, monkeypatch, capsys, *flags, "--epochs", 1)
    assert int(re.search(r"chat-2: (\d+) steps?", out)[1]) < 20        # what is given counts


def test_a_run_that_was_killed_is_resumed_without_naming_its_files_to_the_bit(with_base, monkeypatch, capsys):
    made, path = with_base
    flags = ("--start-from", "base", "--chat", path, *SMALL[:2], "--steps", "60", *SMALL[4:], "--mix", "0.2")
    train_here(made, monkeypatch, capsys, *flags, "--name", "whole")
    process = run_train(made, *flags, "--name", "killed")
    wait_for(process, lambda: made.resume("killed").exists() and made.log("killed").read_bytes().count(b"\n") > 3)
    process.kill()
    process.communicate()
    step = checkpoint.load_metadata(made.resume("killed"))["progress"]["step"]
    _, out = train_here(made, monkeypatch, capsys, "--resume", "--name", "killed")
    assert f"resuming after step {step}" in out or step == 60
    assert same_weights(weights_of(made.weights("killed")), weights_of(made.weights("whole")))
    assert without_times(made.log("killed")) == without_times(made.log("whole"))


def test_a_chat_model_that_learns_a_text_stays_one(with_base, monkeypatch, capsys, home, plays):
    made, path = with_base
    train_here(made, monkeypatch, capsys, "--start-from", "base", "--chat", path, *SMALL)
    other = home({"plays.txt": plays[:20_000]})
    for words in (["--start-from", made.weights("chat"), *SMALL], ["--resume", "--name", "tuned", "--steps", 20]):
        train_here(other, monkeypatch, capsys, *words)
        tuned = language_model.load(other.weights("tuned"))
        assert tuned.chat is not None and tuned.chat.to_dict() == checkpoint.load(made.weights("chat"))["chat"]


def test_an_epoch_is_every_conversation_once_however_much_text_is_among_them(with_base, monkeypatch, capsys):
    made, path = with_base
    written(path, 12)
    flags = ["--start-from", "base", "--chat", path, *SMALL[:2], *SMALL[4:], "--epochs", 2]
    steps = {}
    for name, words in (("alone", []), ("mixed", ["--mix", 0.5])):
        _, out = train_here(made, monkeypatch, capsys, *flags, "--name", name, *words)
        steps[name] = checkpoint.load_metadata(made.resume(name))["progress"]["step"]
        assert "2 passes over the conversations" in out
    assert abs(steps["mixed"] - 2 * steps["alone"]) <= 1
    # What a resumed run says again of its context is right, however few its conversations are.
    train_here(made, monkeypatch, capsys, "--resume", "--name", "alone", "--block-size", 64, "--steps",
               steps["alone"] + 1)


def test_a_resumed_run_refuses_other_conversations(with_base, monkeypatch, capsys):
    made, path = with_base
    train_here(made, monkeypatch, capsys, "--start-from", "base", "--chat", path, *SMALL)
    written(path, 39)
    with pytest.raises(FolioError, match="what it learns from is not the same in .*dialogues.jsonl"):
        train_here(made, monkeypatch, capsys, "--resume", "--name", "chat", "--steps", 20)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="dialogues.jsonl"):
        train_here(made, monkeypatch, capsys, "--resume", "--name", "chat", "--steps", 20)


def test_what_cannot_be_taught_is_refused_before_anything_is_written(with_base, monkeypatch, capsys, home):
    made, path = with_base
    before = sorted(made.saved_weights.iterdir())
    empty = made.folder / "empty.jsonl"
    empty.write_text('{"messages": [{"role": "user", "content": "How many?"}]}\n' * 3, encoding="utf-8")
    with pytest.raises(FolioError, match="has nothing to learn from: .*The first, .*line 1"):
        train_here(made, monkeypatch, capsys, "--start-from", "base", "--chat", empty)
    other = home("Other words, in quite another home. " * 400)
    corpus.open_corpus(other, replace(train.PRESETS["default"].text, vocab_size=270))
    weights = str(made.weights("base"))
    with pytest.raises(FolioError, match="mix=0.1 reads the project's text, whose tokenizer .* is another"):
        train_here(other, monkeypatch, capsys, "--start-from", weights, "--chat", path, "--mix", 0.1)
    train_here(other, monkeypatch, capsys, "--start-from", weights, "--chat", path, *SMALL)         # without, it works
    assert sorted(made.saved_weights.iterdir()) == before
    for words, wrong in ((["--chat", path], "name them by --start-from"),
                         (["--chat", path, "--resume"], "leave --chat out")):
        process = run_train(made, *words)
        out, err = process.communicate()
        assert (process.returncode, out) == (2, "") and wrong in " ".join(err.split())
    with pytest.raises(FolioError, match="bpe_dropout=0.1 is for texts, and this run learns from chat: leave it out"):
        train_here(made, monkeypatch, capsys, "--start-from", "base", "--chat", path, "--bpe-dropout", 0.1)
    with pytest.raises(FolioError, match="give --chat too"):
        train_here(made, monkeypatch, capsys, "--start-from", "base", "--mix", 0.1)
    assert sorted(made.saved_weights.iterdir()) == before


def test_a_recurrent_network_has_no_packed_conversations(make_chat_run):
    run = make_chat_run(family="lstm", packing=False)
    assert not list(run.lessons.problems(run.params))
    [problem] = run.lessons.problems(replace(run.params, tuning=replace(run.params.tuning, packing=True)))
    assert "packing=True is for transformers" in problem


def test_two_processes_learn_from_conversations_as_one_does(with_base, monkeypatch, capsys):
    made, path = with_base
    flags = ("--start-from", "base", "--chat", path, *SMALL, "--no-packing")
    train_here(made, monkeypatch, capsys, *flags, "--name", "one")
    process = launch(made, *flags, "--name", "two")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    one, two = weights_of(made.weights("one")), weights_of(made.weights("two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-3)
