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
MOST_NUMBER = 1e10  # of any number in a configuration
MOST_SIZE, MOST_LAYERS = 65_536, 256  # of a model: more is a typing error or a damaged file, and fills the memory


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

    action_dim: int = 2  # numbers in one low-level action, one per joint
    frameskip: int = 5  # low-level actions in one action block = one step of the model
    history: int = 3  # frames of context that the predictor sees
    image_height: int = 224  # pixels
    image_width: int = 224  # pixels, of all cameras side by side
    # How colours are scaled. "fixed": by ImageNet's mean and spread; "own": red, green and blue by those of the picture
    # itself, which takes the strength and the tint of an even light out before anything is learned.
    picture_norm: str = "fixed"
    stem: str = "patch"  # "patch": linear patches; "conv": strided convolutions, 16 x 16 pixels a token
    patch_size: int = 14  # pixels; of the "patch" stem
    # What of the last tokens becomes the latent. "cls": the first, which has looked at all others; "all": every one, in
    # its place, which says more exactly where small things lie.
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


# Pixels, height and width, of pictures that are recorded or converted without a word on their size: those of `small`.
RECORDED_SIDE = int(MODEL_SIZES["small"]["image_size"])


@dataclass(frozen=True)
class AugmentConfig:
    """How pictures are changed in training, each frame by itself (lewm_model.training.augment); 0 leaves a change out.

    Numbers of light are shares of white; each change is drawn evenly up to what is said here.
    """

    share: float = 0.0  # of the frames that are changed at all
    gain: float = 0.5  # strength of the light: times 1 +- this
    tint: float = 0.2  # red, green and blue each: times exp(+- this)
    contrast: float = 0.2  # differences from the picture's mean: times 1 +- this
    offset: float = 0.08  # added
    exposed_share: float = 0.5  # of the changed frames, as the other shares are
    gamma: float = 0.5  # exponent exp(+- this); 0.79 would turn linear colours into sRGB's, and back
    shade: float = 0.6  # at most so much of the light is missing on one side
    vignette: float = 0.2  # of the light is missing in the corners
    recoloured_share: float = 0.3
    hue: float = 0.3  # change of red, green and blue of two regions, as the table, or a link
    region: float = 0.12  # distance of colours that belong to one region
    covered_share: float = 0.25
    cover: float = 0.12  # of the picture is hidden by a rectangle of any colour
    noisy_share: float = 0.3
    noise: float = 0.1  # standard deviation
    blurred_share: float = 0.1
    blur: float = 1.0  # pixels, standard deviation
    compressed_share: float = 0.1
    jpeg: float = 3.0  # quantisation steps, times those of quality 50; 2.5 are those of quality 20
    moved_share: float = 0.3
    shift: float = 0.04  # of the picture's side
    turn_deg: float = 3.0  # about the picture's centre
    zoom: float = 0.04  # nearer or farther by this share

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
    # Clips in a batch that begin with alike joint positions: with some, what the arm does not move, as a block that it
    # could push, has to be in the latent; with 1, what the joints move can fill it.
    clips_per_pose: int = 1
    # Clips in a batch that are of one episode. Where few joints move in some of the episodes, a joint that moves few
    # pixels has to be in the latent then; with 1, those that move many can fill it.
    clips_per_episode: int = 1
    sigreg_weight: float = 0.09  # lambda
    sigreg_projections: int = 1024
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-3
    warmup_fraction: float = 0.01  # of the steps, linear; cosine to zero afterwards
    clip_norm: float = 1.0  # gradient norm
    validation_fraction: float = 0.05  # of the EPISODES, never trained on
    validate_every: int = 200  # steps
    checkpoint_every: int = 500  # steps
    head_steps: int = 4000  # optimiser steps of the steps-to-go head on frozen latents; 0 trains none
    policy_steps: int = 0  # optimiser steps of policy and temporal distance, for recordings of play; 0 trains neither
    goal_horizon: int = 240  # control steps to the farthest goal that these two learn; longer than the task takes
    precision: str = "fp32"  # of the network in training: "fp32", "bf16", "fp16"; the loss is always computed in fp32
    augment: AugmentConfig = AugmentConfig()  # the reference changes no pictures, and nor does this
    views: int = 4  # times that heads see each frame, changed each time but the first; 1 where none is changed
    encoder_parts: int = 1  # that the encoder sees a batch in: less memory, one more encoding, the same gradient
    # How, not what: a run may go on with others.
    device: str = "auto"  # "cuda", "cpu", or "auto": the GPU where there is one
    compile: bool = False  # torch.compile: some minutes at the start, then quicker steps on a GPU
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


