"""A backbone of timm as settings: its name, its sizes, and what timm's own data config says of images."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from mdfpipe.config import Config
from mdfpipe.errors import one_line

Option = Literal["depth", "depths", "embed_dim", "mlp_ratio", "num_heads", "patch_size", "window_size"]
_NORMALISED = {
    (0.5, 0.5, 0.5, 0.5, 0.5, 0.5): "half",
    (0.485, 0.456, 0.406, 0.229, 0.224, 0.225): "imagenet",
    (0.4815, 0.4578, 0.4082, 0.2686, 0.2613, 0.2758): "clip",
}
"""Mean and spread in a data config, to four digits: the name that `augment.normalise` has for them."""


class Timm(Config):
    """A vision transformer of timm. Nothing is downloaded: it is drawn at random, and `weights` of a system fill it.

    name: as timm lists it, also with a tag, whose data config then counts: `vit_base_patch16_clip_224.openai`.
    """

    use: Literal["timm"] = Field(description="timm")
    name: str = Field(description="name of the network in timm, such as vit_base_patch14_dinov2")
    options: dict[Option, float | int | list[int]] = Field(
        default={}, description="sizes that differ from those of that network, such as `{depth: 4, num_heads: 3}`"
    )

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        import timm

        if not timm.is_model(name):
            close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=4)
            raise ValueError(
                f"expected a network of timm {timm.__version__}, got {one_line(repr(name), 80)}; "
                f"{'close to it: ' + ', '.join(close) if close else 'timm.list_models() has their names'}"
            )
        try:
            _data_config(name)
        except RuntimeError as error:  # a tag that is not there
            tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
            raise ValueError(f"{one_line(error, 100)}; tags: {', '.join(tags) or 'none'}") from None
        return name


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe with a backbone of timm, whose size of images and normalisation are timm's unless given.

    Likewise local tokens are the means of bands, and the global token is the mean: every network has these. Other
    settings stay as they are. Raises ValueError for a normalisation that we do not have.
    """
    given = settings.get("backbone")
    if not isinstance(given, Mapping | Timm):
        return settings
    try:
        backbone = given if isinstance(given, Timm) else Timm.model_validate(dict(given))
    except ValidationError:  # the field says what is wrong
        return settings
    pooled = {} if {"global", "global_token"} & settings.keys() else {"global_token": "mean"}
    made = {"local": "band", **pooled, **settings, "backbone": backbone}
    config = _data_config(backbone.name)
    height, width = config.input_size[1:]
    made = {"image_height_px": height, "image_width_px": width, **made}
    augment = made.get("augment", {})
    if isinstance(augment, Mapping) and "normalise" not in augment:
        made["augment"] = {"normalise": _normalised(backbone.name, config), **augment}
    return made


def _data_config(name: str) -> Any:
    """timm's own data config of a network: input_size, mean, std. Raises RuntimeError for a tag that is not there."""
    from timm.models import PretrainedCfg, get_pretrained_cfg

    return get_pretrained_cfg(name) or PretrainedCfg()


def _normalised(name: str, config: Any) -> str:
    values = tuple(round(float(value), 4) for value in (*config.mean, *config.std))
    if values not in _NORMALISED:
        raise ValueError(
            f"augment.normalise: timm's data config of {name} has mean {config.mean} and spread {config.std}, expected "
            "those of half, imagenet or clip; set augment.normalise"
        )
    return _NORMALISED[values]
