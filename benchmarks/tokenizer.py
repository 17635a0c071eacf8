"""Compare the tokenizer with its peers: Hugging Face tokenizers, rustbpe and tiktoken.

    python benchmarks/tokenizer.py                  # all kinds of work: about a quarter of an hour
    python benchmarks/tokenizer.py --only encode    # one kind: small, train, encode, grown, prompt, load, hard
    python benchmarks/tokenizer.py --megabytes 10   # a smaller large text, to try it

All use the same split pattern and two processes or threads. Every figure is the median of several runs (--runs), each
in a process of its own. Memory is the peak of that process and its children, with shared pages counted once.
The large text is every distinct .py .md .txt .rst .js .h file of the Python installation, in sorted order; if that is
too short, it is repeated with numbered lines. `train` and `encode` begin with a file on disk; `encode` ends with one.
"""

import argparse
import base64
import contextlib
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from hashlib import file_digest, sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TINY_SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
SUFFIXES = {".py", ".md", ".txt", ".rst", ".js", ".h"}
PATTERN = "qwen2"
WORKERS = 2
VOCAB_SIZE = 16384
BATCH = 64                      # chunks given to a peer at once: enough work for its threads, in bounded memory
TIME_LIMIT = 200                # seconds until a run is ended and reported as over the limit
PROMPT = "The miller's daughter said: \"I have 42 keys, and none of them opens the door.\" They didn't believe it."
PROMPT = PROMPT[:100]
KINDS = {"small", "train", "encode", "grown", "prompt", "load", "hard"}
FOLIO, HUGGING_FACE, RUSTBPE, TIKTOKEN = LIBRARIES = ("folio", "tokenizers", "rustbpe", "tiktoken")


# --- The texts ---

def build_corpus(path, megabytes):
    """Write the large text, unless it exists."""
    if path.exists():
        return
    seen, size, wanted = set(), 0, megabytes * 1_000_000
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib", "include")}
    files = sorted({file for folder in folders for file in folder.rglob("*")
                    if file.suffix in SUFFIXES and file.is_file()})
    with path.with_suffix(".partial").open("wb") as out:
        for file in files:
            content = file.read_bytes()
            with contextlib.suppress(UnicodeDecodeError):
                content.decode("utf-8")
                if b"\0" not in content and (digest := sha256(content).digest()) not in seen and size < wanted:
                    seen.add(digest)
                    size += out.write(content.replace(b"\r\n", b"\n")[:wanted - size])
        print(f"The large text: {len(seen):,} distinct files, {size / 1e6:.1f} MB", flush=True)
        lines = (f"{number} ".encode() + line for number, line in enumerate(_lines_of(files)))
        while size < wanted:
            size += out.write(next(lines)[:wanted - size])
    path.with_suffix(".partial").rename(path)


def _lines_of(files):
    while True:
        for file in files:
            yield from file.read_bytes().splitlines(keepends=True)


