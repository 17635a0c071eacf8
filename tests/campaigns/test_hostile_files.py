"""Files made to do harm, read by the real scripts on a terminal of their own.

None may run code, take more than ten seconds of a processor or a gigabyte, wait for ever, end in a traceback, or
command the terminal.
"""

import json
import os
import pickle
import shutil
import zipfile
from functools import partial

import numpy as np
import pytest
import torch

from campaigns import crafted, processes, projects
from campaigns.engine import Campaign, Fall
from campaigns.processes import MARK
from folio.base.files import fingerprint
from folio.base.home import Home

pytest.importorskip("termios")          # terminals as these cases need them

RUN = ["run.py", "MERRAN:", "--tokens", 3, "--seed", 1]
TRAIN = ["train.py", *projects.TINY, "--steps", 5]
WITH_SETTINGS = [*TRAIN, "--config", "{home}/settings.json"]
RESUME = ["train.py", "--resume", "--steps", 15, "--threads", 1]
INIT = ["init.py", *projects.VOCABULARY]
TYPED = [b"MERRAN:\n", b"/top\n", b"\x04"]        # in a conversation, which run.py without further words begins
DEEP = "[" * 100_000 + "]" * 100_000
MANY = 1_000_000
REFUSES, SERVES = (1, 2), (0, 1, 2)


class Hostile(Campaign):
    """A table of cases, {name: (build, words, codes)}.

    build(home, proof) makes the file, and may return another home; code in the file would make `proof`. Then `words`
    are run, in which {home} is its folder, and have to end with one of `codes`.
    """

    seconds = 2 * processes.PATIENCE
    megabytes = 8000            # of the one that makes the files

    def __init__(self, kind, home):
        self.name, self.kind, self.source = f"hostile {kind}", kind, home
        self.case = ""

    def set_up(self, folder):
        self.folder = folder
        self.cases = list(TABLES[self.kind](self.source).items())

    def describe(self):
        return self.case

    def attempt(self, number, draw):
        self.case, (build, words, codes) = self.cases[number % len(self.cases)]
        shutil.rmtree(self.folder / "home", ignore_errors=True)
        home = projects.copy(self.source, self.folder / "home")
        proof = self.folder / "it-ran"
        moved = build(home, proof)
        home = moved if isinstance(moved, Home) else home
        command, *words = (str(word).format(home=home.folder) for word in words)
        typed = TYPED if command == "run.py" and not words else ()
        processes.on_terminal(projects.script(command, home, *words), typed).check(codes)
        if proof.exists():
            proof.unlink()
            raise Fall("Its code was run")


# --- Weights and resume files ---

