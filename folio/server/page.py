"""The page of a server: its files, and the routes of its engine, folio/web/server_engine.js.

    GET  /                          the page
    GET  /folio/web/NAME            its scripts and its style
    GET  /folio/describe?model=NAME {about, settings, models}: plain values, as folio.formats.page has them
    POST /folio/generate            {model, prompt, settings, count, stream} -> events, below; in place of the prompt
                                    {messages: [{role, content}], continues}, the last being the answer so far
    POST /folio/surprise            {model, text} -> {pieces: [[text, bits]]}, which add up to the text
    POST /folio/alternatives        {model, text, count} -> {pieces: [[text, probability]]}, the likeliest first
    POST /folio/voices              {model, text, settings} -> {pieces: [[text, name of the model that shaped it]]}
    POST /folio/view                {model, text} -> {start: UTF-16 code units that the model does not see}
    POST /folio/copies              {model, text} -> see folio.server.copies
    POST /folio/prefer              {prompt or messages, chosen, rejected: [text]} -> {kept: lines, file}: a person took
                                    `chosen`, which is kept for train.py --preferences (folio.chat.choices)

`model` may be left out or null: the server's first. A large integer may be a string of digits, as JavaScript has none
beyond 2^53. Answers are a stream of server-sent events (folio.server.streams): {pieces: [[index, text, bits, tokens],
...]} as they grow, and last {result: [{text, tokens, seconds, ended, seed, stream, turns_left_out, window_start}]}, or
{error} as of every failure. window_start: tokens of the prompt that the model does not see.
"""

import asyncio
import json
import math
import time
from functools import cache
from hashlib import sha256

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from folio.base.errors import FolioError
from folio.chat.choices import keep_choice
from folio.chat.template import ends_of_text
from folio.formats import page as one_file
from folio.generation.decoder import window_start
from folio.generation.engine import Request
from folio.server import copies, training
from folio.server.conversations import CHATML, MESSAGES, Reading, check_contents, reading_of, said
from folio.server.errors import ApiError, Json
from folio.server.requests import aside, submit
from folio.server.shapes import Items, Scalar, Shares
from folio.server.streams import EventStream, Inbox
from Model_Params import GenerationParams

SCRIPTS = ("server_engine.js", *one_file.PAGE_SCRIPTS[1:-1], "copies.js", "voices.js", "curves.js", "training.js",
           one_file.PAGE_SCRIPTS[-1], "server_start.js")
