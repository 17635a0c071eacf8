"""Continue your text with a trained model, or chat with one that was taught to (after init.py and train.py).

    python run.py                       # in a terminal: you and the model write a text in turns, or chat
    python run.py "Once upon a time"    # one answer, on stdout
    echo "Once upon" | python run.py    # the prompt comes through a pipe
"""

import argparse
import sys
from dataclasses import asdict

from folio.base import startup

if __name__ == "__main__":
    startup.require("run.py")

from folio.base.encodings import encoding_problem
from folio.base.errors import FolioError
from folio.base.spelling import counted
from folio.base.visible import harmless, unescaped
from folio.cli import configuration, mixing
from folio.cli.command_line import Parser, front_door
from folio.cli.screen import BOLD, Screen
from folio.formats.find_weights import find_weights
from Model_Params import SHORT_NAMES, GenerationParams


def make_parser():
    """Return the Parser of run.py's flags."""
    parser = Parser("Complete the beginning of a text.", free_text=["--prompt", "--stop", "--system"])
    parser.add_argument("prompt", nargs="?", help="the beginning of a text; - reads it from standard input "
                        "(default: the same where that is no terminal, or else ask)")
    parser.add_argument("--prompt", dest="prompt_flag", metavar="PROMPT",
                        help="the same, for one that begins with a hyphen")
    parser.add_argument("--escapes", action="store_true",
                        help=r"take \n in the prompt for a new line, \t for a tab, \\ for a backslash")
    parser.add_argument("--weights", metavar="FILE",
                        help="a run's name, a file in Saved_Weights, a path, or a glob that means one of these "
                        "(default: the newest)")
    parser.add_argument("--chat", action=argparse.BooleanOptionalAction,
                        help="answer messages, or continue a text (default: answer where the model was taught to)")
    parser.add_argument("--system", metavar="TEXT", help="system prompt: what the model is told before a conversation")
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
    if arguments.system is not None and arguments.chat is False:
        parser.error("--system is for a conversation, and --no-chat has none: give one of them")
    if arguments.samples > (settings.get("beams") or arguments.samples):
        parser.error(f"--beams {settings['beams']} find no more answers than that: "
                     f"--samples {arguments.samples} needs more beams")
    mixing.shares_of(arguments.mix)
    if arguments.blend and not arguments.mix:
        parser.error("--blend is for models that --mix names: add --mix NAME=0.3, or leave it out")
    prompt = given_prompt(arguments)
    if arguments.save_config:
        configuration.save(arguments.save_config, asdict(GenerationParams(**settings)))
    asks = prompt is None and sys.stdin.isatty() and sys.stdout.isatty()
    if prompt == "-" or prompt is None and not asks:
        prompt = read_prompt(arguments.encoding)
    elif prompt:
        prompt = mended_prompt(prompt, "The prompt")

    mixer, description = load_model(arguments)
    model = mixer.mixed(arguments.mix, arguments.blend)
    chats = (model.chat is not None or arguments.system is not None) if arguments.chat is None else arguments.chat
    if chats:
        model.template()                # refuses a model that was not taught to chat
    if asks:
        return interact_with(model, mixer, description, arguments, GenerationParams(**settings), chats)
    print(description, file=sys.stderr)
    if model.voices:
        print(mixing.legend(model, Screen().has_colors and sys.stderr.isatty()), file=sys.stderr)
    request = question(model, prompt, arguments.system) if chats else prompt
    answer(model, request, arguments.samples, settings)


def given_prompt(arguments):
    """Return the prompt of the command line, or None; its escapes replaced where --escapes says so."""
    prompt = arguments.prompt if arguments.prompt is not None else arguments.prompt_flag
    if prompt in (None, "-"):
        return prompt
    if arguments.escapes:
        return unescaped(prompt)
    if r"\n" in prompt:
        print(r"The prompt has a backslash and an n, which stay as they are; --escapes takes \n for a new line.",
              file=sys.stderr)
    return prompt


def interact_with(model, mixer, description, arguments, params, chats):
    """Converse in the terminal, or write a text, until Ctrl-D."""
    from folio.chat.choices import Choices
    from folio.cli.chat_mode import ChatMode
    from folio.cli.interactive import interact
    from folio.cli.text_mode import TextMode
    from folio.readers.prompts import conversation_from, text_from
    from folio.readers.source import Source
    if chats:
        mode = ChatMode(model, params, arguments.samples, system=arguments.system or "",
                        read_file=lambda path: conversation_from(path, arguments.encoding))
    else:
        mode = TextMode(model, params, arguments.samples,
                        read_file=lambda path: text_from(Source(path), arguments.encoding))
    mode.on_keep = Choices(arguments.home.preferences, mode.screen.note).keep
    mode.mixer = mixer
    if model.voices:
        description += "\n" + mixing.legend(model, False)
    interact(mode, description, arguments.home.history)


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
    from folio.readers.prompts import text_from
    from folio.readers.source import Source
    if sys.stdin.isatty():
        print("Type the beginning of a text. Ctrl-D ends it.", file=sys.stderr)
    return _said(text_from(Source(BufferedInput("Standard input", sys.stdin.buffer)), encoding, "Standard input"))


def mended_prompt(prompt, where):
    """Return a prompt mended as training texts are, and say on stderr what was; where: its name in messages."""
    from folio.readers.prompts import mended
    return _said(mended(prompt, where))


def _said(found):
    """Return the text of (text, remarks), and say the remarks on stderr."""
    text, remarks = found
    for remark in remarks:
        print(remark, file=sys.stderr)
    return text


def question(model, message, system=None):
    """Return the prompt of stream_each that asks a message. Raises FolioError where it is empty.

    system: the system prompt, if there is one
    """
    from folio.chat.messages import SYSTEM, USER, Message
    from folio.cli.chat_mode import refuse_long_system
    if not message.strip():
        raise FolioError("There is no message to answer. With --no-chat the model begins a text of its own.")
    refuse_long_system(model, system or "")
    before = [Message(SYSTEM, system)] if system and system.strip() else []
    return {"messages": [*before, Message(USER, message)]}


def answer(model, request, samples, settings):
    """Write the answer to a message, or a prompt and its continuation, to stdout, once a sample.

    request: a prompt of stream_each; settings: the fields of GenerationParams
    """
    from folio.cli.interactive import with_returned
    screen, prompt = Screen(), request if isinstance(request, str) else None
    stream = model.voiced_each([request] * samples, **settings)      # before output: it may refuse the prompt
    others, finishes = [[] for _ in range(samples - 1)], []
    screen.write(prompt or "", BOLD)
    try:
        for sample, text, voice in with_returned(stream, finishes):
            style = mixing.style_of(model, voice)
            if sample == 0:         # shown as it is generated, the others afterwards
                screen.write(text, style)
            else:
                others[sample - 1].append((text, style))
    finally:                        # after Ctrl-C too
        screen.end_line()
    for pieces in others:
        if prompt is None:          # nothing else shows where an answer begins
            screen.leave_empty_line()
        screen.write(prompt or "", BOLD)
        for text, style in pieces:
            screen.write(text, style)
        screen.end_line()
    if prompt is None and "length" in finishes[0]:
        most = GenerationParams(**settings).tokens
        print(f"The answer stopped after {counted(most, 'token')}; --tokens lets it be longer.", file=sys.stderr)


if __name__ == "__main__":
    front_door(main, needs_less="fewer --samples or --beams")
