"""What all pictures share: colours, letters, and files that are never written over what is not ours."""

import io
import warnings
from contextlib import contextmanager

from folio.files import replacing
from folio.terminal import harmless

MADE_BY = "python -m folio.plot"        # in every picture, so that no other one is ever written over
ENDINGS = (".png", ".svg")
DOTS_PER_INCH = 200                     # sharp on any screen, and in print at the width of a page

# Okabe and Ito (2008): told apart by the colour-blind too. Their yellow cannot be read on white; black comes last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK, GREY, GRID = "#222222", "#707070", "#E8E8E8"
# For letters that DejaVu Sans, which comes with matplotlib, does not have: fonts that come with the systems.
OTHER_SCRIPTS = ("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Noto Sans CJK JP")
STYLE = {"font.size": 9, "text.color": INK, "text.parse_math": False, "axes.edgecolor": GREY,
         "axes.spines.left": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
         "grid.color": GRID, "xtick.color": GREY, "ytick.color": GREY, "ytick.major.size": 0, "xtick.major.size": 3,
         "lines.solid_capstyle": "round", "svg.hashsalt": "folio"}      # the salt: the same log makes the same file


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


# --- Words ---

def counted(number, what):
    """counted(1, "line") -> "1 line"; counted(2000, "line") -> "2,000 lines" """
    return f"{number:,} {what}{'s' * (number != 1)}"


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
    """Raise ValueError, with the command that installs it, where matplotlib is not there."""
    try:
        import matplotlib       # noqa: F401
    except ImportError:
        raise ValueError("To draw takes matplotlib, which is not installed: python -m pip install matplotlib") from None


def refuse_foreign(path):
    """Raise FileExistsError where a file lies that is no picture of ours."""
    if not path.exists():
        return
    with path.open("rb") as file:
        ours = MADE_BY.encode() in file.read(4096)
    if not ours:
        raise FileExistsError(f"{path} exists, and is no picture that {MADE_BY} drew. Name another file: --output FILE{path.suffix}")


def save(figure, path):
    """Write a figure as .png or .svg; the same figure makes the same bytes."""
    content = io.BytesIO()
    with style():
        figure.savefig(content, format=path.suffix[1:].lower(), dpi=DOTS_PER_INCH,
                       metadata={"Software": MADE_BY} if path.suffix.lower() == ".png" else {"Creator": MADE_BY, "Date": None})
    with replacing(path) as file:
        file.write(content.getvalue())
