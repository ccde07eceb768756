"""What a ranker's manifest says beside its sections; see docs/formats/model_store.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedfast.config import HistoryConfig
from feedfast.input_layout import InputBlock, InputLayout
from feedfast.objectives import Objective, Utility

# `kind` and `ranker_version` of the description. The lowest version that has everything a ranker
# uses is written: 2 adds precisions of layers and the cross network.
KIND = "ranker"
VERSIONS = (1, 2)

GATES = ("none", "hidden", "input")
ACTIVATIONS = ("linear", "relu")
PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True, slots=True)
class LayerDescription:
    """One layer by the names of `GATES`, `ACTIVATIONS` and `PRECISIONS`."""

    gate: str
    activation: str
    precision: str = "fp32"

    def __post_init__(self) -> None:
        _check_name("layer", "gate", self.gate, GATES)
        _check_name("layer", "activation", self.activation, ACTIVATIONS)
        _check_name("layer", "precision", self.precision, PRECISIONS)


@dataclass(frozen=True, slots=True)
class CrossDescription:
    """The cross network before the towers.

    Attributes:
        num_layers: At least 1.
        rank: Of every layer's matrix; None: full.
        precision: Of every layer, one of `PRECISIONS`.
    """

    num_layers: int
    rank: int | None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, count in (("layers", self.num_layers), ("rank", self.rank)):
            if count is not None and count < 1:
                raise ValueError(f"cross: {name} must be at least 1; got {count}")
        _check_name("cross", "precision", self.precision, PRECISIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankerDescription:
    """Names, layout, objectives and towers of a ranker.

    Attributes:
        shared_names: Features of a request, in order.
        dense_names: Features of a candidate, in order.
        history: Longest histories of the training rows; requests should be no different.
        layout: Columns of the towers' input.
        utility: Objectives, weights and the default trade-off.
        towers: Layers of each tower, input first.
        random_effects_version: 0 without random effects.
        cross: The network that the towers' input goes through first; None: none.
    """

    shared_names: tuple[str, ...]
    dense_names: tuple[str, ...]
    history: HistoryConfig
    layout: InputLayout
    utility: Utility
    towers: Mapping[str, tuple[LayerDescription, ...]]
    random_effects_version: int
    cross: CrossDescription | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values for `Manifest.description`."""
        objectives_of = tower_objectives(self.utility)
        version = self._version

        def layer_to_json(layer: LayerDescription) -> dict[str, Any]:
            value = {"gate": layer.gate, "activation": layer.activation}
            return value if version == 1 else value | {"precision": layer.precision}

        value = {
            "kind": KIND,
            "ranker_version": version,
            "shared_names": list(self.shared_names),
            "dense_names": list(self.dense_names),
            "history": dataclasses.asdict(self.history),
            "inputs": _layout_to_json(self.layout),
            "objectives": [
                {"name": objective.name, "group": objective.group, "weight": float(weight)}
                for objective, weight in zip(
                    self.utility.objectives, self.utility.weights, strict=True
                )
            ],
            "alpha": float(self.utility.alpha),
            "lambda": float(self.utility.other_weight),
            "towers": [
                {
                    "name": tower,
                    "objectives": objectives_of[tower],
                    "layers": list(map(layer_to_json, layers)),
                }
                for tower, layers in self.towers.items()
            ],
            "random_effects_version": self.random_effects_version,
        }
        if self.cross is not None:
            value["cross"] = {
                "layers": self.cross.num_layers,
                "rank": self.cross.rank,
                "precision": self.cross.precision,
            }
        return value

    @property
    def _version(self) -> int:
        layers = [layer for tower in self.towers.values() for layer in tower]
        all_fp32 = all(layer.precision == "fp32" for layer in layers)
        return 1 if all_fp32 and self.cross is None else 2

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> RankerDescription:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: Not a ranker, of an unknown version, or a value is missing, of a wrong type
                or does not fit the others.
        """
        if value.get("kind") != KIND:
            raise ValueError(f"description: kind {value.get('kind')!r} is not {KIND!r}")
        version = value.get("ranker_version")
        if type(version) is not int or version not in VERSIONS:
            raise ValueError(
                f"description: ranker_version {version!r} is unknown; "
                f"this build reads {', '.join(map(str, VERSIONS))}"
            )
        try:
            description = _from_json(value)
            # Everything derived (offsets, objectives of towers) must be what this build derives.
            fits = description.to_json() == dict(value)
        except KeyError as error:
            raise ValueError(f"description: {error} is missing") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"description: a value is of a wrong type: {error}") from None
        if not fits:
            raise ValueError("description: inputs, towers and objectives do not fit together")
        return description


def tower_objectives(utility: Utility) -> dict[str, list[str]]:
    """Objectives of each tower, in the order of the tower's outputs.

    The tower `passive` has those of group passive, `active` all others; one without is left out.
    """
    towers: dict[str, list[str]] = {}
    for tower in ("passive", "active"):
        names = [
            o.name for o in utility.objectives if (o.group == "passive") == (tower == "passive")
        ]
        if names:
            towers[tower] = names
    return towers


def _layout_to_json(layout: InputLayout) -> dict[str, list[dict[str, Any]]]:
    def blocks(of: Sequence[InputBlock]) -> list[dict[str, Any]]:
        return [{"feature": b.feature, "offset": b.offset, "width": b.width} for b in of]

    return {"viewer": blocks(layout.viewer_blocks), "candidate": blocks(layout.candidate_blocks)}


def _from_json(value: Mapping[str, Any]) -> RankerDescription:
    width = {
        block["feature"]: _integer(block["width"])
        for part in ("viewer", "candidate")
        for block in value["inputs"][part]
    }
    return RankerDescription(
        shared_names=tuple(map(_text, value["shared_names"])),
        dense_names=tuple(map(_text, value["dense_names"])),
        history=HistoryConfig(
            max_members=_integer(value["history"]["max_members"]),
            max_hashtags=_integer(value["history"]["max_hashtags"]),
        ),
        layout=InputLayout(
            member_dim=width["viewer"],
            hashtag_dim=width["hashtags"],
            leaf_dim=width["leaves"],
            num_shared=len(value["shared_names"]),
            num_dense=len(value["dense_names"]),
        ),
        utility=Utility(
            objectives=tuple(
                Objective(_text(entry["name"]), entry["group"]) for entry in value["objectives"]
            ),
            weights=tuple(_number(entry["weight"]) for entry in value["objectives"]),
            alpha=_number(value["alpha"]),
            other_weight=_number(value["lambda"]),
        ),
        towers={
            _text(tower["name"]): tuple(
                LayerDescription(
                    _text(layer["gate"]),
                    _text(layer["activation"]),
                    _text(layer.get("precision", "fp32")),
                )
                for layer in tower["layers"]
            )
            for tower in value["towers"]
        },
        random_effects_version=_integer(value["random_effects_version"]),
        cross=_cross_from_json(value["cross"]) if "cross" in value else None,
    )


def _cross_from_json(value: Mapping[str, Any]) -> CrossDescription:
    rank = value["rank"]
    return CrossDescription(
        num_layers=_integer(value["layers"]),
        rank=None if rank is None else _integer(rank),
        precision=_text(value["precision"]),
    )


def _check_name(what: str, attribute: str, name: str, allowed: Sequence[str]) -> None:
    if name not in allowed:
        raise ValueError(f"{what}: {attribute} {name!r} is unknown; allowed: {', '.join(allowed)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _integer(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
