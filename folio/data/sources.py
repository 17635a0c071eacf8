"""Files to documents, in bounded chunks."""

from contextlib import closing, contextmanager

from folio.data.kept_texts import KeptTexts
from folio.kernels.splitting import BATCH, LAST_SAFE_CUT, LONGEST_RUN
from folio.readers import plain_text
from folio.readers.kinds import kind_of
from folio.readers.mending import STRAY_SEPARATOR, Mending
from folio.readers.source import Source
from Model_Params import TextParams
from tokenizer import END_OF_TEXT


class Documents:
    """The documents in files. Each iteration reads the files again; an empty document does not count.

    What the documents of a file are depends on its kind: see folio/readers.

    Yields (text, ends_document): whole documents, or chunks of about half a megabyte, cut between two pre-tokens; see
    splitting.LONGEST_RUN for a text that has no such place. Undecodable bytes that are kept are lone surrogates in the
    text (PEP 383). `mended` counts what the last pass corrected, as Mending.found, and separators inside a line.
    """

    def __init__(self, files, reading=TextParams(), held_out=()):
        """files: paths; reading: TextParams, of which the fields named in READING count

        held_out: more files, read after the others: those that are given for validation
        """
        self.held_out = list(held_out)
        self.files, self.reading = [*files, *self.held_out], reading
        self.mending = Mending(reading.invalid_bytes)
        self._finished, self._source = 0, None      # bytes of the files that have been read; the one that is read now
        self._is_plain, self._kept = True, None     # whether that one is plain text; KeptTexts

    @property
    def mended(self):
        """What the last pass corrected, and how often, in the files that it read."""
        return self.mending.found

    @property
    def columns(self):
        """The columns that are "column: value" lines in the documents that the last pass read from tables."""
        return tuple(self.mending.columns)

    @property
    def path(self):
        """The file that is being read."""
        return self._source.path

    @property
    def bytes_read(self):
        """How many bytes of the files this pass has read."""
        return self._finished + (self._source.bytes_read if self._source else 0)

    @property
    def file_bytes(self):
        """The size of all files on the disk, compressed if they are."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def are_kept(self):
        """Whether a pass would read none of the files again."""
        return self._kept is not None and all(path in self._kept for path in self.files)

    @contextmanager
    def kept_in(self, folder):
        """Keep what `groups` reads of files other than plain text in a temporary file in this folder; read it there.

        A table of 20 MB is read in 0.4 s and read back in 0.1; a document is converted once.
        """
        with closing(KeptTexts(folder)) as self._kept:
            try:
                yield
            finally:
                self._kept = None

    def __iter__(self):
        self._begin()
        for path in self.files:
            for chunk, ends_document in self._documents_of(path):
                if isinstance(chunk, list):
                    yield from ((text, True) for text in chunk)
                else:
                    yield chunk, ends_document

    def groups(self):
        """Yield the same, many documents at once: (texts, ends_document).

        texts: whole documents of one file, splitting.BATCH characters of them, or else one chunk of a long document.
        """
        self._begin()
        for path in self.files:
            if self._kept is not None and path in self._kept:
                self._next(path)
                for texts, ends_document, bytes_read in self._kept.read(path):
                    self._source.bytes_read = bytes_read
                    yield texts, ends_document
                continue
            for texts, ends_document in _grouped(self._documents_of(path)):
                if self._kept is not None and not self._is_plain:
                    self._kept.add(path, texts, ends_document, self._source.bytes_read)
                yield texts, ends_document
            if self._kept is not None and not self._is_plain:
                self._kept.finish(path)

    def _begin(self):
        self.mending = Mending(self.reading.invalid_bytes)
        self._finished, self._source = 0, None

    def _next(self, path):
        self._finished, self._source = self.bytes_read, Source(path)

    def _documents_of(self, path):
        """Yield (text, ends_document) of one file, without empty documents, or (list of documents, True)."""
        is_empty = True         # the document so far
        tail = ""               # its last characters, which may be the beginning of a separator
        for chunk, ends_document in _cut_safely(_one_by_one_if_rare(self._read(path))):
            if isinstance(chunk, list):
                yield chunk, True
                continue
            if is_empty and ends_document and END_OF_TEXT not in chunk:         # as most rows of a table
                if chunk:
                    yield chunk, True
                continue
            is_empty = is_empty and not chunk
            if strays := (tail + chunk).count(END_OF_TEXT):
                self.mended[STRAY_SEPARATOR] += strays
            tail = "" if ends_document else (tail + chunk)[1 - len(END_OF_TEXT):]
            if not is_empty:
                yield chunk, ends_document
            is_empty = is_empty or ends_document

    def _read(self, path):
        """Yield (text, ends_document), in chunks of any size. FolioError names the file and the place."""
        self._next(path)
        kind = kind_of(self._source)
        self._is_plain = kind.separates
        mended = self.mending(kind.read(self._source, self.reading, self.mending))
        return plain_text.separate(text for text, _ in mended) if kind.separates else mended


def _cut_safely(texts):
    """Turn a stream of (text, ends_document) into chunks that end with a document or between two pre-tokens.

    A document of up to LONGEST_RUN characters is one chunk.
    """
    waiting, size = [], 0                   # texts since the last safe cut, and the characters in them
    for text, ends_document in texts:
        if ends_document:
            if waiting:             # never before a list
                text = "".join(waiting) + text
                waiting, size = [], 0
            yield text, True
            continue
        if text:
            waiting.append(text)
            size += len(text)
        if size > LONGEST_RUN:
            whole = "".join(waiting)
            if cut := LAST_SAFE_CUT.search(whole):
                yield whole[:cut.end()], False
                whole = whole[cut.end():]
            starts = range(0, len(whole) - LONGEST_RUN, LONGEST_RUN)
            yield from ((whole[start:start + LONGEST_RUN], False) for start in starts)
            waiting = [whole[len(starts) * LONGEST_RUN:]]
            size = len(waiting[0])


def _one_by_one_if_rare(texts):
    """Take those lists of documents apart in which one is empty, or has a separator in it."""
    for text, ends_document in texts:
        if isinstance(text, list) and not (all(text) and END_OF_TEXT not in "".join(text)):
            yield from ((document, True) for document in text)
        else:
            yield text, ends_document


def _grouped(chunks):
    """Turn what Documents._documents_of yields into groups as Documents.groups yields them."""
    texts, size, is_within = [], 0, False       # whole documents; whether one has begun that goes on
    for text, ends_document in chunks:
        if is_within or not ends_document:
            if texts:
                yield texts, True
                texts, size = [], 0
            yield [text], ends_document
            is_within = not ends_document
            continue
        if isinstance(text, list):
            texts += text
            size += sum(map(len, text))
        else:
            texts.append(text)
            size += len(text)
        if size >= BATCH:
            yield texts, True
            texts, size = [], 0
    if texts:
        yield texts, True


def separated_by_line_ends(parts):
    """Add a line end between two documents if there is none, to separate them if no token does.

    parts: a stream of (text, ..., ends_document)
    >>> list(separated_by_line_ends([("one", True), ("two\\n", True), ("three", True)]))
    [('one', True), ('\\ntwo\\n', True), ('three', True)]
    """
    last, document_ended = "\n", False      # the last character; whether a document ended with it
    for text, *values, ends_document in parts:
        if document_ended and last != "\n":
            text = "\n" + text
        last, document_ended = text[-1:] or last, ends_document
        yield text, *values, ends_document
