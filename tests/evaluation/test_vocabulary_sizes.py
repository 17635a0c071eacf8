"""Vocabulary sizes compared in one pass are what each size learns and encodes by itself."""

import pytest

from conftest import ROOT, refusal, run_python
from folio.base.errors import FolioError
from folio.data.corpus import open_corpus
from folio.evaluation.vocabulary_sizes import compare_sizes, count_parts
from folio.kernels.splitting import count_pretokens
from Model_Params import TextParams
from tokenizer import BPETokenizer

SIZES = [257, 300, 400]


def run_tokens(*words):
    return run_python("-m", "folio.tokens", *words, cwd=ROOT)


def test_each_size_is_as_good_as_if_it_were_learned_alone(plays):
    learned, held_out = plays[:30_000], plays[30_000:34_000]
    found = compare_sizes(count_pretokens([learned]), count_pretokens([held_out]), reversed(SIZES), "qwen2")
    assert [figures.vocab_size for figures in found] == SIZES
    for figures in found:
        alone = BPETokenizer.train([learned], figures.vocab_size)
        ids = alone.encode(held_out)
        assert figures.tokens == len(ids)
        assert figures.bytes_per_token == pytest.approx(len(held_out.encode()) / len(ids))
        assert figures.train_bytes_per_token == pytest.approx(len(learned.encode()) / len(alone.encode(learned)))
        assert figures.unused == figures.vocab_size - 1 - len(set(ids))


@pytest.mark.parametrize("size", [7, 100, 5000, 100_000])
def test_the_last_tenth_is_held_out_from_the_start_of_a_line_however_the_text_is_cut(plays, size):
    text = plays[:50_000]
    chunks = [(text[start:start + size], False) for start in range(0, len(text), size)]
    learned, held_out = ("".join(piece.decode() * times for piece, times in counts.items())
                         for counts in count_parts(chunks, "qwen2"))
    assert len(learned) + len(held_out) == len(text)
    assert len(held_out) == pytest.approx(5000, abs=100)
    if size == 100_000:
        cut = text.rfind("\n", 0, 45_000) + 1
        assert count_parts(chunks, "qwen2") == (count_pretokens([text[:cut]]), count_pretokens([text[cut:]]))


def test_more_tokens_than_the_text_has_pairs_for_are_refused_with_the_most_possible():
    counts = count_pretokens(["the the them"])
    with pytest.raises(FolioError, match=r"for 26\d tokens at most; 300 cannot be learned"):
        compare_sizes(counts, counts, [258, 300], "qwen2")
    with pytest.raises(FolioError, match="too short"):
        compare_sizes(counts, count_pretokens([]), [258], "qwen2")


def test_a_project_is_measured_on_its_validation_part(home, plays):
    project = home(plays[:30_000])
    tokenizer, text = open_corpus(project, TextParams(vocab_size=300))
    lines = run_tokens("--home", project.folder, "--compare-sizes", "300,400,257").stdout.splitlines()
    assert lines[0] == f"learned from {text.train_bytes:,} bytes, measured on {text.val_bytes:,} others"
    rows = [line.split() for line in lines[3:]]
    assert [row[0] for row in rows] == ["257", "300", "400"]
    assert rows[0][1] == "1.000" and int(rows[1][2].replace(",", "")) == text.val_tokens


def test_a_file_is_measured_on_its_last_tenth_without_a_project(tmp_path, plays):
    path = tmp_path / "novel.txt"
    path.write_text(plays[:20_000], encoding="utf-8", newline="\n")
    done = run_tokens("--home", tmp_path, "--compare-sizes", "300", path)
    assert done.returncode == 0 and done.stdout.splitlines()[3].startswith("300 ")


@pytest.mark.parametrize("sizes, said", [("512,many", "no list of sizes such as 512,1024,4096"),
                                         ("512,12", "12 is below the smallest value possible, 257"), ("", "no list")])
def test_wrong_sizes_are_refused_with_exit_code_2(sizes, said):
    assert said in refusal(run_tokens("--compare-sizes", sizes), code=2)
