"""folio/readers/tables.py and sniffing.py: how a table is written is found out, and every row is a document."""

import csv
import gzip
import io

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conftest import InMemory
from folio.base.errors import FolioError
from folio.data.sources import Documents
from folio.readers import mending, tables
from folio.readers.records import column_names
from folio.readers.sniffing import sniff
from Model_Params import TextParams


def documents_of(content, name="a.csv", **reading):
    """Return (documents, remarks about them) of a file with this content."""
    content = content.encode() if isinstance(content, str) else content
    documents = Documents([InMemory(content, name)], TextParams(**reading))
    texts = [text for text, ends in documents]
    return texts, list(mending.remarks(documents.mended))


def rows_of(content, columns, name="a.csv"):
    """Return the rows of a table, read by a template of its columns."""
    mark = "\x1f"
    texts, _ = documents_of(content, name, template=mark.join(f"{{{column}}}" for column in columns))
    return [text.split(mark) for text in texts]


@pytest.mark.parametrize("content, columns, rows, said", [
    ("tag;duty\nP-1;4,5\nP-2;1.200,25\n", ["tag", "duty"], [["P-1", "4,5"], ["P-2", "1.200,25"]],
     "a table of 2 columns, separated by semicolons, with decimal commas"),
    ("tag,duty\r\nP-1,4.50\r\nP-2,7\r\n", ["tag", "duty"], [["P-1", "4.50"], ["P-2", "7"]],
     "a table of 2 columns, separated by commas."),
    ("tag\tnote\nP-1\ta, b; c\nP-2\td, e; f\n", ["tag", "note"], [["P-1", "a, b; c"], ["P-2", "d, e; f"]],
     "separated by tabs"),
    ("tag|duty\rP-1|4\rP-2|5", ["tag", "duty"], [["P-1", "4"], ["P-2", "5"]], "separated by vertical bars"),
    ("sep=;\r\ntag;a,b\r\nP-1;c,d\r\n", ["tag", "a,b"], [["P-1", "c,d"]], "separated by semicolons"),
    ('"sep=,"\ntag,x\nP-1,4\n', ["tag", "x"], [["P-1", "4"]], "separated by commas"),
    ("\ufefftag,duty\nP-1,4\n", ["tag", "duty"], [["P-1", "4"]], "separated by commas"),
    ('a,b\n"two\nlines, ""quoted""",2\nx,3\n', ["a", "b"], [['two\nlines, "quoted"', "2"], ["x", "3"]], "by commas"),
    ('a,b\n"say \\"hi\\", now",2\n"x",3\n', ["a", "b"], [['say "hi", now', "2"], ["x", "3"]], "by commas"),
    ("a,b\n'x, y',2\n'z',3\n", ["a", "b"], [["x, y", "2"], ["z", "3"]], "by commas"),
    ('part\tsize\nbolt\t"5" inch\nnut\t6"\n', ["part", "size"], [["bolt", '"5" inch'], ["nut", '6"']], "by tabs"),
    ("a, b\n1, 2\nx, y\n", ["a", "b"], [["1", "2"], ["x", "y"]], "by commas"),
    ("1,2\n3,4\n", ["column 1", "column 2"], [["1", "2"], ["3", "4"]], "without names of columns"),
    ("red,yes\nblue,no\nred,no\n", ["column 1", "column 2"], [["red", "yes"], ["blue", "no"], ["red", "no"]],
     "without names of columns"),
    ("country,2019,2020\nFrance,5,6\n", ["country", "2020"], [["France", "6"]], "separated by commas."),
    (",name\n0,Ann\n1,Bo\n", ["column 1", "name"], [["0", "Ann"], ["1", "Bo"]], "separated by commas."),
    ("x,x\na,b\n", ["x", "x 2"], [["a", "b"]], "separated by commas."),
    ("name\nAnn\nBo\n", ["name"], [["Ann"], ["Bo"]], "a table of 1 column."),
    ('quote\n"a, b"\n"c, d, e"\n', ["quote"], [["a, b"], ["c, d, e"]], "a table of 1 column."),
    ("May\n\ntag;duty;x\n" + "P-1;4;y\n" * 9, ["tag", "duty", "x"], [["P-1", "4", "y"]] * 9, "below a title"),
])
def test_how_a_table_is_written_is_found_out_and_said(content, columns, rows, said):
    assert rows_of(content, columns) == rows
    texts, remarks = documents_of(content)
    assert len(texts) == len(rows)
    assert any(said in remark and remark.startswith("1 file read as a table") for remark in remarks)


