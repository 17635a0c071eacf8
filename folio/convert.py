"""Give a model to other programs, or take one of theirs; the same with a tokenizer alone.

    python -m folio.convert export huggingface FOLDER               # or: gguf FILE, ollama FOLDER, page FILE.html
    python -m folio.convert export gguf night.gguf --weights night --type q8_0
    python -m folio.convert import FOLDER --name NAME               # or a .gguf file

    python -m folio.convert export huggingface tokenizer.json       # or: gpt2 FOLDER, tiktoken FILE
    python -m folio.convert import tokenizer.json
    python -m folio.convert import vocab.json merges.txt --pattern gpt2         # or: RANK_FILE --pattern gpt2
"""

import re
from importlib import import_module
from pathlib import Path

from tqdm import tqdm

from folio.base.commands import command, quoted
from folio.base.errors import FolioError
from folio.cli.command_line import Parser, front_door
from folio.data.corpus import replace_tokenizer
from folio.formats.exports import FORMATS
from folio.formats.tokenizers import DROPPABLE, WRITERS, read, write
from folio.formats.unfinished_runs import runs_needing
from folio.kernels.splitting import SPLIT_PATTERNS
from tokenizer import FILES, load

# The modules that write FORMATS. They import torch, for which --help need not wait.
MODEL_WRITERS = {"huggingface": "folio.formats.hugging_face", "gguf": "folio.formats.gguf",
                 "ollama": "folio.formats.ollama", "page": "folio.formats.page"}
ADAPTER = "peft"                                        # the format of adapters alone, in folio.formats.peft
SUFFIXES = {"gguf": ".gguf", "page": ".html"}          # by which other programs know their files
NAMES = [*FORMATS, ADAPTER, *(name for name in WRITERS if name not in FORMATS)]        # of all formats
# By what is asked for, the flags that belong to it.
FLAGS = {"the export of a model": {"weights", "type", "push"}, "the export of a tokenizer": set(),
         "the import of a model": {"name", "base"}, "the import of a tokenizer": {"pattern", "drop", "replace"}}
WEIGHTS_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")     # of a model's folder


def make_parser():
    """Return the Parser of the command's flags."""
    parser = Parser("Export a model to other programs, or import one; or the tokenizer alone.")
    parser.add_argument("direction", choices=["export", "import"], help="out of this project, or into it")
    parser.add_argument("words", nargs="+", metavar="WORD",
                        help="export: a format and the path to write; of a model: "
                        f"{', '.join(f'{name} ({format.meaning})' for name, format in FORMATS.items())}, "
                        f"{ADAPTER} (a folder with an adapter alone, for Hugging Face's PEFT); "
                        "of the tokenizer alone: huggingface FILE.json, gpt2 FOLDER, tiktoken FILE. "
                        "import: a model's folder or .gguf file; or a tokenizer.json, a vocab.json and its merges.txt, "
                        "or a rank file of tiktoken")
    model = parser.add_argument_group("a model")
    model.add_argument("--weights", metavar="FILE",
                       help="export: a run's name, a file or a glob (default: the newest)")
    model.add_argument("--type", metavar="NAME", help="export: type of the weights: gguf and ollama have f32, f16 and "
                       "q8_0, page f16, f32 and int8 (default: the format's)")
    model.add_argument("--push", metavar="REPO", help="export huggingface: also upload the folder to this repository "
                       "at Hugging Face; a new one is private")
    model.add_argument("--name", help="import: what to call the model in Saved_Weights")
    model.add_argument("--base", metavar="FILE", help="import an adapter of PEFT: the weights in Saved_Weights that it "
                       "is for")
    tokenizer = parser.add_argument_group("a tokenizer alone")
    tokenizer.add_argument("--pattern", choices=list(SPLIT_PATTERNS), metavar="|".join(SPLIT_PATTERNS),
                           help="import: the split pattern, for files that do not contain it")
    tokenizer.add_argument("--drop", action="append", default=[], choices=list(DROPPABLE), metavar="PART",
                           help="import: leave out a part of a tokenizer.json that Folio does not support "
                           f"({', '.join(DROPPABLE)})")
    tokenizer.add_argument("--replace", action="store_true", help="import: replace the tokenizer in tokenizer_save")
    return parser


