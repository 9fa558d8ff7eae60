"""The model bundle: the folder that the trainer writes and the robot loads.

    model.json            schema version, architecture, image, actions, training provenance, evaluation, file hashes
    weights.safetensors   the world model
    heads.safetensors     optional heads on frozen latents
    decoder.safetensors   optional network that draws latents, see `lewm_model.runtime.decoder`
    seen.safetensors      which colours each pixel had in the recordings, a bit each; from the calibration
    onnx/*.onnx           graphs made by `lewm export`
    engines/...           TensorRT engines built on the target; outside the hashes, they carry a manifest of their own

No pickle. A file that does not match its hash, or a description that does not fit, is refused with a sentence.
A bundle is changed by `lewm_model.bundle.update` only, so that whoever reads it finds the old one or the new one.
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

from lewm_model.config import ModelConfig, from_dict

SCHEMA = 1
WEIGHTS = "weights.safetensors"
HEADS = "heads.safetensors"
DECODER = "decoder.safetensors"
SEEN = "seen.safetensors"
STAGED = ".new"  # folder of files that model.json lists and that an update has not yet moved to their places
MOST = 1e9  # of a number that describes actions; float32 loses everything beyond


class BundleError(ValueError):
    """A bundle that must not be loaded; the message says why and what to do."""


def _are_numbers(values: Any) -> bool:
    """Whether these are finite numbers of a size that can be computed with; model.json may hold anything."""
    return isinstance(values, tuple) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST for value in values
    )


@dataclass(frozen=True)
class ActionSpec:
    """What one low-level action is. Statistics are per joint, (A,), in `unit`, of the training recording."""

    names: tuple[str, ...]  # joints, in the order of the action's numbers
    kind: str  # "joint_velocity": mean commanded velocity over one control step; no other is commanded to an arm
    unit: str
    control_dt_s: float
    frameskip: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]  # the recording's range; plans stay inside it
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        printable = isinstance(self.names, tuple) and all(isinstance(n, str) and n.isprintable() for n in self.names)
        if not self.names or not printable or len(set(self.names)) != len(self.names):
            raise BundleError(f"actions.names is {self.names!r}; it needs the names of the joints, each once")
        for name in ("mean", "std", "low", "high"):
            values = getattr(self, name)
            if not _are_numbers(values) or len(values) != len(self.names):
                raise BundleError(f"actions.{name} is {values!r}; it needs one finite number for each of {self.names}")
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise BundleError(f"actions.low is {self.low} and actions.high {self.high}; low must not be above high")
        if min(self.std) <= 0:
            raise BundleError(f"actions.std is {self.std}; every joint must move in the recording")
        if not (_are_numbers((self.control_dt_s, self.frameskip)) and self.control_dt_s > 0 and self.frameskip >= 1):
            raise BundleError(
                f"actions.control_dt_s is {self.control_dt_s!r}, frameskip {self.frameskip!r}; both must be positive"
            )

    @property
    def block_s(self) -> float:
        """Duration of one action block in seconds."""
        return self.control_dt_s * self.frameskip

    @property
    def full_step(self) -> np.ndarray:
        """How far each joint moves in a control step at the greatest recorded speed, (A,): the unit of steps to go."""
        return np.abs([self.low, self.high]).max(0) * self.control_dt_s

    @property
    def still(self) -> np.ndarray:
        """The z-scored action block (frameskip * A,) float32 of an arm that stands still."""
        return self.normalise(np.zeros((self.frameskip, len(self.names)))).reshape(-1)

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """Actions (…, A) in `unit` -> z-scores, float32."""
        return ((actions - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """What is near and what is surprising for this model, from episodes that it was not trained on.

    What is imagined one block ahead is never quite what is seen, and the more is imagined to change, the less so:
    `errors` are the greatest usual mean squared errors of a latent, for each of `changes`, mean squared changes that
    were imagined.
    """

    reached: float  # distance to the goal up to which an arm that the plan leaves at rest has reached it
    left: float  # distance beyond which a goal that was reached counts as left
    changes: tuple[float, ...]  # ascending
    errors: tuple[float, ...]
    false_positive_rate: float  # share of frames that are surprising though nothing is wrong, by limits from others
    frames: int  # that it was measured on
    new_pixels: float | None = None  # usual at most in a window of a frame (`Novelty`); None: not measured
    goal_pixels: float | None = None  # the same in a whole frame, for pictures of goals
    latent_squares: tuple[float, ...] | None = None  # least and greatest squared norm of a frame's latent
    # 95 % confidence interval of the rate (Clopper-Pearson), taking frames as independent; None: earlier versions,
    # which measured the rate on the frames that set the limits
    false_positive_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        pixels = [count for count in (self.new_pixels, self.goal_pixels) if count is not None]
        squares = self.latent_squares or (1.0, 1.0)
        values = np.array([self.reached, self.left, *self.errors, *pixels, *squares], float)
        changes = np.array(self.changes, float)
        if not (
            (np.isfinite(values) & (values > 0)).all()
            and self.reached < self.left
            and len(squares) == 2
            and squares[0] <= squares[1]
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
        """How many times as great as usual an error is, for the change that was imagined; both (…)."""
        return error / np.interp(change, self.changes, self.errors)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle in memory: description only; weights and graphs are read by who needs them."""

    folder: Path
    model: ModelConfig
    actions: ActionSpec
    heads: tuple[str, ...] = ()  # names of the heads in heads.safetensors
    training: dict[str, Any] = field(default_factory=dict)  # provenance: command, data, seed, commit
    evaluation: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # relative path -> SHA-256
    calibration: Calibration | None = None

    @property
    def no_go(self) -> str | None:
        """Why no arm should move with it; None where its preflight (`lewm doctor model`) says GO, or none was made."""
        found = self.evaluation.get("preflight")
        if not isinstance(found, dict) or found.get("verdict") == "GO":
            return None
        return f"the preflight of the model in {self.folder} says NO-GO: {str(found.get('reason'))[:300]}"

    def path(self, name: str) -> Path:
        """The path of a file that the bundle lists."""
        if name not in self.files:
            raise BundleError(f"the bundle {self.folder} has no {name}; it lists {', '.join(self.files) or 'no files'}")
        return stored(self.folder, name, self.files[name])


