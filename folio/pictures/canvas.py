"""What all pictures share: colors, fonts, a sheet measured in inches, and files that never overwrite foreign ones."""

import io
import sys
import warnings
from contextlib import contextmanager

import numpy as np

from folio.base.errors import FolioError
from folio.base.files import refuse_foreign, replacing
from folio.base.spelling import counted
from folio.base.visible import harmless

MADE_BY = "python -m folio.plot"        # in the metadata of every picture, to tell it from foreign files
ENDINGS = (".png", ".svg")
DOTS_PER_INCH = 200                     # sharp on any screen, and in print at the width of a page
MAX_DOTS = 60e6                         # of a picture, a few screens: more takes memory that not every machine has

# Okabe and Ito (2008): distinguishable for the color-blind. Their yellow is unreadable on white; black comes last.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# From low to high in one hue, so that lightness alone carries the value: the same for the color-blind and in gray
# print. The lowest is not white, so that it is visible.
SCALE = ("#F0F4F7", "#C7DEEF", "#6BABD6", "#0072B2", "#00324F")
INK, GRAY, GRID = "#222222", "#707070", "#E8E8E8"
# System fonts for characters that DejaVu Sans, which comes with matplotlib, does not have.
OTHER_SCRIPTS = ("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic",
                 "Noto Sans CJK JP", "Arial Hebrew", "Geeza Pro", "Kohinoor Devanagari", "Thonburi", "Segoe UI",
                 "Nirmala UI", "Leelawadee UI", "Noto Sans Hebrew", "Noto Sans Arabic", "Noto Sans Devanagari",
                 "Noto Sans Thai", "Segoe UI Emoji", "Noto Emoji")
# Without hinting a text is equally long at every resolution. In .svg text stays text. With a fixed salt the same figure
# makes the same file.
STYLE = {"font.size": 9, "text.hinting": "none", "text.color": INK, "text.parse_math": False, "axes.edgecolor": GRAY,
         "axes.spines.left": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "axes.axisbelow": True, "grid.color": GRID, "xtick.color": GRAY, "ytick.color": GRAY, "ytick.major.size": 0,
         "xtick.major.size": 3, "lines.solid_capstyle": "round", "svg.fonttype": "none", "svg.hashsalt": "folio"}


@contextmanager
def style():
    """Set matplotlib to STYLE within the block, whatever the user's own settings are."""
    import matplotlib
    from matplotlib.font_manager import get_font_names
    installed = set(get_font_names())
    families = ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in installed)]
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"font.family": families})
        warnings.filterwarnings("ignore", "Glyph")          # a character without a font is drawn as a box
        yield


class Sheet:
    """A figure with coordinates in inches from its upper left corner. Texts can be measured before it has a size."""

    MARGIN = 0.65

    def __init__(self):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        self.figure = Figure()
        FigureCanvasAgg(self.figure)
        self._widths = {}

    def width_of(self, text, **font):
        """Return the advance width of a text in inches, spaces at its ends included."""
        key = text, repr(font)
        if key not in self._widths:
            self._widths[key] = self._ink_width(f"|{text}|", **font) - self._ink_width("||", **font)
        return self._widths[key]

    def _ink_width(self, text, **font):
        artist = self.figure.text(0, 0, text, **font)
        width = artist.get_window_extent().width / self.figure.dpi
        artist.remove()
        return width

    def set_size(self, width, height):
        """Set the size of the sheet; call it before anything is written."""
        self.width, self.height = width, height
        self.figure.set_size_inches(width, height)

    def write(self, x, y, text, **properties):
        """Write a text with its baseline, or what `va` names, at y. -> matplotlib Text"""
        return self.figure.text(x / self.width, 1 - y / self.height, text, **properties)

    def axes(self, x, y, width, height, **properties):
        """Add axes with their upper left corner at x, y. -> matplotlib Axes"""
        rectangle = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(rectangle, **properties)

    def begin(self, width, title, lines, height, scale=None):
        """Set the size and write the header: title, explanation, color scale. -> y of the upper edge of the picture

        width, height: of the picture below the header; scale: label, positions from 0 to 1, and the label of each
        position, or None for a picture without SCALE.
        """
        lines_end = 0.75 + 0.19 * (len(lines) - 1)
        top = lines_end + 0.85
        header_width = 2 * self.MARGIN + max(self.width_of(line, fontsize=10) for line in lines)
        self.set_size(max(width, header_width), top + height + 0.45)
        self.write(self.MARGIN, 0.48, title, fontsize=17, weight="bold")
        for number, line in enumerate(lines):
            self.write(self.MARGIN, 0.75 + 0.19 * number, line, color=GRAY, fontsize=10)
        if scale:
            self._write_scale(lines_end + 0.38, *scale)
        return top

    def _write_scale(self, y, label, places, labels):
        self.write(self.MARGIN, y, label, color=GRAY, fontsize=8)
        axis = self.axes(self.MARGIN + self.width_of(label, fontsize=8) + 0.12, y - 0.1, 1.7, 0.11, label="scale")
        axis.pcolormesh(np.linspace(0, 1, 101), [0, 1], [np.linspace(0, 1, 100)], cmap=color_map(), rasterized=True)
        axis.set(xticks=places, xticklabels=labels, yticks=[])
        axis.tick_params(length=0, pad=3, labelsize=8)
        axis.spines["bottom"].set_visible(False)
        axis.grid(False)


