"""Pictures of what a run did.

    python -m folio.plot loss                       # how the newest run learned, from its log
    python -m folio.plot loss night default         # two runs in one picture; or paths of log files
    python -m folio.plot loss --x seconds --output night.svg
"""

import sys
from pathlib import Path

from folio.command_line import Parser, front_door
from folio.pictures.canvas import ENDINGS, counted, refuse_foreign, require_matplotlib, save
from folio.pictures.loss import POSITIONS, default_output, find_logs, loss_figure, reports_of
from folio.spelling import nearest
from folio.terminal import harmless


def main():
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word not in PICTURES:
        parser = Parser("Draw a picture of what a run did. Each has flags of its own: python -m folio.plot loss --help")
        parser.add_argument("picture", choices=list(PICTURES), help="; ".join(f"{name}: {about}" for name, (_, about) in PICTURES.items()))
        if word in ("-h", "--help"):
            parser.parse(["--help"])
        parser.error(f"there is no picture {word}{nearest(word, PICTURES)} (there are: {', '.join(PICTURES)}; its name comes first)")
    command, about = PICTURES[word]
    return command(Parser(f"Draw {about}.", command=word), sys.argv[2:])


def loss(parser, words):
    """The command `loss`."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names of runs, or paths of their logs (default: the newest)")
    parser.add_argument("--x", choices=list(POSITIONS), default="steps", metavar="|".join(POSITIONS),
                        help="what the curves run along (default: steps)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to, a .png or .svg (default: loss-NAME.png beside the log)")
    arguments = parser.parse(words)
    if arguments.output and arguments.output.suffix.lower() not in ENDINGS:
        parser.error(f"--output {arguments.output} has to end in {' or '.join(ENDINGS)}")
    require_matplotlib()
    logs = find_logs(arguments.home, arguments.runs)
    runs = {name: reports_of(path) for name, path in logs.items()}
    output = arguments.output or default_output(logs)
    refuse_foreign(output)
    save(loss_figure(runs, arguments.x), output)
    print(f"{', '.join(map(harmless, logs))}: {counted(sum(map(len, runs.values())), 'report')} -> {output}")


PICTURES = {"loss": (loss, "how runs learned: training loss, validation, learning rate and speed")}


if __name__ == "__main__":
    front_door(main)
