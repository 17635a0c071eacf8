"""The tokenizer for other libraries, and those of other libraries for Folio.

    python -m folio.convert export huggingface tokenizer.json       # or: gpt2 FOLDER, tiktoken FILE
    python -m folio.convert import tokenizer.json                   # or: vocab.json merges.txt, or a rank file, with --pattern
"""

from folio.cli.command_line import Parser, front_door
from folio.base.commands import command
from folio.data.corpus import replace_tokenizer
from folio.formats.tokenizers import DROPPABLE, WRITERS, read, write
from folio.formats.unfinished_runs import runs_needing
from folio.kernels.splitting import SPLIT_PATTERNS
from tokenizer import FILES, load

FORMATS = "|".join(WRITERS)


def main():
    """Read what is wanted, and write or read a tokenizer."""
    parser = Parser("Write the tokenizer for other libraries, all ids as they are; or take over one of theirs, with Folio's ids.")
    parser.add_argument("direction", choices=["export", "import"], help="out of tokenizer_save, or into it")
    parser.add_argument("words", nargs="+", metavar="WORD", help=f"export: {FORMATS} and where to (a file; for gpt2 a folder); "
                        "import: a tokenizer.json, a vocab.json and its merges.txt, or a rank file of tiktoken")
    parser.add_argument("--pattern", choices=list(SPLIT_PATTERNS), metavar="|".join(SPLIT_PATTERNS),
                        help="import: how text is split, for files that do not say")
    parser.add_argument("--drop", action="append", default=[], choices=list(DROPPABLE), metavar="PART",
                        help=f"import: leave out a part of a tokenizer.json that Folio has not ({', '.join(DROPPABLE)})")
    parser.add_argument("--replace", action="store_true", help="import: also where there is a tokenizer already")
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
        print(f"The files do not say how text is split ({tokenizer.pattern}): {SPLIT_PATTERNS[tokenizer.pattern]}")
    if format == "tiktoken":
        print(f"nor that there are special tokens: {tokenizer.special_ids}")
        print('tiktoken remembers a file by its path: to read this one after an older one at the same path, set TIKTOKEN_CACHE_DIR="".')


def _import(parser, arguments):
    if len(arguments.words) > 2:
        parser.error("import takes one path or two, as in: import vocab.json merges.txt")
    folder = arguments.home.tokenizer
    if not arguments.replace and any((folder / name).exists() for name in FILES):
        raise FileExistsError(f"There is a tokenizer in {folder} already; --replace puts the other in its place.")
    tokenizer = read(*arguments.words, pattern=arguments.pattern, drop=arguments.drop)
    replace_tokenizer(arguments.home, tokenizer, runs_needing)
    print(f"tokenizer   {tokenizer.kind}, {tokenizer.vocab_size:,} tokens, {len(tokenizer.merges):,} merges, "
          f"split as {tokenizer.pattern}, special: {', '.join(tokenizer.special_tokens) or 'none'} -> {folder}")
    print(f"Next: {command('train.py')} ({command('init.py')} would learn another tokenizer in its place)")


if __name__ == "__main__":
    front_door(main)
