"""What requests for text have in common: reading the body, the fields, and the engine's settings for them.

A field is declared once, in GenerationRequest or in the dataclass of its route; the declaration reads it, checks it and
describes it in /openapi.json. Names and defaults are OpenAI's; names that OpenAI does not have are vLLM's; a few are
Folio's own.
"""

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.routing import Route

from folio.base.fields import option
from folio.generation.engine import Adjustments, Request, Ticket
from folio.server.shapes import (
    Biases,
    Items,
    Record,
    Scalar,
    Shares,
    Strings,
    invalid,
    parse,
    shaped,
    unknown_names,
    unsupported,
)
from Model_Params import GenerationParams

log = logging.getLogger("folio.serve")

DEFAULT_TOKENS = 16             # OpenAI's default for /v1/completions
MOST_ANSWERS = 128              # of one prompt
MOST_PROMPTS = 1024
MOST_ROWS = 1024                # answers of one request, over all its prompts: 32 times the default batch
MOST_STOPS, LONGEST_STOP = 32, 1000         # OpenAI takes 4; clients for stories send more
MOST_LOGPROBS = 20              # alternatives per token, as in vLLM; OpenAI takes 5
LONG_TEXT = 10_000              # characters: encoding more takes over 10 ms, so it is not done in the event loop
ANSWER_CHARACTERS = 200         # which take as long to encode as an answer takes to prepare, 0.2 ms with its prompt
MOST_NAMES_LOGGED = 100
# Names that only tell OpenAI about a request: nothing is said of them.
SAID_NOTHING_OF = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                   "prompt_cache_retention", "parallel_tool_calls", "reasoning_effort", "verbosity", "modalities",
                   "prediction", "name"}
_logged: set[str] = set()


@dataclass(frozen=True)
class StreamOptions:
    """What a stream says beside its text."""
    include_usage: bool = option(False, "send one more event with the usage, at the end")
    continuous_usage_stats: bool = option(False, "with include_usage: send the usage so far in every event")
    include_obfuscation: bool = option(False, "accepted; there is no obfuscation")


