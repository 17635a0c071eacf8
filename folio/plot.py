"""Draw pictures of runs and of trained models.

    python -m folio.plot loss                       # the newest run, from its log
    python -m folio.plot loss night default         # two runs in one picture; or paths of log files
    python -m folio.plot attention "I have the key to the harbour."
    python -m folio.plot vocabulary --weights night
    python -m folio.plot surprise chapter.txt --output chapter.svg
"""

import sys
from pathlib import Path

import numpy as np

from folio.base.errors import FolioError
from folio.base.spelling import counted, nearest
from folio.base.visible import harmless, shown
from folio.cli.command_line import Parser, front_door
from folio.data.named import named_text
from folio.formats.find_weights import find_weights
from folio.pictures.attention import MAX_TOKENS, attention_figure
from folio.pictures.canvas import ENDINGS, refuse_foreign_picture, require_matplotlib, save
from folio.pictures.logs import default_output, find_logs, reports_of
from folio.pictures.loss import POSITIONS, loss_figure
from folio.pictures.surprise import MAX_CHARACTERS, surprise_figure
from folio.pictures.vocabulary import vocabulary_figure
from Model_Params import TextParams


def main():
    """Draw the picture that the first argument names."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word not in PICTURES:
        parser = Parser("Draw a picture of a run or of a trained model. Each has flags of its own: "
                        "python -m folio.plot loss --help")
        parser.add_argument("picture", choices=list(PICTURES),
                            help="; ".join(f"{name}: {about}" for name, (_, about) in PICTURES.items()))
        if word in ("-h", "--help"):
            parser.parse(["--help"])
        parser.error(f"there is no picture {word}{nearest(word, PICTURES)} "
                     f"(there are: {', '.join(PICTURES)}; its name comes first)")
    command, about = PICTURES[word]
    return command(Parser(f"Draw {about}.", free_text=["--text"], command=word), sys.argv[2:])


def loss(parser, words):
    """Run the command `loss`."""
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help="names of runs, globs such as \"night*\", or paths of logs (default: the newest)")
    parser.add_argument("--x", choices=list(POSITIONS), default="steps", metavar="|".join(POSITIONS),
                        help="unit of the x axis (default: steps)")
    arguments = _parse(parser, words, "loss-NAME.png beside the log")
    logs = find_logs(arguments.home, arguments.runs)
    runs = {name: reports_of(path) for name, path in logs.items()}
    output = arguments.output or default_output(logs)
    refuse_foreign_picture(output)
    save(loss_figure(runs, arguments.x), output)
    print(f"{', '.join(map(harmless, logs))}: {counted(sum(map(len, runs.values())), 'report')} -> {output}")


def attention(parser, words):
    """Run the command `attention`."""
    parser.add_argument("prompt", metavar="TEXT", help=f"a text of up to {MAX_TOKENS} tokens")
    arguments, model, output = _parse_and_load(parser, words, "attention")
    import torch

    from folio.networks.attention_weights import attention_weights, attentions
    attentions(model.net)           # before any complaint about the text: raises for a network without attention
    ids = model.tokenizer.encode(arguments.prompt)
    limit = min(MAX_TOKENS, model.net.params.block_size)
    if not 0 < len(ids) <= limit:
        context = " (the context of this model)" if limit < MAX_TOKENS else ""
        raise FolioError(f"The text has {counted(len(ids), 'token')}; attention maps take from 1 to {limit}{context}. "
                         f"Pass a {'shorter' if ids else 'longer'} one.")
    weights = _finite(attention_weights(model.net, torch.tensor(ids)))
    labels = [shown(model.tokenizer.token_bytes[token]) for token in ids]
    save(attention_figure(model.name, labels, weights), output)
    maps = counted(weights.shape[0] * weights.shape[1], "map")
    print(f"{harmless(model.name)}: {maps} of {counted(len(ids), 'token')} -> {output}")


def vocabulary(parser, words):
    """Run the command `vocabulary`."""
    _, model, output = _parse_and_load(parser, words, "vocabulary")
    vectors = _finite(model.net.embedding.weight.detach())
    save(vocabulary_figure(model.name, model.tokenizer.token_bytes, vectors), output)
    print(f"{harmless(model.name)}: {counted(model.tokenizer.vocab_size, 'token')} -> {output}")


def surprise(parser, words):
    """Run the command `surprise`."""
    parser.add_argument("named", nargs="?", metavar="TEXT-OR-FILE",
                        help="a text, or a file to read; -: standard input")
    parser.add_argument("--text", metavar="TEXT", help="a text, even if it looks like a file name or a flag")
    parser.add_argument("--field", default=TextParams.field, metavar="NAME",
                        help="the field with the text in .jsonl and .parquet files (default: text)")
    arguments, model, output = _parse_and_load(parser, words, "surprise")
    if (arguments.named is None) == (arguments.text is None):
        parser.error("pass a text or a file, once")
    chunks = [(arguments.text, True)]
    if arguments.named is not None:
        chunks = named_text(arguments.named, TextParams(field=arguments.field, invalid_bytes="replace"))
    text, length = "", 0
    for chunk, _ in chunks:
        text += chunk[:MAX_CHARACTERS - len(text)]
        length += len(chunk)
    if not text:
        raise FolioError("The text is empty: there is nothing to measure.")
    pieces = model.surprise(text)
    _finite(np.array([bits for _, bits in pieces]))
    save(surprise_figure(model.name, pieces, length - len(text)), output)
    print(f"{harmless(model.name)}: {counted(len(pieces), 'piece')} of text -> {output}")


PICTURES = {"loss": (loss, "training and validation loss of runs, their learning rate and speed"),
            "attention": (attention, "the attention maps of a text, layers by heads"),
            "vocabulary": (vocabulary, "the token embeddings in two dimensions"),
            "surprise": (surprise, "a text colored by the bits that each token of it costs the model")}


# --- Shared by the commands ---

def _parse(parser, words, default):
    """Return the arguments, with --output checked. default: where the picture goes without it, for the help"""
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"path of a .png or .svg (default: {default})")
    arguments = parser.parse(words)
    if arguments.output and arguments.output.suffix.lower() not in ENDINGS:
        parser.error(f"--output {arguments.output} has to end in {' or '.join(ENDINGS)}")
    require_matplotlib()
    return arguments


def _parse_and_load(parser, words, picture):
    """-> the arguments, the LanguageModel that they name, and the path of the picture"""
    parser.add_argument("--weights", metavar="FILE",
                        help="a run's name, a file in Saved_Weights, a path, or a glob that means one of these "
                        "(default: the newest)")
    arguments = _parse(parser, words, f"{picture}-NAME.png beside the weights")
    # This imports torch; --help and `loss` do not wait for it.
    from folio.generation.language_model import load
    path = find_weights(arguments.home, arguments.weights)
    output = arguments.output or path.with_name(f"{picture}-{path.stem.removeprefix('weights-')}.png")
    refuse_foreign_picture(output)
    return arguments, load(path), output


def _finite(values):
    """Return values as an array. Raises FolioError if one of them is not finite."""
    values = np.asarray(values)
    if not np.isfinite(values).all():
        raise FolioError("The model's output is not finite: its weights are unusable. "
                         "Train it again with a lower learning rate.")
    return values


if __name__ == "__main__":
    front_door(main)
