"""Word, OpenDocument and EPUB to text, through pandoc (package pypandoc-binary); each file is one document.

Why pandoc: one program reads all of them with their notes, lists and tables, and every word of a manuscript of 4,000
words in each. python-docx leaves out notes and the tables between the paragraphs (96.7 % of the words); ebooklib leaves
the markup of an EPUB to its user. The price: about 3 s of computing and 90 to 350 MB of memory per MB of text.
Nothing in a file is executed or fetched: pandoc runs in its sandbox, and gets the file on its standard input.
"""

import re
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

from folio.base.errors import FolioError
from folio.readers.contents import beginning, whole
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams

LONGEST_CONVERSION = 600        # seconds; 5 MB of text take 20 to 50
LARGEST_HEAP = 3 << 30          # bytes, of pandoc; 5 MB of text take up to 1.8 GB
LARGEST_MARKUP = 1 << 27        # bytes in a document, unpacked: more than ten long novels; 1 MB may unpack to gigabytes
_MARKUP = (".xml", ".xhtml", ".html", ".htm")
_HEAP_EXHAUSTED = 251           # how pandoc exits then, if not inside its filter, where it says so
_IN_FILTER = re.compile(rb"heap (overflow|exhausted)", re.IGNORECASE)

KEPT_CHARACTERS = 1 << 25       # of texts that were converted: init.py reads a file three times

INSTALL = "python -m pip install pypandoc-binary==1.17 pypdf==7.1.1 cryptography==50.0.2"

_FILTER = Path(__file__).with_name("plain.lua")
_SMALLER = "save its text as .txt, or divide it."

_ENCRYPTION, _MANIFEST = "META-INF/encryption.xml", "META-INF/manifest.xml"     # of EPUB; of OpenDocument
_RIGHTS = {"META-INF/rights.xml", "META-INF/license.lcpl", "META-INF/sinf.xml"}     # Adobe, Readium, Apple
_ALGORITHM = re.compile(rb"""EncryptionMethod\s[^>]*Algorithm\s*=\s*["']([^"']*)""")
# Encryption that hides only an EPUB's fonts; its text is open (EPUB 3.3, font obfuscation, and Adobe's).
_FONTS_ONLY = {b"http://www.idpf.org/2008/embedding", b"http://ns.adobe.com/pdf/enc#RC"}

_converted: dict[tuple, str] = {}       # texts by path, size and time of change


def missing_package(source: Source, name: str) -> FolioError:
    """Return the error for a file whose reader is not installed. name: of its kind, with its article"""
    return FolioError(f"{source} is {name}, and the packages that read it are not installed: {INSTALL}")


def damaged(source: Source, name: str, reason: object) -> FolioError:
    """Return the error for a file that its reader does not understand."""
    reason = " ".join(str(reason).split())[:200] or "no reason was given"
    return FolioError(f"{source} is {name}, but damaged ({reason}). Fetch it anew, or save its text as .txt.")


def one_document(source: Source, convert: Callable[[], str]
                 ) -> Iterator[tuple[str, bool, object]]:
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
    if done.returncode == _HEAP_EXHAUSTED or done.returncode and _IN_FILTER.search(done.stderr):
        raise FolioError(f"{source} takes more than {LARGEST_HEAP >> 30} GB of memory to read: {_SMALLER}")
    if done.returncode:
        raise damaged(source, kind_name, done.stderr.decode("utf-8", errors="replace"))
    return done.stdout.decode("utf-8", errors="replace")


def _read(kind_name: str, form: str, source: Source, reading: TextParams, mending: Mending
          ) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where) of a document in a zip file."""
    def convert():
        content = whole(source)
        _check(source, kind_name, content)
        return pandoc(source, kind_name, form, content)
    return one_document(source, convert)


def _check(source, kind_name, content):
    """Raise FolioError for a document that is damaged, or encrypted."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as packed:
            names = set(packed.namelist())
            unpacked = sum(member.file_size for member in packed.infolist() if member.filename.endswith(_MARKUP))
            has_password = any(member.flag_bits & 1 for member in packed.infolist())
            encryption, manifest = (b"" if name not in names or has_password else beginning(packed, name, 1 << 20)
                                    for name in (_ENCRYPTION, _MANIFEST))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise damaged(source, kind_name, error) from None
    if has_password or b"encryption-data" in manifest:
        raise FolioError(f"{source} is {kind_name} with a password: open it, and save a copy without the password.")
    if unpacked > LARGEST_MARKUP:
        raise FolioError(f"{source} unpacks to {unpacked >> 20:,} MB, more than the {LARGEST_MARKUP >> 20} MB that are "
                         f"read as one document: {_SMALLER}")
    if names & _RIGHTS or set(_ALGORITHM.findall(encryption)) - _FONTS_ONLY:
        raise FolioError(f"{source} is {kind_name} with copy protection (DRM), and only its own app can read it: "
                         "take a copy without it.")


read_docx = partial(_read, "a Word document", "docx")
read_odt = partial(_read, "an OpenDocument text", "odt")
read_epub = partial(_read, "an EPUB book", "epub")
