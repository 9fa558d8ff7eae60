# SPDX-License-Identifier: Apache-2.0
"""Small models of the demo's world, good, half-trained and defective, to test the preflight with.

They are half as wide as the demo's model and train for a few hundred steps, within a minute. Other seeds and lengths of
training show that the limits of the preflight are not fitted to a few models. They have no graphs: run them with the
back end "torch".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lewm_model.bundle.bundle import Bundle, BundleError, load_bundle
from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, TrainConfig, from_dict, resource
from lewm_model.data.clips import Episodes, load_episodes
from lewm_model.sim.collect import collect
from lewm_model.training.calibration import calibrate
from lewm_model.training.trainer import train

CAMERA = "<pose>0 0 2.0 0 0 0</pose>"  # of worlds/tabletop.sdf
OTHER_CAMERA = "<pose>0.10 -0.06 1.9 0 0 0.3</pose>"  # moved by 12 cm, lowered by 10 and turned by 17 degrees
EPISODES, SEED = 120, 2000
STEPS, BATCH, HEAD_STEPS = 400, 64, 600
MODEL = {
    "encoder_width": 64,
    "encoder_depth": 2,
    "encoder_mlp": 128,
    "projector_width": 128,
    "predictor_width": 64,
    "predictor_head_dim": 16,
    "predictor_mlp": 128,
}


@dataclass(frozen=True)
class Kind:
    """How a bundle is made: with what settings, from what is done to the recording, seen by which camera."""

    train: dict[str, object]
    change: Callable[[Episodes], Episodes] = lambda data: data
    other_camera: bool = False


def shuffled(data: Episodes) -> Episodes:
    """The recording with its actions in random order, so that they are unrelated to the pictures."""
    actions = data.actions.copy()
    inner = np.isfinite(actions).all(1)
    actions[inner] = np.random.default_rng(0).permutation(actions[inner])
    return replace(data, actions=actions, sha256=f"{data.sha256}, shuffled")


KINDS = {
    "untrained": Kind({"steps": 0}),
    "collapsed": Kind({"sigreg_weight": 0.0}),
    "shuffled": Kind({}, change=shuffled),
    "camera": Kind({}, other_camera=True),
    "short": Kind({"seed": 2}),
    "longer": Kind({"seed": 1, "steps": 2 * STEPS}),
    "untrained-seed1": Kind({"seed": 1, "steps": 3}),
    "collapsed-seed1": Kind({"sigreg_weight": 0.0, "seed": 1, "steps": 2 * STEPS}),
    "shuffled-seed1": Kind({"seed": 1, "steps": STEPS // 2}, change=shuffled),
}


def recording(folder: Path, other_camera: bool, episodes: int = EPISODES, seed: int = SEED) -> Episodes:
    """Random motion in the demo's world, as one of the two cameras sees it; kept in `folder`."""
    world = resource("worlds", "tabletop.sdf")
    path = folder / f"{'other-camera' if other_camera else 'camera'}-{seed}-{episodes}.h5"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        if other_camera:
            text = world.read_text()
            assert text.count(CAMERA) == 1, "the camera of worlds/tabletop.sdf was moved; change CAMERA"
            world = folder / "other_camera.sdf"
            world.write_text(text.replace(CAMERA, OTHER_CAMERA))
        collect(path, episodes, seed=seed, world=world)
    return load_episodes(path)


def bundle(folder: Path, name: str) -> Bundle:
    """The bundle of this kind, trained where `folder` does not have it yet."""
    try:
        return load_bundle(folder / name)
    except BundleError:
        pass
    kind = KINDS[name]
    data = kind.change(recording(folder, kind.other_camera))
    model = from_dict(ModelConfig, MODEL, MODEL_SIZES["small"])
    settings = {"steps": STEPS, "batch": BATCH, "head_steps": HEAD_STEPS, "threads": 1, **kind.train}
    settings["augment"] = {"share": 0.0}
    config = from_dict(TrainConfig, settings, TRAIN_SIZES["small"])
    part = folder / f"{name}.part"  # renamed when it is complete
    calibrate(train(data, part, folder / "runs" / name, model, config), data)
    part.rename(folder / name)
    return load_bundle(folder / name)
