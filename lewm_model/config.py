# SPDX-License-Identifier: Apache-2.0
"""Typed configuration: every size, range and unit in one place.

A configuration is a frozen dataclass; `from_dict` builds one from plain YAML/JSON data and names the field, the value
and what is allowed when something does not fit.
"""

from __future__ import annotations

import dataclasses
import math
import os
import reprlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

T = TypeVar("T")
PACKAGE = "lewm_ros"
MOST_NUMBER = 1e10  # magnitude of any number in a configuration: sums and products of such numbers stay finite
MOST_SIZE, MOST_LAYERS = 65_536, 256  # of a model; more is a typing error or a damaged file and would fill the memory


class ConfigError(ValueError):
    """A configuration value that cannot be used; the message names field, value and range."""


def _require(condition: bool, owner: object, field: str, allowed: str) -> None:
    if not condition:
        value = getattr(owner, field)
        raise ConfigError(f"{type(owner).__name__}.{field} is {_shown(value)}; it must be {allowed}")


def _shown(value: object) -> str:
    """The value for a message, not longer than a line: YAML's aliases can make gigabytes of text out of a few bytes."""
    shortened = reprlib.Repr()
    shortened.maxlevel = 2
    try:
        return shortened.repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number of thousands of digits"


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a LeWM. The defaults are the `reference` size of the paper: 18,034,478 parameters at 2 x 5 actions."""

    action_dim: int = 2  # columns of a low-level action, one per joint or Cartesian direction
    frameskip: int = 5  # low-level actions in an action block, which is one step of the model
    history: int = 3  # frames of context that the predictor sees, one action block apart
    image_height: int = 224  # pixels
    image_width: int = 224  # pixels, of all cameras side by side
    # How colours are scaled. "fixed": by ImageNet's mean and standard deviation; "own": red, green and blue by those of
    # the picture itself, which removes the strength and the tint of an even light.
    picture_norm: str = "fixed"
    stem: str = "patch"  # "patch": linear patches; "conv": strided convolutions, 16 x 16 pixels a token
    patch_size: int = 14  # pixels; of the "patch" stem
    # Which of the encoder's output tokens become the latent. "cls": the CLS token; "all": all patch tokens, which
    # locate small objects more exactly.
    readout: str = "cls"
    activation: str = "gelu"  # of the encoder's and predictor's MLPs; "relu" is 14 times faster on CPUs
    encoder_width: int = 192
    encoder_depth: int = 12
    encoder_heads: int = 3
    encoder_mlp: int = 768
    latent_dim: int = 192
    projector_width: int = 2048
    predictor_width: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp: int = 2048
    dropout: float = 0.1  # of the predictor, in training only

    SHORTHANDS: ClassVar[dict[str, tuple[str, ...]]] = {"image_size": ("image_height", "image_width")}  # of a square

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's picture, pixels."""
        return self.image_height, self.image_width

    @property
    def block_dim(self) -> int:
        """Numbers in one action block: frameskip x action_dim."""
        return self.frameskip * self.action_dim

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "int":
                most = MOST_LAYERS if field.name.endswith("_depth") else MOST_SIZE
                _require(getattr(self, field.name) >= 1, self, field.name, "1 or more")
                _require(getattr(self, field.name) <= most, self, field.name, f"{most} or less")
        _require(self.picture_norm in ("fixed", "own"), self, "picture_norm", "'fixed' or 'own'")
        _require(self.stem in ("patch", "conv"), self, "stem", "'patch' or 'conv'")
        _require(self.readout in ("cls", "all"), self, "readout", "'cls' or 'all'")
        _require(self.activation in ("gelu", "relu"), self, "activation", "'gelu' or 'relu'")
        stride = self.patch_size if self.stem == "patch" else 16
        for side in ("image_height", "image_width"):
            _require(getattr(self, side) % stride == 0, self, side, f"a multiple of {stride} (pixels a token)")
        _require(self.encoder_width % self.encoder_heads == 0, self, "encoder_width", "a multiple of encoder_heads")
        _require(0.0 <= self.dropout < 1.0, self, "dropout", "in [0, 1)")


