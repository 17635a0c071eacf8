"""Front door 1: learn a tokenizer from your text and turn the text into tokens.

    python init.py                      # reads Train_Data/, writes tokenizer_save/ and Train_Data/tokens/
    python init.py novel.txt notes/     # reads these instead: files, folders, globs, or - for standard input
    python init.py --preset personal    # as a preset of train.py wants it
"""

import time
from dataclasses import asdict

from folio.base import startup

if __name__ == "__main__":
    startup.require("init.py")

from folio.base.commands import command
from folio.base.spelling import counted
from folio.cli import configuration
from folio.cli.command_line import Parser, chosen, front_door
from folio.cli.screen import say
from folio.data.paths import supply_text
from Model_Params import PRESETS, TextParams


def main():
    """Parse the command line, learn a tokenizer, and encode the text."""
    started_at = time.perf_counter()
    parser = Parser("Learn a tokenizer from your text and encode the text with it.")
    parser.add_argument("paths", nargs="*", metavar="PATH",
                        help="what to read: files, folders and globs of text (packed as .gz or not), .docx, .pdf, "
                             ".csv, .jsonl, .parquet and more (docs/texts.md); - for standard input; or "
                             "tinyshakespeare, which is downloaded (default: Train_Data)")
    parser.add_argument("--val", action="append", default=[], metavar="PATH",
                        help="hold out these files, folders or globs for validation, and nothing else; can be given "
                             "several times")
    parser.add_argument("--strict", action="store_true",
                        help="refuse a folder that has a file which is no text, instead of skipping it")
    parser.add_preset()
    parser.add_configuration()
    parser.add_fields("text", TextParams)
    arguments = parser.parse()
    text = chosen(PRESETS[parser.preset_of(arguments)].text, parser.settings(arguments, TextParams))
    parser.check(text)

    from folio.data import corpus
    from folio.data.folder_report import FolderReport
    from folio.formats.unfinished_runs import runs_needing
    from folio.readers.mending import remarks
    from folio.readers.records import CONVERSATIONS
    if arguments.preset and not arguments.paths:
        supply_text(arguments.home)
    report = FolderReport(arguments.strict)
    tokenizer, made = corpus.open_corpus(arguments.home, text, arguments.paths, arguments.val,
                                         runs_needing=runs_needing, report=report, say=say)
    if arguments.save_config:
        configuration.save(arguments.save_config, asdict(text))

    for line in [*report.table(), *remarks(made.mended)]:
        say(line)
    if text.vocab_size and tokenizer.vocab_size < text.vocab_size:
        say(f"The text is too small for {text.vocab_size:,} tokens: "
            f"no pair is seen twice after {tokenizer.vocab_size:,}.")
    train = command("train.py", *(["--preset", arguments.preset] if arguments.preset else []))
    if CONVERSATIONS in made.mended:
        train += f"\nThen, to teach the model to answer: {command('train.py', '--start-from', 'NAME', '--chat')}"
    total_bytes, total_tokens = made.train_bytes + made.val_bytes, len(made.tokens)
    say(f"""\
text        {total_bytes:,} bytes, {made.characters:,} characters, {counted(made.documents, "document")}
tokenizer   {tokenizer.kind}, {tokenizer.vocab_size:,} tokens -> {arguments.home.tokenizer}
training    {made.train_bytes:,} bytes, {made.train_tokens:,} tokens
validation  {made.val_bytes:,} bytes, {made.val_tokens:,} tokens
            {total_bytes / total_tokens:.2f} bytes per token, {time.perf_counter() - started_at:.1f} seconds
Next: {train}""")


if __name__ == "__main__":
    front_door(main)
