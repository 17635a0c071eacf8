"""Exports of a model that was taught to chat: template and end token in every format, the same answers in others."""

import json

import pytest
import torch

from folio.chat.messages import Message
from folio.chat.template import END, JINJA, START, ChatTemplate, taught
from folio.formats import checkpoint, gguf, hugging_face, hugging_face_import, ollama, trained_model
from folio.generation.language_model import load
from llama_server import random_model, serving
from Model_Params import ModelParams
from tokenizer import BPETokenizer

transformers = pytest.importorskip("transformers")
CONVERSATIONS = [
    [Message("user", "What is it?")],
    [Message("system", "Answer in one word."), Message("user", "  Where to?\n"), Message("assistant", " There.\n\n"),
     Message("user", "\n\nAnd then? 12")],
    [Message("user", "é 中 🦊"), Message("assistant", ""), Message("user", "")]]


@pytest.fixture(scope="module")
def chat_model(plays, tmp_path_factory):
    """The path of a chat model with random weights that depend strongly on what it has read."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = taught(BPETokenizer.train([plays[:50_000]], 400))
    model = random_model(tokenizer, folder, ModelParams(vocab_size=tokenizer.vocab_size, block_size=128, emb_len=64,
                                                        num_layers=2, num_heads=2))
    path = folder / "weights-chat.pth"
    checkpoint.save(path, model.contents | {"name": "chat", "chat": ChatTemplate(tokenizer).to_dict()})
    return path


def as_json(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_transformers_makes_the_same_ids_of_a_conversation_and_the_same_answer(chat_model, tmp_path, messages):
    ours, trained = load(chat_model), trained_model.load(chat_model)
    hugging_face.write(trained, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = theirs.apply_chat_template(as_json(messages), add_generation_prompt=True)["input_ids"]
    assert ids == ours.chat.prompt(messages)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [*ours.chat.ends]
    written = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids):].tolist()
    answer = "".join(ours.reply(messages, tokens=30, temperature=0))
    assert theirs.decode(written, skip_special_tokens=True).rstrip("\ufffd") == answer.rstrip("\ufffd")


def test_llama_server_answers_exactly_as_here_and_its_chat_template_is_ours(chat_model, tmp_path):
    model = load(chat_model)
    gguf.write(trained_model.load(chat_model), tmp_path / "chat.gguf")
    with serving(tmp_path / "chat.gguf") as server:
        for messages in CONVERSATIONS:
            prompt = server.ask("/apply-template", messages=as_json(messages))["prompt"]
            assert server.tokens(prompt, parse_special=True) == model.chat.prompt(messages)
            answer = server.ask("/v1/chat/completions", messages=as_json(messages), max_tokens=30, temperature=0,
                                top_k=1)["choices"][0]
            expected = "".join(model.reply(messages, tokens=30, temperature=0))
            assert answer["message"]["content"].rstrip("\ufffd") == expected.rstrip("\ufffd")


@pytest.mark.parametrize("place", range(3))
def test_an_answer_ends_at_the_same_tokens_there_and_here(chat_model, tmp_path, place):
    """The network says one of them after a few others: its row of the head is that of the likeliest token."""
    contents = checkpoint.load(chat_model)
    model = load(chat_model)
    [messages, *_] = CONVERSATIONS
    written = model.tokenizer.encode("".join(model.reply(messages, tokens=30, temperature=0)))
    head = contents["weights"]["head.weight"]
    head[model.chat.ends[place]] = 1.01 * head[written[5]]
    checkpoint.save(tmp_path / "weights-ends.pth", {key: value for key, value in contents.items() if key != "checksum"})
    model = load(tmp_path / "weights-ends.pth")
    expected = "".join(model.reply(messages, tokens=30, temperature=0))
    gguf.write(trained_model.load(tmp_path / "weights-ends.pth"), tmp_path / "ends.gguf")
    with serving(tmp_path / "ends.gguf") as server:
        answer = server.ask("/v1/chat/completions", messages=as_json(messages), max_tokens=30, temperature=0,
                            top_k=1)["choices"][0]
    assert answer["finish_reason"] == "stop" and answer["message"]["content"] == expected
    assert len(model.tokenizer.encode(expected)) < 30


def test_the_modelfile_has_the_template_and_all_ends(chat_model):
    text = ollama.modelfile(trained_model.load(chat_model))
    assert (f'TEMPLATE """{{{{ range .Messages }}}}{START}{{{{ .Role }}}}\n{{{{ .Content }}}}{END}\n{{{{ end }}}}'
            f'{START}assistant\n"""\n') in text
    assert f'PARAMETER stop "{END}"\nPARAMETER stop "{START}"\nPARAMETER stop "<|endoftext|>"\n' in text


def test_what_was_exported_is_imported_as_a_chat_model(chat_model, tmp_path):
    trained = trained_model.load(chat_model)
    gguf.write(trained, tmp_path / "chat.gguf")
    hugging_face.write(trained, tmp_path / "chat")
    for path, read in (("chat.gguf", gguf.read), ("chat", hugging_face_import.read)):
        contents, notes = read(tmp_path / path, "back")
        assert contents["chat"] == ChatTemplate(trained.tokenizer).to_dict() and notes == []


def test_another_template_is_left_out_and_said(chat_model, tmp_path):
    path = tmp_path / "chat" / "tokenizer_config.json"
    hugging_face.write(trained_model.load(chat_model), tmp_path / "chat")
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["chat_template"] == JINJA and config["eos_token"] == END
    path.write_text(json.dumps(config | {"chat_template": "{{ messages[0]['content'] }}"}), encoding="utf-8")
    contents, notes = hugging_face_import.read(tmp_path / "chat", "back")
    assert contents["chat"] is None and f"ends a text at {END}" in notes[0]


def test_the_model_card_shows_how_to_chat_and_that_program_runs(chat_model, tmp_path, capsys):
    hugging_face.write(trained_model.load(chat_model), tmp_path / "chat")
    card = (tmp_path / "chat" / "README.md").read_text(encoding="utf-8")
    assert "- conversational\n---" in card and "was taught to answer" in card
    program = card.partition("```python\n")[2].partition("```")[0]
    exec(program.replace("path/to/this/folder", (tmp_path / "chat").as_posix()), {})
    assert capsys.readouterr().out.strip()
