"""Low-rank adapters (LoRA: Hu et al., 2021): a frozen network, and small matrices beside its own, which are trained.

    W x  becomes  W x + alpha / rank * B A x        A: (rank, in), drawn at random; B: (out, rank), zero at first

Every matrix inside the blocks has an adapter. The rows of some tokens in embedding and head may be trained too, as
tokens need that the network has never read: those rows are replaced, all others are frozen.

The parameters that are trained are the only ones with gradients. They are named as modules and what is added to them:

    MODULE.a, MODULE.b      of a matrix, as in blocks.0.attention.query.a
    embedding.rows          (rows, C)
    head.rows, head.biases  the same of a head that is not tied, and (rows,) of one with a bias

They are in float32 and round to the type of the frozen weights where they are computed with. The frozen weights are in
memory once, in that type.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from folio.base.errors import FolioError
from folio.networks import build as networks
from Model_Params import ModelParams


@dataclass(frozen=True)
class Adapters:
    """What of an adapted network is trained. The network has it as `net.adapters`."""
    rank: int
    alpha: float
    rows: tuple[int, ...] = ()      # ids of the tokens whose rows in embedding and head are trained

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


class LowRank(nn.Module):
    """A frozen matrix and its adapter."""

    def __init__(self, base, rank, scale):
        """base: nn.Linear"""
        super().__init__()
        self.base, self.scale = base, scale
        self.a = nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))        # as PEFT does: uniform, up to 1 / sqrt(in_features)

    def forward(self, x):
        """x: (..., in) -> (..., out)"""
        return self.base(x) + F.linear(F.linear(x, self.a.to(x.dtype)), (self.scale * self.b).to(x.dtype))


class EmbeddingRows(nn.Module):
    """A frozen embedding in which some rows are trained."""

    def __init__(self, base, ids):
        """base: nn.Embedding; ids: (rows,) tensor"""
        super().__init__()
        self.base = base
        self.register_buffer("ids", ids, persistent=False)
        self.rows = nn.Parameter(base.weight[ids].float())

    @property
    def weight(self):
        """The frozen rows, and the trained ones as they were."""
        return self.base.weight

    def forward(self, tokens):
        """tokens: (B, T) -> (B, T, C)"""
        is_row = tokens.unsqueeze(-1) == self.ids                               # (B, T, rows)
        trained = is_row.to(self.rows.dtype) @ self.rows                        # (B, T, C)
        return torch.where(is_row.any(-1, keepdim=True), trained, self.base(tokens))


class HeadRows(nn.Module):
    """A frozen head in which some rows are trained."""

    def __init__(self, base, ids, rows=None):
        """base: nn.Linear; rows: the parameter of a tied embedding (default: the head's own)"""
        super().__init__()
        self.base = base
        self.register_buffer("ids", ids, persistent=False)
        self.rows = nn.Parameter(base.weight[ids].float()) if rows is None else rows
        self.biases = None if base.bias is None else nn.Parameter(base.bias[ids].float())

    @property
    def weight(self):
        """The frozen rows, and the trained ones as they were."""
        return self.base.weight

    def forward(self, x):
        """x: (..., C) -> logits: (..., V)"""
        biases = None if self.biases is None else self.biases.to(x.dtype)
        trained = F.linear(x, self.rows.to(x.dtype), biases)
        return self.base(x).index_copy_(-1, self.ids, trained)          # in place: logits are the largest tensors


def adapted(base: nn.Module, params: ModelParams, adapters: Adapters, type: torch.dtype = torch.float32,
            device: str = "cpu", seed: int = 0) -> nn.Module:
    """Return a network with a base's weights, frozen in `type`, and new adapters (torch's global generator).

    Weights that need no conversion are the base's own tensors. params: as the base's, but for dropouts, context and
    tokens after all others; seed: of those tokens' rows. Raises FolioError for a recurrent network.
    """
    if params.is_recurrent:
        raise FolioError(f"lora_rank={adapters.rank} is for transformers, and this is family={params.family}: leave "
                         "lora_rank out, which trains all weights.")
    net = networks.outline(params)
    net.load_state_dict(networks.weights_for(params, base, seed), assign=True)
    if params.tied_head:
        net.head.weight = net.embedding.weight
    net.requires_grad_(False)
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.to(type)
    net.to(device)
    for block in net.blocks:
        for name, module in [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]:
            block.set_submodule(name, LowRank(module, adapters.rank, adapters.scale))
    if adapters.rows:
        ids = torch.tensor(adapters.rows, device=device)
        net.embedding = EmbeddingRows(net.embedding, ids)
        net.head = HeadRows(net.head, ids, net.embedding.rows if params.tied_head else None)
    net.adapters = adapters
    return net


def trained_weights(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return {name: tensor} of the parameters that are trained."""
    return {name: parameter.detach() for name, parameter in net.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load_trained(net: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy what `trained_weights` returned. Raises KeyError or RuntimeError where the network has others."""
    own = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    if own.keys() != weights.keys():
        raise KeyError(next(iter(own.keys() ^ weights.keys())))
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def shapes(outline: nn.Module, adapters: Adapters) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the parameters that are trained where every matrix has an adapter.

    outline: the network without adapters, its numbers are not read
    """
    found = {}
    for name, module in outline.blocks.named_modules(prefix="blocks"):
        if isinstance(module, nn.Linear):
            found |= {f"{name}.a": (adapters.rank, module.in_features),
                      f"{name}.b": (module.out_features, adapters.rank)}
    if adapters.rows:
        row_names = ["embedding.rows"] + ([] if outline.params.tied_head else ["head.rows"])
        found |= dict.fromkeys(row_names, (len(adapters.rows), outline.params.emb_len))
        if outline.head.bias is not None:
            found["head.biases"] = (len(adapters.rows),)
    return found


def merged(weights: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], rows: Sequence[int],
           scale: float) -> dict[str, torch.Tensor]:
    """Return the weights of a plain network that computes what base and adapters do: W + scale B A, in float32.

    weights: {name: tensor} of the base, which stays as it is; trained: {name: tensor} as in the description above;
    rows: ids of the trained rows. Ids after the base's last one make embedding and head longer, and are in order.
    """
    result, rows = dict(weights), list(rows)
    for name in trained:
        if name.endswith(".a"):
            module = name.removesuffix(".a")
            change = scale * (trained[f"{module}.b"].float() @ trained[name].float())
            result[f"{module}.weight"] = weights[f"{module}.weight"].float() + change
    for name, own in (("embedding.rows", "embedding.weight"), ("head.rows", "head.weight"),
                      ("head.biases", "head.bias")):
        if name in trained:
            result[own] = _with_rows(weights[own], rows, trained[name])
    if "embedding.rows" in trained and "head.rows" not in trained:
        result["head.weight"] = result["embedding.weight"]
    return result


def _with_rows(matrix, ids, rows):
    """Return a copy in float32 with these rows in place of its own, as many longer as the ids need."""
    added = max(0, max(ids) + 1 - len(matrix))
    result = torch.cat((matrix.float(), rows.new_zeros(added, *matrix.shape[1:], dtype=torch.float32)))
    result[ids] = rows.float()
    return result
