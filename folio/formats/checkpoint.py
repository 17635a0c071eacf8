"""Weights files and resume files: whole or absent, tensors and plain values only, with a checksum over all of it.

Each is one dict in torch.save's form. It is read without running any code that it may contain (`torch_file`), and every
way in which it can be bad becomes one sentence. Every file has

    format          int: FORMAT when it was written; a higher number is refused
    checksum        str: `checksum` of all the other fields

Saved_Weights/weights-NAME.pth has all that is needed to run the network, and is safe to share:

    name            str: of the run
    params          {field: value} of ModelParams, resolved; the shapes of `weights` follow from it
    weights         {name: tensor}: the network's state_dict; tied weights are named twice and stored once. In float32,
                    or in the type in which an imported model has them
    tokenizer       {field: value}: tokenizer.Tokenizer.to_dict(), i.e. format, kind, special_tokens and
                    for bpe: pattern, merges ([[id, id], ...]); for char: characters
    opening         [id]: the tokens that stand before a text that begins from nothing
    chat            {template, start, end}: how a model that was taught to chat reads conversations
                    (folio.chat.template); absent or None of others
    text            {field: value} of TextParams
    training        {field: value} of TrainingParams, resolved, as the run had it; {} of an imported model
    tuning          {field: value} of TuningParams; absent of an imported model
    step            int: training steps that led to these weights
    started_from    {name, fingerprint} of the weights that a fine-tuned run began with; else None
    seconds         float: time that the run had taken by then
    torch           str: the version that trained it
    learned_from    {text_fingerprint, train_bytes}: which text, and how much of it, was the training part
    val_bpb         float: bits per byte of the validation part; None where it was not measured
    val_nats_per_byte       float or None: the same in nats per byte; None where preferences were learned, with, in its
                    place, val_nats_per_pair and val_ordered (folio.formats.run_log)
    origin          of an imported model, what it was before (folio.formats.hugging_face); else absent or None

An adapter (folio.networks.lora) is a weights file too, without `weights` and `tokenizer` and with

    adapter         {rank, alpha, rows, special_tokens, base, weights}: what its base lacks (folio.formats.adapters);
                    B A is multiplied by alpha / rank, also in matrices whose own rank is another
                    base            {name, fingerprint}: of the weights file beside it that the adapter changes
                    weights         {MODULE.a, MODULE.b, embedding.rows...: tensor}, mostly in float16
                    rows            [id]: the tokens of embedding.rows, also those that the base does not have
                    special_tokens  [name]: that its tokenizer has after the base's

Saved_Weights/resume-NAME.pth has all that is needed to continue a run exactly:

    name            str: of the run
    params          {"text", "model", "training", "tuning"}: {field: value} of each dataclass, resolved
    tokenizer       str: fingerprint of the run's tokenizer
    corpus          str: fingerprint of the tokens, or of the conversations or pairs, that it reads
    lessons         what these are read again with, where the home does not have it: {sources: [path], tokenizer:
                    tokenizer.Tokenizer.to_dict(), ...}; of a run on the home's text None, or {chat} as above
    torch           str: the version that trained it
    processes       int: that trained it together
    progress        {field: value} of folio.training.loop's Progress: step, seconds, best_nats, finished...
    weights         {name: tensor}: as above, in float32, whatever type the matrix products have; of a run that trains
                    adapters, only theirs: progress.started_from names their base
    optimizers      [{"state": {number of a parameter: {name: tensor or value}}, "param_groups": [...]}], in
                    torch.optim's form
    scaler          {name: value}: the state of the loss scale where precision is fp16; else {}
    streams         {name: tensor}: a recurrent network's state, where batches are consecutive; else None

Older files lack `tuning`, `learned_from`, `started_from`, `scaler`, `streams` or `lessons`: a reader does without them.
Fields that a reader does not know are passed over. `load_metadata` returns all but the numbers of the tensors, without
reading those.
"""

import os
import stat
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch

from folio.base.commands import command
from folio.base.errors import FolioError, is_out_of_memory
from folio.base.files import replacing
from folio.formats import torch_file
from folio.networks import build as networks
from Model_Params import ModelParams

FORMAT = 1
# Files of other programs, as messages call them.
_FOLDER = "a folder, as Hugging Face keeps models"
_SAFETENSORS = "a safetensors file, as Hugging Face keeps models"
_TORCH = "a PyTorch file of another program, as Hugging Face's pytorch_model.bin is"
_GGUF = "a GGUF file, as llama.cpp keeps models"


def save(path, contents, progress=None):
    """Write a dict of tensors and plain values. At every moment `path` is the old file or the new one, whole.

    progress: is called with the number of bytes of every tensor that has gone into the checksum, and of every write
    """
    contents = {"format": FORMAT, **contents}
    with replacing(path) as file:
        try:
            torch.save({**contents, "checksum": checksum(contents, progress)},
                       _Counted(file, progress) if progress else file)
        except RuntimeError as error:       # what torch makes of a write that failed
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise cause  # noqa: B904  (it is the cause)


class _Counted:
    """A file that counts what is written to it, as far as torch.save needs one."""

    def __init__(self, file, progress):
        self._file, self._progress, self.flush = file, progress, file.flush

    def write(self, content):
        written = self._file.write(content)
        self._progress(written)
        return written


def load(path):
    """Return the dict that was saved, after its checksum was verified.

    Raises OSError where the system cannot read it, and FolioError, with one sentence, where it cannot be trusted.
    """
    with _opened(path) as file:
        contents = file.contents()
    try:
        if contents.pop("checksum", None) == checksum(contents):
            return contents
    except ValueError:          # Python writes out no number of more than 4,300 digits
        pass
    raise FolioError(f"{path} is damaged: its checksum does not match its contents.")


