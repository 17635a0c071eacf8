"""Log-probabilities of tokens, the model's own before temperature and penalties, in the forms of both routes."""

from collections.abc import Iterable
from typing import Any

from folio.generation.engine import TokenEvent
from tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0         # JSON has no infinity; vLLM's number


def finite(logprob: float) -> float:
    """Return a log-probability, in nats, as a number that JSON has."""
    return max(float(logprob), LEAST_LOGPROB)


def token_text(content: bytes) -> str:
    r"""Return a token as text; bytes that are no whole characters in OpenAI's spelling, so that no two look the same.

    >>> token_text(b" caf"), token_text(b"\xc3")
    (' caf', 'bytes:\\xc3')
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def for_completions(tokens: Iterable[TokenEvent], most: int, tokenizer: Tokenizer,
                    voices: tuple[str, ...] = ()) -> dict[str, list]:
    """Return tokens in the form of /v1/completions.

    most: likeliest tokens to list at each place, beside the token itself. A token without a log-probability has null.
    voices: names of a mixture's models; then each token has the one that shaped it most, those of a prompt null
    """
    tokens = list(tokens)
    found = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    if voices:
        found["voices"] = [_voice(token, voices) for token in tokens]
    for token in tokens:
        name, top = token_text(token.bytes), None
        if token.logprob is not None:
            top = {}
            for other, value in token.top[:most]:
                top.setdefault(token_text(tokenizer.token_bytes[other]), finite(value))
            top.setdefault(name, finite(token.logprob))
        found["tokens"].append(name)
        found["token_logprobs"].append(None if token.logprob is None else finite(token.logprob))
        found["top_logprobs"].append(top)
        found["text_offset"].append(token.text_offset)
    return found


def for_chat(tokens: Iterable[TokenEvent], most: int, tokenizer: Tokenizer,
             voices: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return tokens in the form of /v1/chat/completions.

    most: likeliest tokens to list at each place; voices: as of `for_completions`, here as each token's `voice`
    """
    return {"content": [_entry(token.bytes, token.logprob) | {"top_logprobs": [
        _entry(tokenizer.token_bytes[other], value) for other, value in token.top[:most]]}
        | ({"voice": _voice(token, voices)} if voices else {}) for token in tokens], "refusal": None}


def _voice(token, voices):
    return None if token.voice is None else voices[token.voice]


def _entry(content, logprob):
    return {"token": token_text(content), "logprob": finite(logprob), "bytes": list(content)}