def main():
    """Parse the command line, and export or import a model or a tokenizer."""
    parser = make_parser()
    arguments = parser.parse()
    if arguments.direction == "export":
        if len(arguments.words) != 2 or arguments.words[0] not in NAMES:
            parser.error(f"export takes a format and a path, as in: export {'|'.join(NAMES)} PATH")
        is_model = _names_model(*arguments.words)
    else:
        if len(arguments.words) > 2:
            parser.error("import takes one path or two, as in: import vocab.json merges.txt")
        is_model = arguments.name is not None or len(arguments.words) == 1 and holds_model(Path(arguments.words[0]))
    _refuse_flags(parser, arguments, is_model)
    work = {("export", True): _export_model, ("export", False): _export_tokenizer,
            ("import", True): _import_model, ("import", False): _import_tokenizer}
    work[arguments.direction, is_model](parser, arguments)


def _names_model(format, path):
    """Return whether an export to this path is a whole model's."""
    return format in (*FORMATS, ADAPTER) and not (format in WRITERS and Path(path).suffix.lower() == ".json")


def holds_model(path):
    """Return whether a path is a model of another program: a folder with its weights or an adapter, or a GGUF file."""
    if holds_adapter(path):
        return True
    if path.is_dir():
        return (path / "config.json").exists() and any(any(path.glob(pattern)) for pattern in WEIGHTS_FILES)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(4) == b"GGUF"


def holds_adapter(path):
    """Return whether a path is a folder with an adapter, as PEFT writes it."""
    return path.is_dir() and (path / "adapter_config.json").exists()


def _refuse_flags(parser, arguments, is_model):
    """Exit with code 2 for a flag that belongs to another kind of work."""
    work = f"the {arguments.direction} of a {'model' if is_model else 'tokenizer'}"
    for other, flags in FLAGS.items():
        for flag in sorted(flags - FLAGS[work]):
            if getattr(arguments, flag):
                aside = ""
                if other == "the export of a model" and arguments.words[0] == "huggingface":
                    aside = "; a path that ends in .json is the tokenizer alone: name a folder for the model"
                parser.error(f"--{flag} is for {other}, and this is {work}{aside}")


# --- Export ---

def _export_model(parser, arguments):
    format, path = arguments.words[0], Path(arguments.words[1])
    if arguments.push and format != "huggingface":
        parser.error(f"--push uploads a folder for Hugging Face, and this is {format}: "
                     f"export huggingface FOLDER --push {arguments.push}")
    suffix = SUFFIXES.get(format, "")
    if suffix and path.suffix.lower() != suffix:
        parser.error(f"{path} would not be recognized: name a file that ends in {suffix}, as in: "
                     f"export {format} {path.stem or 'model'}{suffix}")
    types = {} if format in ("huggingface", ADAPTER) else {"type": arguments.type}
    if arguments.type:
        _refuse_type(parser, format, arguments.type)
    if arguments.push:
        from folio.formats import hub
        hub.require(arguments.push)         # before the work, not after it
    from folio.formats import trained_model
    from folio.formats.find_weights import find_weights
    home = arguments.home
    model = trained_model.load(find_weights(home, arguments.weights))
    _module_of(format).write(model, path, **types)
    from folio.networks.build import count_parameters
    type = f" in {arguments.type or _default_type(format, model)}" if types else ""
    print(f"{model.name}   {count_parameters(model.net):,} parameters{type}, {_bytes_of(path):,} bytes -> {path}")
    _print_next(model, format, path)
    if arguments.push:
        print(f"pushed   -> {hub.push(path, arguments.push)}")