STYLES = (*one_file.PAGE_STYLES, "server.css")
FILES = {"icon.svg": "image/svg+xml", **dict.fromkeys(STYLES, "text/css"), **dict.fromkeys(SCRIPTS, "text/javascript")}
MOST_ANSWERS = 8                    # side by side: what fits on a screen
MOST_ALTERNATIVES = 100
MOST_KEPT = 100_000_000             # bytes of kept choices: a hundred thousand of them
SHARE_OF = "mix "                   # before the name of a model: the setting of its share
BLEND = "probabilities"             # how the page mixes
TEXT = Reading("")                  # of which only is used that it is no conversation
NOT_STORED = {"cache-control": "no-store"}
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
SECURITY = {"Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def routes():
    """Return the routes of the page."""
    return [
        Route("/", index),
        Route("/folio/web/{name}", file),
        Route("/folio/describe", describe),
        Route("/folio/generate", generate, methods=["POST"]),
        Route("/folio/surprise", surprise, methods=["POST"]),
        Route("/folio/alternatives", alternatives, methods=["POST"]),
        Route("/folio/voices", voices, methods=["POST"]),
        Route("/folio/view", view, methods=["POST"]),
        Route("/folio/copies", find_copies, methods=["POST"]),
        Route("/folio/prefer", prefer, methods=["POST"]),
        *training.routes(),
    ]


# --- Files ---

async def index(request):
    """Return the page."""
    return _unless_known(request, _index(), "text/html")


async def file(request):
    """Return a file of the page."""
    name = request.path_params["name"]
    if name not in FILES:
        raise ApiError(404, f"There is no file {name} of the page.", code="not_found")
    return _unless_known(request, (one_file.WEB / name).read_bytes(), FILES[name])


@cache
def _index():
    parts = {"title": "Folio", "model": "",
             "style": '<link rel="icon" type="image/svg+xml" href="/folio/web/icon.svg">\n' +
                      "\n".join(f'<link rel="stylesheet" href="/folio/web/{name}">' for name in STYLES),
             "scripts": "\n".join(f'<script src="/folio/web/{name}"></script>' for name in SCRIPTS)}
    page = (one_file.WEB / "page.html").read_text(encoding="utf-8")
    for part, content in parts.items():
        before, place, after = page.partition(f"<!-- {part} -->")
        assert place, f"page.html has no place for the {part}"
        page = before + content + after
    return page.encode("utf-8")


def _unless_known(request, content, media_type):
    """Return a response with the content, or one that says that the browser still has it."""
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", **SECURITY}
    known = {word.strip().removeprefix("W/") for word in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


# --- Measurements ---

async def describe(request):
    """Return what a model is, which settings it has, and which other models there are."""
    served = await _served(request, request.query_params.get("model"))
    model = served.model
    bits = model.val_bpb if model.val_bpb is not None and math.isfinite(model.val_bpb) else None
    parameters = sum(weights.numel() for weights in model.net.parameters())
    about = {"name": served.name, "parameters": parameters, "bits_per_byte": bits, "steps": model.step,
             "context": model.net.context, "family": model.net.params.family,
             "vocab_size": model.tokenizer.vocab_size, "chat": model.chat is not None}
    names = [known["id"] for known in await run_in_threadpool(request.app.state.models.names)]
    settings = one_file.settings()
    for field in settings:
        if field["name"] == "tokens":
            field["high"] = request.app.state.limits.most_tokens
    partners = await run_in_threadpool(request.app.state.models.mixtures.partners, served)
    return _private({"about": about, "settings": [*settings, *map(_share_setting, partners)], "models": names})


def _share_setting(name):
    """Return the page's setting for the share of another model."""
    return {"name": SHARE_OF + name, "help": f"how much the model {name} writes along, from 0 to 1", "type": "float",
            "default": 0.0, "low": 0, "high": 1, "above": None, "choices": None}


def _parted(values):
    """Return the settings and the shares, {name: share}, of the page's settings."""
    shares = {name.removeprefix(SHARE_OF): value for name, value in values.items() if name.startswith(SHARE_OF)}
    return ({name: value for name, value in values.items() if not name.startswith(SHARE_OF)},
            Shares().read({name: share for name, share in shares.items() if share is not None}, "settings"))


async def voices(request):
    """Return which of the models that are mixed shaped each piece of a text most."""
    body = await _body(request, text=str, settings=dict)
    models, (_, shares) = request.app.state.models, _parted(body["settings"])
    served, mix = await models.mixtures.get(body["model"], shares, BLEND)
    if mix is None:
        return _private({"pieces": [[body["text"], served.name]] if body["text"] else []})
    parts = [(name, share, (await models.get(name)).model)
             for name, share in zip(served.model.voices, mix.shares) if share]
    return _private({"pieces": await _measured(served, _shaped, parts, body["text"])})


def _shaped(parts, text):
    """Return [[piece, name of the model with the largest share * probability]]; a generator, like _surprise.

    parts: [(name, share, LanguageModel)]
    """
    costs = []
    for _, share, model in parts:
        pieces = yield from _surprise(model, text)
        costs.append([bits - math.log2(share) for _, bits in pieces])
    found = []
    for (piece, _), *bits in zip(pieces, *costs):
        name = parts[min(range(len(bits)), key=bits.__getitem__)][0]
        if found and found[-1][1] == name:
            found[-1][0] += piece
        else:
            found.append([piece, name])
    return found


async def surprise(request):
    """Return what each piece of a text costs the model."""
    body = await _body(request, text=str)
    served = await _served(request, body["model"])
    return _private({"pieces": await _measured(served, _surprise, served.model, body["text"])})


def _surprise(model, text):
    """Return LanguageModel.surprise; a generator, so that answers go on between two windows."""
    pieces = []
    for part in model.surprise_parts(text):
        pieces += part
        yield
    return pieces


async def alternatives(request):
    """Return what may follow a text."""
    body = await _body(request, text=str, count=int)
    served = await _served(request, body["model"])
    if not 1 <= body["count"] <= MOST_ALTERNATIVES:
        raise ApiError(400, f"count={body['count']} is not from 1 to {MOST_ALTERNATIVES}.", param="count")
    pieces = await _measured(served, served.model.next_token_probabilities, body["text"])
    return _private({"pieces": pieces[:body["count"]]})


async def view(request):
    """Return how much of the beginning of a text the model does not see when it continues the text."""
    body = await _body(request, text=str)
    served = await _served(request, body["model"])
    return _private({"start": await run_in_threadpool(view_start, served.model, body["text"])})


async def find_copies(request):
    """Return the stretches of a text that a model's training text has too."""
    body = await _body(request, text=str)
    served = await _served(request, body["model"])
    state = request.app.state
    if not hasattr(state, "copies"):
        state.copies = copies.Copies(state.models.home)
    return _private(await run_in_threadpool(state.copies.find, body["text"], served.model.learned_from))


async def prefer(request):
    """Keep which of several answers a person took."""
    body = await _body(request, prompt=str, messages=list, chosen=str, rejected=list)
    rejected = Items(Scalar(str), MOST_ANSWERS).read(body["rejected"], "rejected")
    path = request.app.state.models.home.preferences
    if path.exists() and path.stat().st_size > MOST_KEPT:
        raise ApiError(400, f"{path.name} has more than {MOST_KEPT:,} bytes: move it away.")
    asked = body["prompt"]
    if body["messages"]:
        messages = MESSAGES.read(body["messages"], "messages")
        check_contents(messages)
        asked = said(messages)
    kept = await run_in_threadpool(keep_choice, path, asked, body["chosen"], rejected)
    return _private({"kept": kept, "file": f"{path.parent.name}/{path.name}"})


def view_start(model, text):
    """Return how many UTF-16 code units at the beginning of a text the model does not see when it continues it.

    Raises FolioError where its tokenizer does not know a character.
    """
    ids = model.tokenizer.encode(text)
    unseen = model.tokenizer.decode_bytes(ids[:window_start(len(ids), model.net.context)])
    characters = len(unseen.decode("utf-8", errors="ignore"))
    if len(text[:characters].encode("utf-8")) < len(unseen):        # inside a character: it counts too
        characters += 1
    return len(text[:characters].encode("utf-16-le")) // 2


async def _measured(served, function, *arguments):
    """Return what a function of the model returns, called in the thread of its engine."""
    return await asyncio.wrap_future(served.engine.call(function, *arguments))


# --- Answers ---

async def generate(request):
    """Return a stream with answers to a prompt or to a conversation, side by side."""
    body = await _body(request, prompt=str, messages=list, continues=bool, count=int, stream=int, settings=dict)
    values, shares = _parted(body["settings"])
    served, mix = await request.app.state.models.mixtures.get(body["model"], shares, BLEND)
    if not 1 <= body["count"] <= MOST_ANSWERS:
        raise ApiError(400, f"count={body['count']} is not a number of answers from 1 to {MOST_ANSWERS}.",
                       param="count")
    most = request.app.state.limits.most_answers
    if not 0 <= body["stream"] <= most - body["count"]:
        raise ApiError(400, f"stream={body['stream']} is not from 0 to {most - body['count']}.", param="stream")
    settings = read_settings(values, request.app.state.limits.most_tokens)
    reading = await _reading(served.model, body, settings)
    rows = body["stream"] + body["count"]
    inbox = Inbox(rows)
    ticket = await submit(served, Request(prompts=[reading.prompt], count=rows, settings=settings, ends=reading.ends,
                                          deliver=inbox.deliver, logprobs=0, mix=mix))
    answers = Answers(served.model, settings, body["count"], body["stream"], reading, ticket.window_starts[0])
    return EventStream(_streamed(inbox, answers), ticket, NOT_STORED)


async def _reading(model, body, settings):
    """Return the Reading of the prompt or of the messages of a request. Raises ApiError, FolioError."""
    if not body["messages"]:
        return Reading(body["prompt"])
    if body["prompt"]:
        raise ApiError(400, "A prompt and messages are there; send one of them.", param="prompt")
    messages = MESSAGES.read(body["messages"], "messages")
    check_contents(messages)
    length = sum(len(message.content or "") for message in messages)
    return await aside(length, reading_of, model, messages, body["continues"], True, settings.tokens, CHATML)


def read_settings(values, most_tokens=None):
    """Return the GenerationParams of {field: value}, resolved. A missing seed stays missing.

    most_tokens: that an answer may have, None for any. Raises FolioError for what is wrong.
    """
    known = {field["name"]: field for field in one_file.settings()}
    if unknown := [name for name in values if name not in known]:
        raise FolioError(f"There is no setting {unknown[0]}; there are {', '.join(known)}.")
    read = {}
    for name, value in values.items():
        is_digits = known[name]["type"] == "int" and isinstance(value, str) and value.isascii() and value.isdigit()
        value = int(value) if is_digits and len(value) < 20 else value
        read[name] = tuple(value) if known[name]["type"] == "texts" and isinstance(value, list) else value
    settings = GenerationParams(**read)
    if problems := list(settings.problems()):
        raise FolioError("\n".join(problems))
    if most_tokens is not None and settings.tokens > most_tokens:
        raise FolioError(f"tokens={settings.tokens} is above what this server writes at most, {most_tokens}.")
    return settings.resolved()


class Answers:
    """Several answers as the page's engine reports them, from the events of folio.generation.engine.

    The engine numbers answers from 0 on: those before `first` are computed too, and passed over.
    """

    def __init__(self, model, settings, count, first=0, reading=TEXT, window_start=0):
        """model: LanguageModel; settings: GenerationParams; first: number of the first answer of the seed

        reading: Reading of the prompt or conversation; window_start: tokens of it that the model does not see
        """
        self.first, self.started_at = first, time.monotonic()
        self.running = set(range(count))
        self.results = [{"text": "", "tokens": 0, "seconds": 0.0, "ended": "aborted",
                         "seed": str(settings.sampling_seed), "stream": first + index,
                         "turns_left_out": reading.turns_left_out, "window_start": window_start}
                        for index in range(count)]
        self._ends = ends_of_text(model.tokenizer) if reading.ends is None else reading.ends
        self._bits, self._tokens = [0.0] * count, [0] * count       # of tokens whose text is not certain yet

    def add(self, events):
        """Return what these events add: [[index, text, bits, tokens]]. Bits are those of the model, in base 2."""
        pieces = []
        for event in events:
            index = event.index - self.first
            if index not in self.running:
                continue
            result, tokens = self.results[index], event.tokens
            is_end = event.finish == "stop" and tokens and tokens[-1].id in self._ends and not tokens[-1].bytes
            if is_end:                      # it is no part of the text
                tokens = tokens[:-1]
            self._bits[index] -= sum(token.logprob for token in tokens) / math.log(2)
            self._tokens[index] += len(tokens)
            if event.text or event.finish and self._tokens[index]:
                pieces.append([index, event.text, self._bits[index], self._tokens[index]])
                result["text"] += event.text
                result["tokens"] += self._tokens[index]
                self._bits[index], self._tokens[index] = 0.0, 0
            if event.finish:
                self.running.discard(index)
                result["seconds"] = time.monotonic() - self.started_at
                result["ended"] = "end" if is_end else event.finish
        return pieces


async def _streamed(inbox, answers):
    """Yield lists of the values of a stream; an empty one stands for silence."""
    async for events in inbox.batches(EventStream.pause):
        pieces = answers.add(events)
        if pieces or not events:
            yield [{"pieces": pieces}] if pieces else []
        if not answers.running:         # those before the first may go on: they end with the stream
            break
    yield [{"result": answers.results}]


# --- Requests ---

async def _body(request, **kinds):
    """Return the fields of a request: {"model": name or None, field: value}. kinds: {field: type}"""
    usual = {"count": 1, "stream": 0, "settings": {}, "messages": [], "continues": False}
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ApiError(400, "The body of the request is not JSON.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body of the request is not a JSON object.")
    if body.get("messages"):
        usual["prompt"] = ""
    found = {"model": body.pop("model", None)}
    if found["model"] is not None and not isinstance(found["model"], str):
        raise ApiError(400, "model should be the name of a model.", param="model")
    for name, kind in kinds.items():
        value = found[name] = body.pop(name, usual.get(name))
        if type(value) is not kind:
            raise ApiError(400, f"{name} should be of type {kind.__name__}.", param=name)
        if kind is str and any("\ud800" <= character <= "\udfff" for character in value):
            raise ApiError(400, f"{name} has half a surrogate pair, which is no character.", param=name)
    if body:
        raise ApiError(400, f"There is no field {next(iter(body))} here.", param=next(iter(body)))
    return found


async def _served(request, name):
    """Return the Served with a name, the first one for None; it may have to be loaded."""
    return await request.app.state.models.get(name)


def _private(value):
    return Json(value, headers=NOT_STORED)
