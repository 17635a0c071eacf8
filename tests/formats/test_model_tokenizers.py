"""The tokenizer of another program's model is read with its ids: a text gets the ids that the original gives it."""

import json
import random
import unicodedata

import numpy as np
import pytest

from conftest import run_python
from folio.base.errors import FolioError
from folio.formats import tokenizer_parts
from folio.formats.tokenizers import read, read_for_model, tokenizer_config, tokenizer_json, write
from test_tokenizer import SAMPLES
from test_tokenizer_imports import BYTE_LEVEL, a_tokenizer_json, set_in
from test_tokenizers import THEIR_SPLITS, hf, transformers
from tokenizer import BPETokenizer, load

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_start|>user"]
# What tokenizers treat in different ways: contractions, white space, digits, signs, emoji of several code points,
# combining marks, special tokens and parts of them.
PIECES = ["'s", "'LL", "don't", " ", "  ", "\t", "\n", "\r\n", "\u3000", "\xa0", "1", "23", "4567", "Ⅷ", "½", "१२३",
          "İ", "ſ", "e\u0301", "é", "字", "世界", "👨\u200d👩\u200d👧", "🏳️\u200d🌈", "\0", "!", "...", "(", "_", "the",
          " king", "Ελλ", "<|im", "<s", *SPECIAL]


@pytest.fixture(scope="module")
def fuzz_texts(plays):
    """400 texts in NFC: half of them cuts of the plays, half of them mixtures. None has 'ſ, a contraction in Qwen's."""
    draw = random.Random(1)
    cuts = [plays[start:start + draw.randrange(1, 120)] for start in draw.sample(range(len(plays)), 200)]
    mixtures = ["".join(draw.choices(PIECES, k=draw.randrange(1, 12))).replace("'ſ", "' ſ") for _ in range(200)]
    return [unicodedata.normalize("NFC", text) for text in cuts + mixtures]


def trained(pre_tokenizer, texts, vocab_size=1000, **options):
    """Return a byte-level BPE tokenizer that Hugging Face's library has trained."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    options = {"initial_alphabet": alphabet, "special_tokens": SPECIAL[:2]} | options
    tokenizer.train_from_iterator(texts, hf.trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, **options))
    return tokenizer


def with_mixed_ids(path, seed):
    """Give all tokens of a tokenizer.json other ids, at random: special tokens are anywhere then."""
    values = json.loads(path.read_text(encoding="utf-8"))
    added = values["added_tokens"]
    ids = values["model"]["vocab"] | {token["content"]: token["id"] for token in added}
    mixed = dict(zip(ids, random.Random(seed).sample(range(len(ids)), len(ids))))
    values["model"]["vocab"] = mixed        # with the special tokens: others get the ids after it
    for token in added:
        token["id"] = mixed[token["content"]]
    values["added_tokens"] = sorted(added, key=lambda token: token["id"])
    path.write_text(json.dumps(values), encoding="utf-8")


def their_ids(folder, text):
    return hf.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def differing(folder, texts, model=None):
    """Return the texts to which a folder's tokenizer.json and our import of it give different ids."""
    theirs, model = hf.Tokenizer.from_file(str(folder / "tokenizer.json")), model or read_for_model(folder)
    return [text for text in texts if theirs.encode(text, add_special_tokens=False).ids
            != model.original_ids[model.tokenizer.encode(text, allow_special=True)].tolist()]


# --- The same ids ---

@pytest.mark.parametrize("split", THEIR_SPLITS)
def test_texts_get_the_ids_that_the_original_gives_them(split, plays, fuzz_texts, tmp_path):
    tokenizer = trained(THEIR_SPLITS[split], [plays[:60_000], *SAMPLES])
    tokenizer.normalizer = hf.normalizers.NFC()
    tokenizer.add_special_tokens(SPECIAL[2:])
    tokenizer.post_processor = hf.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = read_for_model(tmp_path)
    assert model.original_ids.dtype == np.int64
    assert sorted(model.original_ids) == list(range(1002)) and model.original_ids[-4:].tolist() == [0, 1, 1000, 1001]
    assert model.tokenizer.special_tokens == tuple(SPECIAL)
    assert model.tokenizer.pattern == split.split()[0]
    assert differing(tmp_path, fuzz_texts) == []
    with_mixed_ids(tmp_path / "tokenizer.json", seed=2)
    assert sorted(read_for_model(tmp_path).original_ids) == list(range(1002))
    assert differing(tmp_path, fuzz_texts) == []