def weights_cases(source):
    """Files that run.py and train.py --resume take for weights."""
    def raw(contents, **how):
        return lambda home, proof: crafted.archive(home.weights("k"), contents, **how)

    def changed(change, of="weights"):
        """The real file with some change and the right checksum."""
        def build(home, proof):
            path = getattr(home, of)("k")
            contents = crafted.contents_of(path)
            crafted.sealed(path, change(contents) or contents)
        return build

    def field(value, *path):
        return changed(lambda contents: crafted.put(contents, path, value))

    def tensor(make):
        def change(contents):
            name = next(iter(contents["weights"]))
            return contents | {"weights": contents["weights"] | {name: make(contents["weights"][name])}}
        return changed(change)

    def code(save, of="weights"):
        return lambda home, proof: save(crafted.RunsCode(proof), getattr(home, of)("k"))

    def saved_with_torch(what, path):
        torch.save({"format": 1, "x": what, "checksum": "0"}, path)

    def saved_the_old_way(what, path):
        torch.save({"format": 1, "x": what, "checksum": "0"}, path, _use_new_zipfile_serialization=False)

    def saved_with_pickle(what, path):
        path.write_bytes(pickle.dumps(what))

    def doubled(join):
        value = 1
        for _ in range(40):
            value = join(value)
        return value

    def bad(**fields):
        """A file that says what it is, and holds something."""
        return {"format": 1, "checksum": "0", "x": 1} | fields

    lists = doubled(lambda it: [it, it])
    of_run = {
        "code, saved with torch": code(saved_with_torch),
        "code, saved as torch did before": code(saved_the_old_way),
        "code, saved with pickle": code(saved_with_pickle),
        "shared references, lists": raw(bad(x=lists)),
        "shared references, dictionaries": raw(bad(x=doubled(lambda it: {"a": it, "b": it}))),
        "shared references, tuples": raw(bad(x=doubled(lambda it: (it, it)))),
        "shared references, for params": raw(bad(params=lists)),
        "shared references, for the format": raw(bad(format=lists)),
        "one tensor, 100,000 names": raw(bad(x=dict.fromkeys(map(str, range(100_000)), crafted.Stored(MANY))),
                                         records={"0": 4 * MANY}),
        "zip bomb in a tensor": raw(bad(x=crafted.Stored(500 * MANY)), records={"0": 2000 * MANY}, method=_DEFLATED),
        "zip bomb beside the tensors": raw(bad(), records={"0": 2000 * MANY}, method=_DEFLATED),
        "a tensor larger than its record": raw(bad(x=crafted.Stored(10**12)), records={"0": 400}),
        "deeply nested lists": lambda home, proof: _nested_pickle(home.weights("k")),
        "a list for everything": raw([1]),
        "format: a text": raw({"format": "x"}),
        "format: huge": raw({"format": 10**4000}),
        "no field at all": changed(lambda contents: {"format": 1}),
        "no weights": field({}, "weights"),
        "a list of weights": field([], "weights"),
    }
    for name, make in _TENSORS.items():
        of_run[f"tensor: {name}"] = tensor(make)
    for place, values in _FIELDS.items():
        for name, value in values.items():
            of_run[f"{place}: {name}"] = field(value, *place.split("."))
    cases = {name: (build, RUN, SERVES if name in _HARMLESS else REFUSES) for name, build in of_run.items()}
    cases["code, to start from"] = code(saved_with_torch), [*TRAIN, "--start-from", "k"], REFUSES
    of_resume = {
        "code": code(saved_with_torch, "resume"),
        "shared references": lambda home, proof: crafted.archive(home.resume("k"), bad(x=lists)),
        "no optimizers": changed(lambda contents: contents | {"optimizers": []}, "resume"),
        "empty optimizers": changed(lambda contents: crafted.put(contents, ("optimizers", 0), {}), "resume"),
        "no weights": changed(lambda contents: contents | {"weights": {}}, "resume"),
        "a text for a step": changed(lambda contents: crafted.put(contents, ("progress", "step"), "x"), "resume"),
        "a text for the scaler": changed(lambda contents: contents | {"scaler": "x"}, "resume"),
        "no torch": changed(lambda contents: {key: contents[key] for key in contents if key != "torch"}, "resume"),
    }
    return cases | {f"resume, {name}": (build, RESUME, REFUSES) for name, build in of_resume.items()}


