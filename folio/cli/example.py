"""An example of what is learned: the tokens of a conversation; those that are only read are set apart."""

from folio.base.lines import USUAL_WIDTH
from folio.base.visible import harmless
from folio.cli.screen import BOLD, DIM

RESET, GREEN = "\x1b[0m", "\x1b[32m"
MOST_LINES = 12
BETWEEN, LINE_END = "·", "↵"    # tokens; a line end in a token, which is also shown as one
LEARNED = "[[", "]]"            # around what is learned, where there are no colors
MARGIN = "  "


def lines_of(pieces: list[tuple[str, bool]], width: int | None, has_colors: bool) -> list[str]:
    """Return the lines that show tokens, at most MOST_LINES.

    pieces: (text of a token, whether it is learned); width: of a line in columns, None for the usual one
    >>> lines_of([("<|im_start|>", False), ("user", False), ("Three", True), (".", True)], 80, False)
    ['  <|im_start|>·user·[[Three·.]]']
    """
    text, learned = _marked(pieces, marks=("", "") if has_colors else LEARNED)
    lines, start, room = [], 0, max(1, (width or USUAL_WIDTH) - len(MARGIN))
    while start < len(text) and len(lines) <= MOST_LINES:
        end = text.find(LINE_END, start, start + room) + 1 or min(start + room, len(text))
        lines.append(MARGIN + (_styled(text[start:end], learned[start:end]) if has_colors else text[start:end]))
        start = end
    return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES - 1], MARGIN + "..."]


def headline(has_colors: bool) -> str:
    """Return the line before the example."""
    how = "green" if has_colors else f"between {LEARNED[0]} and {LEARNED[1]}"
    return f"The first conversation, as tokens: what is learned is {how}, the rest is only read."


def _marked(pieces, marks):
    """Return the text of all tokens, with `marks` around those that are learned, and of each character whether it is
    learned.
    """
    parts, was_learned = [], False
    for number, (piece, is_learned) in enumerate(pieces):
        before = marks[1] if was_learned and not is_learned else ""
        after = marks[0] if is_learned and not was_learned else ""
        parts += [(before + (BETWEEN if number else "") + after, False),
                  (harmless(piece).replace("\n", LINE_END), is_learned)]
        was_learned = is_learned
    if was_learned:
        parts.append((marks[1], False))
    return "".join(text for text, _ in parts), [is_learned for text, is_learned in parts for _ in text]


def _styled(line, learned):
    """Return a line in which what is learned is green, and the rest dim."""
    text, current = "", None
    for character, is_learned in zip(line, learned):
        if is_learned != current:
            text += RESET + (BOLD + GREEN if is_learned else DIM)
            current = is_learned
        text += character
    return text + RESET