@dataclass(frozen=True)
class GenerationRequest:
    """The fields that both routes share."""
    model: str | None = option(None, "name of the model, as in /v1/models; default: the one that the server began with")
    mix: dict | None = shaped(None, "other models of the same tokenizer that write along: their shares by name, 0 to "
                              "1; the model has the rest", Shares())
    blend: str = option("probabilities", "what mix adds up", choices=("probabilities", "logits"))
    n: int = option(1, "number of answers to each prompt", low=1, high=MOST_ANSWERS)
    max_tokens: int | None = option(None, "maximum length of each answer in tokens", low=0, high=2**31 - 1)
    max_completion_tokens: int | None = option(None, "the same as max_tokens, and counts where both are given", low=0,
                                               high=2**31 - 1)
    temperature: float = option(1.0, "below 1 safer, above 1 wilder; 0 always takes the likeliest token", low=0, high=2)
    top_p: float = option(1.0, "sample among the fewest tokens that together have this probability", above=0, high=1)
    top_k: int = option(0, "sample among this many likeliest tokens; 0 or -1: all", low=-1, high=1 << 24)
    min_p: float = option(0.0, "sample among tokens at least this fraction as likely as the likeliest", low=0, high=1)
    seed: int | None = option(None, "the same seed, settings and system_fingerprint give the same text", low=-2**63,
                              high=2**63 - 1)
    stop: tuple = shaped((), "end before the first of these texts", Strings(MOST_STOPS, LONGEST_STOP))
    stop_token_ids: tuple = shaped((), "end before the first of these tokens",
                                   Items(Scalar(int, low=0, high=2**31 - 1), MOST_ANSWERS))
    min_tokens: int = option(0, "let no answer end by itself before this many tokens", low=0, high=2**31 - 1)
    ignore_eos: bool = option(False, "go on where the model would end the text")
    frequency_penalty: float = option(0.0, "make tokens of the answer less likely, once per occurrence", low=-2, high=2)
    presence_penalty: float = option(0.0, "make tokens that the answer has less likely", low=-2, high=2)
    repetition_penalty: float = option(1.0, "make tokens that came before less likely: positive logits are divided by "
                                       "this, negative ones multiplied", low=0.01, high=100)
    penalty_window: int = option(64, "last tokens that repetition_penalty counts, the prompt's included", low=1,
                                 high=2**31 - 1)
    no_repeat_ngram: int | None = option(None, "let no sequence of this many tokens come twice", low=1, high=2**31 - 1)
    logit_bias: dict | None = shaped(None, "what is added to the logits of tokens, by id; -100 bans a token, 100 "
                                     "forces it", Biases(-100, 100))
    precision: str = option("float32", "what the weights are rounded to", choices=("float32", "int8"))
    healing: bool = option(True, "let the answer begin inside the last word of a text; token ids are never healed")
    stream: bool = option(False, "send the answer as events while it is written")
    stream_options: StreamOptions | None = shaped(None, "with stream: what is sent beside the text",
                                                  Record(StreamOptions))
    return_token_ids: bool = option(False, "add the token ids of prompts and answers")
    add_special_tokens: bool = option(True, "accepted; there are none to add")
    truncate_prompt: bool = option(True, "false: refuse prompts that do not fit into the model's context with the "
                                   "answer; true: the model reads the last part of the text")
    skip_special_tokens: bool | None = unsupported("special tokens in the answer's text", True)
    include_stop_str_in_output: bool | None = unsupported("the stop string in the answer's text", False)
    prompt_logprobs: int | None = unsupported("use echo and logprobs of /v1/completions")
    beams: int | None = unsupported("beam search; run.py has it")
    use_beam_search: bool | None = unsupported("beam search; run.py has it", False)
    length_penalty: float | None = unsupported("it is for beam search", 1.0)
    truncate_prompt_tokens: int | None = unsupported("cutting the prompt")
    structured_outputs: dict | None = unsupported("answers in a grammar")
    guided_json: dict | None = unsupported("answers in a grammar")
    guided_regex: str | None = unsupported("answers in a grammar", "")
    guided_choice: list | None = unsupported("answers in a grammar", [])
    guided_grammar: str | None = unsupported("answers in a grammar", "")
    grammar: str | None = unsupported("answers in a grammar", "")
    json_schema: dict | None = unsupported("answers in a grammar", {})
    n_predict: int | None = unsupported("use max_tokens")
    repeat_penalty: float | None = unsupported("use repetition_penalty", 1.0)
    repeat_last_n: int | None = unsupported("use penalty_window")
    n_probs: int | None = unsupported("use logprobs", 0)
    typical_p: float | None = unsupported("locally typical sampling", 1.0)
    mirostat: int | None = unsupported("Mirostat", 0)
    dry_multiplier: float | None = unsupported("DRY; use no_repeat_ngram", 0.0)
    xtc_probability: float | None = unsupported("XTC", 0.0)

    @property
    def most_tokens(self) -> int | None:
        """The maximum length that was asked for, or None."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def check(self) -> None:
        """Raise ApiError where fields contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "stream_options are for stream=true; leave them out.")


# --- The body ---

async def read_object(request: HttpRequest, kind: type) -> Any:
    """Return an instance of a request's dataclass from the body. Raises ApiError."""
    values = parsed(await request.body())
    found = parse(kind, values)
    for name in unknown_names(kind, values):
        if name not in SAID_NOTHING_OF and name not in _logged and len(_logged) < MOST_NAMES_LOGGED:
            _logged.add(name)
            log.info("A client sent the field %s, which means nothing here; it is ignored.", ascii(name[:40]))
    return found


