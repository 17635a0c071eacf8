"""folio/readers/records.py, json_array.py, spreadsheets.py and parquet.py: the same records are the same documents in
every format.
"""

import csv
import datetime
import io
import json
import os
import sys
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import InMemory
from folio.base.errors import FolioError
from folio.data.sources import Documents
from folio.readers import json_array, json_lines, mending, source, spreadsheets
from Model_Params import TextParams
from small_texts import texts_in

NAMES = ["tag", "text", "duty"]


def documents_of(file, **reading):
    """Return (documents, remarks about them) of a file, or of (content, name)."""
    file = InMemory(*file) if isinstance(file, tuple) else file
    documents = Documents([file], TextParams(**reading))
    texts, text = [], ""
    for chunk, ends in documents:
        text += chunk
        if ends:
            texts, text = [*texts, text], ""
    return texts, list(mending.remarks(documents.mended))


def as_json(value, **reading):
    """Return (documents, remarks) of a .json file."""
    content = value if isinstance(value, str) else json.dumps(value)
    return documents_of((content.encode("utf-8", errors="surrogateescape"), "a.json"), **reading)


def in_pieces(monkeypatch, module, size):
    """Let a reader see its text in pieces of a few characters, and take any file for a large one."""
    whole = module.decoded

    def cut(*arguments):
        text = "".join(whole(*arguments))
        return (text[start:start + size] for start in range(0, len(text), size))
    monkeypatch.setattr(module, "decoded", cut)
    if size < 100:
        monkeypatch.setattr(module, "SMALL_FILE", 1)


def workbook(path, *sheets):
    """Write an Excel workbook of sheets: (title, rows) or (title, rows, state). -> path"""
    import openpyxl
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows, *state in sheets:
        sheet = book.create_sheet(title)
        sheet.sheet_state = state[0] if state else "visible"
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def every_format(folder, records):
    """Write records, {name: value}, into a file of each format. -> paths"""
    import pyarrow
    from pyarrow import parquet
    rows = [[record.get(name) for name in NAMES] for record in records]
    for name, delimiter in (("a.csv", ";"), ("a.tsv", "\t")):
        content = io.StringIO()
        csv.writer(content, delimiter=delimiter).writerows([NAMES, *rows])
        (folder / name).write_text(content.getvalue(), encoding="utf-8", newline="")
    workbook(folder / "a.xlsx", ("records", [NAMES, *rows]))
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(records), encoding="utf-8")
    (folder / "b.json").write_text(json.dumps({"count": 3, "records": records}, indent=1), encoding="utf-8")
    columns = {name: [record.get(name) for record in records] for name in NAMES}
    parquet.write_table(pyarrow.table(columns, schema=pyarrow.schema(
        [("tag", pyarrow.string()), ("text", pyarrow.string()), ("duty", pyarrow.float64())])), folder / "a.parquet")
    return sorted(folder.iterdir())


WORDS = st.text(st.sampled_from("abcé三 ,;\"'\t\n"), min_size=1, max_size=9).filter(
    lambda text: text.strip() == text and text not in NAMES)
NUMBERS = st.integers(-10**9, 10**9) | st.floats(-1e6, 1e6).map(lambda number: round(number, 3)).filter(
    lambda number: number != int(number) and "e" not in repr(number))
RECORDS = st.lists(st.fixed_dictionaries({"tag": WORDS}, optional={
    "text": st.none() | WORDS | st.just(""), "duty": st.none() | NUMBERS}), min_size=1, max_size=6)


@settings(max_examples=12, deadline=None)
@given(RECORDS, st.sampled_from([{}, {"template": "{tag}: {duty} kW"}, {"template": "{{{text}}}"}, {"field": "tag"}]))
def test_the_same_records_are_the_same_documents_in_every_format(tmp_path_factory, records, reading):
    records = [{"tag": "first", "text": "one", "duty": 4}, *records]
    paths = every_format(tmp_path_factory.mktemp("formats"), records)
    assert len(paths) == 7
    results = {}
    for path in paths:
        texts, remarks = documents_of(path, **reading)
        said = [remark.replace("record", "row").replace("line", "row") for remark in remarks if " without " in remark]
        results[path.name] = texts, said
    expected = results.pop("a.jsonl")
    assert len(expected[0]) >= 1 and all(result == expected for result in results.values()), results