def test_a_table_of_excel_in_windows_1252_is_read_with_its_encoding():
    content = "tag;größe\r\nP-1;4,5\r\nP-2;3,0 ½\r\n".encode("windows-1252")
    texts, remarks = documents_of(content, encoding="windows-1252")
    assert texts == ["tag: P-1\ngröße: 4,5", "tag: P-2\ngröße: 3,0 ½"]
    assert "Read as windows-1252: 1 file." in remarks
    with pytest.raises(FolioError, match="--encoding"):
        documents_of(content)


@pytest.mark.parametrize("prose", [
    "It was a dark, stormy night.\nThe end\nof it, all, was\nnear.\n",
    "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n",
    "First line\n\nAlice\n\nBob\n", '{"text": "one"}\n{"text": "two"}\n',
    "Roses are red,\nviolets are blue,\nSugar is sweet\nand so are you.\n",
])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_what_is_no_table_is_read_as_plain_text_and_that_is_said(prose, name):
    content = prose.encode()
    texts, remarks = documents_of(gzip.compress(content) if name.endswith("gz") else content, name)
    assert "".join(texts) == prose
    assert remarks == ["1 file with the name of a table but no columns, read as plain text."]


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x1f\ufeff")) | st.text(
    st.sampled_from(',;\t|"\' \n.a1é'))


@settings(max_examples=60)
@given(st.data(), st.sampled_from(",;\t|"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
       st.sampled_from(["\n", "\r\n"]), st.integers(1, 40), st.integers(2, 4), st.sampled_from([9, 18]))
def test_any_table_that_the_csv_module_writes_is_read_back_exactly(data, delimiter, quoting, line_end, size, width,
                                                                   sample):
    rows = data.draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=6))
    assume(all(any(row) and not {"nan", "NaN"} & {*row} for row in rows))
    names = ["tag", "duty", "flow rate", "Größe"][:width]
    assume(not any(cell in names for row in rows for cell in row))
    # Where every cell but the first of its row begins with a blank, the blanks belong to the separator.
    assume(any(cell and not cell.startswith(" ") for row in [*rows] for cell in row[1:]))
    content = io.StringIO()
    csv.writer(content, delimiter=delimiter, quoting=quoting, lineterminator=line_end).writerows([names, *rows])
    with pytest.MonkeyPatch.context() as patch:
        text = content.getvalue()
        patch.setattr(tables, "decoded", lambda *_: (text[at:at + size] for at in range(0, len(text), size)))
        patch.setattr(tables, "SAMPLE_CHARACTERS", 1 << sample)
        assert rows_of(text, names) == rows


def test_every_column_is_a_line_unless_one_is_the_text():
    table = "tag,text\nP-1,A pump.\nP-2,\nP-3,A valve.\n"
    assert documents_of(table)[0] == ["A pump.", "A valve."]
    assert "1 row without a value in 'text', left out." in documents_of(table)[1]
    assert documents_of(table, field="tag")[0] == ["P-1", "P-2", "P-3"]
    assert documents_of(table.replace("text", "note"))[0] == [
        "tag: P-1\nnote: A pump.", "tag: P-2", "tag: P-3\nnote: A valve."]


def test_what_cells_lack_is_counted_and_said():
    texts, remarks = documents_of("tag,duty,flow,x\nP-1,4,nan,\n,,,\nP-2,,NaN,\nP-3,5,7,\n")
    assert texts == ["tag: P-1\nduty: 4", "tag: P-2", "tag: P-3\nduty: 5\nflow: 7"]
    assert remarks[1:] == ["1 row without any value, left out.", "1 file with nothing in the column 'x'.",
                           "1 row without a value in 'duty'.", "2 rows without a value in 'flow'."]


def test_of_many_sparse_columns_the_first_are_said_and_the_others_counted():
    names = [f"c{number}" for number in range(12)]
    content = "\n".join([",".join(names), ",".join(["x"] * 12), ",".join(["y"] + [""] * 11)])
    _, remarks = documents_of(content)
    assert len(remarks) == 7 and remarks[-1] == "6 values missing in other columns."


def test_rows_with_more_or_fewer_cells_are_kept_and_counted():
    texts, remarks = documents_of("tag,duty,x\n" + "P,1,y\n" * 20 + "Q,2\nR,3,z,,\nS,4,z,more\n\n")
    assert texts[20:] == ["tag: Q\nduty: 2", "tag: R\nduty: 3\nx: z", "tag: S\nduty: 4\nx: z\ncolumn 4: more"]
    assert "1 row with fewer cells than there are columns." in remarks
    assert "1 row with more cells than there are columns." in remarks


