"""Statistics of a tokenized text: occurrences of each token, tokens and bytes by script, the most fragmented words."""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import regex

from folio.kernels.splitting import CODE_POINTS, INHABITED, PretokenCounter, count_batch, to_bytes

EXAMPLES = 10                       # rows of a table of examples

# The kind of a character: letters and combining marks by script, then everything else. A character that several scripts
# share, such as an accent of Latin and Greek or the long-vowel mark of both kana, belongs to the first of them here
# (scx: Unicode's Script_Extensions).
_SHARED_FIRST = {"Latin": "Latin", "Cyrillic": "Cyrillic", "Greek": "Greek", "Arabic": "Arabic", "Hebrew": "Hebrew",
                 "Devanagari": "Devanagari", "Thai": "Thai", "Han": "Han", "Hiragana": "kana", "Katakana": "kana",
                 "Hangul": "Hangul"}
# All others of Unicode 18 that have letters or marks.
_OTHERS = """
    Adlam Ahom Anatolian_Hieroglyphs Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Beria_Erfe Bhaiksuki
    Bopomofo Brahmi Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Coptic
    Cuneiform Cypriot Cypro_Minoan Deseret Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic
    Garay Georgian Glagolitic Gothic Grantha Gujarati Gunjala_Gondi Gurmukhi Gurung_Khema Hanifi_Rohingya Hanunoo Hatran
    Imperial_Aramaic Inscriptional_Pahlavi Inscriptional_Parthian Javanese Jurchen Kaithi Kannada Kawi Kayah_Li
    Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi Kirat_Rai Lao Lepcha Limbu Linear_A Linear_B Lisu Lycian
    Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui
    Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari Newa
    New_Tai_Lue Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic
    Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Ol_Onal Oriya Osage Osmanya Pahawh_Hmong Palmyrene
    Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Seal Sharada
    Shavian Siddham Sidetic SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese Sunuwar Syloti_Nagri Syriac
    Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Tai_Yo Takri Tamil Tangsa Tangut Telugu Thaana Tibetan Tifinagh Tirhuta
    Todhri Tolong_Siki Toto Tulu_Tigalari Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square""".split()
SCRIPTS = _SHARED_FIRST | {script: script.replace("_", " ") for script in _OTHERS}
# The last pattern that matches decides.
_PATTERNS = {r"\s": "white space", r"[\p{P}\p{S}]": "punctuation", r"\p{N}": "digits", r"[\p{L}\p{M}]": "other letters"}
KINDS = (*dict.fromkeys(SCRIPTS.values()), "other letters", "digits", "punctuation", "white space", "other")


@dataclass(frozen=True)
class Census:
    """Counts over a text. Separators between documents are not counted."""
    bytes: int
    characters: int             # a byte that is not UTF-8 counts as one
    uses: np.ndarray            # (vocab_size,): occurrences of each token
    kind_tokens: np.ndarray     # (len(KINDS),): tokens of each kind
    kind_bytes: np.ndarray      # (len(KINDS),): bytes in these tokens
    pieces: Counter             # pre-token -> occurrences; empty for a tokenizer without a split pattern

    @property
    def tokens(self):
        return self.uses.sum().item()

    @property
    def bytes_per_token(self):
        return self.bytes / self.tokens

    @property
    def used_tokens(self):
        """Number of tokens of the vocabulary that occur at least once."""
        return np.count_nonzero(self.uses)


def take_census(tokenizer, chunks):
    """Count what is in a text. -> Census

    chunks: (text, ends_document) pairs.
    Raises FolioError where a character tokenizer meets a character outside its vocabulary.
    """
    lengths = np.array([len(token) for token in tokenizer.token_bytes])
    total_bytes = characters = 0
    uses, kind_tokens, kind_bytes = (np.zeros(size, np.int64)
                                     for size in (tokenizer.vocab_size, len(KINDS), len(KINDS)))
    pieces = PretokenCounter()
    for text, _ in chunks:
        content = to_bytes(text)
        if not content:
            continue
        ids = tokenizer.encode_to_array(content)
        kinds = kinds_of_tokens(text, lengths[ids])
        total_bytes += len(content)
        characters += len(text)
        uses += np.bincount(ids, minlength=len(uses))
        kind_tokens += np.bincount(kinds, minlength=len(KINDS))
        kind_bytes += np.bincount(kinds, lengths[ids], len(KINDS)).astype(np.int64)
        if tokenizer.pattern:
            pieces.add(count_batch([text], tokenizer.pattern))
    return Census(total_bytes, characters, uses, kind_tokens, kind_bytes, pieces)