def load_metadata(path):
    """Return the dict that was saved, with a torch_file.Outline (dtype, shape) in place of every tensor.

    No tensor's numbers are read, so it takes milliseconds whatever the size of the file. It serves to choose a file,
    not to use one: the checksum, over all of the file, is not verified. Raises what `load` raises.
    """
    with _opened(path) as file:
        return file.outlines()


@contextmanager
def _opened(path):
    """Yield the torch_file.TorchFile at `path`, of a format that this Folio reads.

    A FolioError from here or from the block names `path`.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        is_model = (Path(path) / "config.json").exists()
        raise _foreign(path, _FOLDER if is_model else "a folder")
    if not stat.S_ISREG(status.st_mode):        # to open a pipe might wait for ever
        raise _foreign(path, "a pipe or a device")
    with open(path, "rb") as file:
        if kind := _foreign_kind(file.read(16), status.st_size):
            raise _foreign(path, kind)
        try:
            opened = torch_file.TorchFile(file)
            outlines = opened.outlines()
        except FolioError as error:
            raise FolioError(f"{path} is not a valid Folio checkpoint: {error}; nothing in it was executed.") from None
        if not isinstance(outlines, dict) or "format" not in outlines:
            raise _foreign(path, _TORCH)
        version = outlines["format"]
        if not isinstance(version, int) or version > FORMAT:
            raise FolioError(f"{path} was made by a newer Folio (format {repr(version)[:80]}; "
                             f"this one reads up to {FORMAT}). Update Folio.")
        try:
            yield opened
        except FolioError as error:
            raise FolioError(f"{path} is damaged: {error}.") from None


def _foreign_kind(beginning, size):
    """Return what a file is, by its first 16 bytes and its size, if it is known to be another program's; else None."""
    if beginning.startswith(b"GGUF"):
        return _GGUF
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < size:
        return _SAFETENSORS
    return "a bare pickle, as old versions of PyTorch write" if beginning[:1] == b"\x80" else None


def _foreign(path, kind):
    """Return the FolioError about a file of another program, with the command that imports it, if one does."""
    importable, advice = None, "Folio reads its own weights-NAME.pth."
    if kind in (_FOLDER, _GGUF):
        importable = path
    elif kind in (_SAFETENSORS, _TORCH) and (Path(path).parent / "config.json").exists():
        importable = Path(path).parent
    if importable is not None:
        advice += f" To import the model: {command('-m folio.convert', 'import', importable, '--name', 'NAME')}"
    return FolioError(f"{path} is {kind}; nothing in it was executed. {advice}")


def network(contents, path):
    """Return the network in a loaded weights file. Raises FolioError, naming `path`, where there is none.

    The shapes of the weights are compared with those that the parameters say before memory is taken.
    """
    try:
        params = ModelParams(**contents["params"])
        _check_weights(networks.outline(params).state_dict(), contents["weights"])
        net = networks.build_network(params)
        net.load_state_dict(contents["weights"])
        return net
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise FolioError(f"{path} holds no model that this Folio can build: {error}.") from None


def _check_weights(expected, found):
    """Raise FolioError for the first tensor whose shape or kind of numbers differs. Both: {name: tensor}"""
    expected_shapes, shapes = ({name: tensor.shape for name, tensor in tensors.items()}
                               for tensors in (expected, found))
    for name in sorted(expected.keys() | found.keys()):
        if expected_shapes.get(name) != shapes.get(name):
            raise FolioError(f"{name} has shape {_shape_text(shapes.get(name))} "
                             f"where its parameters say {_shape_text(expected_shapes.get(name))}")
    for name in sorted(found):
        if found[name].is_floating_point() != expected[name].is_floating_point():
            raise FolioError(f"{name} has numbers of type {found[name].dtype}, "
                             f"its model those of type {expected[name].dtype}")


def checksum(value, progress=None):
    """Return SHA-256 of nested dicts, lists, tensors and plain values: equal exactly where all of it is equal.

    progress: is called with the number of bytes of every tensor. Raises ValueError for what no file of ours can hold: a
    tensor that is not simply numbers in memory, or an object that is no plain value.
    """
    digest = sha256()
    _feed(digest, value, progress or (lambda count: None))
    return digest.hexdigest()


def _feed(digest, value, progress):
    if isinstance(value, torch.Tensor):
        if not _is_numbers_in_memory(value):
            raise ValueError(f"a tensor of {value.dtype}, {value.layout}, that is not simply numbers in memory")
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        # as_strided, because reshape would keep the stride of a single number, whatever it is.
        flat = value.as_strided((value.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().data)
        progress(flat.nbytes)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _feed(digest, key, progress)
            _feed(digest, item, progress)
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)}".encode())
        for item in value:
            _feed(digest, item, progress)
    elif type(value) not in torch_file.PLAIN:
        raise ValueError(f"a {type(value).__name__}, which is neither a tensor nor a plain value")
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode("utf-8", errors="surrogateescape"))


def _is_numbers_in_memory(tensor):
    """Return whether a tensor is dense, in memory, and of a type that files hold.

    A lazy view, which torch conjugates, negates or repeats only when it is read, is not.
    """
    return (tensor.layout == torch.strided and not tensor.is_nested and tensor.dtype in torch_file.DTYPES.values()
            and not tensor.is_neg() and tensor.device.type != "meta"
            and tensor.nbytes <= tensor.untyped_storage().nbytes())


def _shape_text(shape):
    return "none" if shape is None else "x".join(map(str, shape)) or "one number"
