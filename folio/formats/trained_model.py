"""The model in a weights file: network, tokenizer and the plain values beside them, checked against each other.

Exports take a TrainedModel, and generation makes its LanguageModel from one. An import writes the weights file.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import tokenizer as tokenizers
from folio.base.errors import FolioError
from folio.chat.template import ChatTemplate, ends_of_text
from folio.formats import adapters, checkpoint
from Model_Params import ModelParams, TextParams


@dataclass(frozen=True)
class TrainedModel:
    """A network and the tokenizer it was trained with."""
    path: Path                      # of the weights file, for messages
    contents: dict[str, Any]        # of the weights file, with the fields that folio.formats.checkpoint lists
    net: torch.nn.Module            # on the CPU, in float32, in evaluation mode, without gradients
    tokenizer: tokenizers.Tokenizer
    opening: list[int]              # ids before a text that begins from nothing, at least one
    chat: ChatTemplate | None = None        # of a model that was taught to chat

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.contents["name"]

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer of a chat model or a text, the first of which it ends its own with."""
        return ends_of_text(self.tokenizer) if self.chat is None else self.chat.ends

    @property
    def params(self) -> ModelParams:
        """Shape of the network, resolved."""
        return self.net.params

    @property
    def val_bpb(self) -> float | None:
        """Bits per byte of the validation set, if they were measured."""
        return None if self.contents["val_bpb"] is None else float(self.contents["val_bpb"])


def load(path: str | Path) -> TrainedModel:
    """Return the TrainedModel in a weights file, of an adapter merged with its base.

    Raises OSError where a file cannot be read, FolioError where it holds no valid model.
    """
    contents = adapters.complete(checkpoint.load(path), path)
    net = checkpoint.network(contents, path).eval().requires_grad_(False)
    try:
        size = tokenizers.size_of(contents["tokenizer"])        # before memory for a tokenizer of any size is taken
        if size != net.params.vocab_size:
            raise FolioError(f"its tokenizer has {size} tokens, its model {net.params.vocab_size}")
        tokenizer = tokenizers.from_dict(contents["tokenizer"])
        chat = ChatTemplate.from_dict(contents["chat"], tokenizer) if contents.get("chat") else None
        model = TrainedModel(Path(path), contents, net, tokenizer, list(contents["opening"]), chat)
        if not model.tokenizer.decode_bytes(model.opening):
            raise FolioError("it does not say how a text begins")
        if not isinstance(model.name, str):
            raise FolioError(f"its name is no text, but {type(model.name).__name__}")
        # A weights file without them is refused; a name with half a surrogate pair has no place in any export.
        _ = model.name.encode("utf-8"), int(contents["step"]), model.val_bpb
        return model
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FolioError(f"{path} holds no model that this Folio can use: {error}.") from None


def imported(name: str, params: ModelParams, weights: dict[str, torch.Tensor], tokenizer: tokenizers.Tokenizer,
             opening: list[int], origin: dict[str, Any] | None = None,
             chat: ChatTemplate | None = None) -> dict[str, Any]:
    """Return the contents of a weights file for a model of another program, which Folio has not trained.

    weights: {name: tensor} in any float type; origin: what an export gives back the original files from; chat: of a
        model that was taught to chat.
    """
    text = TextParams(tokenizer=tokenizer.kind, vocab_size=tokenizer.vocab_size, pattern=tokenizer.pattern)
    return {"name": name, "params": asdict(replace(params, vocab_size=tokenizer.vocab_size)), "weights": weights,
            "tokenizer": tokenizer.to_dict(), "opening": list(opening),
            "chat": chat and chat.to_dict(), "text": asdict(text), "training": {}, "step": 0,
            "started_from": None, "seconds": 0.0, "torch": str(torch.__version__), "learned_from": None,
            "val_bpb": None, "val_nats_per_byte": None, "origin": origin}
