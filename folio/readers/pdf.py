"""PDF to text, through pypdf: a page after the other, in lines as they are printed; a file is one document.

A PDF has no paragraphs, only places of characters. Kept are the lines, without those that most pages repeat at their
ends. Words that a hyphen divides at a line's end are joined where the document does not write them with it elsewhere.
Why pypdf: it is Python alone, and its license is as free as ours; that of PyMuPDF, which is faster, is not.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO

from folio.base.errors import FolioError
from folio.readers.contents import whole
from folio.readers.documents import damaged, missing_package, one_document
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams

_NAME = "a PDF"
_DIVIDED = re.compile(r"([^\W\d_]+)[-\u00ad\u2010]\n([^\W\d_]+)")
# Fonts have one shape for these letters; texts have the letters.
_LIGATURES = str.maketrans({"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
                            "\ufb05": "st", "\ufb06": "st"})

_FEWEST_PAGES = 4               # of fewer, a line that most of them have may be text
_MOST_RUNNING_LINES = 3         # at each end of a page


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, source). Raises FolioError for a file that is damaged, encrypted, or has only pictures."""
    return one_document(source, lambda: _text(source))


def _text(source):
    try:
        import pypdf
        from pypdf.errors import DependencyError
    except ImportError:
        raise missing_package(source, _NAME) from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)       # its warnings are about the file's form, not the text
    content = whole(source)
    try:
        pages = pypdf.PdfReader(BytesIO(content))
        # Many PDFs are encrypted with an empty password, only to forbid printing; whoever can open them may read them.
        is_locked = pages.is_encrypted and not pages.decrypt("")
        texts = [] if is_locked else [page.extract_text().strip("\n") for page in pages.pages]
    except DependencyError:
        raise FolioError(f"{source} is a PDF encrypted with AES, which takes one more package to read: "
                         "python -m pip install cryptography") from None
    except Exception as error:      # of many classes, also IndexError and RecursionError, on damaged files
        raise damaged(source, _NAME, error) from None
    if is_locked:
        raise FolioError(f"{source} is a PDF with a password: open it, and save a copy without the password.")
    text = "\n".join(without_running_lines(texts))
    if not text.strip():
        raise FolioError(f"{source} is a PDF that has no text, only pictures of pages: run OCR first, such as "
                         "ocrmypdf.")
    # Lone surrogates, which damaged fonts yield, are no characters.
    return joined(text.translate(_LIGATURES).encode("utf-8", errors="replace").decode("utf-8"))


def without_running_lines(pages: list[str]) -> list[str]:
    """Return pages without the lines at their top and bottom that most of them have: titles, page numbers.

    >>> without_running_lines([f"A Novel\\nText {word}\\n{number}" for number, word in enumerate(["x", "y", "z", "u"])])
    ['Text x', 'Text y', 'Text z', 'Text u']
    """
    pages = [page.strip("\n") for page in pages]
    if len(pages) < _FEWEST_PAGES:
        return pages
    for end in (0, -1):
        for _ in range(_MOST_RUNNING_LINES):
            forms = [_form(page.split("\n")[end]) for page in pages]
            form, count = Counter(filter(None, forms)).most_common(1)[0] if any(forms) else ("", 0)
            if 2 * count <= len(pages):
                break
            pages = [_without_line(page, end) if form == its else page for page, its in zip(pages, forms)]
    return pages


def _form(line):
    """Return a line with each number as #: what running lines have in common."""
    return re.sub(r"\d+", "#", line.strip())


def _without_line(page, end):
    lines = page.split("\n")
    del lines[end]
    return "\n".join(lines).strip("\n")


def joined(text: str) -> str:
    r"""Return a text with words joined that are divided at the end of a line.

    >>> joined("a divi-\nded word, a well-\nknown one; well-known")
    'a divided\nword, a well-known\none; well-known'
    """
    written = set(re.findall(r"[^\W\d_]+-[^\W\d_]+", text))
    rest_of_line = re.compile(rf"{_DIVIDED.pattern}(\S*)[ ]?(?=(\n?))")

    def join(match):
        first, second, ending, line_end = match.groups()
        hyphen = "-" if f"{first}-{second}" in written or not second[0].islower() else ""
        return first + hyphen + second + ending + ("" if line_end else "\n")
    return rest_of_line.sub(join, text)
