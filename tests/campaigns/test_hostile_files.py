"""Files made to do harm, read by the real scripts on a terminal of their own.

None may run code, take more than ten seconds of a processor or a gigabyte, wait for ever, end in a traceback, or command the terminal.
"""

import json
import os
import shutil
import zipfile
from functools import partial

import numpy as np
import pytest
import torch

from campaigns import crafted, processes, projects
from campaigns.engine import Campaign, Fall
from campaigns.processes import MARK
from folio.home import Home

pytest.importorskip("termios")          # terminals as these cases need them

RUN = ["run.py", "MERRAN:", "--tokens", 3, "--seed", 1]
TRAIN = ["train.py", *projects.TINY, "--steps", 5]
WITH_SETTINGS = [*TRAIN, "--config", "{home}/settings.json"]
RESUME = ["train.py", "--resume", "--steps", 15, "--threads", 1]
INIT = ["init.py", *projects.VOCABULARY]
TYPED = b"MERRAN:\n/top\n\x04"        # in a conversation, which run.py without further words begins
DEEP = "[" * 100_000 + "]" * 100_000
DEEP_OBJECT = '{"a":' * 100_000 + "1" + "}" * 100_000
MANY = 1_000_000
REFUSES, SERVES = (1, 2), (0, 1, 2)