def stored(folder: Path, name: str, digest: str) -> Path:
    """Where a file that model.json lists lies: in its place, or still where an interrupted update prepared it."""
    staged = folder / STAGED / digest / name
    return staged if staged.is_file() else folder / name


@contextlib.contextmanager
def locked(folder: Path, kind: int = fcntl.LOCK_SH) -> Iterator[None]:
    """Keeps updates of the folder out (LOCK_SH), or everybody (LOCK_EX); ends with the process.

    Where a file system has no locks there are none: a reader may then meet an update half-way, and says so.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # whoever reads the folder will say it better
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
    """Hashes every file of the bundle's folder, except engines and hidden ones, and writes model.json last.

    For a folder that nobody else reads, as the one in which `update` and `create` prepare a bundle.
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
        raise BundleError(f"{path} is nested too deep for a description; copy the bundle again") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise BundleError(
            f"{path} has schema {found!r}, this code reads {SCHEMA}; export the bundle again with this version"
        )
    try:
        model = from_dict(ModelConfig, data["model"])
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["actions"].items()}
        actions = ActionSpec(**values)
        files = {str(name): str(digest) for name, digest in data["files"].items()}
        heads = tuple(str(name) for name in data["heads"])
        limits = data.get("calibration")  # bundles of earlier versions have none
        calibration = None
        if limits is not None:
            numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in limits.items()}
            calibration = Calibration(**numbers)
        bundle = Bundle(
            folder, model, actions, heads, dict(data["training"]), dict(data["evaluation"]), files, calibration
        )
    except BundleError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{path} does not describe a bundle: {type(error).__name__}: {error}") from error
    if len(actions.names) != model.action_dim or actions.frameskip != model.frameskip:
        raise BundleError(
            f"{path}: {len(actions.names)} joints x frameskip {actions.frameskip} do not fit the model's "
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
        except (OSError, ValueError, RuntimeError) as error:  # unreadable; no name that a file can have; a link loop
            raise BundleError(f"{path} lists {name[:80]!r}, which cannot be read: {error}") from error
        if found != digest:
            raise BundleError(
                f"{name} does not match its SHA-256 in model.json; it was changed or cut off, copy it again"
            )
    return bundle


def load_model(bundle: Bundle) -> Any:
    """The world model (`LeWM`) of a bundle, in eval mode on the CPU. Raises BundleError."""
    from lewm_model.models.lewm import LeWM

    return _with_weights(lambda: LeWM(bundle.model), _tensors(bundle, WEIGHTS), WEIGHTS)


def load_heads(bundle: Bundle) -> dict[str, Any]:
    """The heads of a bundle by name, in eval mode on the CPU; empty when it has none. Raises BundleError."""
    if not bundle.heads:
        return {}
    from lewm_model.models.heads import HEADS as KNOWN

    tensors = _tensors(bundle, HEADS)
    heads = {}
    for name in bundle.heads:
        if name not in KNOWN:
            raise BundleError(
                f"the bundle has a head {name!r} that this version does not know; it knows {', '.join(KNOWN)}"
            )
        own = {key.removeprefix(name + "."): value for key, value in tensors.items() if key.startswith(name + ".")}
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
        raise BundleError(f"{path} was changed since the bundle was read; start again")
    try:
        return load(content)
    except Exception as error:  # safetensors has errors of its own
        raise BundleError(f"{path} does not hold weights: {error}; copy the bundle again") from error


def _with_weights(make: Callable[[], Any], weights: dict[str, Any], what: str) -> Any:
    """A network with these weights, in eval mode."""
    import torch

    try:
        with torch.device("meta"):  # takes no memory, whatever sizes model.json asks for
            make().load_state_dict(weights, assign=True)
        network = make()
        network.load_state_dict(weights)
    except Exception as error:  # torch raises what it likes for sizes that do not go together
        raise BundleError(f"{what} does not fit the architecture in model.json: {error}") from error
    return network.eval()