def kinds_of_tokens(text, token_lengths):
    """Return the kind of every token of a text as an index into KINDS: (tokens,).

    The kind of a token is that of its first letter. Without a letter it is the first in KINDS of its characters' kinds.
    A token that is only a part of a character has the kind of that character.
    token_lengths: (tokens,), in bytes; they sum to the length of the text.
    >>> [KINDS[kind] for kind in kinds_of_tokens(" (да 2)", [4, 1, 1, 1, 2])]   # " (д", two halves of "а", " ", "2)"
    ['Cyrillic', 'Cyrillic', 'Cyrillic', 'white space', 'digits']
    """
    codes, sizes = codes_and_sizes(text)
    kinds = _kinds_of_characters()[codes].repeat(sizes)     # of each byte of the text
    starts = np.cumsum(token_lengths) - token_lengths
    # Letters of all scripts rank equal and before the rest. The low 32 bits hold the position, so that among equals the
    # minimum is the first.
    order = np.maximum(kinds, KINDS.index("other letters")).astype(np.int64) << 32 | np.arange(len(kinds))
    return kinds[np.minimum.reduceat(order, starts) & (1 << 32) - 1]


def codes_and_sizes(text):
    """Return the code point of each character, and its bytes in UTF-8; both (characters,)."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    sizes[(codes >= 0xDC80) & (codes < 0xDD00)] = 1         # undecodable bytes are lone surrogates (PEP 383)
    return codes, sizes


@cache
def _kinds_of_characters():
    """Return the kind of every code point: (CODE_POINTS,) uint8."""
    inhabited = np.arange(INHABITED, dtype="<u4").tobytes().decode("utf-32-le", errors="surrogatepass")
    table = np.full(CODE_POINTS, KINDS.index("other"), np.uint8)
    for pattern, kind in _PATTERNS.items():
        for run in regex.finditer(f"{pattern}+", inhabited):
            table[run.start():run.end()] = KINDS.index(kind)
    places = np.flatnonzero(table == KINDS.index("other letters"))
    letters = "".join(map(chr, places.tolist()))
    for script, kind in reversed(SCRIPTS.items()):
        for run in regex.finditer(rf"\p{{scx={script}}}+", letters):
            table[places[run.start():run.end()]] = KINDS.index(kind)
    return table


def longest_tokens(tokenizer, uses, limit=EXAMPLES):
    """Return the longest tokens that occur: [(id, occurrences)]; equally long ones by falling frequency."""
    return sorted(((token, uses[token].item()) for token in np.flatnonzero(uses).tolist()),
                  key=lambda used: (-len(tokenizer.token_bytes[used[0]]), -used[1], used[0]))[:limit]


def most_fragmented(tokenizer, pieces, limit=EXAMPLES):
    """Return the words with the most tokens beyond one, summed over their occurrences.

    pieces: {pre-token: occurrences}; a word is a pre-token that contains a letter.
    -> [(word, occurrences, ids)], the costliest first
    """
    def cost(word, times, ids):
        return (len(ids) - 1) * times

    found = []
    for piece, times in sorted(pieces.items(), key=lambda item: cost(item[0], item[1], item[0]), reverse=True):
        # One token per byte is the upper bound of every cost from here on.
        if len(found) == limit and cost(piece, times, piece) < cost(*found[-1]):
            break
        if not regex.search(r"\p{L}", piece.decode("utf-8", errors="surrogateescape")):
            continue
        if len(ids := tokenizer.encode_bytes(piece)) > 1:
            found = sorted([*found, (piece, times, ids)], key=lambda word: (-cost(*word), word[0]))[:limit]
    return found
