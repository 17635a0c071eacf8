"""Pictures of what a run did, and of what a trained model has inside.

    python -m folio.plot loss                       # how the newest run learned, from its log
    python -m folio.plot loss night default         # two runs in one picture; or paths of log files
    python -m folio.plot attention "I have the key to the harbour."
    python -m folio.plot vocabulary --weights night
    python -m folio.plot surprise chapter.txt --output chapter.svg
"""

import sys
from pathlib import Path

import numpy as np

from folio.cli.command_line import Parser, front_door
from folio.base.errors import FolioError
from folio.pictures.attention import MOST_TOKENS, attention_figure
from folio.pictures.canvas import ENDINGS, counted, refuse_other, require_matplotlib, save
from folio.pictures.loss import POSITIONS, default_output, find_logs, loss_figure, reports_of
from folio.pictures.surprise import MOST_CHARACTERS, surprise_figure
from folio.pictures.vocabulary import vocabulary_figure
from folio.base.spelling import nearest
from folio.base.visible import harmless
from folio.base.visible import shown
from folio.data.named import named_text
from Model_Params import TextParams


def main():
    """Draw the picture that the first word names."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word not in PICTURES:
        parser = Parser("Draw a picture of what a run did or a model has inside. Each has flags of its own: python -m folio.plot loss --help")
        parser.add_argument("picture", choices=list(PICTURES), help="; ".join(f"{name}: {about}" for name, (_, about) in PICTURES.items()))
        if word in ("-h", "--help"):
            parser.parse(["--help"])
        parser.error(f"there is no picture {word}{nearest(word, PICTURES)} (there are: {', '.join(PICTURES)}; its name comes first)")
    command, about = PICTURES[word]
    return command(Parser(f"Draw {about}.", free_text=["--text"], command=word), sys.argv[2:])


def loss(parser, words):
    """The command `loss`."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names of runs, or paths of their logs (default: the newest)")
    parser.add_argument("--x", choices=list(POSITIONS), default="steps", metavar="|".join(POSITIONS),
                        help="what the curves run along (default: steps)")
    arguments = _parsed(parser, words, "loss-NAME.png beside the log")
    logs = find_logs(arguments.home, arguments.runs)
    runs = {name: reports_of(path) for name, path in logs.items()}
    output = arguments.output or default_output(logs)
    refuse_other(output)
    save(loss_figure(runs, arguments.x), output)
    print(f"{', '.join(map(harmless, logs))}: {counted(sum(map(len, runs.values())), 'report')} -> {output}")


def attention(parser, words):
    """The command `attention`."""
    parser.add_argument("prompt", metavar="TEXT", help=f"what the model reads: up to {MOST_TOKENS} tokens")
    arguments, model, output = _opened(parser, words, "attention")
    import torch
    from folio.networks.attention_weights import attention_weights, attentions
    attentions(model.net)           # before anything is said of the text: there may be none
    ids = model.tokenizer.encode(arguments.prompt)
    most = min(MOST_TOKENS, model.net.params.block_size)
    if not 0 < len(ids) <= most:
        raise FolioError(f"The text has {counted(len(ids), 'token')}; maps of attention take from 1 to {most}"
                         f"{' (as many as this model looks back on)' if most < MOST_TOKENS else ''}. Give a {'shorter' if ids else 'longer'} one.")
    weights = _finite(attention_weights(model.net, torch.tensor(ids)))
    save(attention_figure(model.name, [shown(model.tokenizer.token_bytes[token]) for token in ids], weights), output)
    print(f"{harmless(model.name)}: {counted(weights.shape[0] * weights.shape[1], 'map')} of {counted(len(ids), 'token')} -> {output}")


def vocabulary(parser, words):
    """The command `vocabulary`."""
    _, model, output = _opened(parser, words, "vocabulary")
    save(vocabulary_figure(model.name, model.tokenizer.token_bytes, _finite(model.net.embedding.weight.detach())), output)
    print(f"{harmless(model.name)}: {counted(model.tokenizer.vocab_size, 'token')} -> {output}")


def surprise(parser, words):
    """The command `surprise`."""
    parser.add_argument("named", nargs="?", metavar="TEXT-OR-FILE", help="a text, or a file to read it from; - reads it from standard input")
    parser.add_argument("--text", metavar="TEXT", help="a text, also one that looks like a file or a flag")
    parser.add_argument("--field", default=TextParams.field, metavar="NAME",
                        help="where .jsonl and .parquet files have their text (default: text)")
    arguments, model, output = _opened(parser, words, "surprise")
    if (arguments.named is None) == (arguments.text is None):
        parser.error("pass a text or a file, once")
    text, length = "", 0
    typed = [(arguments.text, True)]
    for some, _ in typed if arguments.named is None else named_text(arguments.named, arguments.field, "replace"):
        text += some[:MOST_CHARACTERS - len(text)]
        length += len(some)
    if not text:
        raise FolioError("There is no text: nothing that could surprise the model.")
    pieces = model.surprise(text)
    _finite(np.array([bits for _, bits in pieces]))
    save(surprise_figure(model.name, pieces, length - len(text)), output)
    print(f"{harmless(model.name)}: {counted(len(pieces), 'piece')} of text -> {output}")


PICTURES = {"loss": (loss, "how runs learned: loss of training and validation text, learning rate and speed"),
            "attention": (attention, "where each token of a text looks: maps of attention, layers by heads"),
            "vocabulary": (vocabulary, "how the tokens lie to each other: the vocabulary's embedding in two dimensions"),
            "surprise": (surprise, "where the model is unsure: a text coloured by the bits that each piece of it costs")}


# --- What the commands share ---

def _parsed(parser, words, default):
    """The arguments, with --output checked. default: what is said of where the picture goes without it"""
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"where to, a .png or .svg (default: {default})")
    arguments = parser.parse(words)
    if arguments.output and arguments.output.suffix.lower() not in ENDINGS:
        parser.error(f"--output {arguments.output} has to end in {' or '.join(ENDINGS)}")
    require_matplotlib()
    return arguments


def _opened(parser, words, picture):
    """-> the arguments, the LanguageModel that they mean, and where its picture goes"""
    parser.add_argument("--weights", metavar="FILE", help="a file in Saved_Weights, or a run's name (default: the newest)")
    arguments = _parsed(parser, words, f"{picture}-NAME.png beside the weights")
    from folio.generation.language_model import find_weights, load, newest_weights     # torch comes with it, which --help and `loss` need not wait for
    path = find_weights(arguments.home, arguments.weights) if arguments.weights else newest_weights(arguments.home)
    output = arguments.output or path.with_name(f"{picture}-{path.stem.removeprefix('weights-')}.png")
    refuse_other(output)
    return arguments, load(path), output


def _finite(values):
    """The values as an array. Raises FolioError where they cannot be drawn."""
    values = np.asarray(values)
    if not np.isfinite(values).all():
        raise FolioError("The model's output is not finite: its weights are unusable. Train it again with a lower learning rate.")
    return values


if __name__ == "__main__":
    front_door(main)