_DEFLATED = zipfile.ZIP_DEFLATED
_TENSORS = {
    "a conjugate view": lambda it: it.to(torch.complex64).conj(),
    "a negative view": lambda it: torch.complex(it, it).conj().imag,
    "nested": lambda it: torch.nested.nested_tensor([it, it[:1]]),
    "jagged": lambda it: torch.nested.nested_tensor([it, it[:1]], layout=torch.jagged),
    "sparse": lambda it: it.to_sparse(),
    "sparse in rows": lambda it: it.to_sparse_csr(),
    "sparse, with places far outside": lambda it: _wild_sparse(),
    "meta": lambda it: it.to("meta"),
    "quantized": lambda it: torch.quantize_per_tensor(it, 0.1, 0, torch.qint8),
    "expanded": lambda it: torch.zeros(1).expand(10**15),
    "of eight bits": lambda it: it.to(torch.float8_e5m2),
    "of whole numbers": lambda it: it.to(torch.int32),
    "of complex numbers": lambda it: it.to(torch.complex64),
    "of no numbers": lambda it: it * float("nan"),
    "of infinite numbers": lambda it: it * float("inf"),
    "a list": lambda it: it.tolist(),
}
# The first field in which a file differs from a real one, whose checksum is right.
_FIELDS = {
    "tokenizer.special_tokens": {"a million": [f"<{number}>" for number in range(MANY)], "numbers": [1, 2],
                                 "half a surrogate pair": ["\ud800"], "a long text": ["x" * 50 * MANY]},
    "tokenizer.merges": {"a million equal ones": [[97, 98]] * MANY, "not pairs": [[1, 2, 3]], "texts": [["a", "b"]],
                         "fractions": [[97.0, 98.0]]},
    "tokenizer.pattern": {"a list": ["a"]},
    "tokenizer.kind": {"a number": 7},
    "tokenizer.format": {"a text": "2"},
    "tokenizer": {"nothing": None,
                  "characters that are none": {"format": 1, "kind": "char", "special_tokens": [],
                                               "characters": ["\ud800", 5]}},
    "opening": {"nowhere in the vocabulary": [10**9], "below it": [-5], "fractions": [1.5], "empty": [],
                "a text": "abc", "endless": [1] * 10 * MANY, "long": [1] * 7 * MANY},
    "name": {"a list": [1], "long": "x" * 10 * MANY},
    "step": {"a text": "x", "infinite": float("inf")},
    "val_bpb": {"a text": "x", "no number": float("nan"), "a list": [1]},
    "learned_from": {"a number": 7},
    "params": {"nothing": None, "a field that is none": {"x": 1}},
    "params.block_size": {"huge": 10**12}, "params.vocab_size": {"huge": 10**12}, "params.emb_len": {"huge": 10**9},
    "params.num_layers": {"huge": 10**9}, "params.num_heads": {"none": 0}, "params.num_kv_heads": {"too many": 3},
    "params.head_len": {"below nothing": -2}, "params.dropout": {"a text": "x"},
    "params.family": {"unknown": "nothing"}, "params.norm": {"a list": ["rms"]}, "params.positions": {"a number": 5},
}
_HARMLESS = {"name: a list", "name: long", "val_bpb: no number", "learned_from: a number",
             "params.block_size: huge"}


def _nested_pickle(path):
    """Lists in each other, 100,000 deep, as a pickler of Python's own would not write them."""
    pickled = b"\x80\x02}q\x00(X\x06\x00\x00\x00formatK\x01X\x01\x00\x00\x00x" + b"]" * 100_000 + b"a" * 99_999 + b"u."
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/version", "3\n")


def _wild_sparse():
    return torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2**31, 2**31), check_invariants=False)


def _doublings(doublings, more):
    """Merges that double a token so often, and then more of that length."""
    merges = [[97, 97], *([256 + number, 256 + number] for number in range(doublings - 1))]
    return merges + [[256 + len(merges) - 1, 97 + number % 26] for number in range(more)]


_FIELDS["tokenizer.merges"] |= {"18 doublings, then more": _doublings(18, 4300),
                                "doublings without end": _doublings(60, 0)}


# --- The JSON files, tokens and settings ---

def text_cases(source):
    """Files of JSON and tokens."""
    places = {
        "corpus.json": (lambda home: home.tokens / "corpus.json", TRAIN, SERVES),
        "stoi.json": (lambda home: home.tokenizer / "stoi.json", TRAIN, REFUSES),
        "itos.json": (lambda home: home.tokenizer / "itos.json", TRAIN, REFUSES),
        "merges.json": (lambda home: home.tokenizer / "merges.json", TRAIN, REFUSES),
        "vocab_size.json": (lambda home: home.tokenizer / "vocab_size.json", TRAIN, REFUSES),
        "the log": (lambda home: home.log("k"), RESUME, SERVES),
        "the settings": (_settings, WITH_SETTINGS, REFUSES),
        "the history": (lambda home: home.history, ["run.py"], SERVES),
        "a line of documents": (lambda home: home.train_data / "more.jsonl", INIT, REFUSES),
    }
    contents = {"nested lists": DEEP, "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
                "nested in a field": '{"text": ' + DEEP + "}", "a number of 100,000 digits": "9" * 100_000,
                "a field of 100,000 digits": '{"step": ' + "9" * 100_000 + ', "text": "x"}',
                "half a surrogate pair": '{"step": 1, "text": "\\ud800"}',
                "nothing": "", "null": "null", "a number without bounds": '{"step": 1e999, "text": NaN}'}
    cases = {}
    for place, (find, words, codes) in places.items():
        for what, content in contents.items():
            if (place, what) != ("a line of documents", "nothing"):
                cases[f"{place}: {what}"] = (partial(_written, find, content), words, codes)
    for name, make in _ARRAYS.items():
        cases[f"tokens: {name}"] = (partial(_array, make), TRAIN, SERVES)
    return cases


