"""folio/readers: Word, OpenDocument, EPUB, RTF, HTML and PDF, word for word; and those that cannot be read."""

import gzip
import subprocess
import sys
import zipfile
from io import BytesIO

import pytest

from conftest import refusal
from folio.data.sources import Documents
from folio.readers import documents
from folio.readers.rtf import mended
from manuscript import equal_words, manuscript, write
from Model_Params import TextParams
from small_texts import WORDS, everything_below, message_of, run_init, texts_in

pypandoc = pytest.importorskip("pypandoc")
pypdf = pytest.importorskip("pypdf")


@pytest.fixture(autouse=True)
def nothing_remembered():
    documents._converted.clear()


@pytest.fixture(scope="module")
def original():
    return manuscript()


def text_of(path, **reading):
    text, = texts_in(Documents([path], TextParams(**reading)))
    return text


@pytest.mark.parametrize("suffix, least", [
    (".docx", 0.999), (".odt", 0.999), (".epub", 0.999), (".rtf", 0.999), (".html", 0.999), (".htm", 0.999),
    (".md", 0.999), (".txt", 0.999), (".pdf", 0.98)])
def test_a_manuscript_has_the_same_words_in_every_format(tmp_path, original, suffix, least):
    markdown, words = original
    assert len(words) > 3500
    path = write(tmp_path, suffix, markdown)
    fraction = equal_words(text_of(path), words)
    print(f"{suffix} {fraction:.4%}")
    assert fraction >= least


def test_the_measure_sees_a_word_that_is_missing_or_wrong_or_too_many(original):
    words = original[1]
    text = " ".join(words)
    assert equal_words(text, words) == 1
    for other in (text.replace("Łódź", ""), text.replace("Łódź", "?ód?"), text.replace("Łódź", "Łódź Łódź")):
        assert equal_words(other, words) < 0.99


def word_file(folder, markdown, name="a.docx"):
    path = folder / name
    path.write_bytes(write(folder, ".docx", markdown).read_bytes())
    return path


def test_a_table_becomes_lines_with_tabs_and_rules_and_pictures_no_noise(tmp_path):
    markdown = "One\n\n| Name | Wert |\n|---|---|\n| Öl | a *long* cell |\n\n---\n\n~~Two~~ [three]{.smallcaps}\n"
    assert text_of(word_file(tmp_path, markdown)) == "One\n\nName\tWert\nÖl\ta long cell\n\n* * *\n\nTwo three\n"


@pytest.mark.parametrize("written, text", [
    (rb"\u8220?hi\u8221?", "“hi”"), (rb"\u8220\'93hi\u8221\'94", "“hi”"), (rb"\'93hi\'94", "“hi”"),
    (rb"\ansicpg1251 \'ef\'f0\'e8", "при"), (rb"{\fonttbl{\f0 A;}{\f1\fcharset204 B;}}\f1 \'ef{\f0\'ef}\'ef", "пïп"),
    (rb"\ansicpg932 \'93\'fa", "日"),
    (rb"C:\\u8220", "C:\\u8220"), (rb"a{\super\chftn}{\*\footnote note}", "a[1] [1] note"),
], ids=["question mark", "byte", "Windows-1252", "Cyrillic", "a font's", "Japanese", "backslash", "note"])
def test_characters_and_notes_of_rtf(tmp_path, written, text):
    (tmp_path / "a.rtf").write_bytes(rb"{\rtf1\ansi" + (b"" if written.startswith(b"\\a") else b" ") + written + b"}")
    assert text_of(tmp_path / "a.rtf").split() == text.split()
    assert mended(mended(written)) == mended(written)


# --- Web pages ---

@pytest.mark.parametrize("page, text", [
    ("<title>T</title><p>one<p>two<br>three", "one\n\ntwo\nthree\n"),
    ("<head><style>p {}</style><body>a &amp; b&nbsp;&eacute;", "a & b\xa0é\n"),
    ("a<script>if (1 < 2) '<p>x</p>'</script>b<!-- <p>c -->d", "abd\n"),
    ("<ul><li><p>one</p></li><li>two</ul><ol><li>x<li>y</ol>", "- one\n\n- two\n\n1. x\n2. y\n"),
    ("<table><tr><th>A</th> <th>B</th></tr><tr><td>1</td><td>2</td></table>", "A\tB\n1\t2\n"),
    ("<pre>a\n  b</pre>c", "a\n  b\n\nc\n"), ("one <b>two</b>\n three<hr>four", "one two three\n\n* * *\n\nfour\n"),
    ("1 < 2 <b", "1 < 2\n")])
def test_a_page_is_read_as_a_browser_shows_it(tmp_path, page, text):
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    assert text_of(tmp_path / "a.html") == text


@pytest.mark.parametrize("content", [
    '<meta charset="windows-1252"><p>Größe “x”'.encode("windows-1252"),
    "<meta http-equiv=a content='text/html; charset=koi8-r'><p>Größe “x”".encode("koi8-r", "xmlcharrefreplace"),
    "<p>Größe “x”".encode("utf-16"), "\ufeff<p>Größe “x”".encode()], ids=["1252", "koi8-r", "UTF-16", "mark"])
