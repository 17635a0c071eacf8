"""folio/data/kept_texts.py: what was read comes back as it was, and a table is read once."""

from folio.data import corpus, sources
from folio.data.kept_texts import KeptTexts
from folio.data.sources import Documents
from small_texts import SMALL, WORDS

ROWS = "tag,remark\n" + "".join(f"P-{number},größer als {number * 7 % 100}\n" for number in range(500))


def test_texts_come_back_whatever_is_in_them(tmp_path):
    groups = [(["one", "", "zwölf\n", "\udcc3", "\udca9", "\ud800", "a\0b"], True, 5), (["part"], False, 9),
              (["end"], True, 12)]
    kept = KeptTexts(tmp_path)
    for texts, ends_document, bytes_read in groups:
        kept.add("a.csv", texts, ends_document, bytes_read)
    assert "a.csv" not in kept
    kept.finish("a.csv")
    assert "a.csv" in kept and list(kept.read("a.csv")) == list(kept.read("a.csv")) == groups
    kept.close()
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_read_once_and_becomes_the_same_tokens(home, monkeypatch):
    read, reads = Documents._read, []
    monkeypatch.setattr(Documents, "_read", lambda self, path: reads.append(path.name) or read(self, path))
    files = {"a.csv": ROWS, "b.txt": WORDS}
    made = corpus.open_corpus(home(files), SMALL, say=lambda sentence: None)[1]
    # The beginning of a table in a folder is tried; then come passes to survey, compare, learn and encode.
    assert reads.count("a.csv") == 1 + 1 and reads.count("b.txt") == 4
    monkeypatch.setattr(sources.KeptTexts, "__contains__", lambda self, path: False)
    monkeypatch.setattr(sources.KeptTexts, "add", lambda *arguments: None)
    again = corpus.open_corpus(home(files), SMALL, say=lambda sentence: None)[1]
    assert reads.count("a.csv") == 2 + 1 + 4
    assert (made.fingerprint, made.tokens.tolist()) == (again.fingerprint, again.tokens.tolist())


def test_groups_are_the_documents(home):
    project = home({"a.csv": ROWS, "b.txt": "one\n<|endoftext|>\n<|endoftext|>\ntwo", "c.jsonl": b'{"text": "x"}\n'})
    documents = Documents(sorted(project.train_data.iterdir()), SMALL)
    grouped = [(text, ends_document) for texts, ends_document in documents.groups() for text in texts]
    assert grouped == list(documents) and len(grouped) == 503