# `small` trains in minutes on two CPU cores; `reference` is the paper's.
MODEL_SIZES: dict[str, dict[str, Any]] = {
    "reference": {},
    "small": {
        "history": 1,
        "image_size": 64,
        "picture_norm": "own",
        "stem": "conv",
        "activation": "relu",
        "encoder_width": 128,
        "encoder_depth": 3,
        "encoder_heads": 4,
        "encoder_mlp": 256,
        "latent_dim": 16,
        "projector_width": 256,
        "predictor_width": 128,
        "predictor_depth": 2,
        "predictor_heads": 4,
        "predictor_head_dim": 32,
        "predictor_mlp": 256,
        "dropout": 0.0,
    },
}


# Default height and width, in pixels, of recorded and converted pictures: what a `small` model takes.
RECORDED_SIDE = int(MODEL_SIZES["small"]["image_size"])


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training pictures, each frame by itself (lewm_model.training.augment); 0 leaves a change out.

    Brightness is a share of white. Each change is drawn uniformly from 0 to the value given here, or from -value to
    value where it has a sign.
    """

    share: float = 0.0  # of all frames, that are changed; the other shares are of the changed ones
    gain: float = 0.5  # brightness: times 1 +- this
    tint: float = 0.2  # red, green and blue separately: times exp(+- this)
    contrast: float = 0.2  # difference from the picture's mean: times 1 +- this
    offset: float = 0.08  # added to the brightness: +- this
    exposed_share: float = 0.5  # gamma; gain, tint, contrast, offset, shade and vignette are of all changed frames
    gamma: float = 0.5  # exponent exp(+- this); 0.79 would convert between linear and sRGB colours
    shade: float = 0.6  # share of the light that is missing on one side
    vignette: float = 0.2  # share of the light that is missing in the corners
    recoloured_share: float = 0.3
    hue: float = 0.3  # change of red, green and blue of two regions of one colour, such as the table or a link
    region: float = 0.12  # distance between colours of one region, standard deviation
    covered_share: float = 0.25
    cover: float = 0.12  # share of the picture that a rectangle of one colour hides
    noisy_share: float = 0.3
    noise: float = 0.1  # standard deviation
    blurred_share: float = 0.1
    blur: float = 1.0  # pixels, standard deviation
    compressed_share: float = 0.1
    jpeg: float = 3.0  # quantisation steps in multiples of those of quality 50; quality 20 has 2.5
    moved_share: float = 0.3
    shift: float = 0.04  # share of the picture's side
    turn_deg: float = 3.0  # about the picture's centre
    zoom: float = 0.04  # scale: times 1 +- this

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name.endswith("share"):
                _require(0.0 <= getattr(self, field.name) <= 1.0, self, field.name, "in [0, 1]")
            else:
                _require(getattr(self, field.name) >= 0.0, self, field.name, "0 or more")
        for name in ("gain", "contrast", "shade", "vignette", "cover", "shift", "zoom"):
            _require(getattr(self, name) < 1.0, self, name, "below 1")
        _require(self.region > 0.0, self, "region", "above 0")


@dataclass(frozen=True)
class TrainConfig:
    """How a world model is trained. The loss has two terms and one hyperparameter, `sigreg_weight`."""

    seed: int = 0
    steps: int = 2000  # optimiser steps
    batch: int = 64  # clips
    clip_frames: int = 4  # frames in a clip, one action block apart
    # Clips in a batch that begin at similar joint positions. With more than 1 the latents of a batch can only be told
    # apart by what the arm does not move, such as an object to be pushed, so that the latent has to hold it.
    clips_per_pose: int = 1
    # Clips in a batch from one episode. Where only some joints move in an episode, more than 1 makes the latent hold
    # those that move few pixels, such as a wrist, beside those that move many.
    clips_per_episode: int = 1
    sigreg_weight: float = 0.09  # lambda
    sigreg_projections: int = 1024  # random directions of the regulariser
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-3
    warmup_fraction: float = 0.01  # of the steps, linear; cosine to zero afterwards
    clip_norm: float = 1.0  # gradient norm
    validation_fraction: float = 0.05  # of the EPISODES, never trained on
    validate_every: int = 200  # steps
    checkpoint_every: int = 500  # steps
    head_steps: int = 4000  # optimiser steps of the displacement embedding on frozen latents; 0 trains none
    policy_steps: int = 0  # optimiser steps of policy and temporal distance, for recordings of play; 0 trains neither
    # From a frame to the actions that the policy proposes for it, s: until then the arm executes the plan before
    # (PlanConfig.deadline_s and handover_margin_s). 0 for a world that waits for the plan.
    policy_delay_s: float = 0.1
    goal_horizon: int = 240  # control steps to the farthest goal that these two learn; longer than the task takes
    # Speed below which the arm counts as resting in recordings of play, in standard deviations of the actions; the
    # policy does not learn to rest. More where actions are measured with noise.
    resting: float = 0.02
    latent_noise: float = 0.05  # on the latents that these two learn from, standard deviations, as of new pictures
    expectile: float = 0.2  # of the times that play took, which the temporal distance learns; 0.5 would be their mean
    unreachable_share: float = 0.25  # of its goals, frames of any episode, that count as goal_horizon away
    precision: str = "fp32"  # of the network in training: "fp32", "bf16", "fp16"; the loss is always computed in fp32
    augment: AugmentConfig = AugmentConfig()  # none by default, as in the paper
    views: int = 4  # of each frame that heads are trained on, all but the first augmented; 1 without augmentation
    encoder_parts: int = 1  # parts in which the encoder sees a batch: less memory, one more forward pass, same gradient
    # These change how training is computed, not what is learned: a run may be resumed with other values.
    device: str = "auto"  # "cuda", "cpu", or "auto": the GPU where there is one
    compile: bool = False  # torch.compile: minutes at the start, then faster steps on a GPU
    threads: int = 2  # CPU threads

    def __post_init__(self) -> None:
        for field in (
            "batch",
            "clips_per_pose",
            "clips_per_episode",
            "sigreg_projections",
            "validate_every",
            "checkpoint_every",
            "views",
            "encoder_parts",
            "threads",
        ):
            _require(getattr(self, field) >= 1, self, field, "1 or more")
        for field in ("seed", "steps", "head_steps", "policy_steps"):
            _require(getattr(self, field) >= 0, self, field, "0 or more")
        _require(self.clip_frames >= 2, self, "clip_frames", "2 or more")
        _require(self.goal_horizon >= 1, self, "goal_horizon", "1 control step or more")
        for field in ("resting", "latent_noise", "policy_delay_s"):
            _require(getattr(self, field) >= 0, self, field, "0 or more")
        _require(0 < self.expectile < 1, self, "expectile", "in (0, 1)")
        _require(0 <= self.unreachable_share < 1, self, "unreachable_share", "in [0, 1)")
        _require(self.batch % self.clips_per_pose == 0, self, "batch", "a multiple of clips_per_pose")
        _require(self.batch % self.clips_per_episode == 0, self, "batch", "a multiple of clips_per_episode")
        if self.clips_per_pose > 1:
            _require(self.clips_per_episode == 1, self, "clips_per_episode", "1 with clips_per_pose above 1")
        _require(self.sigreg_weight >= 0, self, "sigreg_weight", "0 or more")
        _require(self.learning_rate > 0, self, "learning_rate", "above 0")
        _require(self.precision in ("fp32", "bf16", "fp16"), self, "precision", "'fp32', 'bf16' or 'fp16'")
        _require(self.device in ("auto", "cuda", "cpu"), self, "device", "'auto', 'cuda' or 'cpu'")
        _require(0 <= self.warmup_fraction < 1, self, "warmup_fraction", "in [0, 1)")
        _require(0 < self.validation_fraction < 1, self, "validation_fraction", "in (0, 1)")
        good = isinstance(self.betas, tuple) and len(self.betas) == 2
        good = good and all(isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in self.betas)
        _require(good, self, "betas", "two numbers in [0, 1)")

    def policy_delay_steps(self, control_dt_s: float) -> int:
        """Least control steps within which policy_delay_s has passed."""
        return math.ceil(self.policy_delay_s / control_dt_s - 1e-6)


@dataclass(frozen=True)
class CalibrationConfig:
    """When two pictures show the same place, from which follows when a goal counts as reached, and when as left."""

    # Distance between two poses of the arm, in control steps at full speed, up to which pictures show the same place.
    # More accepts a coarser arrival; less needs recordings in which the arm comes back more exactly, or rests.
    same_place_steps: float = 0.7
    reached_share: float = 0.95  # share of the pairs of such pictures whose distance counts as reached
    # A reached goal counts as left beyond this multiple of that distance, 1 or more: with more, noise does not make
    # the arm start again and again.
    left: float = 1.5

    def __post_init__(self) -> None:
        _require(self.same_place_steps > 0, self, "same_place_steps", "above 0 control steps")
        _require(0 < self.reached_share <= 1, self, "reached_share", "above 0, and 1 at most")
        _require(self.left >= 1, self, "left", "1 or more, in multiples of the distance that counts as reached")


@dataclass(frozen=True)
class AdaptConfig:
    """How a bundle is fine-tuned for another scene. The defaults are for five minutes of it, 6,000 frames at 20 Hz."""

    steps: int = 600  # optimiser steps; more for a longer recording, or a scene that differs more
    learning_rate_share: float = (
        0.15  # of the learning rate of the bundle's training; with more it forgets the old scene
    )
    validation_fraction: float = 0.15  # of the episodes, held out for the calibration
    warmup_fraction: float = 0.1  # of the steps, linear; cosine to zero afterwards

    def __post_init__(self) -> None:
        _require(self.steps >= 0, self, "steps", "0 or more")
        _require(self.learning_rate_share > 0, self, "learning_rate_share", "above 0")
        _require(0 < self.validation_fraction < 1, self, "validation_fraction", "in (0, 1)")
        _require(0 <= self.warmup_fraction < 1, self, "warmup_fraction", "in [0, 1)")


TRAIN_SIZES: dict[str, dict[str, Any]] = {
    "reference": {"batch": 128, "precision": "bf16"},
    # With history 1 a clip needs two frames only, and a batch of short clips holds more independent latents.
    "small": {
        "steps": 2500,
        "batch": 128,
        "clip_frames": 2,
        "learning_rate": 2e-3,
        "betas": (0.9, 0.99),
        "sigreg_weight": 0.2,
        "sigreg_projections": 256,
        "augment": {"share": 0.75},
    },
}


@dataclass(frozen=True)
class PlanConfig:
    """How the planner searches. One plan imagines `horizon` action blocks from the newest frame on."""

    # "cem": Gaussian samples, returns their mean; "icem": coloured noise, keeps elites, returns the best; "mppi":
    # Gaussian of constant width, returns the cost-weighted mean; "shooting": returns the best of the proposed
    # candidates and samples none. `make bench PARTS=curve` compares them.
    sampler: str = "icem"
    horizon: int = 5  # action blocks
    samples: int = 64  # candidates in an iteration; with a policy, how many rollouts of it
    iterations: int = 6
    elites: int = 8
    # Early termination: the straight way to the goal would have a known cost if the arm moved exactly as commanded. The
    # search ends with a plan whose imagined cost exceeds that by at most this share, plus the cost of resting at the
    # distance beyond which a goal counts as left: more search could hardly gain anything. 0 makes all iterations.
    tolerated: float = 0.1
    initial_std: float = 1.0  # in standard deviations of the recorded actions
    noise_colour: float = 1.0  # exponent of the noise of "icem" and of a policy: 0 is white, more is smoother in time
    # Near the goal the search narrows, to place the arm more exactly, where a displacement embedding measures the
    # distance: initial_std applies from this share of the longest way within the horizon on, and shrinks in proportion
    # below, down to least_width times initial_std.
    full_width_from: float = 0.4
    least_width: float = 0.03
    # Cost of moving one joint for one control step at full speed, in control steps of distance to the goal. A motion
    # that gains less is not worth it, and the arm stays where it is.
    effort: float = 0.1
    # How candidates are rolled out from a policy: with noise on its actions, in standard deviations of the recorded
    # actions. Every other candidate asks the policy to arrive after a number of control steps, drawn from this range,
    # which should span what the recordings take from a frame to a goal.
    policy_noise: float = 0.3
    policy_least_steps: float = 15.0
    policy_most_steps: float = 200.0
    # Of "shooting": the previous plan is replaced by one that costs less than this share of it. With 1, an arm that can
    # go round an object on either side would change sides with the noise.
    keep: float = 0.9
    resting: float = 0.02  # share of full speed below which an arm, now and by its plan, counts as resting
    deadline_s: float = 0.07  # from the start of planning; no iteration starts later, the best so far is returned
    handover_margin_s: float = 0.03  # from the end of planning to the hand-over: publishing and transport to the arm
    while_moving: bool = True  # False: each plan is executed to its end, and the next one is made at rest

    def __post_init__(self) -> None:
        known = ("cem", "icem", "mppi", "shooting")
        _require(self.sampler in known, self, "sampler", "'cem', 'icem', 'mppi' or 'shooting'")
        _require(self.horizon >= 2, self, "horizon", "2 or more: the first block is executed while the plan is made")
        for field in ("samples", "iterations", "elites"):
            _require(getattr(self, field) >= 1, self, field, "1 or more")
        _require(self.elites <= self.samples, self, "elites", f"at most samples = {self.samples}")
        _require(self.initial_std > 0, self, "initial_std", "above 0")
        for field in ("tolerated", "noise_colour", "effort", "policy_noise"):
            _require(getattr(self, field) >= 0, self, field, "0 or more")
        for field in ("full_width_from", "least_width", "keep", "resting"):
            _require(0 < getattr(self, field) <= 1, self, field, "above 0, and 1 at most")
        _require(self.policy_least_steps >= 1, self, "policy_least_steps", "1 control step or more")
        least = self.policy_least_steps
        _require(self.policy_most_steps >= least, self, "policy_most_steps", f"policy_least_steps = {least} or more")
        _require(self.deadline_s > 0, self, "deadline_s", "above 0 seconds")
        _require(self.handover_margin_s >= 0, self, "handover_margin_s", "0 seconds or more")


# For models with a policy: 9 blocks, 2.25 s, ahead, so that a plan sees objects move. config/push.yaml has these
# values, and the bundle of the push model has the horizon.
POLICY_PLAN = PlanConfig(sampler="shooting", horizon=9, samples=32)


@dataclass(frozen=True)
class MonitorConfig:
    """When a camera picture counts as wrong, and what the arm does then.

    Surprise (the model imagined another latent) and novelty (colours that the recordings never had there) are in
    multiples of the calibrated limit, the greatest value that is usual when nothing is wrong.
    """

    surprising: float = 2.0  # above which a frame is surprising; above 1, since an arm may move faster than recorded
    hold_frames: int = 3  # consecutive surprising frames that hold the arm; fewer only slow it down
    calm_s: float = 1.0  # without a surprising frame after which the arm continues at full speed
    slow_speed: float = 0.5  # share of full speed until then
    # A hold ends only when the picture shows the arm where it is, compared with earlier frames that showed it move as
    # imagined: frames whose latent changed over a block by this mean square, in variances of the latents, or more.
    lively: float = 0.03
    # Greatest difference for that between the arm in the picture and each measured joint, in control steps at full
    # speed; what a bundle's calibration found usual for a joint (`Calibration.way_errors`) agrees, too. In 400
    # simulated stops of the demo's arm the length of the way differed by less, and by 1.9 or more with a picture that
    # was frozen when the stop began.
    agrees_steps: float = 1.5
    # Distance, in control steps at full speed, that the arm may move while the picture stays identical; beyond it the
    # camera counts as frozen. At 64 x 64 pixels such a motion changes less than a tenth of a pixel at the arm's edges.
    # Set more for a camera that sees the arm from afar, or whose driver sends frames twice.
    frozen_steps: float = 0.15
    familiar_s: float = 1.0  # after which a new colour is familiar; longer than hold_frames frames take to arrive
    # Grey levels of 255 by which the picture's mean red, green or blue may vary in the half second before a goal is
    # captured. Set more where lamps flicker in the picture.
    steady_levels: float = 2.0

    def __post_init__(self) -> None:
        _require(self.surprising >= 1, self, "surprising", "1 or more, in multiples of the calibrated limit")
        _require(self.hold_frames >= 1, self, "hold_frames", "1 or more")
        _require(0 < self.slow_speed <= 1, self, "slow_speed", "above 0, and 1 at most")
        for field in ("calm_s", "lively", "agrees_steps"):
            _require(getattr(self, field) >= 0, self, field, "0 or more")
        for field in ("frozen_steps", "familiar_s", "steady_levels"):
            _require(getattr(self, field) > 0, self, field, "above 0")


def from_dict(cls: type[T], values: dict[str, Any], base: dict[str, Any] | None = None) -> T:
    """Builds the dataclass `cls` from plain data, over defaults from `base`.

    :raises ConfigError: an unknown name, a wrong type or a value out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise ConfigError(f"the values of {cls.__name__} are {_shown(values)}; they must be names with values")
    values = _spelt_out(cls, values)
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {_shown(unknown[0])}; it has {', '.join(fields)}")
    merged = {**_spelt_out(cls, base or {}), **values}
    for name, value in merged.items():
        default = fields[name].default
        if dataclasses.is_dataclass(default) and not isinstance(default, type):  # a nested configuration
            below = (base or {}).get(name, {})
            merged[name] = value if isinstance(value, type(default)) else from_dict(type(default), value, below)
            continue
        kind = str(fields[name].type)
        good = {
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, (int, float)) and not isinstance(value, bool),
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
        }.get(kind, True)
        if not good:
            raise ConfigError(f"{cls.__name__}.{name} is {_shown(value)}; it must be of type {kind}")
        if isinstance(value, list):
            merged[name] = tuple(value)
        if kind in ("int", "float") and not abs(value) <= MOST_NUMBER:
            raise ConfigError(f"{cls.__name__}.{name} is {_shown(value)}; it must be {MOST_NUMBER:.0e} at most")
    return cls(**merged)