def _refuse_type(parser, format, type):
    """Exit with code 2 where a format has no such type."""
    types = _types_of(format)
    if not types:
        parser.error(f"--type {type}: the format {format} keeps the numbers as they are, and has no types")
    if type not in types:
        others = " or ".join(f"{name} ({', '.join(found)})" for name in MODEL_WRITERS
                             if name != format and type in (found := _types_of(name)))
        aside = f"; that is a type of {others}" if others else ""
        parser.error(f"--type {type}: the format {format} has {', '.join(types)}{aside}")


def _module_of(format):
    """Return the module that writes a format."""
    return import_module("folio.formats.peft" if format == ADAPTER else MODEL_WRITERS[format])


def _types_of(format):
    return getattr(_module_of(format), "TYPES", ())


def _default_type(format, model):
    """Return the type in which a format writes a model where none is given."""
    module = import_module(MODEL_WRITERS["gguf" if format == "ollama" else format])
    return module.default_type(model) if hasattr(module, "default_type") else module.TYPES[0]


def _bytes_of(path):
    """Return the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def _print_next(model, format, path):
    """Print how to run an exported model."""
    if format == "huggingface":
        from folio.formats.model_card import program
        print("Next, in Python with transformers:", *program(model, format, str(path)).splitlines(), sep="\n    ")
    elif format == ADAPTER:
        base = model.contents["adapter"]["base"]["name"]
        print(f"Next: {path / 'README.md'} says how PEFT loads it. Its base in Hugging Face's format: "
              f"{command('-m folio.convert', 'export', 'huggingface', 'BASE', '--weights', base)}")
    elif format == "gguf":
        print(f"Next: llama-completion -m {quoted(path)} -no-cnv -n 100 --top-k 0 --top-p 1 --min-p 0 "
              f"-p {quoted('Once upon a time')}")
    elif format == "ollama":
        from folio.formats.ollama import commands
        print("Next:", *commands(model, path), sep="\n    ")
    else:
        print(f"Next: open it in a browser: {path.resolve().as_uri()}")


def _export_tokenizer(parser, arguments):
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


# --- Import ---

def _import_model(parser, arguments):
    path, name, home = Path(arguments.words[0]), arguments.name, arguments.home
    if name is None:
        alone = ""
        if (path / "tokenizer.json").exists():
            alone = f"; for its tokenizer alone: {command('-m folio.convert', 'import', path / 'tokenizer.json')}"
        parser.error(f"{path} is a whole model. To import it, say what to call it: "
                     f"{command('-m folio.convert', 'import', path, '--name', 'NAME')}{alone}")
    if not re.fullmatch(r"\w[\w.-]*", name):
        parser.error(f"--name {name} cannot be part of a file's name: take letters, digits, and . _ -")
    if len(arguments.words) != 1:
        parser.error("import takes one path of a model: its folder, or a .gguf file; --name is for models")
    _refuse_no_model(path)
    target = home.weights(name)
    _refuse_taken(home, name)
    if holds_adapter(path):
        contents, notes = _imported_adapter(parser, arguments, path)
    else:
        if arguments.base:
            parser.error(f"--base is for adapters of PEFT, and {path} is a whole model")
        reader = "folio.formats.hugging_face_import" if path.is_dir() else "folio.formats.gguf"
        contents, notes = import_module(reader).read(path, name)
    _refuse_taken(home, name)           # reading a large model takes a while
    _save(target, contents)
    print(*notes, sep="\n", end="\n" if notes else "")
    print(f"{name}   {_parameters(contents):,} parameters, {contents['params']['vocab_size']:,} tokens, "
          f"{target.stat().st_size:,} bytes -> {target}")
    print(f"Next: {command('run.py', '--weights', name)}")
    print(f"To train it on text of yours: {command('train.py', '--start-from', name)}")


def _imported_adapter(parser, arguments, path):
    """Return the contents of a weights file with PEFT's adapter in a folder, and no notes."""
    from folio.formats import adapters, peft
    from folio.formats.find_weights import find_weights
    home = arguments.home
    if arguments.base is None:
        again = command("-m folio.convert", "import", path, "--name", arguments.name, "--base", "NAME")
        parser.error(f"{path} is an adapter: say which model in {home.saved_weights} it is for: {again}")
    base = find_weights(home, arguments.base)
    adapters.name_of_base(base, home.saved_weights)     # refuses one that lies elsewhere
    return peft.read(path, arguments.name, base), []


