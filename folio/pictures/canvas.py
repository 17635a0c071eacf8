"""What all pictures share: colours, letters, and files that are never written over what is not ours."""

import io
import sys
import warnings
from contextlib import contextmanager

import numpy as np

from folio.base.errors import FolioError
from folio.base.files import refuse_foreign, replacing
from folio.base.spelling import counted
from folio.base.visible import harmless

MADE_BY = "python -m folio.plot"        # in every picture, so that no other one is ever written over
ENDINGS = (".png", ".svg")
DOTS_PER_INCH = 200                     # sharp on any screen, and in print at the width of a page
MOST_DOTS = 60e6                        # of a picture, a few of a screen: more takes memory that not everybody has

# Okabe and Ito (2008): told apart by the colour-blind too. Their yellow cannot be read on white; black comes last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# From nothing to much, in one hue, so that lightness alone says it: the same to the colour-blind, and in grey print. Nothing is not white, to be seen.
SCALE = ("#F0F4F7", "#C7DEEF", "#6BABD6", "#0072B2", "#00324F")
INK, GREY, GRID = "#222222", "#707070", "#E8E8E8"
# For letters that DejaVu Sans, which comes with matplotlib, does not have: fonts that come with the systems.
OTHER_SCRIPTS = ("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Noto Sans CJK JP",
                 "Arial Hebrew", "Geeza Pro", "Kohinoor Devanagari", "Thonburi", "Segoe UI", "Nirmala UI", "Leelawadee UI", "Noto Sans Hebrew",
                 "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Segoe UI Emoji", "Noto Emoji")
STYLE = {"font.size": 9, "text.hinting": "none", "text.color": INK, "text.parse_math": False, "axes.edgecolor": GREY,
         "axes.spines.left": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
         "grid.color": GRID, "xtick.color": GREY, "ytick.color": GREY, "ytick.major.size": 0, "xtick.major.size": 3,
         "lines.solid_capstyle": "round", "svg.fonttype": "none", "svg.hashsalt": "folio"}
# Without hinting a text is as long at every resolution. In .svg, text stays text. The salt: the same figure makes the same file.


@contextmanager
def style():
    """In the block matplotlib draws as it says here, whatever the user's own settings are."""
    import matplotlib
    from matplotlib.font_manager import get_font_names
    there = set(get_font_names())
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"font.family": ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in there)]})
        warnings.filterwarnings("ignore", "Glyph")          # what no font has is a box
        yield


class Sheet:
    """A figure in whose inches one writes, from its upper left corner; it measures texts before it has a size."""

    MARGIN = 0.65

    def __init__(self):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        self.figure = Figure()
        FigureCanvasAgg(self.figure)
        self._widths = {}

    def width_of(self, text, **how):
        """How far a text moves the pen, in inches, blanks at its ends included."""
        key = text, repr(how)
        if key not in self._widths:
            self._widths[key] = self._ink_width(f"|{text}|", **how) - self._ink_width("||", **how)
        return self._widths[key]

    def _ink_width(self, text, **how):
        written = self.figure.text(0, 0, text, **how)
        width = written.get_window_extent().width / self.figure.dpi
        written.remove()
        return width

    def set_size(self, width, height):
        """Give the sheet its size: before anything is written."""
        self.width, self.height = width, height
        self.figure.set_size_inches(width, height)

    def write(self, x, y, text, **how):
        """Write a text whose baseline, or what `va` says, is at y. -> matplotlib Text"""
        return self.figure.text(x / self.width, 1 - y / self.height, text, **how)

    def axes(self, x, y, width, height, **how):
        """-> matplotlib Axes with their upper left corner at x, y"""
        return self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height), **how)

    def begin(self, width, title, lines, height, scale=None):
        """Write what stands above a picture of this height: what one sees, some lines on it, and what the colours of SCALE stand for, if it is used.

        scale: its label; places from 0 to 1, and what is written at them. -> y of the picture's upper edge
        """
        lines_end = 0.75 + 0.19 * (len(lines) - 1)
        top = lines_end + 0.85
        self.set_size(max(width, 2 * self.MARGIN + max(self.width_of(line, fontsize=10) for line in lines)), top + height + 0.45)
        self.write(self.MARGIN, 0.48, title, fontsize=17, weight="bold")
        for number, line in enumerate(lines):
            self.write(self.MARGIN, 0.75 + 0.19 * number, line, color=GREY, fontsize=10)
        if scale:
            self._write_scale(lines_end + 0.38, *scale)
        return top

    def _write_scale(self, y, label, places, labels):
        self.write(self.MARGIN, y, label, color=GREY, fontsize=8)
        axis = self.axes(self.MARGIN + self.width_of(label, fontsize=8) + 0.12, y - 0.1, 1.7, 0.11, label="scale")
        axis.pcolormesh(np.linspace(0, 1, 101), [0, 1], [np.linspace(0, 1, 100)], cmap=colour_map(), rasterized=True)
        axis.set(xticks=places, xticklabels=labels, yticks=[])
        axis.tick_params(length=0, pad=3, labelsize=8)
        axis.spines["bottom"].set_visible(False)
        axis.grid(False)