def _spelt_out(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values with each of the class's SHORTHANDS replaced by the fields that it stands for."""
    shorthands = getattr(cls, "SHORTHANDS", {})
    return {name: value for key, value in values.items() for name in shorthands.get(key, (key,))}


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; {} for an empty file.

    :raises ConfigError: the file cannot be read or holds something else.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except Exception as error:  # PyYAML raises ValueError, KeyError, RecursionError and more besides its own errors
        raise ConfigError(f"cannot read the configuration {path}: {error or type(error).__name__}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of names to values, not a {type(data).__name__}")
    return data


def cache_folder(name: str) -> Path:
    """A folder for files that can be regenerated: in the user's cache, or in a temporary folder of this user where the
    home folder is not writable.

    :raises OSError: neither is writable.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(home) / PACKAGE / name
    try:
        if folder.is_absolute():
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    except OSError:
        pass
    own = Path(tempfile.gettempdir()) / f"{PACKAGE}-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():  # engines in it are executed, so nobody else may have written them
        raise PermissionError(f"{own} belongs to another user; set XDG_CACHE_HOME to a folder of yours")
    folder = own / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def resource(*parts: str) -> Path:
    """Absolute path of a file or folder that ships with the package, e.g. ``resource("worlds", "tabletop.sdf")``.

    Looks beside the source tree first, then in ``share/lewm_ros`` of each prefix in ``AMENT_PREFIX_PATH``, then in
    that of the Python environment.

    :param parts: path below the root of the repository or of ``share/lewm_ros``.
    :raises FileNotFoundError: none of the places has it; the message names each.
    """
    source_tree = Path(__file__).resolve().parent.parent
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    roots = [source_tree, *(Path(prefix) / "share" / PACKAGE for prefix in prefixes)]
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(
        f"{Path(*parts)} does not ship with this installation of {PACKAGE}; looked in {', '.join(map(str, roots))}. "
        "Install the package again (colcon build, or make setup in a checkout), or give the path of your own file."
    )