def parsed(content: bytes) -> Any:
    """Return the JSON value in a body.

    A byte order mark is left out. Raises ApiError for anything but one JSON value in UTF-8, for NaN and infinity, for
    two equal names in an object, and for nesting or numbers beyond what Python reads.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8: byte {error.start} cannot be read."
    except json.JSONDecodeError as error:
        message = f"The body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}."
    except RecursionError:
        message = "The body has too many lists and objects inside each other."
    except ValueError:          # a whole number of more than 4,300 digits
        message = "The body has a number with too many digits."
    raise invalid(None, message, "invalid_json")


def _no_constant(name):
    raise invalid(None, f"The body has {name}, which is not JSON; send a finite number.", "invalid_json")


def _distinct(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise invalid(None, f"The body has the name {ascii(twice[:40])} twice in one object; send it once.",
                      "invalid_json")
    return found


# --- Settings ---

def settings_of(wanted: GenerationRequest, tokens: int, most: int) -> GenerationParams:
    """Return the engine's settings for a request. Raises ApiError.

    tokens: maximum length of the answer; most: what the server allows
    """
    name = "max_tokens" if wanted.max_completion_tokens is None else "max_completion_tokens"
    if tokens > most:
        raise invalid(name, f"{name}={tokens} is above the largest value that this server allows, {most}.")
    if wanted.min_tokens > tokens:
        raise invalid("min_tokens", f"min_tokens={wanted.min_tokens} is above {name}={tokens}.")
    # Ours go from 0 to 2**63 - 1; the remainder is there for a negative one as well.
    seed = random.SystemRandom().getrandbits(32) if wanted.seed is None else wanted.seed % 2**63
    return GenerationParams(
        tokens=tokens, temperature=wanted.temperature, top_p=None if wanted.top_p == 1 else wanted.top_p,
        top_k=wanted.top_k if wanted.top_k > 0 else None, min_p=wanted.min_p or None,
        repetition_penalty=wanted.repetition_penalty, penalty_window=wanted.penalty_window,
        no_repeat_ngram=wanted.no_repeat_ngram, weight_precision=wanted.precision, stop=wanted.stop,
        sampling_seed=seed).resolved()


def adjustments_of(wanted: GenerationRequest, vocab_size: int) -> Adjustments:
    """Return what changes the logits beside the settings. Raises ApiError for an id outside the vocabulary."""
    biases = wanted.logit_bias or {}
    for name, ids in (("logit_bias", biases), ("stop_token_ids", wanted.stop_token_ids)):
        check_ids(ids, name, vocab_size)
    # OpenAI's -100 bans a token and 100 forces it, whatever the logits are.
    return Adjustments({token: bias if abs(bias) < 100 else 100 * bias for token, bias in biases.items()},
                       wanted.presence_penalty, wanted.frequency_penalty, wanted.min_tokens, wanted.ignore_eos,
                       wanted.stop_token_ids)


def check_ids(ids: Iterable[int], param: str, vocab_size: int) -> None:
    """Raise ApiError for a token id outside the vocabulary."""
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise invalid(param, f"{param} has the token id {wrong}, and the vocabulary has the ids 0 to {vocab_size - 1}.")


def check_context(param: str, prompt_tokens: int, tokens: int, context: int | None) -> None:
    """Raise ApiError where a prompt and its answer do not fit into a model's context.

    The words are OpenAI's, because clients recognize this failure by them. param: "prompt" or "messages"
    """
    if context is not None and prompt_tokens + tokens > context:
        raise invalid(param, f"This model's maximum context length is {context} tokens. However, you requested "
                      f"{prompt_tokens + tokens} tokens ({prompt_tokens} in the {param}, {tokens} in the completion). "
                      f"Please reduce the length of the {param} or completion.", "context_length_exceeded")


async def aside(size: int, function: Callable, *arguments: Any) -> Any:
    """Return what a function returns; one that reads a long text is called beside the event loop.

    size: characters of the text
    """
    return await run_in_threadpool(function, *arguments) if size > LONG_TEXT else function(*arguments)


async def submit(served: Any, request: Request) -> Ticket:
    """Hand a request to a model's engine. Raises Full, or FolioError where a setting or a prompt is wrong."""
    size = sum(map(len, request.prompts)) + ANSWER_CHARACTERS * len(request.prompts) * request.count
    if request.settings.weight_precision != "float32":      # the first one has the weights rounded, in 0.3 s
        size = LONG_TEXT + 1
    submitting = asyncio.ensure_future(aside(size, served.engine.submit, request))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:          # the client has left; the other thread may still succeed
        submitting.add_done_callback(lambda done: done.cancelled() or done.exception() or done.result().cancel())
        raise


# --- Routes ---

def spelled(path: str, endpoint: Callable, *methods: str) -> list[Route]:
    """Return the routes of a path of the API: with and without /v1."""
    return [Route(prefix + path, endpoint, methods=list(methods)) for prefix in ("/v1", "")]