@pytest.mark.parametrize("reading, said", [
    ({"template": "{tag}: {dtuy} kW"}, "a.csv has no column 'dtuy'; did you mean duty? Its columns are 'tag', 'duty'."),
    ({"template": "{tag}: {zzz} kW"}, "a.csv has no column 'zzz', only 'tag', 'duty'."),
    ({"template": "{tag: {duty}"}, "has a { without its partner at character 1."),
    ({"template": "duty}"}, "has a } without its partner at character 5."),
    ({"template": "tag"}, "The template 'tag' names no field"),
    ({"template": "{tag.__class__}"}, "has no column 'tag.__class__'"),
    ({"template": "{tag!r:>{duty}}"}, "without its partner"),
    ({"field": "storry"}, "a.csv has no column 'storry', only 'tag', 'duty'. Say which one has the text: --field"),
    ({"field": "dutyy"}, "a.csv has no column 'dutyy'; did you mean duty? Its columns are 'tag', 'duty'. Say which"),
])
def test_a_column_that_is_not_there_is_one_sentence_with_the_nearest_name(tmp_path, reading, said):
    (tmp_path / "a.csv").write_text("tag,duty\nP-1,4\n", encoding="utf-8")
    with pytest.raises(FolioError) as caught:
        list(Documents([tmp_path / "a.csv"], TextParams(**reading)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_template_has_names_in_braces_doubled_braces_and_line_ends():
    texts, _ = documents_of("tag,duty [kW],%\nP-1,4,5\n", template=r"{{{tag}}}\n{duty [kW]} kW, {%} % %s {tag}")
    assert texts == ["{P-1}\n4 kW, 5 % %s P-1"]


def test_a_large_cell_is_read_and_a_quote_without_end_is_named(monkeypatch):
    article = "long, long " * 30_000                # beyond the limit that the csv module has by itself
    assert rows_of(f'id,body\n1,"{article}"\n', ["id", "body"]) == [["1", article]]
    monkeypatch.setattr(tables, "LONGEST_CELL", 1000)
    table = "id,body\n" + "1,good\n" * 40_000
    with pytest.raises(FolioError, match=r"line 40\d\d\d, has a cell of more than 1,000 characters: a quote"):
        documents_of(table + '2,"bad\n' + "3,good\n" * 1000)
    with pytest.raises(FolioError, match="has a line of more than 1,000 characters"):
        documents_of(table + "x" * 2_000_000)
    csv.field_size_limit(1 << 24)


def test_what_is_no_text_is_refused_with_its_line():
    with pytest.raises(FolioError, match="line 3, is not UTF-8 text: byte 0x00 at offset 7"):
        documents_of("tag,duty\nP-1,4\nP-\0,5\n")


def test_a_quote_behind_the_sample_is_seen_in_the_same_way(monkeypatch):
    table = "tag,note\n" + "P-1,short\n" * 100 + '"P,2","two\nlines"\n'
    monkeypatch.setattr(tables, "SAMPLE_CHARACTERS", 200)
    assert rows_of(table, ["tag", "note"])[-1] == ["P,2", "two\nlines"]


@settings(max_examples=60)
@given(st.text(max_size=200) | st.text(st.sampled_from(',;\t|"\'\n\r a1\\'), max_size=60), st.booleans())
def test_any_text_is_a_table_or_none_without_an_accident(text, is_whole):
    layout = sniff(text, is_whole)
    assert layout is None or layout.width >= 1
    try:
        documents_of(text.replace("\0", ""))
    except FolioError as error:
        assert "\n" not in str(error)


def test_the_names_of_many_columns_are_read_whole():
    names = [f"column_{number:05}" for number in range(30_000)]            # more than SAMPLE_CHARACTERS
    row = ",".join(["1"] * len(names))
    texts, said = documents_of(",".join(names) + f"\n{row}\n{row}\n", template="{column_29999}")
    assert texts == ["1", "1"] and said == ["1 file read as a table of 30000 columns, separated by commas."]


def test_equal_names_of_many_columns_are_numbered_in_a_moment():
    assert column_names(["tag"] * 50_000)[-1] == "tag 50000"
    assert column_names(["tag", "tag", "tag 2", "tag"]) == ["tag", "tag 2", "tag 2 2", "tag 3"]


def test_of_a_long_name_only_the_beginning_is_said():
    content = "x" * 10_000 + ",tag\n" + ",1\n2,3\n" * 9
    _, said = documents_of(content)
    assert f"9 rows without a value in '{'x' * 59}…'." in said
    with pytest.raises(FolioError, match="has no column 'b', only 'x{59}…', 'tag'."):
        documents_of(content, field="b")
