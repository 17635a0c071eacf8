"""The texts that a model is measured on: the validation part of its project, or files."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.data.corpus import Corpus, ReadText, ordinary_bytes, read_corpus
from folio.data.paths import find_files, nearest_path
from folio.data.sources import Documents, separated_by_line_ends
from folio.kernels.splitting import to_bytes
from Model_Params import TextParams
from tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """A text in the tokens of a model.

    tokens: (total,) integers; the first is only context for the second. bytes: length of the text in tokens[1:].
    """
    name: str
    tokens: np.ndarray
    bytes: int


@dataclass(frozen=True)
class Project:
    """The tokenizer of a home, and its text as folio.data.corpus.read_corpus returns it."""
    tokenizer: Tokenizer
    text: Corpus | ReadText


def find_project(home, say):
    """Return (Project, None), or (None, reason) where weights lie in a home without a text."""
    try:
        return Project(*read_corpus(home, say=say)), None
    except (OSError, FolioError) as error:
        return None, str(error).removesuffix(".")


def held_out_text(model, project):
    """Return the validation part of a project's text in the model's tokens.

    With the project's own tokenizer these are the tokens that training measures.
    """
    if model.tokenizer.fingerprint == project.tokenizer.fingerprint:
        return Text("the held-out text", project.text.val, project.text.val_bytes)
    content = ordinary_bytes(project.tokenizer, project.text.val[1:])
    tokens = np.append(model.opening[-1:], model.tokenizer.encode_to_array(content))
    return Text("the held-out text", tokens, len(content))


def read_text(model, path, reading=TextParams()):
    """Read a file, or all files of a folder, in the model's tokens. -> Text, {mended problem: count}

    Documents are separated as in the text that the model learned from.
    Raises FileNotFoundError or FolioError where there is no text, or a character that the tokenizer does not know.
    """
    documents = documents_at(path, reading)
    # A model that has never seen a separator has only seen line ends between documents.
    separator = [token for token in model.opening if token == model.tokenizer.end_of_text]
    parts, text_bytes, between_documents = [model.opening[-1:]], 0, False
    with tqdm(total=documents.file_bytes, desc="Reading", unit="B", unit_scale=True, leave=False, disable=None,
              delay=1) as bar:
        for chunk, ends_document in documents if separator else separated_by_line_ends(documents):
            content = to_bytes(chunk)
            parts += [separator if between_documents else [], model.tokenizer.encode_to_array(content)]
            text_bytes += len(content)
            between_documents = ends_document
            bar.update(documents.bytes_read - bar.n)
    if not text_bytes:
        raise FolioError(f"There is nothing in {path}: no text to measure.")
    tokens = np.concatenate([np.asarray(part, model.tokenizer.dtype) for part in parts])
    return Text(str(path), tokens, text_bytes), documents.mended


def documents_at(path, reading):
    """Return the Documents in a file, or in all files of a folder. Raises FileNotFoundError where there is none."""
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}{nearest_path(path) or '.'}")
    return Documents(find_files([path], reading=reading), reading)


def doubts(model, project, home):
    """Yield a sentence if the model may have learned from another text than the project has now."""
    if model.is_imported:
        yield ("This model was imported. It has not learned from the text of this project but from another, which is "
               "not known here: copies from that are not found.")
    elif model.learned_from is None:
        yield ("These weights do not say which text they learned from; "
               "it is assumed to be the text of this project.")
    elif model.learned_from != project.text.training_part:
        yield (f"These weights learned from another text than the training part of {home.train_data}: "
               "they may have seen the held-out text, and copies from their own training text are not found.")