def test_bytes_that_the_vocabulary_lacks_have_no_original_id(plays, fuzz_texts, tmp_path):
    trained(THEIR_SPLITS["smollm"], [plays[:20_000]], 400, initial_alphabet=[]).save(str(tmp_path / "tokenizer.json"))
    model = read_for_model(tmp_path)
    lacking = sorted(set(range(256)) - set(plays[:20_000].encode("utf-8")))
    assert np.flatnonzero(model.original_ids < 0).tolist() == lacking
    note, = model.notes
    assert note.startswith(f"tokenizer.json: it has no token for {len(lacking)} of the 256 bytes, for example 0x00")
    known = [text for text in fuzz_texts if not set(text.encode("utf-8")) & set(lacking)]
    assert len(known) > 150 and differing(tmp_path, known) == []


def all_pairs(tokenizer):
    """Return the merges of a tokenizer as Llama 3's file has them: all pairs of tokens that make each token."""
    ids = {content: token for token, content in enumerate(tokenizer.token_bytes)}
    names, merges = tokenizer.names(), []
    for content in tokenizer.token_bytes[256:256 + len(tokenizer.merges)]:
        parts = [(ids.get(content[:place]), ids.get(content[place:])) for place in range(1, len(content))]
        merges += sorted(pair for pair in parts if None not in pair)
    return [f"{names[left]} {names[right]}" for left, right in merges]


def test_of_several_merges_of_a_token_the_one_that_can_apply_is_taken(plays, fuzz_texts, tmp_path):
    ours = BPETokenizer.train([plays[:60_000], *SAMPLES], 1000, "llama3", ["<s>", "</s>"])
    merges = all_pairs(ours)
    assert len(merges) > 1.2 * len(ours.merges)
    write(ours, "huggingface", tmp_path / "tokenizer.json")
    change_json(tmp_path, set_in("model", "merges", merges), set_in("model", "ignore_merges", True))
    model = read_for_model(tmp_path)
    assert model.tokenizer.to_dict() == ours.to_dict() and model.original_ids.tolist() == list(range(1000))
    assert differing(tmp_path, fuzz_texts) == []
    assert read(tmp_path).to_dict() == ours.to_dict()


def random_merges(draw):
    """Return up to ten merges of a, b and c in any order, ["left", "right"] each, often several for one token."""
    words, merges = ["a", "b", "c"], []
    for _ in range(draw.randrange(1, 8)):
        merges.append([draw.choice(words), draw.choice(words)])
        words.append("".join(merges[-1]))
    if draw.random() < 0.5:             # all pairs that make a token, as in Llama 3's file
        made = dict.fromkeys(words[3:])
        merges = [[word[:place], word[place:]] for word in made for place in range(1, len(word))
                  if word[:place] in words and word[place:] in words]
    if draw.random() < 0.2:
        draw.shuffle(merges)
    return merges


def test_any_merges_are_read_exactly_or_refused(tmp_path):
    draw, accepted, refused = random.Random(5), 0, 0
    a_tokenizer_json(tmp_path)
    for _ in range(600):
        merges = random_merges(draw)
        names = [*BPETokenizer([], special_tokens=()).names(), *dict.fromkeys(map("".join, merges))]
        change_json(tmp_path, set_in("model", "merges", merges), set_in("added_tokens", []),
                    set_in("model", "vocab", {name: token for token, name in enumerate(names)}),
                    set_in("model", "ignore_merges", draw.random() < 0.3))
        try:
            assert differing(tmp_path, ["".join(draw.choices("abc", k=draw.randrange(1, 20))) for _ in range(20)]) == []
            accepted += 1
        except FolioError:
            refused += 1
    assert accepted > 200 and refused > 100


def change_json(folder, *changes):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for change in changes:
        change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_transformers_reads_an_exported_tokenizer_with_its_config_and_normalizes_nothing(plays, tmp_path):
    ours = BPETokenizer.train([plays[:20_000], "e\u0301 " * 50], 500, "llama3")
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json(ours))
    config = tokenizer_config(ours, block_size=64)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in [*SAMPLES, "e\u0301 12345"]:
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (499, 499, None)
    assert theirs.model_max_length == 64
    assert tokenizer_config(BPETokenizer([], special_tokens=()), 8)["eos_token"] is None


def test_an_exported_tokenizer_has_its_own_ids(plays, tmp_path):
    ours = BPETokenizer.train([plays[:20_000]], 500, "smollm")
    write(ours, "huggingface", tmp_path / "tokenizer.json")
    model = read_for_model(tmp_path)
    assert model.tokenizer.to_dict() == ours.to_dict() and model.notes == []
    assert model.original_ids.tolist() == list(range(500))