def test_what_is_missing_is_said_in_the_same_words_in_every_format(tmp_path):
    records = [{"tag": "P-1", "text": "a", "duty": 4.5}, {"tag": "P-2", "text": None},
               {"tag": "P-3", "text": "", "duty": None}]
    for path in every_format(tmp_path, records):
        noun = {".jsonl": "line", ".json": "record"}.get(path.suffix, "row")
        texts, remarks = documents_of(path)
        assert texts == ["a"] and f"2 {noun}s without a value in 'text', left out." in remarks, path
        texts, remarks = documents_of(path, template="{tag}: {duty} kW")
        assert texts == ["P-1: 4.5 kW", "P-2:  kW", "P-3:  kW"], path
        assert f"2 {noun}s without a value in 'duty'." in remarks, path
        with pytest.raises(FolioError, match="'dutyy'; did you mean duty"):
            documents_of(path, template="{dutyy}")


# --- JSON ---

def test_numbers_of_json_are_as_they_are_written():
    content = '[{"a": 1.50, "b": 1e3, "c": true, "d": NaN, "e": 123456789012345678901234567890}]'
    assert as_json(content, template="{a} {b} {c} {d} {e}")[0] == ["1.50 1e3 true  123456789012345678901234567890"]


@pytest.mark.parametrize("value, texts", [
    ([{"text": "a"}, {"text": "b"}], ["a", "b"]), (["a", "b", ""], ["a", "b"]), ({"data": [{"text": "a"}]}, ["a"]),
    ('{"text": "a"}\n{"text": "b"}', ["a", "b"]), ({"text": "a", "tags": [{"x": 1}]}, ["a"]),
    ('\ufeff[{"text": "a"}]', ["a"]), ([], []), ("", []), ({"data": ["a", "b"]}, ["a", "b"]),
])
def test_records_are_found_where_they_are(value, texts):
    assert as_json(value)[0] == texts


@pytest.mark.parametrize("value", [
    {"name": "folio", "files": ["a"], "scripts": {"x": "y"}}, [1, 2], {"a": [{"b": 1}], "c": [{"d": 1}]},
    '{"compilerOptions": {} // comment\n}', "{}", "plain",
])
def test_json_without_records_is_plain_text_and_that_is_said(value):
    texts, remarks = as_json(value)
    assert texts == [value if isinstance(value, str) else json.dumps(value)]
    assert remarks == ["1 file of JSON without a list of records, read as plain text."]


@pytest.mark.parametrize("content, said", [
    ('[{"text": "a"},', "is not JSON (Expecting value"), ('[{"text": "a"} {"text": "b"}]', "is not JSON ("),
    ('[{"text": "a"}] x', "is not JSON ("), ('[{"text": "a", bad}]', "is not JSON ("),
    ('[{"text": "a"},]', "is not JSON ("),
    ("[" * 100_000, "too many brackets"), ('[{"text": "a\nb"}]', "is not JSON (Invalid control character"),
    ('[{"title": "a"}]', "record 1, has no field 'text', only 'title'. Say which one has the text: --field NAME."),
    ('[{"text": 5}]', "record 1, has a number in its field 'text', not text."),
    ('[{"text": "a"}, 5]', "record 2, is no JSON object but a number"),
    ('[{"messages": [{"role": "bard"}]}]', "record 1 has 'bard' as the role of message 1"),
])
@pytest.mark.parametrize("size", [1 << 19, 3])
def test_an_array_that_cannot_be_read_is_one_sentence(monkeypatch, content, said, size):
    in_pieces(monkeypatch, json_array, size)
    with pytest.raises(FolioError) as caught:
        as_json(content)
    assert said.partition(" (Exp")[0] in str(caught.value) and "\n" not in str(caught.value)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | FLOATS | st.text(), max_leaves=8, extend=lambda inner:
                      st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3), min_size=1, max_size=4), st.integers(1, 30),
       st.booleans(), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_read_in_blocks_as_the_json_module_reads_it(records, size, ascii_only, indent, in_object):
    records = [record | {"text": f"document {number}"} for number, record in enumerate(records)]
    value = {"version": -12.5e3, "records": records, "x": [1, [2]]} if in_object else records
    content = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch, json_array, size)
        assert as_json(content)[0] == [record["text"] for record in records]


def test_two_lists_in_a_large_object_and_a_record_too_long_are_named(monkeypatch):
    in_pieces(monkeypatch, json_array, 10)
    with pytest.raises(FolioError, match="has two lists of records, 'a' and 'b': make a file of each"):
        as_json({"a": [{"text": "x"}], "b": [{"text": "y"}]})
    monkeypatch.setattr(json_array, "LONGEST_RECORD", 100)
    with pytest.raises(FolioError, match="has a record of more than 100 characters"):
        as_json([{"text": "x" * 500}])