def test_a_page_is_decoded_as_it_says(tmp_path, content):
    (tmp_path / "a.htm").write_bytes(content)
    assert text_of(tmp_path / "a.htm") == "Größe “x”\n"


@pytest.mark.parametrize("middle", ["<script>" + "var x = '<p>no</p>';\n" * 200_000 + "</script>",
                                    "<img alt='" + "x" * 4_000_000 + "'>", "<!--" + "</p>" * 1_000_000 + "-->"],
                         ids=["script", "tag", "comment"])
def test_what_is_not_shown_may_be_long(tmp_path, middle):
    (tmp_path / "a.html").write_text(f"<p>one</p>{middle}<p>two</p>", encoding="utf-8")
    assert text_of(tmp_path / "a.html") == "one\n\ntwo\n"


# --- PDF ---

def pdf_file(path, *pages, **encryption):
    from reportlab.pdfgen import canvas
    plain = BytesIO()
    page = canvas.Canvas(plain)
    for text in pages:
        for number, line in enumerate(text.split("\n")):
            page.drawString(60, 700 - 20 * number, line)
        page.showPage()
    page.save()
    written = pypdf.PdfWriter(clone_from=plain)
    if encryption:
        written.encrypt(**encryption)
    written.write(path)
    return path


def test_a_pdf_is_one_document_and_its_divided_words_are_whole(tmp_path):
    assert text_of(pdf_file(tmp_path / "a.pdf", "A divi-\nded word", "and an-\nother")) == (
        "A divided\nword\nand another\n")


def test_titles_and_page_numbers_are_left_out_where_most_pages_have_them(tmp_path):
    pages = [f"A Novel\nfirst {word}\nlast {word}\n- {number} -" for number, word in enumerate("abcde", 98)]
    assert text_of(pdf_file(tmp_path / "a.pdf", *pages)) == "\n".join(f"first {word}\nlast {word}" for word in "abcde")
    pages = [f"chapter {word}\ntext" for word in "abc"]
    assert text_of(pdf_file(tmp_path / "a.pdf", *pages)) == "\n".join(pages)


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_a_pdf_that_everybody_can_open_is_read(tmp_path, algorithm):
    file = pdf_file(tmp_path / "a.pdf", "Open", user_password="", owner_password="x", algorithm=algorithm)
    assert text_of(file).strip() == "Open"


@pytest.mark.parametrize("pages, encryption, said", [
    (["text"], {"user_password": "x", "algorithm": "AES-256"}, "a PDF with a password: open it, and save a copy"),
    (["", ""], {}, "a PDF that has no text, only pictures of pages: run OCR first")], ids=["password", "pictures"])
def test_a_pdf_that_cannot_be_read_is_one_sentence(tmp_path, pages, encryption, said):
    file = pdf_file(tmp_path / "a.pdf", *pages, **encryption)
    assert message_of(list, Documents([file])).startswith(f"{file} is {said}")


# --- Encryption, damage, limits, packages ---

def with_members(path, **contents):
    with zipfile.ZipFile(path, "a") as packed:
        for name, content in contents.items():
            packed.writestr(name.replace("__", "/").replace("_xml", ".xml"), content)
    return path


ENCRYPTED = '<encryption><enc:EncryptedData><enc:EncryptionMethod Algorithm="{}"/></enc:EncryptedData></encryption>'


def test_an_epub_with_drm_is_refused_and_one_that_hides_only_its_fonts_is_read(tmp_path):
    for algorithm, is_open in [("http://www.w3.org/2001/04/xmlenc#aes128-cbc", False),
                               ("http://www.idpf.org/2008/embedding", True)]:
        file = write(tmp_path, ".epub", "# One\n\nTwo\n")
        with_members(file, **{"META-INF__encryption_xml": ENCRYPTED.format(algorithm)})
        if is_open:
            assert text_of(file).split() == ["One", "Two"]
        else:
            assert f"{file} is an EPUB book with copy protection (DRM)" in message_of(list, Documents([file]))


def test_an_opendocument_text_with_a_password_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as packed:
        packed.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        packed.writestr("META-INF/manifest.xml", "<manifest:encryption-data>")
    assert "a.odt is an OpenDocument text with a password" in message_of(list, Documents([tmp_path / "a.odt"]))