def _settings(home):
    return home.folder / "settings.json"


def _written(find, content, home, proof):
    find(home).write_text(content, encoding="utf-8")


def _array(make, home, proof):
    path = next(home.tokens.glob("*.npy"))
    tokens = np.array(np.load(path))
    path.unlink()
    make(path, tokens, proof)


def _header(text):
    def make(path, tokens, proof):
        header = text.encode("latin-1")
        header += b" " * (-(len(header) + 12 + 1) % 64) + b"\n"
        path.write_bytes(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + tokens.tobytes())
    return make


_ARRAYS = {
    "objects with code": lambda path, tokens, proof: np.save(path, np.array([crafted.RunsCode(proof)], dtype=object)),
    "two dimensions": lambda path, tokens, proof: np.save(path, tokens[:20_000].reshape(100, -1)),
    "no dimension": lambda path, tokens, proof: np.save(path, tokens[0]),
    "bytes the other way round": lambda path, tokens, proof: np.save(path, tokens.astype(">u2")),
    "wider numbers": lambda path, tokens, proof: np.save(path, tokens.astype(np.int64)),
    "negative numbers": lambda path, tokens, proof: np.save(path, -tokens.astype(np.int16)),
    "fractions": lambda path, tokens, proof: np.save(path, tokens.astype(np.float16)),
    "texts": lambda path, tokens, proof: np.save(path, tokens.astype("S3")),
    "none at all": lambda path, tokens, proof: np.save(path, tokens[:0]),
    "huge numbers": lambda path, tokens, proof: np.save(path, tokens | 0xF000),
    "a huge shape": _header("{'descr': '<u2', 'fortran_order': False, 'shape': (1000000000000000,), }"),
    "a shape beyond all numbers": _header("{'descr': '<u2', 'fortran_order': False, 'shape': (" + "9" * 500 + ",), }"),
    "a negative shape": _header("{'descr': '<u2', 'fortran_order': False, 'shape': (-5,), }"),
    "a shape of texts": _header("{'descr': '<u2', 'fortran_order': False, 'shape': ('x',), }"),
    "no header": _header(""),
    "a deep header": _header("(" * 100_000),
    "a header that is a sum": _header("+".join("1" * 20_000)),
    "a long header": _header("{'descr': '<u2', 'fortran_order': False, 'shape': (3,), " + " " * 5 * MANY + "}"),
    "records": _header("{'descr': [('a', '<u1'), ('b', '<u1')], 'fortran_order': False, 'shape': (100,), }"),
    "an archive": lambda path, tokens, proof: np.savez(path.open("wb"), tokens),
}


# --- Tokenizers on the disk that vouch for themselves ---

def tokenizer_cases(source):
    """Four files whose hashes are right."""
    tokenizer = {"special tokens: none": dict(special=[]),
                 "special tokens: a million": dict(special=[f"<{number}>" for number in range(MANY)]),
                 "special tokens: an empty one": dict(special=[""]),
                 "special tokens: escapes": dict(special=[MARK]),
                 "merges: a million equal ones": dict(merges=[["a", "b"]] * MANY),
                 "merges: 18 doublings, then more": dict(merges=_named_doublings(18, 100)),
                 "merges: of nothing": dict(merges=[["", ""]]),
                 "merges: lists": dict(merges=[[["a"], ["b"]]]),
                 "merges: with escapes": dict(merges=[[MARK, "b"]]),
                 "pattern: a list": dict(pattern=["x"]),
                 "pattern: escapes": dict(pattern=MARK),
                 "kind: escapes": dict(kind=MARK),
                 "kind: char": dict(kind="char"),
                 "kind: a list": dict(kind=[])}
    fine = "special", "merges: 18"          # what they begin with that may be used, if that takes no time
    return {name: (partial(_tokenizer, **values), TRAIN, SERVES if name.startswith(fine) else REFUSES)
            for name, values in tokenizer.items()}


def _named_doublings(doublings, more):
    names = [["a" * 2**number] * 2 for number in range(doublings)]
    return names + [["a" * 2**doublings + "b" * number, "b"] for number in range(more)]


