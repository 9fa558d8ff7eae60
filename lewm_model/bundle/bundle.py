# SPDX-License-Identifier: Apache-2.0
"""The model bundle: the folder that the trainer writes and the robot loads.

    model.json            schema version, architecture, image, actions, training provenance, evaluation, file hashes
    weights.safetensors   the world model
    heads.safetensors     optional heads on frozen latents
    decoder.safetensors   optional network that draws latents, see `lewm_model.runtime.decoder`
    seen.safetensors      colours that each pixel had in the recordings, and those in at least half of their frames,
                          one bit each; written by the calibration
    onnx/*.onnx           graphs written by `lewm export`
    engines/...           TensorRT engines built on the target; without hashes in model.json, with their own manifest

No file is pickled. A file that does not match its hash, or a description that does not fit, is refused with the reason.
Bundles are changed by `lewm_model.bundle.update` only, so that readers find either the old state or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lewm_model.config import POLICY_PLAN, ModelConfig, PlanConfig, from_dict
from lewm_model.models.signature import POLICY
from lewm_model.robot.actions import ActionSpec
from lewm_model.robot.observation import Camera, Observation

SCHEMA = 2  # of model.json; 1, which has no action groups, horizon and task, is read as well
WEIGHTS = "weights.safetensors"
MOST_BLOCKS = 256  # of a horizon; more is a damaged file, and a rollout of it would fill the memory
HEADS = "heads.safetensors"
# Former names of heads, in older bundles -> present names.
FORMER_HEADS = {"steps_to_go": "displacement", "time_to_go": "temporal_distance"}
DECODER = "decoder.safetensors"
SEEN = "seen.safetensors"
STAGED = ".new"  # folder of files that model.json lists already and an update has yet to move to their places


class BundleError(ValueError):
    """A bundle that must not be loaded; the message says why and what to do."""


@dataclass(frozen=True)
class Calibration:
    """Limits of distance, surprise and novelty for a model, from episodes that it was not trained on.

    A latent that was imagined one block ahead always has an error, and more so the more the model imagines to change.
    `errors` are the greatest usual mean squared errors for each of `changes`, the imagined mean squared changes.
    """

    reached: float  # distance up to which an arm at rest has reached its goal, in the unit of the model's distances
    left: float  # distance beyond which it has left a goal that it had reached
    changes: tuple[float, ...]  # ascending
    errors: tuple[float, ...]  # as many
    false_positive_rate: float  # share of undisturbed frames that are surprising; not the frames that set the limits
    frames: int  # number of frames of that measurement
    new_pixels: float | None = None  # greatest usual number in a window of a frame (`Novelty`); None: not measured
    goal_pixels: float | None = None  # the same in a whole frame, for goal pictures
    latent_squares: tuple[float, ...] | None = None  # least and greatest squared norm of a frame's latent
    # 95 % confidence interval of the rate (Clopper-Pearson), with frames as independent samples. None in bundles of
    # earlier versions, which measured the rate on the frames that set the limits.
    false_positive_interval: tuple[float, float] | None = None
    # Usual area of a frame's pixels that have an uncommon colour, and the greatest usual excess over it (`Novelty`).
    uncommon_pixels: tuple[float, float] | None = None
    # (A,) greatest usual difference, control steps at full speed, between the ways from one frame to another that the
    # displacement embedding sees and that the arm was commanded; None: not measured, or no such head.
    way_errors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        pixels = [count for count in (self.new_pixels, self.goal_pixels) if count is not None]
        squares = self.latent_squares or (1.0, 1.0)
        usual_area, excess = (0.0, 1.0) if self.uncommon_pixels is None else self.uncommon_pixels
        ways = self.way_errors or ()
        values = np.array([self.reached, self.left, *self.errors, *pixels, *squares, excess, *ways], float)
        changes = np.array(self.changes, float)
        if not (
            (np.isfinite(values) & (values > 0)).all()
            and self.reached < self.left
            and len(squares) == 2
            and squares[0] <= squares[1]
            and 0.0 <= usual_area < np.inf
            and len(changes) == len(self.errors) > 0
            and np.isfinite(changes).all()
            and self._has_rate()
            and (np.diff(changes) > 0).all()
        ):
            raise BundleError(
                f"the calibration is {self}; its limits must be finite and above 0, `left` above `reached`, and "
                "`changes` ascending; run `lewm calibrate` again"
            )

    def _has_rate(self) -> bool:
        interval = self.false_positive_interval
        low, high = (0.0, 1.0) if interval is None else interval
        return bool(0.0 <= low <= self.false_positive_rate <= high <= 1.0)

    def surprise(self, error: Any, change: Any) -> Any:
        """Errors (…) as multiples of the limit for the imagined changes (…)."""
        return error / np.interp(change, self.changes, self.errors)


@dataclass(frozen=True)
class Bundle:
    """The description of a bundle that was checked; weights and graphs are loaded separately.

    :raises BundleError: its parts do not fit together.
    """

    folder: Path
    model: ModelConfig
    actions: ActionSpec
    heads: tuple[str, ...] = ()  # names of the heads in heads.safetensors
    training: dict[str, Any] = field(default_factory=dict)  # provenance: command, data, seed, commit
    evaluation: dict[str, Any] = field(default_factory=dict)  # results by name
    files: dict[str, str] = field(default_factory=dict)  # relative path -> SHA-256
    calibration: Calibration | None = None
    cameras: tuple[Camera, ...] = ()  # from left to right in the model's picture; by default one that fills it
    horizon: int = PlanConfig.horizon  # action blocks of a plan, for which the graphs are made
    task: str = ""  # name of the task it was trained for, such as "reach" or "push"; "": any

    def __post_init__(self) -> None:
        if not self.cameras:
            object.__setattr__(self, "cameras", Observation.of_one(self.model.image_size).cameras)
        if self.observation.size != self.model.image_size:
            raise BundleError(
                f"the cameras make a picture of {self.observation.size}, the model takes {self.model.image_size}; "
                "train it on a recording of these cameras"
            )
        if not isinstance(self.horizon, int) or isinstance(self.horizon, bool) or not 1 <= self.horizon <= MOST_BLOCKS:
            raise BundleError(f"horizon is {self.horizon!r}; it must be 1 to {MOST_BLOCKS} action blocks")
        if not isinstance(self.task, str) or not self.task.isprintable():
            raise BundleError(f"task is {self.task!r}; it must be a name")

    @property
    def observation(self) -> Observation:
        """Converts camera pictures, and goal pictures, to the model's picture."""
        return Observation(self.cameras)

    def must_be_for(self, task: str) -> None:
        """Checks the task.

        :raises BundleError: the model was trained for another one.
        """
        if self.task and self.task != task:
            raise BundleError(
                f"the model in {self.folder} was trained for the task {self.task!r}, not for {task!r}; give another"
            )

    def horizon_for(self, asked: int) -> int:
        """The horizon in action blocks for a configured one, where 0 stands for the bundle's.

        :raises BundleError: it differs from the one that the graphs are made for.
        """
        if asked not in (0, self.horizon):
            raise BundleError(
                f"plan.horizon is {asked}, the bundle {self.folder} is made for plans of {self.horizon} blocks; leave "
                "plan.horizon out"
            )
        return self.horizon

    def path(self, name: str) -> Path:
        """The path of a file of the bundle. Raises BundleError where it has no such file."""
        if name not in self.files:
            raise BundleError(f"the bundle {self.folder} has no {name}; it lists {', '.join(self.files) or 'no files'}")
        return stored(self.folder, name, self.files[name])


