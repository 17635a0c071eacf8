"""Names of character encodings: which ones Python can read a text in, and how people write them."""

import codecs
from encodings.aliases import aliases

from folio.base.spelling import nearest

# Text codecs of Python that no file is written in: escapes of source code, parts of host names, and a placeholder.
_NO_FILES = {"idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined"}
_NAMES = {"cp1250": "windows-1250", "cp1251": "windows-1251", "cp1252": "windows-1252", "cp1253": "windows-1253",
          "cp1254": "windows-1254", "cp1255": "windows-1255", "cp1256": "windows-1256", "cp1257": "windows-1257",
          "cp1258": "windows-1258"}


def encoding_problem(name: str) -> str | None:
    """Return a sentence if `name` is no encoding that text can be read in, or else None.

    >>> encoding_problem("windows-1252"), encoding_problem("Latin 1")
    (None, None)
    >>> print(encoding_problem("windows-1253x"))
    encoding='windows-1253x' is not known; did you mean windows-1253?
    >>> print(encoding_problem("hex"))
    encoding='hex' is no encoding of text.
    """
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError, UnicodeError):         # of names with NUL; of names that are not ASCII
        return f"encoding={name!r} is not known{nearest(name, _known()) or '; try windows-1252 or latin-1.'}"
    # _is_text_encoding is what str.decode itself looks at; there is no other way to ask.
    if not getattr(found, "_is_text_encoding", True) or found.name.replace("-", "_") in _NO_FILES:
        return f"encoding={name!r} is no encoding of text."
    return None


def usual_name(codec: str) -> str:
    """Return the name of a codec that its users know it by.
    >>> usual_name("cp1252"), usual_name("koi8_r")
    ('windows-1252', 'koi8-r')
    """
    return _NAMES.get(codec) or codec.replace("iso8859", "iso-8859").replace("_", "-")


def _known():
    codecs_of_text = {name for name in aliases.values() if not name.endswith("_codec") and name != "rot_13"}
    return sorted({usual_name(name) for name in codecs_of_text} | {"latin-1"})