def test_a_vocabulary_of_qwens_size_is_read(tmp_path):
    draw, tokens, merges = random.Random(3), [bytes([value]) for value in range(256)], []
    known = set(tokens)
    while len(merges) < 151_387:
        left, right = draw.randrange(len(tokens)), draw.randrange(min(len(tokens), 3000))
        content = tokens[left] + tokens[right]
        if content not in known and len(content) <= 12:
            known.add(content)
            tokens.append(content)
            merges.append((left, right))
    ours = BPETokenizer(merges)
    write(ours, "huggingface", tmp_path / "tokenizer.json")
    with_mixed_ids(tmp_path / "tokenizer.json", seed=4)
    model = read_for_model(tmp_path)
    assert model.tokenizer.merges == merges
    assert differing(tmp_path, SAMPLES, model) == []


# --- GPT-2's two files ---

@pytest.fixture
def gpt2_folder(plays, tmp_path):
    """A folder with vocab.json, merges.txt and config.json, and the original tokenizer."""
    tokenizer = trained(THEIR_SPLITS["gpt2"], [plays[:20_000]], 600, special_tokens=["<|endoftext|>"])
    tokenizer.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    return tmp_path, tokenizer


def test_the_two_files_of_gpt2_are_read_with_its_pattern(gpt2_folder, fuzz_texts):
    folder, original = gpt2_folder
    model = read_for_model(folder)
    assert model.tokenizer.pattern == "gpt2" and model.notes == []
    assert model.tokenizer.special_tokens == ("<|endoftext|>",) and model.original_ids[-1] == 0
    for text in fuzz_texts:
        assert model.original_ids[model.tokenizer.encode(text)].tolist() == original.encode(text).ids
    (folder / "added_tokens.json").write_text('{"<pad>": 600, "[SEP]": 601}', encoding="utf-8")
    model = read_for_model(folder)
    assert model.tokenizer.special_tokens == ("<|endoftext|>", "<pad>", "[SEP]")
    assert model.original_ids[-3:].tolist() == [0, 600, 601]


def test_two_files_without_a_known_pattern_are_refused(gpt2_folder):
    folder, _ = gpt2_folder
    (folder / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    with pytest.raises(FolioError, match="knows for model_type gpt2 only, not for qwen3"):
        read_for_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError):
        read_for_model(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither a tokenizer.json nor merges.txt.*SentencePiece"):
        read_for_model(folder)


# --- What is left out, with a note ---

def added(name, token, **different):
    return {"id": token, "content": name, "special": False, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False} | different


def add(*tokens):
    return lambda values: values["added_tokens"].extend(tokens)


def an_unused_token(values):
    """Add a token that no merge makes to the vocabulary."""
    values["model"]["vocab"]["xyz"] = 258
    values["added_tokens"][0]["id"] = 259


TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}]}
NOTED = {
    "NFC": (set_in("normalizer", {"type": "NFC"}), "its normalizer NFC changes a text before it is split"),
    "NFC in a sequence": (set_in("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
                          "its normalizer NFC changes a text"),
    "bos": (set_in("post_processor", TEMPLATE),
            "its post_processor TemplateProcessing adds '<|endoftext|>' to every text, and Folio does not."),
    "bos in a sequence": (set_in("post_processor", {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}),
                          "its post_processor TemplateProcessing adds '<|endoftext|>' to every text"),
    "truncation": (set_in("truncation", {"max_length": 512}), "its truncation cuts long texts"),
    "padding": (set_in("padding", {"pad_id": 0}), "its padding fills up short texts"),
    "not special": (add(added("<think>", 259), added("</think>", 260)),
                    "its added tokens <think>, </think> are not special, and are in Folio."),
    "unused": (an_unused_token, "no merge makes 1 of its tokens, for example 'xyz'"),
}


@pytest.mark.parametrize("change, said", NOTED.values(), ids=NOTED)
def test_what_does_not_matter_to_the_model_is_noted(tmp_path, change, said):
    a_tokenizer_json(tmp_path, change)
    model = read_for_model(tmp_path)
    note, = model.notes
    assert note.startswith(f"tokenizer.json: {said}") and note.endswith(".")
    assert model.tokenizer.merges == [(97, 98), (256, 99)] and model.original_ids[:258].tolist() == list(range(258))
    with pytest.raises(FolioError):
        read(tmp_path)


def test_tokens_that_are_not_special_are_found_where_special_ones_are(tmp_path):
    a_tokenizer_json(tmp_path, add(added("<think>", 259), added("<tool_call>", 260)))
    model = read_for_model(tmp_path)
    text = "abc<think>abc<tool_call>"
    ids = model.original_ids[model.tokenizer.encode(text, allow_special=True)].tolist()
    assert ids == [257, 259, 257, 260] == their_ids(tmp_path, text)


# --- What is refused ---

REFUSED = {
    "other normalizer": (set_in("normalizer", {"type": "Lowercase"}),
                         "its normalizer Lowercase changes a text before it is split, and Folio does not"),
    "normalizers": (set_in("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}),
                    "its normalizer NFC and Strip changes"),
    "SentencePiece": (set_in("model", "type", "Unigram"), "its model is Unigram; Folio supports byte-level BPE only"),
    "byte_fallback": (set_in("model", "byte_fallback", True), "its model has byte_fallback=True"),
    "whole text": (set_in("pre_tokenizer", None), "its pre-tokenizer is nothing"),
    "other digits": (set_in("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": False}, BYTE_LEVEL]}), "splits text with .*individual_digits"),
    "lstrip": (add(added("<mask>", 259, lstrip=True)), "the added token '<mask>', with lstrip, rstrip or single_word"),
    "single_word": (add(added("<mask>", 259, single_word=True)), "the added token '<mask>', with lstrip"),
    "ordinary text": (add(added("    ", 259)), "the added token '    ', which is not special"),
    "hole": (add(added("<pad>", 300, special=True)), "the ids of its 260 tokens are not 0 to 259: 259 is missing"),
    "hole in the vocabulary": (set_in("model", "vocab", "xx", 400), "259 is missing"),
    "added in another order": (add(added("<think>", 260), added("<pad>", 259)),
                               "its added tokens do not have the ids after its vocabulary, in order"),
    "one id twice": (add(added("<pad>", 258, special=True)), "259 is missing"),
    "added twice": (add(added("<pad>", 259), added("<pad>", 260)), "it adds a token twice"),
    "negative id": (add(added("<pad>", -1)), "the id of its token '<pad>', -1, is not a whole number"),
    "huge id": (add(added("<pad>", 1 << 80)), "is not a whole number from 0 on"),
    "half an id": (set_in("model", "vocab", "abc", 257.5), "the id of its token 'abc', 257.5, is not a whole number"),
    "true": (set_in("model", "vocab", "\u0101", True), "True, is not a whole number"),
    "only a whole word": (lambda values: (an_unused_token(values), set_in("model", "ignore_merges", True)(values)),
                         "no merges make 1 of its tokens, for example 'xyz'; only ignore_merges=true does"),
    "merges that never apply": (lambda values: values["model"].update(
        merges=["b c", "a b", "c d", "ab c", "ab cd", "abc d"],
        vocab=values["model"]["vocab"] | {"bc": 259, "cd": 260, "abcd": 261}),
        "none of the 2 merges that make 'abcd' joins the 3 parts that the merges before them leave of it"),
    "long name": (lambda values: values["model"]["merges"].append(["x", "y" * 100_000]), r"merge 3, 'x y{400,}\.\.\.$"),
}