class Hostile(Campaign):
    """A table of cases, {name: (build, words, codes)}: build(home, proof) makes the file, `words` are run on it, `codes` are right exit codes."""

    seconds = 200
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
        home = build(home, proof) or home
        command, *words = (str(word).format(home=home.folder) for word in words)
        processes.on_terminal(projects.script(command, home, *words), TYPED if words == [] and command == "run.py" else b"").check(codes)
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
        import pickle
        path.write_bytes(pickle.dumps(what))

    def doubled(join):
        value = 1
        for _ in range(40):
            value = join(value)
        return value

    cases = {
        "code, saved with torch": (code(saved_with_torch), RUN, REFUSES),
        "shared references, lists": (raw({"format": 1, "x": doubled(lambda it: [it, it]), "checksum": "0"}), RUN, REFUSES),
        "code, saved as torch did before": (code(saved_the_old_way), RUN, REFUSES),
        "code, saved with pickle": (code(saved_with_pickle), RUN, REFUSES),
        "code, in a resume file": (code(saved_with_torch, "resume"), RESUME, REFUSES),
        "code, to start from": (code(saved_with_torch), [*TRAIN, "--start-from", "k"], REFUSES),
        "shared references, dictionaries": (raw({"format": 1, "x": doubled(lambda it: {"a": it, "b": it}), "checksum": "0"}), RUN, REFUSES),
        "shared references, tuples": (raw({"format": 1, "x": doubled(lambda it: (it, it)), "checksum": "0"}), RUN, REFUSES),
        "shared references, in the resume file": (lambda home, proof: crafted.archive(home.resume("k"), {"format": 1, "x": doubled(lambda it: [it, it])}), RESUME, REFUSES),
        "shared references, in place of params": (raw({"format": 1, "params": doubled(lambda it: [it, it]), "checksum": "0"}), RUN, REFUSES),
        "shared references, in place of the format": (raw({"format": doubled(lambda it: [it, it]), "checksum": "0"}), RUN, REFUSES),
        "one tensor, 100,000 names": (raw({"format": 1, "x": dict.fromkeys(map(str, range(100_000)), crafted.Stored(MANY)), "checksum": "0"},
                                          records={"0": 4 * MANY}), RUN, REFUSES),
        "zip bomb in a tensor": (raw({"format": 1, "x": crafted.Stored(500 * MANY), "checksum": "0"}, records={"0": 2000 * MANY},
                                     method=zipfile.ZIP_DEFLATED), RUN, REFUSES),
        "zip bomb beside the tensors": (raw({"format": 1, "x": 1, "checksum": "0"}, records={"0": 2000 * MANY}, method=zipfile.ZIP_DEFLATED), RUN, REFUSES),
        "a tensor that is said to be larger than its record": (raw({"format": 1, "x": crafted.Stored(10**12), "checksum": "0"}, records={"0": 400}),
                                                               RUN, REFUSES),
        "deeply nested lists": (lambda home, proof: _nested_pickle(home.weights("k")), RUN, REFUSES),
        "a conjugate view": (tensor(lambda it: it.to(torch.complex64).conj()), RUN, REFUSES),
        "a negative view": (tensor(lambda it: torch.complex(it, it).conj().imag), RUN, REFUSES),
        "a nested tensor": (tensor(lambda it: torch.nested.nested_tensor([it, it[:1]])), RUN, REFUSES),
        "a jagged tensor": (tensor(lambda it: torch.nested.nested_tensor([it, it[:1]], layout=torch.jagged)), RUN, REFUSES),
        "a sparse tensor": (tensor(lambda it: it.to_sparse()), RUN, REFUSES),
        "a sparse tensor in rows": (tensor(lambda it: it.to_sparse_csr()), RUN, REFUSES),
        "a sparse tensor with indices far outside": (tensor(_wild_sparse), RUN, REFUSES),
        "a meta tensor": (tensor(lambda it: it.to("meta")), RUN, REFUSES),
        "a quantized tensor": (tensor(lambda it: torch.quantize_per_tensor(it, 0.1, 0, torch.qint8)), RUN, REFUSES),
        "an expanded tensor": (tensor(lambda it: torch.zeros(1).expand(10**15)), RUN, REFUSES),
        "a tensor of other numbers": (tensor(lambda it: it.to(torch.float8_e5m2)), RUN, REFUSES),
        "whole numbers for weights": (tensor(lambda it: it.to(torch.int32)), RUN, REFUSES),
        "complex numbers for weights": (tensor(lambda it: it.to(torch.complex64)), RUN, REFUSES),
        "weights that are no numbers": (tensor(lambda it: it * float("nan")), RUN, REFUSES),
        "weights without bounds": (tensor(lambda it: it * float("inf")), RUN, REFUSES),
        "a list for a tensor": (tensor(lambda it: it.tolist()), RUN, REFUSES),
        "no weights": (field({}, "weights"), RUN, REFUSES),
        "a list of weights": (field([], "weights"), RUN, REFUSES),
        "special tokens: a million": (field([f"<{number}>" for number in range(MANY)], "tokenizer", "special_tokens"), RUN, REFUSES),
        "special tokens: numbers": (field([1, 2], "tokenizer", "special_tokens"), RUN, REFUSES),
        "special tokens: half a surrogate pair": (field(["\ud800"], "tokenizer", "special_tokens"), RUN, REFUSES),
        "special tokens: a long text": (field(["x" * 50 * MANY], "tokenizer", "special_tokens"), RUN, REFUSES),
        "merges: a million equal ones": (field([[97, 98]] * MANY, "tokenizer", "merges"), RUN, REFUSES),
        "merges: 18 doublings, then more": (field(_doublings(18, 4300), "tokenizer", "merges"), RUN, REFUSES),
        "merges: doublings without end": (field(_doublings(60, 0), "tokenizer", "merges"), RUN, REFUSES),
        "merges: not pairs": (field([[1, 2, 3]], "tokenizer", "merges"), RUN, REFUSES),
        "merges: texts": (field([["a", "b"]], "tokenizer", "merges"), RUN, REFUSES),
        "merges: fractions": (field([[97.0, 98.0]], "tokenizer", "merges"), RUN, REFUSES),
        "pattern: a list": (field(["a"], "tokenizer", "pattern"), RUN, REFUSES),
        "kind: a number": (field(7, "tokenizer", "kind"), RUN, REFUSES),
        "tokenizer: characters": (field({"format": 1, "kind": "char", "special_tokens": [], "characters": ["\ud800", 5]}, "tokenizer"), RUN, REFUSES),
        "tokenizer: nothing": (field(None, "tokenizer"), RUN, REFUSES),
        "tokenizer of a newer format": (field("2", "tokenizer", "format"), RUN, REFUSES),
        "opening: nowhere in the vocabulary": (field([10**9], "opening"), RUN, REFUSES),
        "opening: below it": (field([-5], "opening"), RUN, REFUSES),
        "opening: fractions": (field([1.5], "opening"), RUN, REFUSES),
        "opening: empty": (field([], "opening"), RUN, REFUSES),
        "opening: a text": (field("abc", "opening"), RUN, REFUSES),
        "opening: endless": (field([1] * 10 * MANY, "opening"), RUN, SERVES),
        "name: a list": (field([1], "name"), RUN, SERVES),
        "name: long": (field("x" * 10 * MANY, "name"), RUN, SERVES),
        "step: a text": (field("x", "step"), RUN, REFUSES),
        "step: without bounds": (field(float("inf"), "step"), RUN, REFUSES),
        "val_bpb: a text": (field("x", "val_bpb"), RUN, REFUSES),
        "val_bpb: no number": (field(float("nan"), "val_bpb"), RUN, SERVES),
        "val_bpb: a list": (field([1], "val_bpb"), RUN, REFUSES),
        "learned_from: a number": (field(7, "learned_from"), RUN, SERVES),
        "no field at all": (changed(lambda contents: {"format": 1}), RUN, REFUSES),
        "params: nothing": (field(None, "params"), RUN, REFUSES),
        "params: a field that is none": (changed(lambda contents: crafted.put(contents, ("params",), contents["params"] | {"x": 1})), RUN, REFUSES),
        "a list for everything": (raw([1]), RUN, REFUSES),
        "format: a text": (raw({"format": "x"}), RUN, REFUSES),
        "format: huge": (raw({"format": 10**4000}), RUN, REFUSES),
        "resume: optimizers are none": (changed(lambda contents: contents | {"optimizers": []}, "resume"), RESUME, REFUSES),
        "resume: optimizers of another shape": (changed(lambda contents: contents | {"optimizers": [{} for _ in contents["optimizers"]]}, "resume"),
                                                RESUME, REFUSES),
        "resume: weights are none": (changed(lambda contents: contents | {"weights": {}}, "resume"), RESUME, REFUSES),
        "resume: progress of other types": (changed(lambda contents: crafted.put(contents, ("progress", "step"), "x"), "resume"), RESUME, REFUSES),
        "resume: no torch": (changed(lambda contents: {key: value for key, value in contents.items() if key != "torch"}, "resume"), RESUME, REFUSES),
        "resume: scaler is a text": (changed(lambda contents: contents | {"scaler": "x"}, "resume"), RESUME, REFUSES),
    }
    for name, value in {"block_size": 10**12, "vocab_size": 10**12, "emb_len": 10**9, "num_layers": 10**9, "num_heads": 0, "num_kv_heads": 3,
                        "dropout": "x", "family": "nothing", "norm": ["rms"], "head_len": -2, "positions": 5}.items():
        cases[f"params: {name}={value}"] = (field(value, "params", name), RUN, SERVES if name == "block_size" else REFUSES)
    return cases