def stored(folder: Path, name: str, digest: str) -> Path:
    """The path of a file that model.json lists: its final place, or where an interrupted update left it."""
    staged = folder / STAGED / digest / name
    return staged if staged.is_file() else folder / name


@contextlib.contextmanager
def locked(folder: Path, kind: int = fcntl.LOCK_SH) -> Iterator[None]:
    """Locks the folder against updates (LOCK_SH) or all access (LOCK_EX), at most until the process ends.

    Without effect on a file system without locks: a reader during an update may then find files that do not match their
    hashes, and reports that.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # reading the folder next gives a better message
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def save_description(bundle: Bundle) -> Bundle:
    """Hashes every file of the bundle's folder, except engines and hidden ones, and then writes model.json.

    Only for a folder that nothing else reads, such as a draft of `lewm_model.bundle.update`.
    """
    folder = bundle.folder
    names = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in ("engines", "model.json")
        and not path.relative_to(folder).parts[0].startswith(".")
    )
    files = {name: sha256(folder / name) for name in names}
    description = {
        "schema": SCHEMA,
        "model": asdict(bundle.model),
        "actions": asdict(bundle.actions),
        "cameras": [asdict(camera) for camera in bundle.cameras],
        "task": bundle.task,
        "horizon": bundle.horizon,
        "heads": bundle.heads,
        "training": bundle.training,
        "evaluation": bundle.evaluation,
        "calibration": None if bundle.calibration is None else asdict(bundle.calibration),
        "files": files,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")
    return replace(bundle, files=files)


def load_bundle(folder: Path | str) -> Bundle:
    """Reads and checks a bundle: schema, fields, and the hash of every listed file. Raises BundleError."""
    folder = Path(folder)
    with locked(folder):
        return _load(folder)


def _load(folder: Path) -> Bundle:
    path = folder / "model.json"
    try:
        if not path.is_file():
            raise BundleError(f"there is no model bundle at {folder} (no model.json); train one with `lewm train`")
        data = json.loads(path.read_text())
    except BundleError:
        raise
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not readable JSON ({error}); copy the bundle again") from error
    except RecursionError as error:
        raise BundleError(f"{path} is nested too deeply for a description; copy the bundle again") from error
    if not isinstance(data, dict) or data.get("schema") not in (1, SCHEMA):
        found = data.get("schema") if isinstance(data, dict) else None
        raise BundleError(
            f"{path} has schema {found!r}, this version reads 1 and {SCHEMA}; export the bundle again with this version"
        )
    try:
        model = from_dict(ModelConfig, data["model"])
        actions = ActionSpec.from_dict(data["actions"])
        files = {str(name): str(digest) for name, digest in data["files"].items()}
        heads = tuple(FORMER_HEADS.get(str(name), str(name)) for name in data["heads"])
        evaluation = dict(data["evaluation"])
        if isinstance(measured := evaluation.get("heads"), dict):
            evaluation["heads"] = {FORMER_HEADS.get(name, name): found for name, found in measured.items()}
        limits = data.get("calibration")  # bundles of earlier versions have none
        calibration = None
        if limits is not None:
            numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in limits.items()}
            calibration = Calibration(**numbers)
        if data["schema"] == 1:
            known = _task_of_schema_1(folder, heads)
        else:
            cameras = Observation.from_list(data["cameras"]).cameras
            known = {"cameras": cameras, "horizon": data["horizon"], "task": data["task"]}
        bundle = Bundle(folder, model, actions, heads, dict(data["training"]), evaluation, files, calibration, **known)
    except BundleError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{path} does not describe a bundle: {type(error).__name__}: {error}") from error
    if len(actions.names) != model.action_dim or actions.frameskip != model.frameskip:
        raise BundleError(
            f"{path}: {len(actions.names)} columns x frameskip {actions.frameskip} do not fit the model's "
            f"{model.action_dim} x {model.frameskip}"
        )
    root = folder.resolve()
    for name, digest in files.items():
        try:
            if not (folder / name).resolve().is_relative_to(root):
                raise BundleError(f"{path} lists {name!r}, which lies outside the bundle; do not use this bundle")
            file = stored(folder, name, digest)
            if not file.is_file():
                raise BundleError(f"the bundle lacks {name}, which model.json lists; copy the bundle again")
            found = sha256(file)
        except BundleError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # unreadable; an invalid file name; a cycle of links
            raise BundleError(f"{path} lists {name[:80]!r}, which cannot be read: {error}") from error
        if found != digest:
            raise BundleError(
                f"{name} does not match its SHA-256 in model.json; it was changed or cut off, copy it again"
            )
    return bundle


def _task_of_schema_1(folder: Path, heads: tuple[str, ...]) -> dict[str, Any]:
    """Task and horizon, which schema 1 does not state; the horizon is that of the graphs."""
    found: dict[str, Any] = {"task": "push", "horizon": POLICY_PLAN.horizon} if POLICY in heads else {"task": "reach"}
    from safetensors import safe_open

    with contextlib.suppress(Exception), safe_open(folder / "onnx" / "golden.safetensors", "numpy") as golden:
        found["horizon"] = int(golden.get_slice("candidates").get_shape()[1])
    return found


def load_model(bundle: Bundle) -> Any:
    """The world model (`LeWM`) of a bundle, in eval mode on the CPU. Raises BundleError."""
    from lewm_model.models.lewm import LeWM

    return _with_weights(lambda: LeWM(bundle.model), _tensors(bundle, WEIGHTS), WEIGHTS)


def load_heads(bundle: Bundle) -> dict[str, Any]:
    """The heads of a bundle by name, in eval mode on the CPU; empty when it has none. Raises BundleError."""
    if not bundle.heads:
        return {}
    from lewm_model.models.heads import HEADS as KNOWN

    tensors = {}
    for key, value in _tensors(bundle, HEADS).items():
        head, _, rest = key.partition(".")
        tensors[FORMER_HEADS.get(head, head), rest] = value
    heads = {}
    for name in bundle.heads:
        if name not in KNOWN:
            raise BundleError(
                f"the bundle has a head {name!r} that this version does not know; it knows {', '.join(KNOWN)}"
            )
        own = {rest: value for (head, rest), value in tensors.items() if head == name}
        heads[name] = _with_weights(partial(KNOWN[name], bundle.model), own, f"{name} in {HEADS}")
    return heads


def _tensors(bundle: Bundle, name: str) -> dict[str, Any]:
    """The tensors of a safetensors file by name."""
    from safetensors.torch import load

    path = bundle.path(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}; copy the bundle again") from error
    if hashlib.sha256(content).hexdigest() != bundle.files[name]:
        raise BundleError(f"{path} was changed since the bundle was read; run the command again")
    try:
        return load(content)
    except Exception as error:  # safetensors raises many kinds
        raise BundleError(f"{path} does not hold weights: {error}; copy the bundle again") from error


def _with_weights(make: Callable[[], Any], weights: dict[str, Any], what: str) -> Any:
    """The network that `make` returns, with these weights, in eval mode. Raises BundleError where they do not fit."""
    import torch

    try:
        with torch.device("meta"):  # allocates nothing, whatever sizes model.json states
            make().load_state_dict(weights, assign=True)
        network = make()
        network.load_state_dict(weights)
    except Exception as error:  # torch raises many kinds for sizes that do not fit
        raise BundleError(f"{what} does not fit the architecture in model.json: {error}") from error
    return network.eval()