def test_a_line_of_json_for_a_template_has_to_fit_in_memory(monkeypatch):
    content = json.dumps({"tag": "P-1", "text": "x" * 5000}).encode()
    monkeypatch.setattr(json_lines, "LONG_LINE", 100)
    monkeypatch.setattr(source, "BLOCK_BYTES", 50)
    assert documents_of((content, "a.jsonl"), template="{tag} {text}")[0] == ["P-1 " + "x" * 5000]
    monkeypatch.setattr(json_lines, "LONGEST_RECORD", 1000)
    with pytest.raises(FolioError, match="line 1, has more than 1,000 bytes. With a template, or a conversation in"):
        documents_of((content, "a.jsonl"), template="{tag} {text}")
    assert documents_of((content, "a.jsonl"))[0] == ["x" * 5000]


def test_the_field_may_come_late_but_not_after_a_thousand_records():
    lines = '{"other": 1}\n' * 900 + '{"text": "here"}\n'
    assert documents_of((lines.encode(), "a.jsonl"))[0] == ["here"]
    lines = '{"other": 1}\n' * 1000 + "not JSON, and not reached\n"
    with pytest.raises(FolioError, match="line 1, has no field 'text', only 'other'"):
        documents_of((lines.encode(), "a.jsonl"))


# --- Excel workbooks ---

def test_every_visible_sheet_is_a_table_with_its_values_as_they_are_shown(tmp_path):
    day, moment = datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, 13, 30)
    path = workbook(tmp_path / "a.xlsx", ("Pumps", [["tag", "duty", "when", "ok"], ["P-1", 4.5, day, True],
                                                    ["P-2", 7.0, moment, False], [None] * 4]),
                    ("Old", [["secret"], ["x"]], "hidden"), ("Empty", []),
                    ("Report", [["Valves of May"], [], ["tag", "size", "x"], ["V-1", 3, "y"], ["V-2", None, "z"]]))
    texts, remarks = documents_of(path)
    assert texts == ["tag: P-1\nduty: 4.5\nwhen: 2024-05-01\nok: true",
                     "tag: P-2\nduty: 7\nwhen: 2024-05-01 13:30:00\nok: false",
                     "tag: V-1\nsize: 3\nx: y", "tag: V-2\nx: z"]
    assert remarks == ["2 sheets read as a table.", "1 sheet hidden, left out.", "1 row without a value in 'size'."]


def test_sheets_without_the_columns_are_left_out_unless_all_are(tmp_path):
    path = workbook(tmp_path / "a.xlsx", ("A", [["tag", "duty"], ["P-1", 4]]), ("B", [["name"], ["Ann"]]))
    texts, remarks = documents_of(path, template="{tag} {duty}")
    assert texts == ["P-1 4"] and "1 sheet without the columns that are wanted, left out." in remarks
    with pytest.raises(FolioError, match="has no column 'tagg'; did you mean tag"):
        documents_of(path, template="{tagg}")


@pytest.mark.parametrize("rows", [[["tag", "duty"], ["P-1", "=1+2"]], [["=1", "=1+2"]]])
def test_formulas_without_values_are_refused(tmp_path, rows):
    with pytest.raises(FolioError, match="sheet 'S', has formulas whose values are not in the file: open it"):
        documents_of(workbook(tmp_path / "a.xlsx", ("S", rows)))


@pytest.mark.parametrize("content, said", [
    (b"PK\x03\x04 and more", "is damaged: it begins as an Excel workbook"), (b"", "is empty, and no Excel workbook"),
    (bytes.fromhex("d0cf11e0a1b11ae1") * 99, "is an old Office document"), (b"tag,duty", "is not an Excel workbook"),
])
def test_what_is_no_workbook_is_refused(tmp_path, content, said):
    (tmp_path / "a.xlsx").write_bytes(content)
    with pytest.raises(FolioError, match=said):
        documents_of(tmp_path / "a.xlsx")


def test_a_damaged_workbook_is_one_sentence_or_right(tmp_path):
    whole = workbook(tmp_path / "a.xlsx", ("S", [["tag", "duty"], *[[f"P-{number}", number] for number in range(50)]]))
    content, expected = whole.read_bytes(), documents_of(whole)[0]
    for place in range(0, len(content), 97):
        whole.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1:])
        try:
            assert documents_of(whole)[0] == expected
        except FolioError as error:
            assert "\n" not in str(error)