def _save(path, contents):
    """Write a weights file. What takes longer than a second shows a bar."""
    from folio.formats import checkpoint
    weights = contents.get("weights") or contents["adapter"]["weights"]
    sizes = {tensor.data_ptr(): tensor.nbytes for tensor in weights.values()}       # tied ones once
    with tqdm(total=2 * sum(sizes.values()), desc="Writing", unit="B", unit_scale=True, leave=False, disable=None,
              delay=1) as bar:          # twice: for the checksum, and to the disk
        checkpoint.save(path, contents, bar.update)


def _refuse_no_model(path):
    """Raise FolioError, with what to name instead, for a path that no model can be imported from."""
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. A model is a folder with config.json and weights, "
                                "or a .gguf file.")
    if path.is_dir() and not (path / "config.json").exists() and (files := sorted(path.glob("*.gguf"))):
        raise FolioError(f"{path} is a folder with a GGUF file. Name that file: "
                         f"{command('-m folio.convert', 'import', files[0], '--name', 'NAME')}")
    if path.is_dir() or holds_model(path):
        return
    if path.name.startswith(("tokenizer", "vocab", "merges")):
        raise FolioError(f"{path} is a tokenizer's file, and --name is for models. Without it: "
                         f"{command('-m folio.convert', 'import', path)}")
    if path.suffix in (".safetensors", ".bin", ".json"):
        raise FolioError(f"{path} is one file of a model. Name the folder it lies in: "
                         f"{command('-m folio.convert', 'import', path.parent, '--name', 'NAME')}")
    if path.suffix == ".pth":
        raise FolioError(f"{path} may be Folio's own already, which needs no import: "
                         f"{command('run.py', '--weights', path)}")
    raise FolioError(f"{path} is no model that can be imported: that is a folder with config.json and weights, "
                     "or a .gguf file.")


def _refuse_taken(home, name):
    """Raise FileExistsError where a run has this name already."""
    for taken in (home.weights(name), home.resume(name), home.log(name)):
        if taken.exists():
            raise FileExistsError(f"There is a run named {name} already ({taken}). Take another --name; "
                                  "nothing was overwritten.")


def _parameters(contents):
    """Return the number of parameters of the network in a weights file."""
    from folio.networks.build import count_parameters, outline
    from Model_Params import ModelParams
    return count_parameters(outline(ModelParams(**contents["params"])))


def _import_tokenizer(parser, arguments):
    folder = arguments.home.tokenizer
    tokenizer = read(*arguments.words, pattern=arguments.pattern, drop=arguments.drop)
    if not arguments.replace and any((folder / name).exists() for name in FILES):
        raise FileExistsError(f"There is already a tokenizer in {folder}; pass --replace to replace it.")
    replace_tokenizer(arguments.home, tokenizer, runs_needing)
    print(f"tokenizer   {tokenizer.kind}, {tokenizer.vocab_size:,} tokens, {len(tokenizer.merges):,} merges, "
          f"split as {tokenizer.pattern}, special: {', '.join(tokenizer.special_tokens) or 'none'} -> {folder}")
    print(f"Next: {command('train.py')} ({command('init.py')} would learn another tokenizer in its place)")


if __name__ == "__main__":
    front_door(main, needs_less="a model with fewer parameters")
