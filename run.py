"""Continue your text with a trained model (the third command, after init.py and train.py).

    python run.py                       # in a terminal: you and the model write a text in turns
    python run.py "Once upon a time"    # one answer, on stdout
    echo "Once upon" | python run.py    # the prompt comes through a pipe
"""

import sys
from dataclasses import asdict

from folio.base import startup

if __name__ == "__main__":
    startup.require("run.py")

from folio.base.encodings import encoding_problem
from folio.base.errors import FolioError
from folio.base.visible import harmless, unescaped
from folio.cli import configuration, mixing
from folio.cli.command_line import Parser, front_door
from folio.cli.screen import BOLD, Screen
from folio.formats.find_weights import find_weights
from Model_Params import SHORT_NAMES, GenerationParams, TextParams


def make_parser():
    """Return the Parser of run.py's flags."""
    parser = Parser("Complete the beginning of a text.", free_text=["--prompt", "--stop"])
    parser.add_argument("prompt", nargs="?", help="the beginning of a text; - reads it from standard input "
                        "(default: the same where that is no terminal, or else ask)")
    parser.add_argument("--prompt", dest="prompt_flag", metavar="PROMPT",
                        help="the same, for one that begins with a hyphen")
    parser.add_argument("--escapes", action="store_true",
                        help=r"take \n in the prompt for a new line, \t for a tab, \\ for a backslash")
    parser.add_argument("--weights", metavar="FILE",
                        help="a run's name, a file in Saved_Weights, a path, or a glob that means one of these "
                        "(default: the newest)")
    parser.add_argument("--mix", action="append", default=[], metavar="NAME=SHARE",
                        help="mix another model of the same tokenizer in: its share of each token, 0 to 1; the "
                        "model of --weights has the rest (may be given several times)")
    parser.add_argument("--blend", choices=mixing.BLENDS, metavar="KIND",
                        help="what --mix adds up: probabilities, so that each model can bring in words of its own, or "
                        "logits, so that all have to agree (default: probabilities)")
    parser.add_number("--samples", 1, "answers to a prompt (default: 1)", low=1, high=4096)
    parser.add_argument("--device", default="cpu", metavar="NAME",
                        help="where to compute: cpu, cuda, mps (default: cpu)")
    parser.add_argument("--encoding", metavar="NAME", help="encoding of standard input, such as windows-1252 "
                        "(default: UTF-8, or what a byte order mark says)")
    parser.add_configuration()
    parser.add_fields("generation", GenerationParams, short_names=SHORT_NAMES)
    return parser


def main():
    """Parse the command line, load a model, and converse or answer once."""
    parser = make_parser()
    arguments = parser.parse()
    if "stop" in arguments:
        arguments.stop = list(map(unescaped, arguments.stop))
    settings = parser.settings(arguments, GenerationParams)
    parser.check(GenerationParams(**settings))
    if arguments.encoding is not None and (problem := encoding_problem(arguments.encoding)):
        parser.error(problem)
    if arguments.prompt is not None and arguments.prompt_flag is not None:
        parser.error("the prompt was given both as an argument and with --prompt; pass one")
    if arguments.samples > (settings.get("beams") or arguments.samples):
        parser.error(f"--beams {settings['beams']} find no more answers than that: "
                     f"--samples {arguments.samples} needs more beams")
    mixing.shares_of(arguments.mix)
    if arguments.blend and not arguments.mix:
        parser.error("--blend is for models that --mix names: add --mix NAME=0.3, or leave it out")
    prompt = arguments.prompt if arguments.prompt is not None else arguments.prompt_flag
    if prompt not in (None, "-"):
        if arguments.escapes:
            prompt = unescaped(prompt)
        elif r"\n" in prompt:
            print(r"The prompt has a backslash and an n, which stay as they are; --escapes takes \n for a new line.",
                  file=sys.stderr)
    if arguments.save_config:
        configuration.save(arguments.save_config, asdict(GenerationParams(**settings)))
    asks = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    if prompt == "-" or prompt is None and not asks:
        prompt = read_prompt(arguments.encoding)
    elif prompt:
        prompt = mended_prompt(prompt, "The prompt")

    mixer, description = load_model(arguments)
    model = mixer.mixed(arguments.mix, arguments.blend)
    if asks:
        from folio.cli.interactive import interact
        from folio.cli.text_mode import TextMode
        mode = TextMode(model, GenerationParams(**settings), arguments.samples)
        mode.mixer = mixer
        if model.voices:
            description += "\n" + mixing.legend(model, False)
        return interact(mode, description, arguments.home.history)
    print(description, file=sys.stderr)
    if model.voices:
        print(mixing.legend(model, Screen().has_colors and sys.stderr.isatty()), file=sys.stderr)
    answer(model, prompt, arguments.samples, settings)


def load_model(arguments):
    """Load the model that the command line names. -> Mixer, a line that describes the model

    Others are loaded when the Mixer meets their names.
    """
    # These import torch, which --help need not wait for.
    from folio.generation.language_model import load
    from folio.networks.build import count_parameters
    home = arguments.home
    path = find_weights(home, arguments.weights)
    model = load(path, arguments.device)
    unmeasured = "imported, not measured" if model.is_imported else "not yet measured"
    quality = unmeasured if model.val_bpb is None else f"{model.val_bpb:.3f} bits per byte"
    mixer = mixing.Mixer(model, lambda name: load(other_weights(home, name, path), arguments.device))
    return mixer, (f"{harmless(path.name)}: {count_parameters(model.net):,} parameters, {quality}, "
                   f"vocabulary of {model.tokenizer.vocab_size:,} tokens")


def other_weights(home, name, path):
    """Return the weights file of a model to mix in. Raises FolioError where it is that of the model itself, `path`."""
    found = find_weights(home, name)
    if found.resolve() == path.resolve():
        raise FolioError(f"{name} would be mixed with itself: name another model, or leave it out.")
    return found


def read_prompt(encoding=None):
    """Return all of standard input, mended, less its last newline. Raises FolioError where it is no text.

    encoding: as in TextParams
    """
    from folio.data.named import BufferedInput
    from folio.readers.charsets import decoded
    from folio.readers.source import Source
    if sys.stdin.isatty():
        print("Type the beginning of a text. Ctrl-D ends it.", file=sys.stderr)
    source = Source(BufferedInput("Standard input", sys.stdin.buffer))
    text = "".join(decoded(source, TextParams(encoding=encoding, invalid_bytes="keep")))
    return mended_prompt(text, "Standard input").removesuffix("\n")


def mended_prompt(prompt, where):
    """Return a prompt mended as training texts are, and say on stderr what was; where: its name in messages."""
    from folio.readers.mending import Mending, remarks
    mending = Mending(remedy="")
    [(prompt, _)] = mending([(prompt, True, where)])
    for remark in remarks(mending.found):
        print(remark, file=sys.stderr)
    return prompt


def answer(model, prompt, samples, settings):
    """Write the prompt and its continuation to stdout, once a sample. settings: the fields of GenerationParams"""
    screen = Screen()
    stream = model.voiced_each([prompt] * samples, **settings)      # before output: it may refuse the prompt
    texts = [""] * samples
    screen.write(prompt, BOLD)
    try:
        for sample, text, voice in stream:
            if sample == 0:         # shown as it is generated, the others afterwards
                screen.write(text, mixing.style_of(model, voice))
            texts[sample] += text
    finally:                        # after Ctrl-C too
        screen.end_line()
    for text in texts[1:]:
        screen.write(prompt, BOLD)
        screen.write(text)
        screen.end_line()


if __name__ == "__main__":
    front_door(main, needs_less="fewer --samples or --beams")
