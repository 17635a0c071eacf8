"""Word, OpenDocument and EPUB to text, through pandoc (package pypandoc-binary); each file is one document.

Why pandoc: one program reads all of them with their notes, lists and tables, and every word of a manuscript of 4,000
words in each. python-docx leaves out footnotes and the place of tables between the paragraphs; ebooklib leaves the
markup of an EPUB to its user. The price: about 3 s of computing and 90 to 350 MB of memory per MB of text.
Nothing in a file is executed or fetched: pandoc runs in its sandbox, and gets the file on its standard input.
"""

import subprocess
import zipfile
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NoReturn

from folio.base.errors import FolioError
from folio.readers.contents import whole
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams

LONGEST_CONVERSION = 600        # seconds; 5 MB of text take 20 to 50
LARGEST_HEAP = "3g"             # of pandoc; 5 MB of text take up to 1.8 GB
_HEAP_EXHAUSTED = 251           # how pandoc exits then

KEPT_CHARACTERS = 1 << 26       # of texts that were converted: init.py reads a file three times

INSTALL = "python -m pip install pypandoc-binary==1.17 pypdf==7.1.1"

_FILTER = Path(__file__).with_name("plain.lua")

# Encryption that hides only an EPUB's fonts; its text is open (EPUB 3.3, font obfuscation, and Adobe's).
_FONTS_ONLY = (b"http://www.idpf.org/2008/embedding", b"http://ns.adobe.com/pdf/enc#RC")

_converted: dict[tuple, str] = {}       # texts by path, size and time of change


def missing_package(source: Source, name: str) -> FolioError:
    """Return the error for a file whose reader is not installed. name: of its kind, with its article"""
    return FolioError(f"{source} is {name}, and the packages that read it are not installed: {INSTALL}")


def damaged(source: Source, name: str, reason: object) -> FolioError:
    """Return the error for a file that its reader does not understand."""
    reason = " ".join(str(reason).split())[:200] or "no reason was given"
    return FolioError(f"{source} is {name}, but damaged ({reason}). Fetch it anew, or save its text as .txt.")


def one_document(source: Source, convert) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, source) of a file. convert: called without arguments, returns the text unless it is known."""
    key = _identity(source)
    text = _converted.get(key) if key else None
    if text is None:
        text = convert()
        if key:
            _keep(key, text)
    source.bytes_read = key[1] if key else 0
    if not text.strip():
        raise FolioError(f"{source} has no text: leave it out, or save what it shows as .txt.")
    yield text, True, source


def _identity(source):
    """Return (path, size, time of change), or None for what has no such thing."""
    if not isinstance(source.path, Path):
        return None
    about = source.path.stat()
    return str(source.path), about.st_size, about.st_mtime_ns


def _keep(key, text):
    _converted[key] = text
    while sum(map(len, _converted.values())) > KEPT_CHARACTERS:
        del _converted[next(iter(_converted))]      # the oldest


def pandoc(source: Source, kind_name: str, form: str, content: bytes) -> str:
    """Return the text of a document. form: pandoc's name for its format. Raises FolioError if it cannot be read."""
    try:
        import pypandoc
        program = pypandoc.get_pandoc_path()
    except (ImportError, OSError):
        raise missing_package(source, kind_name) from None
    command = [program, "--sandbox", "--from", form, "--to", "plain", "--wrap", "none", "--lua-filter", str(_FILTER),
               "+RTS", f"-M{LARGEST_HEAP}", "-RTS"]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=LONGEST_CONVERSION)
    except subprocess.TimeoutExpired:
        raise FolioError(f"{source} takes more than {LONGEST_CONVERSION // 60} minutes to read: {_SMALLER}") from None
    if done.returncode == _HEAP_EXHAUSTED:
        raise FolioError(f"{source} takes more than {LARGEST_HEAP[:-1]} GB of memory to read: {_SMALLER}")
    if done.returncode:
        raise damaged(source, kind_name, done.stderr.decode("utf-8", errors="replace"))
    return done.stdout.decode("utf-8", errors="replace")


_SMALLER = "save its text as .txt, or divide it."


def _read(kind_name: str, form: str, source: Source, reading: TextParams, mending: Mending
          ) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where) of a document in a zip file."""
    def convert():
        content = whole(source)
        _check(source, kind_name, content)
        return pandoc(source, kind_name, form, content)
    return one_document(source, convert)


def _check(source, kind_name, content):
    """Raise FolioError for an archive that is damaged, or that is encrypted against copying."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as packed:
            names = set(packed.namelist())
            encryption = packed.read(_ENCRYPTION) if _ENCRYPTION in names else b""
            if any(member.flag_bits & 1 for member in packed.infolist()):
                raise FolioError(f"{source} is {kind_name} with a password: save a copy without it.")
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, FolioError):
            raise
        raise damaged(source, kind_name, error) from None
    hidden = encryption.count(b"EncryptionMethod ") - sum(map(encryption.count, _FONTS_ONLY))
    if hidden > 0 or names & _RIGHTS:
        _refuse_protected(source, kind_name)
    if "encryption-data" in _manifest(content, names):
        raise FolioError(f"{source} is {kind_name} with a password: open it, and save a copy without the password.")


_ENCRYPTION = "META-INF/encryption.xml"
_RIGHTS = {"META-INF/rights.xml", "META-INF/license.lcpl", "META-INF/sinf.xml"}     # Adobe, Readium, Apple


def _manifest(content, names):
    """Return OpenDocument's list of files, which says whether they are encrypted; "" for other formats."""
    if "META-INF/manifest.xml" not in names:
        return ""
    with zipfile.ZipFile(BytesIO(content)) as packed, packed.open("META-INF/manifest.xml") as file:
        return file.read(1 << 20).decode("utf-8", errors="replace")


def _refuse_protected(source, kind_name) -> NoReturn:
    raise FolioError(f"{source} is {kind_name} with copy protection (DRM), which nothing but its own app can read: "
                     "take a copy without it.")


read_docx = partial(_read, "a Word document", "docx")
read_odt = partial(_read, "an OpenDocument text", "odt")
read_epub = partial(_read, "an EPUB book", "epub")
