"""Export the tokenizer for other libraries, and import theirs.

    python -m folio.convert export huggingface tokenizer.json       # or: gpt2 FOLDER, tiktoken FILE
    python -m folio.convert import tokenizer.json
    python -m folio.convert import vocab.json merges.txt --pattern gpt2         # or: RANK_FILE --pattern gpt2
"""

from folio.base.commands import command
from folio.cli.command_line import Parser, front_door
from folio.data.corpus import replace_tokenizer
from folio.formats.tokenizers import DROPPABLE, WRITERS, read, write
from folio.formats.unfinished_runs import runs_needing
from folio.kernels.splitting import SPLIT_PATTERNS
from tokenizer import FILES, load

FORMATS = "|".join(WRITERS)


def main():
    """Parse the command line, and export or import a tokenizer."""
    parser = Parser("Export the tokenizer for other libraries, with the same ids; or import one of theirs, "
                    "with Folio's ids.")
    parser.add_argument("direction", choices=["export", "import"], help="from tokenizer_save, or into it")
    parser.add_argument("words", nargs="+", metavar="WORD",
                        help=f"export: {FORMATS}, and the path to write (a file; for gpt2 a folder); "
                        "import: a tokenizer.json, a vocab.json and its merges.txt, or a rank file of tiktoken")
    parser.add_argument("--pattern", choices=list(SPLIT_PATTERNS), metavar="|".join(SPLIT_PATTERNS),
                        help="import: the split pattern, for files that do not contain it")
    parser.add_argument("--drop", action="append", default=[], choices=list(DROPPABLE), metavar="PART",
                        help="import: leave out a part of a tokenizer.json that Folio does not support "
                        f"({', '.join(DROPPABLE)})")
    parser.add_argument("--replace", action="store_true", help="import: replace the tokenizer in tokenizer_save")
    arguments = parser.parse()
    if arguments.direction == "export":
        _export(parser, arguments)
    else:
        _import(parser, arguments)


def _export(parser, arguments):
    if len(arguments.words) != 2 or arguments.words[0] not in WRITERS:
        parser.error(f"export takes a format and a path, as in: export {FORMATS} PATH")
    format, path = arguments.words
    tokenizer = load(arguments.home.tokenizer)
    write(tokenizer, format, path)
    print(f"tokenizer   {tokenizer.vocab_size:,} tokens -> {path}")
    if format != "huggingface":
        print(f"The files do not contain the split pattern, {tokenizer.pattern}: {SPLIT_PATTERNS[tokenizer.pattern]}")
    if format == "tiktoken":
        print(f"nor the special tokens: {tokenizer.special_ids}")
        print('tiktoken caches a file by its path: to read this file after an older one at the same path, '
              'set TIKTOKEN_CACHE_DIR="".')


def _import(parser, arguments):
    if len(arguments.words) > 2:
        parser.error("import takes one path or two, as in: import vocab.json merges.txt")
    folder = arguments.home.tokenizer
    if not arguments.replace and any((folder / name).exists() for name in FILES):
        raise FileExistsError(f"There is already a tokenizer in {folder}; pass --replace to replace it.")
    tokenizer = read(*arguments.words, pattern=arguments.pattern, drop=arguments.drop)
    replace_tokenizer(arguments.home, tokenizer, runs_needing)
    print(f"tokenizer   {tokenizer.kind}, {tokenizer.vocab_size:,} tokens, {len(tokenizer.merges):,} merges, "
          f"split as {tokenizer.pattern}, special: {', '.join(tokenizer.special_tokens) or 'none'} -> {folder}")
    print(f"Next: {command('train.py')} ({command('init.py')} would learn another tokenizer in its place)")


if __name__ == "__main__":
    front_door(main)