def test_without_the_package_one_sentence_says_what_installs_it(tmp_path, monkeypatch):
    path = workbook(tmp_path / "a.xlsx", ("S", [["tag"], ["P-1"]]))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(FolioError, match=r"a\.xlsx is an Excel workbook; .*: python -m pip install openpyxl==3"):
        documents_of(path)
    assert os.listdir(tmp_path) == ["a.xlsx"]


def test_parquet_of_narrow_fractions_shows_no_more_digits_than_it_has(tmp_path):
    import pyarrow
    from pyarrow import parquet
    table = pyarrow.table({"x": pyarrow.array([0.1, 2.0, None, float("nan")], pyarrow.float32()),
                           "when": [datetime.datetime(2024, 5, 1)] * 4, "n": [1, 2, None, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert documents_of(tmp_path / "a.parquet", template="{x} {when} {n}")[0] == [
        "0.1 2024-05-01 1", "2 2024-05-01 2", " 2024-05-01 ", " 2024-05-01 3"]
    with pytest.raises(FolioError, match="has list<element: int64> in its column 'x', not text"):
        parquet.write_table(pyarrow.table({"x": [[1], [2]]}), tmp_path / "b.parquet")
        documents_of(tmp_path / "b.parquet", template="{x}")


def changed_workbook(path, change, **parts):
    """Rewrite a workbook: the first sheet as `change` returns it, and more parts, {name: content}. -> path"""
    with zipfile.ZipFile(path) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()} | parts
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, change(content) if name == "xl/worksheets/sheet1.xml" else content)
    return path


def test_a_column_with_nothing_in_it_is_no_formula_without_a_value(tmp_path):
    path = workbook(tmp_path / "a.xlsx", ("S", [["tag", "duty", "note"], ["P-1", 7, None], ["P-2", 8, None]]))
    changed_workbook(path, lambda sheet: sheet.replace(b"<v>7</v>", b"<f>3+4</f><v>7</v>"))
    assert texts_in(Documents([path])) == ["tag: P-1\nduty: 7", "tag: P-2\nduty: 8"]


def test_what_openpyxl_does_not_know_is_no_warning(tmp_path, recwarn):
    path = workbook(tmp_path / "a.xlsx", ("S", [["tag", "duty"], ["P-1", 7], ["P-2", 8]]))
    extension = b'<extLst><ext uri="{CCE6A557-97BC-4b89-ADB6-D9C93CAAB3DF}"/></extLst></worksheet>'
    changed_workbook(path, lambda sheet: sheet.replace(b"</worksheet>", extension))
    assert len(texts_in(Documents([path]))) == 2 and not recwarn.list


def test_a_workbook_that_claims_to_be_endless_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(spreadsheets, "MOST_ROWS", 1000)
    path = workbook(tmp_path / "a.xlsx", ("S", [["tag", "duty"], ["P-1", 7], ["P-2", 8]]))
    changed_workbook(path, lambda sheet: sheet.replace(b'<row r="3"', b'<row r="999999999999"'))
    assert len(texts_in(Documents([path]))) <= 2


def test_a_workbook_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(spreadsheets, "LARGEST_PART", 1 << 20)
    path = workbook(tmp_path / "a.xlsx", ("S", [["tag", "duty"], ["P-1", 7]]))
    for change, parts in ((bytes, {"xl/sharedStrings.xml": bytes(2 << 20)}),
                          (lambda sheet: sheet.replace(b"P-1", b"x" * (4 << 20)), {})):
        changed_workbook(path, change, **parts)
        with pytest.raises(FolioError, match="a.xlsx unpacks to . MB, too much to be read as a workbook"):
            list(Documents([path]))
        path = workbook(tmp_path / "a.xlsx", ("S", [["tag", "duty"], ["P-1", 7]]))


def test_a_line_of_json_that_is_all_number_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(json_lines, "LONG_LINE", 1000)
    monkeypatch.setattr(json_lines.ScannedObject, "LONGEST_OUTLINE", 2000)
    monkeypatch.setattr(source, "BLOCK_BYTES", 1500)
    with pytest.raises(FolioError, match="line 1, is not JSON .it has too much beside its texts"):
        list(Documents([InMemory(b'{"a": ' + b"1" * 9000 + b"}", "a.jsonl")]))