def monospaced():
    """Return the monospaced font family and its fallbacks. Call it inside `style`."""
    import matplotlib
    return ["DejaVu Sans Mono", *matplotlib.rcParams["font.family"]]


def color_map():
    """Return SCALE as a matplotlib Colormap over 0 to 1."""
    from matplotlib.colors import LinearSegmentedColormap
    return LinearSegmentedColormap.from_list("folio", SCALE)


# --- Words ---

def shortened(name, length):
    """Return a name without its middle if it is too long: runs usually differ at the ends of their names.
    >>> shortened("shakespeare-large-2", 12)
    'shakes…rge-2'
    """
    name = harmless(name).replace("\n", " ")
    return name if len(name) <= length else f"{name[:length // 2]}…{name[-(length // 2 - 1):]}"


def darker(color):
    """Return a color for text, which needs more contrast than a line."""
    from matplotlib.colors import to_rgb
    return tuple(0.72 * part for part in to_rgb(color))


# --- Files ---

def require_matplotlib():
    """Raise FolioError with the install command if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise FolioError("Pictures need matplotlib, which is not installed: python -m pip install matplotlib") from None


def refuse_foreign_picture(path):
    """Raise FileExistsError if a file exists at `path` that is not a picture of Folio."""
    refuse_foreign(path, f"a picture that {MADE_BY} drew", lambda head: MADE_BY.encode() in head[:4096])


def rendered(figure, ending=".png"):
    """Return a figure as the bytes of a .png or .svg; the same figure gives the same bytes."""
    content = io.BytesIO()
    width, height = figure.get_size_inches()
    with style():
        figure.savefig(content, format=ending[1:], dpi=min(DOTS_PER_INCH, (MAX_DOTS / (width * height)) ** 0.5),
                       metadata={"Software": MADE_BY} if ending == ".png" else {"Creator": MADE_BY, "Date": None})
    return content.getvalue()


def missing_characters(figure):
    """Return the characters of a figure that no installed font has, as one text."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text
    written = {character for text in figure.findobj(Text) for character in text.get_text() if character.isprintable()}
    with style():
        known = set().union(*(get_font(findfont(family)).get_charmap() for family in monospaced()))
    return "".join(sorted(character for character in written if ord(character) not in known))


def save(figure, path):
    """Write a figure as .png or .svg. Warn on stderr if a .png lacks characters."""
    ending = path.suffix.lower()
    content = rendered(figure, ending)
    with replacing(path) as file:
        file.write(content)
    missing = missing_characters(figure)
    if missing and ending == ".png":        # an .svg uses the fonts of whoever opens it
        examples = " ".join(missing[:10]) + (" …" if len(missing) > 10 else "")
        print(f"No font on this machine has {counted(len(missing), 'character')} of the picture ({examples}): "
              "boxes are drawn instead. Install a font for that script, such as one of Noto, or write an .svg and open "
              "it where such a font is installed.", file=sys.stderr)
