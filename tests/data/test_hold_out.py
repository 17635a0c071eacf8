"""folio/data/hold_out.py: whole documents are held out, whatever their order, and none that is like one of training."""

import random
from dataclasses import replace

import numpy as np
import pytest

from folio.base.errors import FolioError
from folio.data import corpus, encoding, hold_out, likeness
from folio.data.sources import Documents
from folio.kernels import splitting
from folio.readers import source
from folio.server.copies import TrainingText
from Model_Params import TextParams
from small_texts import END, SMALL, WORDS, json_lines, message_of, run_init, texts_of
from test_token_files import edit
from tokenizer import END_OF_TEXT

WORD_LIST = [f"{first}{middle}{last}" for first in "bdfgklmnprst" for middle in ("a", "e", "i", "o", "ur")
             for last in ("l", "m", "ndo", "ri", "st")]


def story(seed, words=60):
    """Return a text that shares no stretch of words with those of other seeds."""
    return " ".join(random.Random(seed).choices(WORD_LIST, k=words)) + ".\n"


def sides(made, tokenizer):
    """Return the documents of both parts of a Corpus, as two lists."""
    return [text.removesuffix(END_OF_TEXT).split(END_OF_TEXT) for text in texts_of(tokenizer, made)]


def split_of(home, texts, **settings):
    """Prepare a project of JSON lines. -> its documents for training, and those held out"""
    tokenizer, made = corpus.open_corpus(home({"a.jsonl": json_lines(texts)}), replace(SMALL, **settings),
                                         say=lambda sentence: None)
    assert made.train_bytes + made.val_bytes == sum(len(text.encode()) for text in texts)
    return sides(made, tokenizer)


def test_whole_documents_from_all_over_the_text_are_held_out(home):
    texts = [story(seed) for seed in range(200)]
    training, held_out = split_of(home, texts)
    assert sorted(training + held_out) == sorted(texts)
    assert training == [text for text in texts if text in set(training)]        # in their order
    assert 0.08 < len("".join(held_out)) / len("".join(texts)) < 0.12
    places = [texts.index(text) for text in held_out]
    assert min(places) < 50 and max(places) > 150


def test_the_choice_is_by_content_and_not_by_order(home):
    texts = [story(seed) for seed in range(100)]
    expected = sorted(split_of(home, texts)[1])
    assert sorted(split_of(home, texts[::-1])[1]) == expected
    assert sorted(split_of(home, texts[50:] + texts[:50])[1]) == expected


@pytest.mark.parametrize("processes, block_bytes, batch", [(1, 1000, 1000), (2, 1 << 19, 2000), (2, 777, 10**9)])
def test_the_split_depends_neither_on_processes_nor_on_blocks(home, monkeypatch, processes, block_bytes, batch):
    files = {"a.jsonl": json_lines([story(seed) for seed in range(100)]), "b.txt": story(1000, 20_000),
             "c.txt": story(1001, 9000) + "ΟΔΟΣ ΣΑΣ " * 300, "d.txt": story(1002, 40)}
    expected = corpus.open_corpus(home(files), SMALL)[1]
    monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(splitting, "BATCH", batch)
    monkeypatch.setattr(encoding, "_processes", lambda survey: processes)
    monkeypatch.setattr(likeness, "BATCH_BYTES", batch)
    made = corpus.open_corpus(home(files), SMALL)[1]
    assert (made.fingerprint, made.tokens.tolist()) == (expected.fingerprint, expected.tokens.tolist())


def test_of_few_long_documents_each_has_its_end_held_out(home):
    texts = {f"{seed}.txt": story(seed, 600) for seed in range(11)}
    tokenizer, made = corpus.open_corpus(home(texts), SMALL)
    training, held_out = sides(made, tokenizer)
    assert len(training) == len(held_out) == 11
    for name, begin, end in zip(sorted(texts), training, held_out):
        assert begin + end == texts[name]
        assert len(end) / len(texts[name]) == pytest.approx(0.1, abs=0.002)


