"""The kinds of files: which can be read, which are refused, and by what a file is known.

To add a kind, add an entry to KINDS. What is in a file counts more than its name: a Word document with the suffix .txt
is read as a Word document. Only kinds of text have no marks; of those the name tells.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from folio.base.errors import FolioError
from folio.readers import (
    chats,
    documents,
    json_array,
    json_lines,
    messages,
    parquet,
    pdf,
    plain_text,
    rtf,
    spreadsheets,
    subtitles,
    tables,
    web_pages,
)
from folio.readers.contents import Content, First, Mark, Member, MimeType, Stream
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams


@dataclass(frozen=True)
class Kind:
    """A kind of files."""
    name: str                           # with its article, as in "... is a Word document"
    suffixes: tuple[str, ...] = ()      # in lower case, with the dot; of kinds that can be read
    # (text, ends_document, where); None if files of this kind are refused
    read: Callable[[Source, TextParams, Mending], Iterator[tuple[str, bool, object]]] | None = None
    # (record, where): rows as dictionaries, values of JSON; None if there are only texts in files of this kind
    records: Callable[[Source, TextParams, Mending], Iterator[tuple[Any, object]]] | None = None
    separates: bool = False             # whether lines of <|endoftext|> separate documents in it
    marks: tuple[Mark, ...] = ()        # what is in such files, and in no others
    is_marked: bool = False             # whether a file without a mark is refused, whatever its suffix
    advice: str = ""                    # what to do with a file that is refused

    @property
    def is_text(self) -> bool:
        """Whether such files are text themselves, in which the bytes that are not can be kept or replaced."""
        return self.read is not None and not self.marks


def _refused(advice, *kinds):
    """Return kinds that are refused with this advice, from their names and marks."""
    return tuple(Kind(name, marks=marks, advice=advice) for name, *marks in kinds)


_NO_TEXT = "there is no text in it to learn from"
_UNPACK = "unpack it, and pass the folder with what was in it"
_OFFICE = "save its text as .docx, .odt or .txt"

# What no other suffix stands for.
PLAIN_TEXT = Kind("plain text", (".txt",), plain_text.read, plain_text.records, separates=True)

# The first that matches counts: what is more special comes first. Sources of the marks: the formats' specifications,
# and the database of file(1).
KINDS = (
    PLAIN_TEXT,
    Kind("a file of JSON lines", (".jsonl", ".ndjson"), json_lines.read, json_lines.records),
    Kind("a JSON file", (".json",), json_array.read, json_array.records),
    Kind("a table", (".csv", ".tsv"), tables.read, tables.records),
    Kind("an Excel workbook", (".xlsx", ".xlsm"), spreadsheets.read, spreadsheets.records,
         marks=(Member("xl/"),), is_marked=True),
    Kind("a mailbox", (".mbox", ".mbx"), messages.read), Kind("a mail", (".eml",), messages.read_one),
    Kind("subtitles", (".srt", ".vtt"), subtitles.read),
    Kind("a Parquet file", (".parquet",), parquet.read, parquet.records,
         marks=(First(b"PAR1", with_nul=True),)),
    Kind("a web page", (".html", ".htm", ".xhtml"), web_pages.read),
    Kind("an RTF document", (".rtf",), rtf.read, marks=(First(b"{\\rtf"),), is_marked=True),
    Kind("a PDF", (".pdf",), pdf.read, marks=(First(b"%PDF-"), First(b"\xef\xbb\xbf%PDF-")), is_marked=True),
    Kind("a Word document", (".docx", ".docm", ".dotx"), documents.read_docx, marks=(Member("word/"),),
         is_marked=True),
    Kind("an OpenDocument text", (".odt", ".ott"), documents.read_odt, is_marked=True,
         marks=(MimeType("application/vnd.oasis.opendocument.text"),
                MimeType("application/vnd.oasis.opendocument.text-template"))),
    Kind("an EPUB book", (".epub",), documents.read_epub, marks=(MimeType("application/epub+zip"),
                                                                 Member("META-INF/container.xml")), is_marked=True),

    *_refused(_OFFICE,
              ("a PowerPoint presentation", Member("ppt/")),
              ("an OpenDocument presentation", MimeType("application/vnd.oasis.opendocument.presentation")),
              ("an Apple Pages, Numbers or Keynote document", Member("Index/Document.iwa"))),
    *_refused("save its tables as .csv",
              ("an OpenDocument spreadsheet", MimeType("application/vnd.oasis.opendocument.spreadsheet"))),
    *_refused("open it, and save a copy without the password",
              ("an Office document with a password", Stream("EncryptedPackage"))),
    *_refused(_OFFICE, ("a Word document of the old kind (.doc)", Stream("WordDocument")),
              ("a PowerPoint presentation of the old kind (.ppt)", Stream("PowerPoint Document"))),
    *_refused("save its tables as .csv", ("an Excel workbook of the old kind (.xls)", Stream("Workbook"))),
    *_refused("save its text as .txt", ("an Outlook message (.msg)", Stream("__substg1.0_")),
              ("an old Office document", First(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"))),
    *_refused("convert it to .epub, as with Calibre",
              ("a Kindle book (.mobi)", First(b"BOOKMOBI", 60), First(b"TEXtREAd", 60))),
    *_refused("save it as .pdf, .epub or .txt", ("a DjVu document", First(b"AT&TFORM"))),
    *_refused(_UNPACK,
              ("a zip archive", First(b"PK\x03\x04"), First(b"PK\x05\x06")),
              ("a tar archive", First(b"ustar", 257, with_nul=True)),
              ("a 7-Zip archive", First(b"7z\xbc\xaf\x27\x1c")),
              ("a RAR archive", First(b"Rar!\x1a\x07")),
              ("a file packed with bzip2", First(b"BZh91AY&SY"), First(b"BZh61AY&SY")),
              ("a file packed with xz", First(b"\xfd7zXZ\0")),
              ("a file packed with Zstandard", First(b"\x28\xb5\x2f\xfd"))),
    *_refused("unpack it, or if it is one text, give it a name that ends in .gz once",
              ("a file packed with gzip", First(b"\x1f\x8b\x08"))),
    *_refused(_NO_TEXT + "; where it shows a text, run OCR first",
              ("a PNG picture", First(b"\x89PNG\r\n\x1a\n")),
              ("a JPEG picture", First(b"\xff\xd8\xff")),
              ("a GIF picture", First(b"GIF87a", with_nul=True), First(b"GIF89a", with_nul=True)),
              ("a TIFF picture", First(b"II*\0"), First(b"MM\0*")),
              ("a WebP picture", First(b"WEBPVP8", 8)),
              ("a HEIC or AVIF picture", First(b"ftyphei", 4), First(b"ftypmif1", 4), First(b"ftypavif", 4)),
              ("a Photoshop picture", First(b"8BPS\0\1")),
              ("a Windows icon", First(b"\0\0\1\0")),
              ("a BMP picture", First(b"BM", with_nul=True))),
    *_refused(_NO_TEXT + "; where somebody speaks, pass subtitles or a transcript",
              ("a WAV recording", First(b"WAVE", 8, with_nul=True)),
              ("an MP3 recording", First(b"ID3", with_nul=True), First(b"\xff\xfb"), First(b"\xff\xf3")),
              ("an Ogg recording", First(b"OggS\0")),
              ("a FLAC recording", First(b"fLaC\0")),
              ("an AVI video", First(b"AVI ", 8, with_nul=True)),
              ("an MP4 video or recording", First(b"ftyp", 4, with_nul=True)),
              ("a Matroska or WebM video", First(b"\x1a\x45\xdf\xa3"))),
    *_refused("export its texts, as .csv or .jsonl", ("a SQLite database", First(b"SQLite format 3\0"))),
    *_refused(_NO_TEXT,
              ("a program (ELF)", First(b"\x7fELF")),
              ("a Windows program", First(b"MZ", with_nul=True)),
              ("a macOS program", First(b"\xcf\xfa\xed\xfe"), First(b"\xce\xfa\xed\xfe")),
              ("a Java class, or a macOS program", First(b"\xca\xfe\xba\xbe")),
              ("WebAssembly", First(b"\0asm")),
              ("compiled Python", First(b"\r\r\n", 1, with_nul=True)),
              ("a NumPy array", First(b"\x93NUMPY")),
              ("a GGUF model", First(b"GGUF", with_nul=True)),
              ("a font", First(b"\0\1\0\0\0"), First(b"OTTO\0"), First(b"wOFF", with_nul=True),
               First(b"wOF2", with_nul=True))),
)


def recognized(source: Source) -> Kind:
    """Return the Kind of a file, by what is in it, or else by its suffix. Kind.read is None if it is refused.

    Raises FolioError for a file that has not what its suffix promises.
    """
    content = Content(source)
    by_content = next((kind for kind in KINDS if any(mark.is_in(content) for mark in kind.marks)), None)
    by_name = next((kind for kind in KINDS if source.suffix in kind.suffixes), PLAIN_TEXT)
    is_cut_zip = content.is_zip and not content.members and any(isinstance(mark, Member | MimeType)
                                                                for mark in by_name.marks)
    if by_name.is_marked and (by_content is None or is_cut_zip):
        raise FolioError(_broken_promise(source, by_name, content))
    return by_content or by_name


def kind_of(source: Source) -> Kind:
    """Return the Kind of a file that can be read. Raises FolioError, which names the file as what it is, if not."""
    kind = recognized(source)
    if kind.read is None:
        raise FolioError(f"{source} is {kind.name}: {kind.advice}.")
    if kind.is_text and (read := chats.reader_of(Source(source.path))):
        return Kind("a chat", (), read)
    return kind


def records_in(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[Any, object]]:
    """Yield (record, where) of a file of any container: a value of JSON, a row as a dictionary, or a document of text.

    where: a phrase for the place, "a.jsonl, line 3,". What a record's texts have that is no text, `mending.one` mends.
    Raises FolioError for a file that has no records, or is damaged.
    """
    kind = recognized(source)
    if kind.read is None:
        raise FolioError(f"{source} is {kind.name}: {kind.advice}.")
    if kind.records is None:
        raise FolioError(f"{source} is {kind.name}, which has no records: those are read from .jsonl, "
                         ".json, .csv, .tsv, .xlsx, .parquet and plain text.")
    yield from kind.records(source, reading, mending)


def _broken_promise(source, kind, content):
    if not content.head:
        return f"{source} is empty, and no {kind.name.split(' ', 1)[1]}."
    if content.is_zip and not content.members:
        return f"{source} is damaged: it begins as {kind.name}, but its end is missing. Fetch it anew."
    return (f"{source} is not {kind.name}, though its suffix says so: give it the suffix of what it is, "
            "such as .txt.")