@pytest.mark.parametrize("damage", [lambda content: content[:len(content) // 2], lambda content: content[:1000],
                                    lambda content: content[:600] + bytes(500) + content[1100:]])
@pytest.mark.parametrize("suffix", [".docx", ".odt", ".epub", ".pdf"])
def test_a_damaged_document_is_one_sentence(tmp_path, suffix, damage):
    file = write(tmp_path, suffix, "# One\n\n" + "Two three\n\n" * 300)
    file.write_bytes(damage(file.read_bytes()))
    try:
        assert "Two three" in text_of(file)             # what is missing is no text
    except ValueError:
        assert message_of(list, Documents([file])).startswith(f"{file} is ")


def test_pandoc_has_a_limit_of_time_and_of_memory(tmp_path, monkeypatch):
    file = word_file(tmp_path, "One two three four.\n\n" * 10_000)
    monkeypatch.setattr(documents, "LONGEST_CONVERSION", 1e-6)
    assert f"{file} takes more than" in message_of(list, Documents([file]))
    monkeypatch.undo()
    monkeypatch.setattr(documents, "LARGEST_HEAP", 4 << 20)
    assert f"{file} takes more than 0 GB of memory" in message_of(list, Documents([file]))


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_at_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as packed:
        with packed.open("word/document.xml", "w") as file:
            for _ in range(140):
                file.write(bytes(1 << 20))
    assert "a.docx unpacks to 140 MB, more than the 128 MB" in message_of(list, Documents([tmp_path / "a.docx"]))


def test_a_document_is_converted_once_for_all_passes_and_anew_when_it_has_changed(tmp_path, monkeypatch):
    file = word_file(tmp_path, "One\n")
    calls = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: calls.append(1) or run(*words, **options))
    read = Documents([file])
    assert list(read) == list(read) == [("One\n", True)] and len(calls) == 1
    assert read.bytes_read == read.file_bytes
    monkeypatch.undo()
    word_file(tmp_path, "One and two\n")
    assert list(read) == [("One and two\n", True)]


@pytest.mark.parametrize("suffix, name, package", [
    (".docx", "a Word document", "pypandoc"), (".odt", "an OpenDocument text", "pypandoc"),
    (".epub", "an EPUB book", "pypandoc"), (".rtf", "an RTF document", "pypandoc"), (".pdf", "a PDF", "pypdf")])
def test_without_its_package_a_document_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, suffix, name,
                                                                                   package):
    file = write(tmp_path, suffix, "One\n")
    monkeypatch.setitem(sys.modules, package, None)
    assert message_of(list, Documents([file])) == (
        f"{file} is {name}, and the packages that read it are not installed: "
        "python -m pip install pypandoc-binary==1.17 pypdf==7.1.1 cryptography==50.0.2")


def test_the_command_that_installs_the_packages_names_the_pins_of_the_extra():
    from test_packaging import PROJECT
    pins = PROJECT["project"]["optional-dependencies"]["documents"]
    assert set(documents.INSTALL.split()[4:]) < set(pins)          # the others are for other kinds of files


# --- init.py ---

def test_init_reads_a_novel_in_word(home, tmp_path, original):
    project, file = home({}), write(tmp_path, ".docx", original[0])
    done = run_init(project, file, "--vocab-size", 300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (project.tokenizer / "merges.json").exists()


def test_a_packed_document_is_read(tmp_path):
    content = word_file(tmp_path, "One\n").read_bytes()
    (tmp_path / "b.docx.gz").write_bytes(gzip.compress(content))
    assert text_of(tmp_path / "b.docx.gz") == "One\n"


def test_the_wrong_file_for_init_writes_nothing(home, tmp_path):
    project = home({"a.txt": WORDS})
    before = everything_below(project.folder)
    file = pdf_file(tmp_path / "a.pdf", "text", user_password="x", algorithm="AES-256")
    message = refusal(run_init(project, file))
    assert f"{file} is a PDF with a password" in message and message.count("\n") == 1
    assert everything_below(project.folder) == before


def test_numbers_in_rtf_that_no_program_writes_do_not_stop_its_reader():
    digits = b"1" * 5000
    for word in (b"ansicpg", b"f", b"u", b"bin", b"fcharset"):
        assert mended(b"{\\rtf1 \\" + word + digits + b" one}").startswith(b"{\\rtf1 ")


@pytest.mark.parametrize("content, reading, text", [
    (b"<meta charset=hex><p>Gr\xc3\xb6\xc3\x9fe", {}, "Größe\n"),
    (b"<meta charset=unicode_escape><p>Gr\xc3\xb6\xc3\x9fe", {}, "Größe\n"),
    (b"<meta charset=utf-16><p>Gr\xc3\xb6\xc3\x9fe", {}, "Größe\n"),
    (b"<p>Gr\xc3\xb6\xc3\x9fe", {"encoding": "windows-1252"}, "Größe\n"),
    (b"<meta charset=koi8-r><p>Gr\xf6\xdfe", {"encoding": "windows-1252"}, "Größe\n")],
    ids=["no text", "escapes", "of two bytes", "flag, but UTF-8", "flag"])
def test_a_page_is_decoded_as_other_texts_are_where_it_says_what_cannot_be(tmp_path, content, reading, text):
    (tmp_path / "a.html").write_bytes(content)
    assert text_of(tmp_path / "a.html", **reading) == text


def test_a_page_in_another_encoding_that_does_not_say_so_is_offered_one(tmp_path):
    (tmp_path / "a.html").write_bytes("<p>“Größe”, schön und wörtlich</p>\n".encode("cp1252") * 20)
    assert "a.html is not UTF-8. It reads well as windows-1252" in message_of(list, Documents([tmp_path / "a.html"]))
