"""Front door 3: let a trained model go on with your text.

    python run.py                       # in a terminal: you and the model write a text in turns
    python run.py "Once upon a time"    # one answer, on stdout
    echo "Once upon" | python run.py    # the beginning comes through a pipe
"""

import sys
from dataclasses import asdict

from folio.base import startup

if __name__ == "__main__":
    startup.require("run.py")

from folio.cli import configuration
from folio.cli.command_line import Parser, front_door
from folio.base.visible import unescaped, harmless
from folio.cli.screen import BOLD, Screen
from Model_Params import SHORT_NAMES, GenerationParams


def main():
    """Read what is wanted, load a model, and converse or answer once."""
    parser = Parser("Complete the beginning of a text.", free_text=["--prompt", "--stop"])
    parser.add_argument("prompt", nargs="?",
                        help="the beginning of a text; - reads it from standard input (default: the same where that is no terminal, or else ask)")
    parser.add_argument("--prompt", dest="prompt_flag", metavar="PROMPT", help="the same, for one that begins with a hyphen")
    parser.add_argument("--escapes", action="store_true", help=r"take \n in the prompt for a new line, \t for a tab, \\ for a backslash")
    parser.add_argument("--weights", metavar="FILE", help="a file in Saved_Weights, or a run's name (default: the newest)")
    parser.add_number("--samples", 1, "answers to a prompt (default: 1)", low=1, high=4096)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where to compute: cpu, cuda, mps (default: cpu)")
    parser.add_configuration()
    parser.add_fields("generation", GenerationParams, short_names=SHORT_NAMES)
    arguments = parser.parse()
    if "stop" in arguments:
        arguments.stop = list(map(unescaped, arguments.stop))
    settings = parser.settings(arguments, GenerationParams)
    parser.check(GenerationParams(**settings))
    if arguments.prompt is not None and arguments.prompt_flag is not None:
        parser.error("the prompt is there twice; give it once")
    if arguments.samples > (settings.get("beams") or arguments.samples):
        parser.error(f"--beams {settings['beams']} find no more answers than that: --samples {arguments.samples} needs more beams")
    prompt = arguments.prompt if arguments.prompt is not None else arguments.prompt_flag
    if prompt not in (None, "-"):
        if arguments.escapes:
            prompt = unescaped(prompt)
        elif r"\n" in prompt:
            print(r"The prompt has a backslash and an n, which stay as they are; --escapes takes \n for a new line.", file=sys.stderr)
    if arguments.save_config:
        configuration.save(arguments.save_config, asdict(GenerationParams(**settings)))
    asks = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    if prompt == "-" or prompt is None and not asks:
        prompt = read_prompt()
    elif prompt:
        prompt = mended_prompt(prompt, "The prompt")

    from folio.cli.conversation import converse
    from folio.generation.language_model import find_weights, load, newest_weights     # torch comes with it, which --help need not wait for
    from folio.networks.build import count_parameters
    path = find_weights(arguments.home, arguments.weights) if arguments.weights else newest_weights(arguments.home)
    model = load(path, arguments.device)
    quality = "not yet measured" if model.val_bpb is None else f"{model.val_bpb:.3f} bits per byte"
    loaded = (f"{harmless(path.name)}: {count_parameters(model.net):,} parameters, {quality}, "
              f"vocabulary of {model.tokenizer.vocab_size:,} tokens")
    if asks:
        return converse(loaded, model, GenerationParams(**settings), arguments.samples, arguments.home)
    print(loaded, file=sys.stderr)
    answer(model, prompt, arguments.samples, settings)


def read_prompt():
    """All of standard input, mended, less its last newline. Raises FolioError where it is no text."""
    if sys.stdin.isatty():
        print("Type the beginning of a text. Ctrl-D ends it.", file=sys.stderr)
    text = sys.stdin.buffer.read().decode("utf-8", errors="surrogateescape")
    return mended_prompt(text, "Standard input").removesuffix("\n")


def mended_prompt(prompt, where):
    """A prompt, mended as a text is that is trained on, and what was mended said on stderr."""
    from folio.data.mending import Mending, remarks
    mending = Mending(remedy="")
    [(prompt, _)] = mending([(prompt, True, where)])
    for remark in remarks(mending.found):
        print(remark, file=sys.stderr)
    return prompt


def answer(model, prompt, samples, settings):
    """Write the prompt and what the model goes on with, as often as there are samples, to stdout."""
    screen = Screen()
    texts = model.stream_each([prompt] * samples, **settings)       # before anything is shown: it may refuse the prompt
    others = [""] * samples
    screen.write(prompt, BOLD)
    try:
        for sample, text in texts:
            if sample == 0:         # is shown while it is made, and the others meanwhile
                screen.write(text)
            others[sample] += text
    finally:                        # after Ctrl-C too
        screen.end_line()
    for text in others[1:]:
        screen.write(prompt, BOLD)
        screen.write(text)
        screen.end_line()


if __name__ == "__main__":
    front_door(main, needs_less="fewer --samples or --beams")