def test_beside_one_long_document_short_ones_are_held_out_in_their_share(home):
    texts = [*[story(seed) for seed in range(100)], story(1000, 6000)]
    training, held_out = split_of(home, texts)
    whole = [text for text in held_out if text in texts]
    assert len(held_out) - len(whole) == 1 and texts[-1].endswith(held_out[-1])
    assert 0.06 < len("".join(whole)) / len("".join(texts[:-1])) < 0.14
    assert len(held_out[-1]) / len(texts[-1]) == pytest.approx(0.1, abs=0.01)


def test_the_held_out_part_is_read_from_the_text_as_it_was_encoded(home):
    project = home({"a.jsonl": json_lines([story(seed) for seed in range(60)]), "b.txt": story(100, 800)})
    tokenizer, made = corpus.open_corpus(project, SMALL)
    for path in project.tokens.iterdir():
        path.unlink()
    read = corpus.read_corpus(project, say=lambda sentence: None)[1]
    # Without a record the way of splitting is the default, and the tokens are those that were written.
    assert (read.val.tolist(), read.val_bytes, read.train_bytes) == (
        made.val.tolist(), made.val_bytes, made.train_bytes)
    training = b"".join(read.training_text()).decode()
    assert training == "".join(sides(made, tokenizer)[0])


@pytest.mark.parametrize("text", [WORDS, "Größe 😀é" * 70, story(1, 3000)])
def test_one_document_is_split_where_it_always_was(home, text):
    by_default, by_end = (corpus.open_corpus(home(text), replace(SMALL, hold_out=way))[1]
                          for way in ("documents", "end"))
    assert (by_default.fingerprint, by_default.text_fingerprint) == (by_end.fingerprint, by_end.text_fingerprint)
    assert by_default.tokens.tolist() == by_end.tokens.tolist()


def test_the_two_ways_of_splitting_several_documents_have_two_identities(home):
    texts = json_lines(["x" * 50 + str(number) for number in range(100, 150)])
    ways = [corpus.open_corpus(home({"a.jsonl": texts}), replace(END, hold_out=way), say=lambda sentence: None)[1]
            for way in ("documents", "end")]
    assert len({made.fingerprint for made in ways}) == 2
    assert len({made.training_part["text_fingerprint"] for made in ways}) == 2


def test_no_more_than_the_limit_is_held_out_and_kept_in_memory(home, monkeypatch):
    monkeypatch.setattr(hold_out, "VAL_BYTES_LIMIT", 4000)
    kept = []
    monkeypatch.setattr(hold_out, "choose_unlike", lambda candidates, *arguments: (kept.append(
        sum(group.bytes for group in candidates)), hold_out.choose(candidates, *arguments[:2]))[1:] + (True,))
    training, held_out = split_of(home, [story(seed) for seed in range(400)])
    assert 3000 < len("".join(held_out)) <= 4000 and kept[0] <= 4 * 4000


# --- Documents that are alike ---