TRAIN_SIZES: dict[str, dict[str, Any]] = {
    "reference": {"batch": 128, "precision": "bf16"},
    # With history 1 a clip of two frames says all there is to say, so a batch holds more independent latents.
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

    # "cem": Gaussian, returns the mean; "icem": coloured noise, kept elites, returns the best; "mppi": Gaussian of
    # constant width, returns the mean weighted by the costs; "shooting": draws none, returns the best of what is
    # proposed. `make bench PARTS=curve` compares them.
    sampler: str = "icem"
    horizon: int = 5  # action blocks
    samples: int = 64  # candidates in an iteration; of a policy, how often it is followed
    iterations: int = 6
    elites: int = 8
    initial_std: float = 1.0  # in standard deviations of the recorded actions
    noise_colour: float = 1.0  # of "icem" and of a policy: 0 is white, larger is smoother over the horizon
    # Near the goal the search is narrower, where a head measures the distance: initial_std holds from this share of
    # the farthest way within the horizon on, and at the goal least_width of it is left. A narrower search is finer.
    full_width_from: float = 0.4
    least_width: float = 0.03
    # Cost of moving one joint for one control step at full speed, in control steps of distance: what a motion gains
    # must be more, or the arm stays.
    effort: float = 0.1
    # How a policy is followed: it is strayed from by noise of so many standard deviations of the recorded actions, and
    # every other time it is told a time that is left, drawn between these numbers of control steps. They should span
    # what the recordings take from frame to goal.
    policy_noise: float = 0.3
    policy_least_steps: float = 15.0
    policy_most_steps: float = 200.0
    # Of "shooting": the plan before is dropped for one that costs less than this share of it. With 1, an arm that
    # can go left or right changes its mind with the noise.
    keep: float = 0.9
    resting: float = 0.02  # share of full speed: an arm that is slower, and is told to stay so, rests
    deadline_s: float = 0.07  # since the plan began: no iteration begins later, and the best so far is returned
    handover_margin_s: float = 0.03  # between the end of a plan and its hand-over: publishing and transport to the arm
    while_moving: bool = True  # else each plan is executed to its end, and the next one is made at rest

    def __post_init__(self) -> None:
        known = ("cem", "icem", "mppi", "shooting")
        _require(self.sampler in known, self, "sampler", "'cem', 'icem', 'mppi' or 'shooting'")
        _require(self.horizon >= 2, self, "horizon", "2 or more: the first block passes while the plan is made")
        for field in ("samples", "iterations", "elites"):
            _require(getattr(self, field) >= 1, self, field, "1 or more")
        _require(self.elites <= self.samples, self, "elites", f"at most samples = {self.samples}")
        _require(self.initial_std > 0, self, "initial_std", "above 0")
        for field in ("noise_colour", "effort", "policy_noise"):
            _require(getattr(self, field) >= 0, self, field, "0 or more")
        for field in ("full_width_from", "least_width", "keep", "resting"):
            _require(0 < getattr(self, field) <= 1, self, field, "above 0, and 1 at most")
        _require(self.policy_least_steps >= 1, self, "policy_least_steps", "1 control step or more")
        least = self.policy_least_steps
        _require(self.policy_most_steps >= least, self, "policy_most_steps", f"policy_least_steps = {least} or more")
        _require(self.deadline_s > 0, self, "deadline_s", "above 0 seconds")
        _require(self.handover_margin_s >= 0, self, "handover_margin_s", "0 seconds or more")

    def delay_steps(self, control_dt_s: float) -> int:
        """Control steps from a frame to the hand-over of the plan that is made from it, at least: what is done until
        then is not the plan's, and a policy learns to propose what comes after.
        """
        return math.ceil((self.deadline_s + self.handover_margin_s) / control_dt_s - 1e-6)


# How a policy is followed: 2.25 s ahead, so that a plan sees things move. config/push.yaml has these numbers,
# and its bundle the horizon.
POLICY_PLAN = PlanConfig(sampler="shooting", horizon=9, samples=32)


@dataclass(frozen=True)
class MonitorConfig:
    """When the planner takes what the camera shows for wrong, and what it does then.

    Surprise and novelty are told in times what the calibration found to be usual at most.
    """

    surprising: float = 2.0  # from here on a frame is surprising: a robot under way moves faster than a recording
    hold_frames: int = 3  # surprising frames in a row that hold the arm; fewer only slow it down
    calm_s: float = 1.0  # without a surprising frame, after which the arm goes on at full speed
    slow_speed: float = 0.5  # share of full speed that a plan may use until then
    # A picture may be an old one. After a hold it is compared with frames that showed the arm move as imagined:
    # mean squared change of the latent over a block, in variances of the latents, from which a frame is such a one.
    lively: float = 0.03
    # And how far the picture may show the arm from where the joints are, in control steps at full speed. Of 400 stops
    # of the simulated arm none was farther off; a picture frozen when the stop began was off by 1.9 at least.
    agrees_steps: float = 1.5
    # Control steps at full speed that the arm may move while the picture stays the very same; more is a frozen camera.
    # On 64 x 64 pixels less than a tenth of one changes its brightness then. More for a camera that sees the arm from
    # afar, or whose driver sends a frame twice.
    frozen_steps: float = 0.15
    familiar_s: float = 1.0  # after which a new colour counts as familiar; longer than hold_frames take to arrive
    # Of 255, by which the mean of a colour may change in the half second before a goal is captured. More where lamps
    # flicker in the picture.
    steady_levels: float = 2.0

    def __post_init__(self) -> None:
        _require(self.surprising >= 1, self, "surprising", "1 or more, times what is usual at most")
        _require(self.hold_frames >= 1, self, "hold_frames", "1 or more")
        _require(0 < self.slow_speed <= 1, self, "slow_speed", "above 0, and 1 at most")
        for field in ("calm_s", "lively", "agrees_steps"):
            _require(getattr(self, field) >= 0, self, field, "0 or more")
        for field in ("frozen_steps", "familiar_s", "steady_levels"):
            _require(getattr(self, field) > 0, self, field, "above 0")


def from_dict(cls: type[T], values: dict[str, Any], base: dict[str, Any] | None = None) -> T:
    """Builds the dataclass `cls` from plain data laid over `base`; unknown keys and wrong types are `ConfigError`."""
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
        if dataclasses.is_dataclass(default) and not isinstance(default, type):  # a group of values in a group
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
    """The values with those names that stand for several fields replaced by these."""
    shorthands = getattr(cls, "SHORTHANDS", {})
    return {name: value for key, value in values.items() for name in shorthands.get(key, (key,))}


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, as plain data."""
    try:
        data = yaml.safe_load(path.read_text())
    except Exception as error:  # beside its own, PyYAML lets ValueError, KeyError, RecursionError and more out
        raise ConfigError(f"cannot read the configuration {path}: {error or type(error).__name__}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of names to values, not a {type(data).__name__}")
    return data


def cache_folder(name: str) -> Path:
    """A folder for what can be made again: in the user's cache, or in a temporary folder of this user where there is no
    home that can be written.

    :raises OSError: neither can be written.
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
    if own.stat().st_uid != os.getuid():  # what is kept there is run; nobody else may have put it there
        raise PermissionError(f"{own} belongs to somebody else; set XDG_CACHE_HOME to a folder of yours")
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
