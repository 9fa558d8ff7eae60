"""Which episodes of a recording a model was not trained on. Whatever is said of a model is measured on these."""

from __future__ import annotations

import shlex

import numpy as np

from lewm_model.bundle.bundle import Bundle
from lewm_model.data.clips import DataError, Episodes

_COLLECT = ["python", "-m", "lewm_model.sim.collect"]


def held_out_episodes(bundle: Bundle, data: Episodes) -> np.ndarray:
    """Numbers (K,) of them: what the trainer held out of the bundle's own recording, all of a recording it never saw.

    :raises DataError: the recording does not fit the model, or holds the training's episodes under another hash.
    """
    model, spec = bundle.model, bundle.actions
    if data.image_size != model.image_size or data.action_names != spec.names:
        raise DataError(
            f"{data.source}: pictures of {data.image_size} pixels and actions {', '.join(data.action_names)} do not "
            f"fit the bundle's {model.image_size} pixels and {', '.join(spec.names)}"
        )
    if not np.isclose(data.control_dt_s, spec.control_dt_s):
        raise DataError(
            f"{data.source}: an action takes {data.control_dt_s} s, the bundle's {spec.control_dt_s} s; convert the "
            f"recording with --control-dt-s {spec.control_dt_s}"
        )
    training = bundle.training
    trained_on = training.get("data", {})
    if trained_on.get("sha256") == data.sha256:
        return data.split(training["config"]["validation_fraction"], training["config"]["seed"])[1]
    if _simulated(data.source) is not None and _simulated(data.source) == _simulated(trained_on.get("source", "")):
        raise DataError(
            f"{data.source}: its episodes are those of the training, which had the same seed; "
            "record with another --seed"
        )
    return np.arange(len(data.lengths))


def _simulated(source: str) -> list[str] | None:
    """What decides the episodes of a recording in the simulator (seed, world, ...); None where it is another kind."""
    try:
        words = shlex.split(source)
    except ValueError:
        return None
    if words[:3] != _COLLECT or "--seed" not in words:
        return None
    options = words[4:]  # after the file's name
    for name in ("--episodes", "--steps", "--image-size"):  # more of the same episodes, longer or larger
        if name in options:
            at = options.index(name)
            del options[at : at + 2]
    return options