def _tokenizer(home, proof, merges=(), special=("<|endoftext|>",), **changed):
    about = json.loads((home.tokenizer / "vocab_size.json").read_bytes())
    names = list(json.loads((home.tokenizer / "stoi.json").read_bytes()))[:256]
    try:
        names += ["".join(pair) for pair in merges]
    except TypeError:
        names += [f"x{number}" for number in range(len(merges))]
    names += special
    written = {"stoi.json": {name: token for token, name in enumerate(names)},
               "itos.json": {str(token): name for token, name in enumerate(names)},
               "merges.json": [list(pair) for pair in merges]}
    written = {name: json.dumps(value).encode() for name, value in written.items()}
    hashes = {name: fingerprint(content) for name, content in written.items()}
    about |= {"vocab_size": len(names), "special_tokens": list(special), "hashes": hashes} | changed
    for name, content in (written | {"vocab_size.json": json.dumps(about).encode()}).items():
        (home.tokenizer / name).write_bytes(content)


# --- Names that are no files ---

def name_cases(source):
    """Links, loops, pipes and folders where a file should be."""
    def newest(path):
        os.utime(path, (4e9, 4e9), follow_symlinks=False)

    makers = {"a dangling link": lambda path: path.symlink_to(path.with_name("gone")),
              "a link to itself": lambda path: path.symlink_to(path.name), "a pipe": os.mkfifo, "a folder": os.mkdir}
    ours = {"run.py: newest weights": (lambda home: home.weights("zz"), RUN, (0,)),
            "run.py: weights by name": (lambda home: home.weights("zz"), [*RUN, "--weights", "zz"], REFUSES),
            "train.py: newest resume file": (lambda home: home.resume("zz"), RESUME[:2] + RESUME[4:], (0, 1)),
            "train.py: resume file by name": (lambda home: home.resume("zz"), [*RESUME, "--name", "zz"], REFUSES),
            "train.py: the log of the run": (lambda home: home.log("k"), RESUME, SERVES),
            "train.py: the lock of the run": (lambda home: home.lock("k"), RESUME, SERVES),
            "train.py: corpus.json": (lambda home: home.tokens / "corpus.json", TRAIN, SERVES),
            "train.py: tokens": (lambda home: next(home.tokens.glob("*.npy")), TRAIN, SERVES),
            "train.py: stoi.json": (lambda home: home.tokenizer / "stoi.json", TRAIN, REFUSES),
            "train.py: vocab_size.json": (lambda home: home.tokenizer / "vocab_size.json", TRAIN, REFUSES),
            "init.py: among the texts": (lambda home: home.train_data / "zz.txt", INIT, SERVES),
            "init.py: instead of the text": (lambda home: home.train_data / "input.txt", INIT, REFUSES),
            "init.py: stoi.json": (lambda home: home.tokenizer / "stoi.json", INIT, SERVES),
            "init.py: corpus.json": (lambda home: home.tokens / "corpus.json", INIT, SERVES),
            "init.py: the folder of tokens": (lambda home: home.tokens, INIT, SERVES),
            "init.py: the folder of the tokenizer": (lambda home: home.tokenizer, INIT, SERVES),
            "train.py: the folder of weights": (lambda home: home.saved_weights, TRAIN, SERVES),
            "run.py: history": (lambda home: home.history, ["run.py"], SERVES)}
    cases = {}
    for place, (find, words, codes) in ours.items():
        for what, make in makers.items():
            def build(home, proof, find=find, make=make):
                path = find(home)
                if path.is_dir():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
                make(path)
                newest(path)
            cases[f"{place}: {what}"] = (build, words, codes)

    def loop(home, proof):
        (home.folder / "loop").symlink_to("loop")
        return Home(home.folder / "loop")
    for script in ("init.py", "train.py", "run.py"):
        cases[f"{script}: the home is a link to itself"] = (loop, [script] if script != "run.py" else RUN, REFUSES)

    def holds_itself(home, proof):
        (home.train_data / "again").symlink_to(home.train_data)
    cases["init.py: a folder that holds itself"] = holds_itself, INIT, SERVES
    return cases


# --- Texts that command a terminal ---