def _nested_pickle(path):
    """Lists in each other, 100,000 deep, as a pickler of Python's own would not write them."""
    pickled = b"\x80\x02}q\x00(X\x06\x00\x00\x00formatK\x01X\x01\x00\x00\x00x" + b"]" * 100_000 + b"a" * 99_999 + b"u."
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/version", "3\n")


def _wild_sparse(like):
    return torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2**31, 2**31), check_invariants=False)


def _doublings(doublings, more):
    merges = [[97, 97]]
    merges += [[256 + number, 256 + number] for number in range(doublings - 1)]
    return merges + [[256 + len(merges) - 1, 97 + number % 26] for number in range(more)]


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
    contents = {"nested lists": DEEP, "nested objects": DEEP_OBJECT, "nested in a field": '{"text": ' + DEEP + "}", "a number of 100,000 digits": "9" * 100_000,
                "a field of 100,000 digits": '{"step": ' + "9" * 100_000 + ', "text": "x"}', "half a surrogate pair": '{"step": 1, "text": "\\ud800"}',
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
    "objects with code": lambda path, tokens, proof: np.save(path, np.array([crafted.RunsCode(proof)], dtype=object), allow_pickle=True),
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
    return {name: (partial(_tokenizer, **values), TRAIN, SERVES if name.startswith("special") else REFUSES) for name, values in tokenizer.items()}


def _named_doublings(doublings, more):
    names = [["a" * 2**number] * 2 for number in range(doublings)]
    return names + [["a" * 2**doublings + "b" * number, "b"] for number in range(more)]


def _tokenizer(home, proof, merges=(), special=("<|endoftext|>",), **changed):
    from folio.files import fingerprint
    about = json.loads((home.tokenizer / "vocab_size.json").read_bytes())
    names = list(json.loads((home.tokenizer / "stoi.json").read_bytes()))[:256]
    try:
        names += ["".join(pair) for pair in merges]
    except TypeError:
        names += [f"x{number}" for number in range(len(merges))]
    names += special
    written = {"stoi.json": {name: token for token, name in enumerate(names)}, "itos.json": {str(token): name for token, name in enumerate(names)},
               "merges.json": [list(pair) for pair in merges]}
    written = {name: json.dumps(value).encode() for name, value in written.items()}
    about |= {"vocab_size": len(names), "special_tokens": list(special), "hashes": {name: fingerprint(content) for name, content in written.items()}} | changed
    for name, content in (written | {"vocab_size.json": json.dumps(about).encode()}).items():
        (home.tokenizer / name).write_bytes(content)


# --- Names that are no files ---

def name_cases(source):
    """Links, loops, pipes and folders where a file should be."""
    def newest(path):
        os.utime(path, (4e9, 4e9), follow_symlinks=False)

    makers = {"a dangling link": lambda path: path.symlink_to(path.with_name("gone")), "a link to itself": lambda path: path.symlink_to(path.name),
              "a pipe": os.mkfifo, "a folder": os.mkdir}
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
    cases["init.py: a folder that holds itself"] = (lambda home, proof: (home.train_data / "again").symlink_to(home.train_data), INIT, SERVES)
    return cases


# --- Texts that command a terminal ---

def escape_cases(source):
    """Every text in every file, each in turn with an escape sequence in it."""
    cases = {}
    for kind, path, words in (("weights", lambda home: home.weights("k"), RUN), ("weights", lambda home: home.weights("k"), [*TRAIN, "--start-from", "k"]),
                              ("resume", lambda home: home.resume("k"), RESUME)):
        for place, is_key in crafted.texts(crafted.contents_of(path(source))):
            def build(home, proof, path=path, place=place, is_key=is_key):
                contents = crafted.contents_of(path(home))
                crafted.sealed(path(home), crafted.put(contents, place, MARK, is_key))
            cases[f"{kind}, {words[0]}: {'.'.join(map(str, place))}{' (its name)' * is_key}"] = (build, words, SERVES)
    for name, find, words in (("corpus.json", lambda home: home.tokens / "corpus.json", TRAIN),
                              ("vocab_size.json", lambda home: home.tokenizer / "vocab_size.json", TRAIN),
                              ("log", lambda home: home.log("k"), RESUME)):
        content = find(source).read_text(encoding="utf-8")
        value = json.loads(content.splitlines()[0] if name == "log" else content)
        for place, is_key in crafted.texts(value):
            changed = json.dumps(crafted.put(value, place, MARK, is_key)) + "\n"
            cases[f"{name}: {'.'.join(map(str, place))}{' (its name)' * is_key}"] = (partial(_written, find, changed), words, SERVES)

    def moved(home, proof):
        shutil.rmtree(home.folder.parent / MARK, ignore_errors=True)
        home.folder.rename(home.folder.parent / MARK)
        return Home(home.folder.parent / MARK)

    def resume_of(home, **values):
        contents = crafted.contents_of(home.resume("k"))
        crafted.sealed(home.resume("k"), contents | values)

    started = {"name": MARK, "fingerprint": MARK}
    cases |= {
        "the name of the home, init.py": (moved, INIT, SERVES),
        "the name of the home, train.py": (moved, TRAIN, SERVES),
        "the name of the home, run.py": (moved, RUN, SERVES),
        "started_from": (lambda home, proof: resume_of(home, progress=crafted.contents_of(home.resume("k"))["progress"] | {"started_from": started}),
                         RESUME, SERVES),
        "the name of a text": (lambda home, proof: (home.train_data / f"{MARK}.txt").write_bytes(b"\xff\xfe\0"), INIT, REFUSES),
        "the name of a text that serves": (lambda home, proof: (home.train_data / f"{MARK}.txt").write_text("words " * 500), INIT, SERVES),
        "the fields of a line": (lambda home, proof: (home.train_data / "x.jsonl").write_text(json.dumps({MARK: "x"})), INIT, REFUSES),
        "the name of weights": (lambda home, proof: shutil.copy(home.weights("k"), home.weights(MARK)), RUN, SERVES),
        "the text itself": (lambda home, proof: (home.train_data / "input.txt").write_text(f"words {MARK}\n" * 5000),
                            [*TRAIN[:-5], "--sample-tokens", 60, "--eval-interval", 5, "--steps", 5], SERVES),
        "the prompt": (lambda home, proof: None, ["run.py", MARK, "--tokens", 3], SERVES),
        "the name on the command line": (lambda home, proof: None, [*TRAIN, "--name", MARK], REFUSES),
        "a flag": (lambda home, proof: None, ["run.py", f"--{MARK}"], REFUSES),
        "a choice": (lambda home, proof: None, [*TRAIN, "--schedule", MARK], REFUSES),
        "the field": (lambda home, proof: (home.train_data / "x.jsonl").write_text('{"x": 1}'), [*INIT, "--field", MARK], REFUSES),
        "the history": (lambda home, proof: home.history.write_text(json.dumps(MARK)), ["run.py"], SERVES),
        "stop": (lambda home, proof: None, [*RUN, "--stop", MARK], SERVES),
    }
    for where, content in {"a setting": json.dumps({MARK: 1}), "a value": json.dumps({"schedule": MARK}), "no JSON": MARK, "a list": json.dumps([MARK])}.items():
        cases[f"settings: {where}"] = (partial(_written, _settings, content), WITH_SETTINGS, REFUSES)
    return cases


TABLES = {"weights": weights_cases, "text": text_cases, "tokenizer": tokenizer_cases, "name": name_cases, "escape": escape_cases}
SAMPLE = 1          # the first one of each table


@pytest.mark.parametrize("kind", TABLES)
def test_hostile_files(kind, trained_home, attack):
    """attack fails with the cases that fell."""
    attack(Hostile(kind, trained_home), len(TABLES[kind](trained_home)), SAMPLE)
