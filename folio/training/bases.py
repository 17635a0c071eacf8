"""The base of a run that trains adapters (LoRA): a weights file beside the run's own, frozen."""

from dataclasses import dataclass

import torch

from folio.base import hardware
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.chat.template import ChatTemplate
from folio.formats import adapters
from folio.generation import language_model
from folio.generation.language_model import LanguageModel
from folio.networks import lora
from Model_Params import Params

ALPHA_PER_RANK = 2          # lora_alpha where it is not given: most recipes take twice the rank (Raschka, 2023)


@dataclass(frozen=True)
class Base:
    """A trained model that adapters are trained on."""
    name: str                       # by which its file is found
    fingerprint: str
    net: torch.nn.Module
    special_tokens: list[str]
    chat: ChatTemplate | None       # where it was taught to chat before

    @staticmethod
    def checked_name(model: LanguageModel, home: Home) -> str:
        """Return the name of a loaded model's file.

        Raises FolioError where it does not lie in the home's Saved_Weights, or the model is recurrent.
        """
        if model.net.params.is_recurrent:
            raise FolioError(f"lora_rank is for transformers, and {model.name!r} is family={model.net.params.family}: "
                             "leave --lora-rank out, and all weights are trained.")
        return adapters.name_of_base(model.path, home.saved_weights)

    @classmethod
    def of(cls, model: LanguageModel, home: Home) -> "Base":
        """Return a loaded model as a base. Raises FolioError like `checked_name`."""
        name = cls.checked_name(model, home)
        fingerprint = adapters.fingerprint(model.net.state_dict(), model.adapter)
        return cls(name, fingerprint, model.net, list(model.tokenizer.special_tokens), model.chat)

    @classmethod
    def again(cls, named: dict[str, str], home: Home) -> "Base":
        """Return the base that a resume file names. Raises FolioError where it is gone or another one."""
        path = home.weights(named["name"])
        if not path.exists():
            raise FolioError(f"The run's adapters are on {path}, and that is gone: put it back (fingerprint "
                             f"{named['fingerprint']}).")
        base = cls.of(language_model.load(path), home)
        if base.fingerprint != named["fingerprint"]:
            raise FolioError(f"The run's adapters are on weights of fingerprint {named['fingerprint']}, and {path} has "
                             f"{base.fingerprint}: put the file back that the run began with.")
        return base

    @property
    def named(self) -> dict[str, str]:
        """Its name and fingerprint, as files have them."""
        return {"name": self.name, "fingerprint": self.fingerprint}

    def network(self, params: Params, chat: ChatTemplate | None) -> torch.nn.Module:
        """Return the network of a run: frozen in its precision, with new adapters and the rows of tokens to learn.

        chat: of the run's lessons. The tokens of its turns are learned too where the base knows them without having
        read them. Raises FolioError like lora.adapted.
        """
        tuning, training = params.tuning, params.training
        rows = set(range(self.net.params.vocab_size, params.model.vocab_size))
        if chat is not None and self.chat is None:
            rows |= {chat.start_id, chat.end_id}
        alpha = tuning.lora_alpha or float(ALPHA_PER_RANK * tuning.lora_rank)
        return lora.adapted(self.net, params.model, lora.Adapters(tuning.lora_rank, alpha, tuple(sorted(rows))),
                            hardware.TYPES[training.precision], training.device, training.seed)

    def entry(self, net: torch.nn.Module, tokenizer) -> dict:
        """Return the `adapter` of a weights file."""
        return adapters.entry(net, list(tokenizer.special_tokens)[len(self.special_tokens):], self.named)