def monospaced():
    """Families in which all letters are equally wide, as far as they have them. Inside `style`."""
    import matplotlib
    return ["DejaVu Sans Mono", *matplotlib.rcParams["font.family"]]


def colour_map():
    """SCALE as a matplotlib Colormap, from 0 to 1."""
    from matplotlib.colors import LinearSegmentedColormap
    return LinearSegmentedColormap.from_list("folio", SCALE)


# --- Words ---

def shortened(name, length):
    """A name that may be too long, without its middle: what tells runs apart is mostly at the ends."""
    name = harmless(name).replace("\n", " ")
    return name if len(name) <= length else f"{name[:length // 2]}…{name[-(length // 2 - 1):]}"


def darker(colour):
    """A colour for text, which needs more contrast to be read than a line to be seen."""
    from matplotlib.colors import to_rgb
    return tuple(0.72 * part for part in to_rgb(colour))


# --- Files ---

def require_matplotlib():
    """Raise FolioError, with the command that installs it, where matplotlib is not there."""
    try:
        import matplotlib       # noqa: F401
    except ImportError:
        raise FolioError("To draw takes matplotlib, which is not installed: python -m pip install matplotlib") from None


def refuse_other(path):
    """Raise FileExistsError where something else than a picture of ours lies."""
    refuse_foreign(path, f"a picture that {MADE_BY} drew", lambda head: MADE_BY.encode() in head[:4096])


def drawn(figure, ending=".png"):
    """A figure as the bytes of a .png or .svg; the same figure makes the same ones."""
    content = io.BytesIO()
    width, height = figure.get_size_inches()
    with style():
        figure.savefig(content, format=ending[1:], dpi=min(DOTS_PER_INCH, (MOST_DOTS / (width * height)) ** 0.5),
                       metadata={"Software": MADE_BY} if ending == ".png" else {"Creator": MADE_BY, "Date": None})
    return content.getvalue()


def without_a_letter(figure):
    """The characters in a figure that no font on this machine has, as one text."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text
    written = {character for text in figure.findobj(Text) for character in text.get_text() if character.isprintable()}
    with style():
        known = set().union(*(get_font(findfont(family)).get_charmap() for family in monospaced()))
    return "".join(sorted(character for character in written if ord(character) not in known))


def save(figure, path):
    """Write a figure as .png or .svg. Where a picture lacks letters, that is said."""
    ending = path.suffix.lower()
    content = drawn(figure, ending)
    with replacing(path) as file:
        file.write(content)
    missing = without_a_letter(figure)
    if missing and ending == ".png":        # who looks at an .svg has fonts of their own
        some = " ".join(missing[:10]) + " …" * (len(missing) > 10)
        print(f"{counted(len(missing), 'character')} of it ({some}) no font on this machine has: boxes stand for them. "
              "Install a font for that script, as those of Noto, or write an .svg and open it where there is one.", file=sys.stderr)
