# SPDX-License-Identifier: Apache-2.0
"""The episodes of a recording that a model was not trained on, on which all its measurements are made.

A bundle's provenance (`training["data"]` in model.json) lists every recording that the model or a head was trained on,
with its path, its hashes, how it was recorded, and which of its episodes were held out of all training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.data.clips import DataError, Episodes

SIMULATOR = "lewm collect"  # recorder whose episodes follow from a seed
_DECIDES = ("recorder", "kind", "seed", "world", "policy")  # which determine simulated episodes, whatever their number


def trained_on(training: dict[str, Any], data: Episodes, held_out: np.ndarray) -> dict[str, Any]:
    """The provenance `training` after a training on all episodes of `data` except those with numbers `held_out` (K,).

    Episodes that an earlier training used are not held out.
    """
    others = []
    for known in _recordings(training):
        if known.get("sha256") == data.sha256:
            held_out = np.intersect1d(held_out, _held_out(known, training, data))
        else:
            others.append(known)
    entry = {
        "path": data.path,
        "sha256": data.sha256,
        "actions_sha256": data.actions_sha256,
        "episodes": len(data.lengths),
        "held_out": np.sort(held_out).tolist(),
        "recorded": data.recorded,
    }
    return {**training, "data": [*others, entry]}


def is_trained_on(folder: Path, data: Episodes) -> bool:
    """Whether a folder holds a bundle that was trained on exactly this recording."""
    try:
        training = json.loads((folder / "model.json").read_text())["training"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    known = _recordings(training) if isinstance(training, dict) else []
    return [entry.get("sha256") for entry in known] == [data.sha256]


def not_trained_on(bundle: Bundle, data: Episodes) -> np.ndarray:
    """Numbers (K,) of the episodes that nothing in the bundle was trained on, told by the recording's hash."""
    left = np.arange(len(data.lengths))
    for known in _recordings(bundle.training):
        if _same_episodes(known, data):
            left = np.intersect1d(left, _held_out(known, bundle.training, data))
    return left


def held_out_episodes(bundle: Bundle, data: Episodes) -> np.ndarray:
    """Numbers (K,) of the episodes that the bundle was not trained on: all of an unknown recording.

    :raises DataError: the recording does not fit the model, or the bundle was trained on all of its episodes, possibly
        in another recording with the same seed.
    """
    model, spec = bundle.model, bundle.actions
    if data.image_size != model.image_size or data.action_names != spec.names:
        raise DataError(
            f"{data.source}: pictures of {data.image_size[0]} x {data.image_size[1]} pixels and actions "
            f"{', '.join(data.action_names)} do not fit the bundle's {model.image_height} x {model.image_width} pixels "
            f"and {', '.join(spec.names)}"
        )
    if not np.isclose(data.control_dt_s, spec.control_dt_s):
        raise DataError(
            f"{data.source}: an action takes {data.control_dt_s} s, the bundle's {spec.control_dt_s} s; convert the "
            f"recording with --control-dt-s {spec.control_dt_s}"
        )
    for known in _recordings(bundle.training):
        if not _same_episodes(known, data) and _decided(known.get("recorded")) & _decided(data.recorded):
            raise DataError(
                f"{data.source}: its episodes are those of the training, which had the same seed; "
                "record with another --seed"
            )
    left = not_trained_on(bundle, data)
    if not len(left):
        raise DataError(
            f"{data.source}: the model was trained on all of its episodes; give a recording that it was not trained on"
        )
    return left


def _recordings(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a provenance. In earlier versions it was a single one, with a hash of the actions."""
    found = training.get("data", [])
    if isinstance(found, dict):
        command = found.get("source")
        found = [{"actions_sha256": found.get("sha256"), "recorded": {"command": command} if command else {}}]
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _same_episodes(known: dict[str, Any], data: Episodes) -> bool:
    """Whether an entry is of these episodes, possibly with pictures of another camera."""
    return bool(data.actions_sha256) and known.get("actions_sha256") == data.actions_sha256


def _held_out(known: dict[str, Any], training: dict[str, Any], data: Episodes) -> np.ndarray:
    if "held_out" in known:
        return np.asarray(known["held_out"], int)
    config = training["config"]  # of earlier versions: the trainer's split
    return data.split(config["validation_fraction"], config["seed"])[1]


def _decided(recorded: Any) -> set[tuple[Any, ...]]:
    """The values that determine the episodes of a simulated recording and of those it was converted from; else
    empty.
    """
    found: set[tuple[Any, ...]] = set()
    while isinstance(recorded, dict):
        if recorded.get("recorder") == SIMULATOR:
            found.add(tuple(str(recorded.get(name)) for name in _DECIDES))
        recorded = recorded.get("original")
    return found
