"""Low-rank adaptation of a ViT's self-attention: W' = W + (alpha / r) B A (Hu et al. 2022; METHODS 1.5)."""

from __future__ import annotations

import re
import sys
from types import MethodType
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from mdfpipe.errors import ConfigError, not_loaded

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

PROJECTIONS = r"(?:.*\.)?attn\.(?:qkv|[qkv]_proj|proj)"
"""Names of what gets low-rank terms: query, key and value, in one or apart, and the output, of each attention layer."""

Network = TypeVar("Network", bound=nn.Module)


def apply_lora(network: Network, rank: int = 8, alpha: float = 16, dropout: float = 0.0) -> Network:
    """Give the attention projections low-rank terms, in place, and freeze the rest of the ViT; returns the network.

    network: a SemanticViT, or any module with timm's blocks in it. A (r, in) is Gaussian, B (out, r) zero, so nothing
    changes before the first step. rank: r; alpha: the term is scaled by alpha / r; dropout: before the term. Batch
    norms of a stem keep and use their statistics. State names change until `merge_lora`. A fusion by `ffn` stays
    trainable: like the classifier it is new, and in no public checkpoint. Raises ConfigError where there is no
    attention, or where it has low-rank terms already.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise not_loaded(error, "peft", "low-rank adaptation (lora)", extra="lora") from None

    if _adapted(network):
        raise ConfigError("lora: the network has low-rank terms already: merge them first")
    if not any(re.fullmatch(PROJECTIONS, name) for name, _ in network.named_modules()):
        raise ConfigError(f"lora: expected a network with self-attention, got a {type(network).__name__}: take a ViT")
    past = [type(m).__name__ for m in network.modules() if getattr(m, "qkv", None) and _has_own_bias(m)]
    if past:
        raise ConfigError(
            f"lora: the attention of this network ({past[0]}) takes the weights of query, key and value past low-rank "
            "terms: train it without lora"
        )
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number, whatever its hint says
        lora_dropout=dropout,
        target_modules=PROJECTIONS,
        init_lora_weights="gaussian",
        bias="none",
    )
    inject_adapter_in_model(settings, network)
    for layer in _adapted(network).values():
        layer.train(network.training)  # peft leaves their dropout on
    for norm in _norms(network):
        norm.eval()
        vars(norm)["train"] = MethodType(_stay, norm)  # also where the loop calls `train` of the whole network
    if isinstance(fusion := getattr(network, "ffn", None), nn.Module):
        fusion.requires_grad_(True)
    return network


def merge_lora(network: Network) -> Network:
    """Fold the low-rank terms into the weights, in place: the names and the parameters of the network as it was made.

    Everything is trainable again. A network without low-rank terms stays as it is.
    """
    found = _adapted(network)
    for name, layer in found.items():
        layer.merge(safe_merge=True)  # raises at weights that are not finite
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer.get_base_layer())
    if found:
        vars(network).pop("peft_config", None)
        for norm in _norms(network):
            vars(norm).pop("train", None)
            norm.train(network.training)
        network.requires_grad_(True)
    return network


def _has_own_bias(attention: nn.Module) -> bool:
    """Whether timm's attention adds a bias that is not its projection's, and so calls no projection."""
    return getattr(attention, "q_bias", None) is not None and not getattr(attention, "qkv_bias_separate", False)


def _stay(norm: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of `train`: a frozen norm stays as it is."""
    return norm


def _norms(network: nn.Module) -> list[nn.Module]:
    """Norms with running statistics: of a stem of convolutions."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def _adapted(network: nn.Module) -> dict[str, Linear]:
    """The layers with low-rank terms, by name."""
    if sys.modules.get("peft") is None:  # an extra: a network with such layers has loaded it
        return {}
    from peft.tuners.lora import Linear

    return {name: module for name, module in network.named_modules() if isinstance(module, Linear)}