def escape_cases(source):
    """Every text in every file, each in turn with an escape sequence in it."""
    cases = {}
    for kind, path, words in (("weights", lambda home: home.weights("k"), RUN),
                              ("weights", lambda home: home.weights("k"), [*TRAIN, "--start-from", "k"]),
                              ("resume", lambda home: home.resume("k"), RESUME)):
        for place, is_key in crafted.texts(crafted.contents_of(path(source))):
            if is_key and "--start-from" in words:
                continue            # run.py reads the same
            def build(home, proof, path=path, place=place, is_key=is_key):
                contents = crafted.contents_of(path(home))
                crafted.sealed(path(home), crafted.put(contents, place, MARK, is_key))
            cases[f"{kind}, {words[0]}: {_spelled(place, is_key)}"] = (build, words, SERVES)
    for name, find, words in (("corpus.json", lambda home: home.tokens / "corpus.json", TRAIN),
                              ("vocab_size.json", lambda home: home.tokenizer / "vocab_size.json", TRAIN),
                              ("log", lambda home: home.log("k"), RESUME)):
        content = find(source).read_text(encoding="utf-8")
        value = json.loads(content.splitlines()[0] if name == "log" else content)
        for place, is_key in crafted.texts(value):
            changed = json.dumps(crafted.put(value, place, MARK, is_key)) + "\n"
            cases[f"{name}: {_spelled(place, is_key)}"] = (partial(_written, find, changed), words, SERVES)

    def moved(home, proof):
        shutil.rmtree(home.folder.parent / MARK, ignore_errors=True)
        home.folder.rename(home.folder.parent / MARK)
        return Home(home.folder.parent / MARK)

    def started_from(home, proof):
        contents = crafted.contents_of(home.resume("k"))
        started = {"name": MARK, "fingerprint": MARK}
        crafted.sealed(home.resume("k"), crafted.put(contents, ("progress", "started_from"), started))

    def among_the_texts(name, content):
        return lambda home, proof: (home.train_data / name).write_bytes(content)

    nothing = among_the_texts("input.txt", (source.train_data / "input.txt").read_bytes())
    object_without_it = among_the_texts("x.jsonl", json.dumps({MARK: "x"}).encode())
    cases |= {
        "the name of the home, init.py": (moved, INIT, SERVES),
        "the name of the home, train.py": (moved, TRAIN, SERVES),
        "the name of the home, run.py": (moved, RUN, SERVES),
        "started_from": (started_from, RESUME, SERVES),
        "the name of a text": (among_the_texts(f"{MARK}.txt", b"\xff\xfe\0"), INIT, REFUSES),
        "the name of a text that serves": (among_the_texts(f"{MARK}.txt", b"words " * 500), INIT, SERVES),
        "the fields of a line": (object_without_it, INIT, REFUSES),
        "the field": (object_without_it, [*INIT, "--field", f"x{MARK}"], REFUSES),
        "the name of weights": (lambda home, proof: shutil.copy(home.weights("k"), home.weights(MARK)), RUN, SERVES),
        "the text itself": (among_the_texts("input.txt", f"words {MARK}\n".encode() * 5000),
                            [*TRAIN, "--sample-tokens", 60], SERVES),
        "the prompt": (nothing, ["run.py", MARK, "--tokens", 3], SERVES),
        "the name on the command line": (nothing, [*TRAIN, "--name", MARK], REFUSES),
        "a flag": (nothing, ["run.py", f"--{MARK}"], REFUSES),
        "a choice": (nothing, [*TRAIN, "--schedule", MARK], REFUSES),
        "stop": (nothing, [*RUN, "--stop", MARK], SERVES),
        "the history": (lambda home, proof: home.history.write_text(json.dumps(MARK)), ["run.py"], SERVES),
    }
    for where, content in {"a setting": json.dumps({MARK: 1}), "a value": json.dumps({"schedule": MARK}),
                           "no JSON": MARK, "a list": json.dumps([MARK])}.items():
        cases[f"settings: {where}"] = (partial(_written, _settings, content), WITH_SETTINGS, REFUSES)
    return cases


def _spelled(place, is_key):
    return ".".join(map(str, place)) + (" (its name)" if is_key else "")


TABLES = {"weights": weights_cases, "text": text_cases, "tokenizer": tokenizer_cases, "name": name_cases,
          "escape": escape_cases}
SAMPLE = 1          # the first one of each table


@pytest.mark.parametrize("kind", TABLES)
def test_hostile_files(kind, trained_home, attack):
    """attack fails with the cases that fell."""
    attack(Hostile(kind, trained_home), len(TABLES[kind](trained_home)), SAMPLE)