@pytest.mark.parametrize("change, said", REFUSED.values(), ids=REFUSED)
def test_what_could_give_a_text_other_ids_is_refused(tmp_path, change, said):
    path = a_tokenizer_json(tmp_path, change)
    with pytest.raises(FolioError, match=said) as caught:
        read_for_model(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be imported: ") and "\n" not in message and len(message) < 1000


def test_a_file_larger_than_any_tokenizers_is_not_read(tmp_path, monkeypatch):
    path = a_tokenizer_json(tmp_path)
    monkeypatch.setattr(tokenizer_parts, "MAX_FILE_BYTES", path.stat().st_size)
    read_for_model(tmp_path)
    with path.open("ab") as file:
        file.write(b" ")
    with pytest.raises(FolioError, match="has more than .* bytes, which no tokenizer's file has"):
        read_for_model(tmp_path)


# --- From the command line ---

@pytest.mark.parametrize("pattern", ["llama3", "smollm"])
def test_a_tokenizer_that_init_learns_with_a_pattern_of_other_models_is_exported_with_its_ids(
        pattern, plays, fuzz_texts, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("In 1234 and 56789, 3.14159 of 1000000.\n" * 99 + plays[:30_000], encoding="utf-8")
    done = run_python("init.py", text, "--home", tmp_path, "--pattern", pattern, "--vocab-size", 500)
    assert done.returncode == 0, done.stderr
    ours, path = load(tmp_path / "tokenizer_save"), tmp_path / "tokenizer.json"
    assert ours.pattern == pattern
    digits = {len(token) for token in ours.token_bytes if token.isdigit()}
    assert digits == ({1, 2, 3} if pattern == "llama3" else {1})
    done = run_python("-m", "folio.convert", "export", "huggingface", path, "--home", tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = hf.Tokenizer.from_file(str(path))
    for text in fuzz_texts:
        assert theirs.encode(text).ids == ours.encode(text)