def changed(text, seed):
    """Return a copy with other numbers and spacing, and a word in twenty replaced."""
    words = text.split()
    for place in random.Random(seed).sample(range(len(words)), len(words) // 20):
        words[place] = "zzz"
    return f"Page {seed}\n" + "  ".join(words).upper() + "\n"


def test_equal_documents_are_on_one_side_whatever_their_case_and_spacing(home):
    originals = [story(seed, 12) for seed in range(300)]        # too short to be compared by shingles
    copies = [text.upper().replace(" ", "\n") for text in originals]
    training, held_out = split_of(home, originals + copies)
    assert 40 < len(held_out) < 80
    folded = [{" ".join(text.lower().split()) for text in side} for side in (training, held_out)]
    assert not folded[0] & folded[1]


def test_documents_that_are_alike_are_on_one_side(home):
    originals = [story(seed, 80) for seed in range(200)]
    copies = [changed(text, seed) for seed, text in enumerate(originals) if seed % 4 == 0]
    training, held_out = split_of(home, originals + copies)
    assert 0.05 < len("".join(held_out)) / len("".join(originals + copies)) < 0.12
    side = {text: number for number, texts in enumerate((training, held_out)) for text in texts}
    assert [text for seed, text in enumerate(copies) if side[text] != side[originals[4 * seed]]] == []


def test_a_document_that_a_longer_one_quotes_is_not_held_out(home):
    texts = [story(seed) for seed in range(100)]
    expected = split_of(home, texts)[1]
    anthology = story(500, 2000) + "".join(text.replace(" ", "\n") for text in expected) + story(501, 2000)
    held_out = split_of(home, [*texts, anthology])[1]
    assert not set(expected) & set(held_out) and len(held_out) > 5


def test_rows_that_are_all_alike_are_held_out_nevertheless_and_that_is_said(home):
    row = "The pump in the hall for pressing the cider of the autumn delivers {} liters in an hour at {} bar, "
    row += "and whoever has to press pears in the other hall takes the smaller pump from the cellar beside it.\n"
    texts = [row.format(number * 17 % 1009, number) for number in range(300)]
    said = []
    tokenizer, made = corpus.open_corpus(home({"a.jsonl": json_lines(texts)}), SMALL, say=said.append)
    assert 20 < len(sides(made, tokenizer)[1]) < 40
    assert any("differ from others only in numbers" in sentence for sentence in said)


def test_shingles_do_not_depend_on_how_documents_are_joined():
    pieces = [likeness.letters(story(seed)) for seed in range(20)]
    together = likeness.shingles(pieces)
    for number, piece in enumerate(pieces):
        assert together[0][together[1] == number].tolist() == likeness.shingles([piece])[0].tolist()
    sizes = np.bincount(together[1])
    assert sizes.min() > 5 and sizes.sum() == pytest.approx(len(b"".join(pieces)) / 8, rel=0.3)


# --- Files that are given for validation, and older projects ---

def test_files_given_for_validation_are_held_out_and_nothing_else(home):
    project = home({"a.txt": WORDS, "b.txt": story(1), "other/c.txt": story(2, 500)})
    done = run_init(project, "--vocab-size", 300, "--val", project.train_data / "other")
    assert done.returncode == 0 and "Held out as a whole: c.txt." in done.stdout, done.stderr
    tokenizer, made = corpus.open_corpus(project, say=pytest.fail)
    assert sides(made, tokenizer) == [[WORDS, story(1)], [story(2, 500)]]
    (project.train_data / "other" / "c.txt").write_text(story(3), encoding="utf-8", newline="")
    tokenizer, made = corpus.open_corpus(project, say=lambda sentence: None)
    assert sides(made, tokenizer) == [[WORDS, story(1)], [story(3)]]


def test_text_that_is_all_held_out_is_refused(home):
    project = home(WORDS)
    message = message_of(corpus.open_corpus, project, SMALL, held_out=[project.train_data / "input.txt"])
    assert message.startswith("All of the text is held out")
    assert not project.tokens.exists()
    message = message_of(corpus.open_corpus, project, SMALL, held_out=[project.train_data / "inptu.txt"])
    assert "did you mean" in message


def test_an_older_project_keeps_its_split_until_it_is_prepared_anew(home):
    project = home({f"{seed:03}.txt": story(seed) for seed in range(100)})
    made = corpus.open_corpus(project, replace(SMALL, hold_out="end"))[1]

    def as_it_was(about):
        del about["held_out"], about["text"]["hold_out"], about["text"]["template"], about["text"]["encoding"]
    edit(project, as_it_was, signed=True)
    tokenizer, found = corpus.open_corpus(project, say=pytest.fail)
    assert found.fingerprint == made.fingerprint and found.text.hold_out == "end"
    (project.train_data / "000.txt").write_text(story(200), encoding="utf-8", newline="")
    tokenizer, found = corpus.open_corpus(project, say=lambda sentence: None)
    assert sides(found, tokenizer)[1] == [story(seed) for seed in range(90, 100)]
    assert corpus.open_corpus(project, SMALL)[1].text.hold_out == "documents"


def test_another_way_to_hold_out_than_the_prepared_one_is_refused(home):
    project = home({"a.jsonl": json_lines([story(seed) for seed in range(50)])})
    corpus.open_corpus(project, SMALL)
    message = message_of(corpus.open_corpus, project, wanted={"hold_out": "end"})
    assert "hold_out is documents, not end" in message


# --- What is on one side only, and a text that changes ---

def test_scripts_on_one_side_are_named(home):
    said = []
    files = {"a.txt": story(1, 1000), "b.txt": "Σὰ βγεῖς στὸν πηγαιμὸ γιὰ τὴν Ἰθάκη " * 50}
    corpus.open_corpus(home(files), replace(SMALL, hold_out="end", val_fraction=0.3), say=said.append)
    assert "Greek letters are only in the held-out part: nothing is learned about them." in said
    assert "Held out as a whole: b.txt." in said
    said.clear()
    corpus.open_corpus(home(files), SMALL, say=said.append)
    assert said == []


def table(rows, name="a.csv"):
    lines = ["tag,duty,remark", *(f"P-{number},{number % 90}.5,{remark}" for number, remark in enumerate(rows))]
    return {name: "\n".join(lines) + "\n"}


@pytest.mark.parametrize("template", [None, "{tag} {remark}"])
@pytest.mark.parametrize("rows, expected", [
    ([""] * 285 + ["new"] * 15, "1 column ('remark') has values only in held-out rows: nothing is learned about them."),
    (["old"] * 250 + [""] * 50,
     "1 column ('remark') has values only in training rows: what is learned about them is not measured."),
    (["old"] * 100 + [""] * 200, None),         # some 15 expected among the rows that are held out: it may be chance
    (["both"] + [""] * 298 + ["both"], None)])
def test_columns_on_one_side_are_named(home, rows, expected, template):
    said = []
    settings = replace(SMALL, hold_out="end", template=template)
    corpus.open_corpus(home(table(rows)), settings, say=said.append)
    assert said == ([expected] if expected and template is None else [])
    said.clear()
    corpus.open_corpus(home(table(rows)), replace(settings, hold_out="documents"), say=said.append)
    assert not any("column" in sentence for sentence in said)


def test_a_text_that_changes_while_it_is_read_is_refused_and_nothing_is_written(home, monkeypatch):
    project = home(WORDS)
    learn = corpus.learn_tokenizer

    def changing(documents, survey, text):
        (project.train_data / "input.txt").write_text(WORDS.replace("question", "answer"), encoding="utf-8")
        return learn(documents, survey, text)
    monkeypatch.setattr(corpus, "learn_tokenizer", changing)
    with pytest.raises(FolioError, match=r"input\.txt changed while it was being read, and nothing was written"):
        corpus.open_corpus(project, SMALL)
    assert not project.tokens.exists() and not project.tokenizer.exists()


def test_copies_are_looked_for_in_the_training_part_alone(home):
    texts = [story(seed) for seed in range(60)]
    project = home({"a.jsonl": json_lines(texts), "b.txt": story(100, 800)})
    tokenizer, made = corpus.open_corpus(project, SMALL)
    training, held_out = sides(made, tokenizer)
    searched = TrainingText(project)
    assert searched.fingerprint == made.text_fingerprint and searched.train_bytes == made.train_bytes
    for text in training[:-1]:
        length, start = searched.longest(text.encode())
        assert length >= len(text)
        assert searched.place(start) == ("a.jsonl", texts.index(text) + 1)
    for text in held_out:
        assert searched.longest(text.encode())[0] < 60


def test_the_fingerprint_of_a_text_without_a_choice_is_as_older_versions_made_it(home):
    documents = Documents([home(WORDS).train_data / "input.txt"])
    survey = encoding.survey_text(documents, TextParams())
    assert survey.fingerprint == "f859c8ee425af543"