def hard_texts(corpus):
    """Return {name: function that makes the text} of texts of ten megabytes that may be slow to tokenize."""
    import random

    import numpy as np
    import regex
    with corpus.open("rb") as file:
        ordinary = file.read(40_000_000).decode("utf-8", errors="ignore")
    draw = random.Random(0)
    size = 10_000_000

    def letters():
        kept = regex.sub(r"\P{L}", "", ordinary)
        return (kept * (size // len(kept) + 1))[:size]

    def hanzi():
        return chr(0x4E00 + int(draw.paretovariate(0.7)) % 5000)
    return {
        "ordinary": lambda: ordinary[:size],
        "one line, only spaces": lambda: ordinary[:size].replace("\n", " "),
        "no white space": lambda: "".join(ordinary.split())[:size],
        "nothing but letters": letters,
        "one letter": lambda: "a" * size,
        "random bytes": lambda: np.random.default_rng(0).bytes(size).decode("utf-8", errors="surrogateescape"),
        "Chinese, clauses": lambda: "".join(draw.choice("，。！") if draw.random() < 0.1 else hanzi()
                                            for _ in range(size // 3)),
        "Chinese, no signs": lambda: "".join(hanzi() for _ in range(size // 3)),
    }


# --- The kinds of work, each in a process of its own, and each returns its seconds ---

def chunks_of(path):
    """Return an iterator of half-megabyte chunks, cut between pre-tokens: the same for all libraries."""
    from folio.data.sources import Documents
    return (chunk for chunk, _ in Documents([path]))


def batches_of(path):
    from itertools import islice
    chunks = chunks_of(path)
    while batch := list(islice(chunks, BATCH)):
        yield batch


def train(library, path, vocab_size):
    """Measure from the file to the merges."""
    from folio.kernels.splitting import SPLIT_PATTERNS
    pattern = SPLIT_PATTERNS[PATTERN]
    if library == FOLIO:
        from folio.data.encoding import PARALLEL_BYTES, count_all_pretokens
        from folio.kernels.merging import learn_merges
        from tokenizer import BPETokenizer
        started_at = time.perf_counter()
        processes = WORKERS if path.stat().st_size >= PARALLEL_BYTES else 1     # as init.py does
        counts = count_all_pretokens(([chunk] for chunk in chunks_of(path)), PATTERN, processes)
        BPETokenizer(learn_merges(counts, BPETokenizer.merges_for(vocab_size)), PATTERN)
    elif library == RUSTBPE:
        import rustbpe
        started_at = time.perf_counter()
        rustbpe.Tokenizer().train_from_iterator(chunks_of(path), vocab_size - 1, pattern=pattern)
    elif library == HUGGING_FACE:
        import tokenizers
        made = _hugging_face(tokenizers, pattern, {}, [])
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>"], show_progress=False)
        started_at = time.perf_counter()
        made.train_from_iterator(chunks_of(path), trainer)
    return time.perf_counter() - started_at


def encode(library, path, folder):
    """Measure from the file to a file of ids. -> seconds, hash of the ids"""
    encode_batch, dtype = _batch_encoder(library, folder)
    target = Path(folder) / f"ids-{library}"
    with target.open("wb") as out:
        started_at = time.perf_counter()
        if library == FOLIO:
            from folio.data.encoding import encode_all
            from tokenizer import load
            parts = (([chunk], False, False) for chunk in chunks_of(path))
            for content, *_ in encode_all(parts, load(folder), [], WORKERS):
                out.write(content)
        else:
            import numpy as np
            for batch in batches_of(path):
                for ids in encode_batch(batch):
                    out.write(np.array(ids, dtype).tobytes())
    seconds = time.perf_counter() - started_at
    with target.open("rb") as written:
        digest = file_digest(written, "sha256").hexdigest()[:16]
    target.unlink()
    return seconds, digest


def hard(library, name, corpus, folder):
    """Measure one call that encodes ten megabytes from memory."""
    text = hard_texts(Path(corpus))[name]()
    if library == FOLIO:
        from tokenizer import load
        content, tokenizer = text.encode("utf-8", errors="surrogateescape"), load(folder)
        started_at = time.perf_counter()
        tokenizer.encode_to_array(content)
    else:
        encode_batch, _ = _batch_encoder(library, folder)
        text = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
        started_at = time.perf_counter()
        encode_batch([text])
    return time.perf_counter() - started_at


def prompt(library, folder):
    """Measure a prompt of 100 characters that has been encoded before."""
    encode_one = _encoder(library, folder)
    for _ in range(1000):
        encode_one(PROMPT)
    started_at = time.perf_counter()
    for _ in range(10_000):
        encode_one(PROMPT)
    return (time.perf_counter() - started_at) / 10_000


def load(library, folder):
    """Measure from the saved files to a tokenizer, without imports."""
    _encoder(library, folder)                       # imports the library, and fills the file cache
    started_at = time.perf_counter()
    _encoder(library, folder)
    return time.perf_counter() - started_at


def save_for_all(corpus, folder):
    """Learn from the large text, and save the tokenizer in everybody's format."""
    from folio.data.encoding import count_all_pretokens
    from folio.formats.tokenizers import write
    from folio.kernels.merging import learn_merges
    from tokenizer import BPETokenizer
    counts = count_all_pretokens(([chunk] for chunk in chunks_of(corpus)), PATTERN, WORKERS)
    tokenizer = BPETokenizer(learn_merges(counts, BPETokenizer.merges_for(VOCAB_SIZE)), PATTERN)
    tokenizer.save(folder)
    write(tokenizer, "huggingface", folder / "tokenizer.json")
    write(tokenizer, "tiktoken", folder / "ranks.tiktoken")


def _hugging_face(tokenizers, pattern, vocab, merges):
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return made


def _encoder(library, folder):
    """Load a tokenizer from its saved files. -> its function from a text to a list of ids"""
    folder = Path(folder)
    if library == FOLIO:
        import tokenizer
        return tokenizer.load(folder).encode
    if library == HUGGING_FACE:
        import tokenizers
        made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: made.encode(text).ids
    import tiktoken

    from folio.kernels.splitting import SPLIT_PATTERNS
    lines = (folder / "ranks.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    made = tiktoken.Encoding("ours", pat_str=SPLIT_PATTERNS[PATTERN], mergeable_ranks=ranks, special_tokens={})
    return made.encode_ordinary


def _batch_encoder(library, folder):
    """Return a peer's function from texts to lists of ids, in WORKERS threads, and the type of an id."""
    import numpy as np
    if library == HUGGING_FACE:
        import tokenizers
        made = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        return lambda texts: (encoding.ids for encoding in made.encode_batch_fast(texts)), np.uint16
    if library == TIKTOKEN:
        made = _encoder(library, folder).__self__
        return lambda texts: made.encode_ordinary_batch(texts, num_threads=WORKERS), np.uint16
    if library == RUSTBPE:                          # it cannot load merges, but it learns the same ones
        import rustbpe

        from folio.kernels.splitting import SPLIT_PATTERNS
        made = rustbpe.Tokenizer()
        chunks = chunks_of(Path(folder) / "corpus.txt")
        made.train_from_iterator(chunks, VOCAB_SIZE - 1, pattern=SPLIT_PATTERNS[PATTERN])
        return made.batch_encode, np.uint16
    return None, np.uint16


# --- Running and measuring ---

def measure(runs, work, *arguments):
    """Run one kind of work several times, each in a process of its own.

    Returns the median seconds (None: over the time limit, or failed), the peak bytes, and its second result.
    """
    results = [_run_once(work, *arguments) for _ in range(runs)]
    if any(result is None for result in results):
        return None, 0, None
    return statistics.median(seconds for seconds, *_ in results), max(peak for _, peak, _ in results), results[0][2]


def _run_once(work, *arguments):
    import psutil
    environment = {**os.environ, "RAYON_NUM_THREADS": str(WORKERS), "TOKENIZERS_PARALLELISM": "true"}
    words = [sys.executable, __file__, "--work", work, *map(str, arguments)]
    started_at, peak = time.perf_counter(), 0
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _memory_of(tree))
            if time.perf_counter() - started_at > TIME_LIMIT:
                for running in [*tree.children(recursive=True), tree]:
                    running.kill()
                return None
            time.sleep(0.1)             # more frequent checks would slow down the work
        answer = process.stdout.read()
        if process.returncode:
            print(process.stderr.read().decode(errors="replace").strip().splitlines()[-1:], file=sys.stderr)
            return None
    seconds, result = json.loads(answer)
    return seconds, peak, result


def _memory_of(tree):
    """Return the bytes of a process and its children; on Linux, shared pages are divided among those who share them."""
    import psutil
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in [tree, *tree.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.uss)
    return total


def show(title, results, figure):
    """Print a table, with the time of each library in multiples of Folio's.

    results: {library: what `measure` returned}; figure: function from seconds to the text in the table.
    """
    print(f"\n{title}")
    ours = results[FOLIO][0]
    for library, (seconds, memory, _) in results.items():
        ratio = f"{seconds / ours:6.2f} x" if seconds and ours else ""
        shown = figure(seconds) if seconds else "failed, or over the time limit"
        gigabytes = f"{memory / 1e9:.2f} GB" if memory else ""
        print(f"  {library:12} {shown:>14} {ratio:>9}  {gigabytes}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(sorted(KINDS)), help="kinds of work, separated by commas")
    parser.add_argument("--megabytes", type=int, default=120, help="size of the large text")
    parser.add_argument("--grown-megabytes", type=int, default=2000, help="size of the text for memory growth")
    parser.add_argument("--runs", type=int, default=3, help="runs of each measurement")
    parser.add_argument("--folder", type=Path, help="folder for the large texts (default: a temporary folder)")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return _do(*arguments.work)
    if unknown := set(arguments.only.split(",")) - KINDS:
        parser.error(f"--only {', '.join(sorted(unknown))} is none of {', '.join(sorted(KINDS))}")
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        _compare(arguments, folder, set(arguments.only.split(",")))


def _compare(arguments, folder, kinds):
    runs, corpus = arguments.runs, folder / "corpus.txt"
    build_corpus(corpus, arguments.megabytes)
    if kinds - {"small", "train"}:
        save_for_all(corpus, folder)
    if "small" in kinds and TINY_SHAKESPEARE.exists():
        _compare_training(runs, TINY_SHAKESPEARE, 1024, "tiny shakespeare", decimals=2)
    elif "small" in kinds:
        print(f"\ntiny shakespeare is not at {TINY_SHAKESPEARE}: skipped training on it.")
    if "train" in kinds:
        _compare_training(runs, corpus, VOCAB_SIZE, f"{_megabytes_of(corpus):.0f} MB", decimals=1)
    if "encode" in kinds:
        _compare_encoding(runs, corpus, folder)
    if "grown" in kinds:
        _show_memory_growth(corpus, folder, arguments.grown_megabytes)
    if "prompt" in kinds:
        results = {library: measure(runs, "prompt", library, folder) for library in (FOLIO, HUGGING_FACE, TIKTOKEN)}
        show("encode a prompt of 100 characters, warm", _without_memory(results), lambda s: f"{s * 1e6:.1f} us")
    if "load" in kinds:
        results = {library: measure(runs, "load", library, folder) for library in (FOLIO, HUGGING_FACE, TIKTOKEN)}
        show(f"load {VOCAB_SIZE:,} tokens", _without_memory(results), lambda s: f"{s * 1e3:.1f} ms")
    if "hard" in kinds:
        for name in hard_texts(corpus):
            results = {library: measure(1, "hard", library, name, corpus, folder)
                       for library in (FOLIO, HUGGING_FACE, TIKTOKEN)}
            show(f"encode 10 MB in one call: {name}", _without_memory(results), lambda s: f"{s / 10 * 1e3:.0f} ms/MB")


def _compare_training(runs, path, vocab_size, text, decimals):
    results = {library: measure(runs, "train", library, path, vocab_size)
               for library in (FOLIO, HUGGING_FACE, RUSTBPE)}
    show(f"train, {text}, {vocab_size:,} tokens", results, lambda s: f"{s:.{decimals}f} s")


def _compare_encoding(runs, corpus, folder):
    size = _megabytes_of(corpus)
    results = {library: measure(runs, "encode", library, corpus, folder) for library in LIBRARIES}
    show(f"encode, {size:.0f} MB, from file to file (the memory of rustbpe includes learning, which it does first)",
         results, lambda s: f"{size / s:.1f} MB/s")
    digests = {library: digest for library, (*_, digest) in results.items() if digest}
    if len(set(digests.values())) == 1:
        print("  all give the same ids")
    else:
        print(f"  the ids differ: {digests}")


def _show_memory_growth(corpus, folder, grown_megabytes):
    """Print Folio's memory for the large text and for many copies of it."""
    grown = folder / "grown.txt"
    with grown.open("wb") as file:
        for _ in range(max(1, round(grown_megabytes / _megabytes_of(corpus)))):
            file.write(corpus.read_bytes())
    for work, argument in ("train", VOCAB_SIZE), ("encode", folder):
        figures = []
        for path in (corpus, grown):
            seconds, memory, _ = measure(1, work, FOLIO, path, argument)
            figures.append(f"{_megabytes_of(path):,.0f} MB {memory / 1e9:.3f} GB, {seconds or 0:.1f} s")
        print(f"\n{work}, Folio's memory as the text grows: {'; '.join(figures)}", flush=True)
    grown.unlink()


def _without_memory(results):
    return {library: (seconds, 0, None) for library, (seconds, *_) in results.items()}


def _megabytes_of(path):
    return path.stat().st_size / 1e6


def _do(work, library, *rest):
    """Do one kind of work in this process, and print its seconds and second result as JSON."""
    if work == "train":
        result = train(library, Path(rest[0]), int(rest[1])), None
    elif work == "encode":
        result = encode(library, Path(rest[0]), rest[1])
    else:
        result = {"hard": hard, "prompt": prompt, "load": load}[work](library, *rest), None
    print(json.dumps(result))


if __name__ == "__main__":
    main()
