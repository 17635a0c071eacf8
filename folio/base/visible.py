"""Text made safe to print: nothing in it can command a terminal, and every byte of a token can be seen."""

import re
import unicodedata

from folio.base.lines import takes_no_room

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}         # letter after a typed backslash -> character
_HARMLESS = "\n\t\u200c\u200d"       # the last two join and separate letters and emoji, and move nothing


def harmless(text):
    """Return a text with everything that could command a terminal as visible escapes.

    These are escape sequences, bells, NUL, right-to-left overrides and other characters that are not printable.
    >>> print(harmless("red \\x1b[31m"))
    red \\x1b[31m
    """
    return "\n".join(line if line.isprintable() else "".join(map(_visible, line)) for line in text.split("\n"))


def _visible(c):
    return c if c.isprintable() or c in _HARMLESS or unicodedata.category(c) == "Zs" else ascii(c)[1:-1]


def on_one_line(text):
    """Return a text on one line, with nothing in it that commands a terminal.
    >>> print(on_one_line("Exit.\\n\\n\\x1b[2JBRACK:"))
    Exit.⏎⏎\\x1b[2JBRACK:
    """
    return harmless(text).replace("\n", "⏎").replace("\t", "→")


def shown(token):
    """Return a token's bytes as visible text: spaces as ·, bytes of incomplete characters in hexadecimal digits.
    >>> print(shown(b" caf\\xc3"), shown(b".\\n\\n"), shown(b"\\x1b[0m"))
    ·caf\\xc3 .⏎⏎ \\x1b[0m
    """
    return "".join(shown_lines(token))


def shown_lines(token):
    """Return the same split after line ends; the last part is empty where the token ends with a line end."""
    text = harmless(token.decode("utf-8", errors="backslashreplace")).replace(" ", "·").replace("\t", "→")
    if takes_no_room(text[0]):
        text = "◌" + text               # else it would be drawn on top of the token before
    *lines, rest = text.split("\n")
    return [*(line + "⏎" for line in lines), rest]


def unescaped(text):
    r"""Return a typed text with the escapes \n, \r, \t and \\ replaced; any other backslash stays.
    >>> unescaped(r"\n\nEND"), unescaped(r"\\nabla \pi")
    ('\n\nEND', '\\nabla \\pi')
    """
    return re.sub(r"\\([nrt\\])", lambda found: ESCAPES[found[1]], text)
