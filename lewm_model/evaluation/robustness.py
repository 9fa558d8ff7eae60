# SPDX-License-Identifier: Apache-2.0
"""How a model performs when the world looks different from training: `lewm robust`.

One factor at a time is changed: light, colours, sensor, camera pose, or what else the picture shows. Colours, the
direction of light and the camera's pose are changed in the simulator, the rest in its picture. A row of the table is a
factor at one severity. Each row counts held goals twice: with the goal's picture taken in the unchanged world ("goal
clean"), and taken under the same change ("goal changed"). It also tells how far the model takes the arm to have moved
because of the change, and how many of the changed pictures the nodes refuse as goals, since they look unlike what was
recorded. Pictures of another renderer can be given as goals.
"""

from __future__ import annotations

import csv
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import mujoco
import numpy as np
import torch
from rich.table import Table

from lewm_model.bundle.bundle import load_bundle, load_heads, load_model
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.statistics import Rate, held
from lewm_model.models.graphs import RolloutGraph
from lewm_model.models.signature import DISPLACEMENT, measuring
from lewm_model.monitoring.goal_check import examine_goal
from lewm_model.monitoring.novelty import load_novelty
from lewm_model.robot.observation import Observation
from lewm_model.runtime import Runtime, load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.world import State
from lewm_model.tasks.reach import ANYWHERE
from lewm_model.tasks.registry import suite_of
from lewm_model.tasks.task import Trial, attempt, draw_trials, picture_of, trial_of

Lens = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # picture (H, W, 3) uint8 -> changed picture
TASK_SEED = 1  # the seed of the trials in the recipes
NAMES = {"sensor": "noise", "frames": "gazebo_frames"}  # groups that have another name in figures
SHADOW = 0.5  # share of the light that is missing on the dark side
# Corners of the distractors, as shares of the picture's width and height, and their colours.
PLACES = ((0.30, 0.10), (0.12, 0.62), (0.74, 0.80), (0.55, 0.93), (0.86, 0.30))
PAINTS = ((200, 60, 160), (240, 190, 40), (40, 160, 200), (90, 60, 30), (60, 180, 90))


@dataclass(frozen=True)
class Label:
    """What a row is about: the factor that is changed, and how much."""

    group: str  # light, colour, sensor, camera, scene or frames
    factor: str
    severity: str


@dataclass(frozen=True)
class Change(Label):
    """How it is changed: `scene` edits MuJoCo's model, `lens` the picture."""

    scene: Callable[[mujoco.MjModel], None] = lambda model: None
    lens: Lens | None = None


@dataclass(frozen=True)
class Row:
    """Goals held under one change, with the goal's picture taken without the change, and with it."""

    change: Label
    goal_clean: Rate
    goal_changed: Rate | None  # None: not measured
    off_steps: float  # `apart`; nan for a bundle without displacement embedding
    refused: Rate | None  # changed pictures that `examine_goal` refuses; None for a bundle that is not calibrated


# ---- changes ---------------------------------------------------------------------------------------------------------


def changes() -> list[Change]:
    """The changes of all rows, the unchanged world first."""
    rows = [Change("clean", "none", "")]
    rows += [Change("light", "light.strength", f"x {k}", lens=_gain(k)) for k in (0.4, 0.6, 0.8, 1.2, 1.4, 1.6)]
    rows += [Change("light", "light.low", "x 0.3, noise 0.04", lens=_low_light)]
    rows += [Change("light", "light.direction", name, scene=_lamp(way)) for name, way in LAMPS.items()]
    rows += [Change("light", "light.shade", name, lens=_shade(angle)) for name, angle in (("left", 0), ("top", 90))]
    rows += [
        Change("light", "light.temperature", name, lens=_gain(tint))
        for name, tint in (("warm", (1.1, 1.0, 0.75)), ("cold", (0.8, 1.0, 1.15)))
    ]
    rows += [Change("colour", "table.color", name, scene=_paint("table", rgb)) for name, rgb in TABLES.items()]
    rows += [Change("colour", "table.texture", "wood", lens=_wood)]
    rows += [
        Change("colour", "agent.color", "mixed", scene=_mix_arm((2, 0, 1))),
        Change("colour", "agent.color", "faded", scene=_fade_arm(0.4)),
    ]
    rows += [Change("sensor", "noise", f"{sigma}", lens=_noise(sigma)) for sigma in (0.04, 0.08)]
    rows += [Change("sensor", "blur", f"{share:.1%}", lens=_blur(share)) for share in (0.008, 0.016)]
    rows += [Change("sensor", "jpeg", f"quality {q}", lens=_jpeg(q)) for q in (50, 20)]
    rows += [Change("sensor", "exposure flicker", "+-20 %", lens=_flicker)]
    rows += [Change("camera", "camera.shift", f"{100 * share:.0f} %", scene=_shift(share)) for share in (0.03, 0.05)]
    rows += [Change("camera", "camera.turn", f"{degrees} deg", scene=_turn(degrees)) for degrees in (3, 5)]
    rows += [Change("camera", "camera.zoom", f"{100 * share:.0f} %", scene=_zoom(share)) for share in (0.03, 0.05)]
    rows += [
        Change("scene", "distractors", f"{len(PLACES)} things", lens=_distractors),
        Change("scene", "occlusion", "a tenth", lens=_occlusion),
        Change("scene", "dead pixels", "0.5 %", lens=_dead),
        Change("scene", "renderer", "sRGB", lens=_srgb),
    ]
    return rows


LAMPS = {"low, right": (-1.0, 0.2, -0.7), "low, front": (0.2, 1.0, -0.7)}
TABLES = {"bluish": (0.70, 0.75, 0.95), "dark": (0.45, 0.45, 0.45), "brown": (0.62, 0.47, 0.33)}


def _gain(factor: float | tuple[float, float, float]) -> Lens:
    return lambda picture, rng: _bytes(picture * np.asarray(factor))


def _low_light(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _noise(0.04)(_gain(0.3)(picture, rng), rng)


def _shade(angle_deg: float) -> Lens:
    angle = math.radians(angle_deg)

    def lens(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        v, u = np.mgrid[-1 : 1 : 1j * picture.shape[0], -1 : 1 : 1j * picture.shape[1]]
        along = u * math.cos(angle) + v * math.sin(angle)
        return _bytes(picture * (1.05 - SHADOW * (1.0 - along) / 2.0)[..., None])

    return lens


def _lamp(direction: tuple[float, float, float]) -> Callable[[mujoco.MjModel], None]:
    def scene(model: mujoco.MjModel) -> None:
        model.light_dir[:] = np.asarray(direction) / np.linalg.norm(direction)

    return scene


def _paint(model_name: str, rgb: tuple[float, float, float]) -> Callable[[mujoco.MjModel], None]:
    """Gives everything of a model of the SDF world one colour, as it appears in the picture, each channel in [0, 1]."""

    def scene(model: mujoco.MjModel) -> None:
        for i in range(model.nmat):
            if model.material(i).name.startswith(f"{model_name}::"):
                model.mat_rgba[i, :3] = rgb

    return scene


def _arm_materials(model: mujoco.MjModel) -> list[int]:
    bodies = {int(model.jnt_bodyid[i]) for i in range(model.njnt) if model.jnt_type[i] != mujoco.mjtJoint.mjJNT_FREE}
    return sorted({int(model.geom_matid[g]) for g in range(model.ngeom) if model.geom_bodyid[g] in bodies} - {-1})


def _mix_arm(channels: tuple[int, int, int]) -> Callable[[mujoco.MjModel], None]:
    def scene(model: mujoco.MjModel) -> None:
        some = _arm_materials(model)
        model.mat_rgba[some, :3] = model.mat_rgba[some][:, list(channels)]

    return scene


def _fade_arm(share: float) -> Callable[[mujoco.MjModel], None]:
    def scene(model: mujoco.MjModel) -> None:
        some = _arm_materials(model)
        model.mat_rgba[some, :3] += share * (0.6 - model.mat_rgba[some, :3])

    return scene


def _wood(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wood grain on the pixels of the table."""
    height, width = picture.shape[:2]
    v, u = np.mgrid[0 : 1 : 1j * height, 0 : 1 : 1j * width]
    grain = 0.85 + 0.15 * np.sin(60.0 * v + 4.0 * np.sin(5.0 * u))
    wood = np.array([0.80, 0.62, 0.42]) * 255 * grain[..., None]
    return _bytes(np.where(_table(picture)[..., None], wood, picture))


def _noise(sigma: float) -> Lens:
    """White noise of this standard deviation in pixels of the model's size, since noise in the camera's larger picture
    would be averaged out when that is shrunk.
    """
    return lambda picture, rng: _bytes(
        picture
        + 255
        * sigma
        * cv2.resize(rng.standard_normal((64, 64, 3)), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    )


def _blur(share: float) -> Lens:
    return lambda picture, rng: cv2.GaussianBlur(picture, (0, 0), share * picture.shape[1])


def _jpeg(quality: int) -> Lens:
    def lens(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]

    return lens


def _flicker(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _bytes(picture * rng.uniform(0.8, 1.2))


def _shift(share: float) -> Callable[[mujoco.MjModel], None]:
    """The camera to its own right, by a share of the width that its picture shows at the distance of the origin."""

    def scene(model: mujoco.MjModel) -> None:
        distance = float(np.linalg.norm(model.body_pos[model.cam_bodyid[0]] + model.cam_pos[0]))
        right = np.empty(3)
        mujoco.mju_rotVecQuat(right, np.array([1.0, 0.0, 0.0]), model.cam_quat[0])
        model.cam_pos[0] += share * 2.0 * distance * math.tan(math.radians(model.cam_fovy[0]) / 2.0) * right

    return scene


def _turn(degrees: float) -> Callable[[mujoco.MjModel], None]:
    def scene(model: mujoco.MjModel) -> None:
        about = np.array([math.cos(math.radians(degrees) / 2), 0.0, 0.0, math.sin(math.radians(degrees) / 2)])
        turned = np.empty(4)
        mujoco.mju_mulQuat(turned, model.cam_quat[0], about)
        model.cam_quat[0] = turned

    return scene


def _zoom(share: float) -> Callable[[mujoco.MjModel], None]:
    def scene(model: mujoco.MjModel) -> None:
        model.cam_fovy[0] = 2 * math.degrees(math.atan(math.tan(math.radians(model.cam_fovy[0]) / 2) / (1 + share)))

    return scene


def _distractors(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat objects on the table, below the arm."""
    found, table, side = picture.copy(), _table(picture), picture.shape[0]
    for (x, y), paint in zip(PLACES, PAINTS, strict=True):
        mask = np.zeros(table.shape, np.uint8)
        corner = (int(x * side), int(y * side))
        cv2.rectangle(mask, corner, (corner[0] + side // 14, corner[1] + side // 18), 1, -1)
        found[(mask > 0) & table] = paint
    return found


def _occlusion(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found, (height, width) = picture.copy(), picture.shape[:2]
    found[int(0.1 * height) : int(0.42 * height), int(0.1 * width) : int(0.42 * width)] = (70, 60, 50)
    return found


def _dead(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0.5 % of the pixels of the model's size are always black or white, the same ones in every picture."""
    height, width = picture.shape[:2]
    stuck = np.random.default_rng(0)
    found = picture.copy()
    for _ in range(round(0.005 * 64 * 64)):
        row, column = stuck.integers(64, size=2)
        rows = slice(row * height // 64, (row + 1) * height // 64)
        columns = slice(column * width // 64, (column + 1) * width // 64)
        found[rows, columns] = 255 * int(stuck.integers(2))
    return found


def _srgb(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A renderer that takes the world's colours as linear light and encodes them as sRGB, as Gazebo's does."""
    linear = 0.58 * picture / 255.0
    return _bytes(255 * np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def _table(picture: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool that may be of the table of worlds/tabletop.sdf: bright and grey."""
    return (picture.min(-1) > 150) & (np.ptp(picture, axis=-1) < 40)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


# ---- measuring -------------------------------------------------------------------------------------------------------


@contextmanager
def changed_world(sim: ArmSim, change: Change, seed: int) -> Iterator[None]:
    """Applies a change to the simulated world and undoes it at the end of the block."""
    names = ("mat_rgba", "light_dir", "light_diffuse", "cam_pos", "cam_quat", "cam_fovy")
    before = {name: getattr(sim.model, name).copy() for name in names}
    rng = np.random.default_rng((seed, 5))
    change.scene(sim.model)
    if change.lens is not None:
        lens = change.lens
        sim.lens = lambda picture: lens(picture, rng)
    try:
        yield
    finally:
        sim.lens = None
        for name, value in before.items():
            getattr(sim.model, name)[:] = value


def goal_picture(sim: ArmSim, pose: np.ndarray) -> np.ndarray:
    """The camera's picture of the arm at rest at `pose`."""
    sim.reset(joint_positions=pose)
    return sim.render()


Place = tuple[str, str] | Path  # factor and severity of a change, or a folder of pictures
Try = tuple[Place, int, bool]  # with how many goals, and whether also with goals under the same change


class Trials:
    """The starts and goals of all rows, and the simulated world in which they are tried."""

    def __init__(self, runtime: Runtime, seed: int, world: str | Path | None) -> None:
        """
        :param seed: of the planner and of random changes.
        :param world: SDF or scene file; by default that of the bundle's task.
        """
        self._runtime, self._seed, self._suite = runtime, seed, suite_of(runtime.bundle)
        self._sim = ArmSim(world or self._suite.world_file)
        self._sight = runtime.bundle.observation

    def row(self, what: Try) -> Row:
        """Tries a change, or the pictures of a folder as goals."""
        place, goals, goal_changed = what
        if isinstance(place, Path):
            return self._foreign_row(place, goals)
        change = next(change for change in changes() if (change.factor, change.severity) == place)
        return self._changed_row(change, goals, goal_changed)

    def _changed_row(self, change: Change, goals: int, goal_changed: bool) -> Row:
        """The goals are divided equally among the tasks of the bundle; all rows have the same."""
        sim, sight, tasks = self._sim, self._sight, self._suite.tasks
        shares = [(number + 1) * goals // len(tasks) - number * goals // len(tasks) for number in range(len(tasks))]
        drawn = [draw_trials(task, share, TASK_SEED, sim) for task, share in zip(tasks, shares, strict=True)]
        trials = [trial for some in drawn for trial in some]
        clean, pictures = [picture_of(trial.goal, sim, sight) for trial in trials], []
        for number, trial in enumerate(trials):
            with changed_world(sim, change, number):
                pictures.append(picture_of(trial.goal, sim, sight))
        rate = self._tried(change, trials, clean)
        changed = rate if change.group == "clean" else None
        if changed is None and goal_changed:
            changed = self._tried(change, trials, [None] * goals)
        label = Label(change.group, change.factor, change.severity)
        return Row(label, rate, changed, apart(self._runtime, clean, pictures), refused(self._runtime, pictures))

    def _foreign_row(self, folder: Path, goals: int) -> Row:
        """As in `foreign_trials`."""
        trials, theirs = foreign_trials(folder, self._sim, goals, self._sight)
        rate = self._tried(Change("frames", "renderer", folder.name), trials, theirs)
        own = [picture_of(trial.goal, self._sim, self._sight) for trial in trials]
        label = Label("frames", "renderer", folder.name)
        return Row(label, rate, rate, apart(self._runtime, own, theirs), refused(self._runtime, theirs))

    def _tried(self, change: Change, trials: Sequence[Trial], pictures: Sequence[np.ndarray | None]) -> Rate:
        outcomes = []
        for number, (trial, picture) in enumerate(zip(trials, pictures, strict=True)):
            seed = self._seed + number
            with changed_world(self._sim, change, seed):
                tried = attempt(trial, self._sim, self._runtime, self._suite.plan, seed, picture)
            outcomes.append(tried.outcome)
        return held(outcomes)


def robustness(
    runtime: Runtime,
    goals: int,
    seed: int = 0,
    only: Sequence[str] = (),
    world: str | Path | None = None,
    frames: Sequence[Path] = (),
    goal_changed: bool = True,
    decide: int = 0,
    jobs: int = 1,
) -> Iterator[Row]:
    """The rows of the table, one after the other. A later one replaces an earlier one of the same change.

    :param only: groups or factors of changes; empty is all.
    :param world: SDF or scene file; by default that of the bundle's task.
    :param frames: folders of pictures by another renderer or camera, as in `foreign_trials`.
    :param goal_changed: False does not count with changed goals, which takes half of the time.
    :param decide: goals of the rows that decide (`worst` of their group), if more than `goals`: they are tried again,
        with a clean goal only, and replace the first try.
    :param jobs: processes that try rows.
    :raises OSError: a folder lacks its poses.csv, or a picture.
    :raises ValueError: `frames` are given for a bundle whose task is not reach.
    """
    suite = suite_of(runtime.bundle)
    if frames and suite.name != "reach":
        raise ValueError(f"--frames gives poses to reach, but the task of this bundle is {suite.name}; leave it out")
    chosen = [change for change in changes() if not only or change.group in only or change.factor in only]
    places: list[Place] = [(change.factor, change.severity) for change in chosen] + list(frames)
    tries: dict[Label, Place] = {}
    rows: dict[Label, Row] = {}
    with ExitStack() as stack:
        if jobs == 1:
            each: Callable[[list[Try]], Iterator[Row]] = partial(map, Trials(runtime, seed, world).row)
        else:
            start = (runtime.bundle.folder, runtime.backend, seed, world)
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(jobs, _start_worker, start))
            each = partial(pool.imap, _row)
        for place, row in zip(places, each([(place, goals, goal_changed) for place in places]), strict=True):
            rows[row.change], tries[row.change] = row, place
            yield row
        for group in dict.fromkeys(label.group for label in rows):
            while (least := worst(list(rows.values()), group)) is not None and least.goal_clean.trials < decide:
                (again,) = each([(tries[least.change], decide, False)])
                rows[least.change] = replace(again, goal_changed=again.goal_changed or least.goal_changed)
                yield rows[least.change]


_trials: Trials | None = None  # of a worker


def _start_worker(folder: Path, backend: str, seed: int, world: str | Path | None) -> None:
    global _trials
    _trials = Trials(load_runtime(load_bundle(folder), backend), seed, world)


def _row(what: Try) -> Row:
    assert _trials is not None
    return _trials.row(what)


def refused(runtime: Runtime, pictures: Sequence[np.ndarray]) -> Rate | None:
    """How many pictures (H, W, 3) uint8, as the model takes them, the nodes refuse as goals."""
    bundle, novelty = runtime.bundle, load_novelty(runtime.bundle)
    if novelty is None:
        return None
    reports = [examine_goal(picture, runtime.encode(picture), bundle.calibration, novelty) for picture in pictures]
    return Rate(sum(report.problem is not None for report in reports), len(reports))


def apart(runtime: Runtime, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """Distance that the model measures between pictures of the same state without and with a change, as a root mean
    square over the states: control steps at full speed by which the arm seems to have moved.
    """
    bundle = runtime.bundle
    if measuring(bundle.heads) != DISPLACEMENT:
        return math.nan
    graph = RolloutGraph(load_model(bundle), load_heads(bundle)[DISPLACEMENT])
    first, second = (torch.from_numpy(np.stack([runtime.encode(each) for each in part])) for part in (before, after))
    with torch.no_grad():
        return float(graph.distance(first, second).square().mean().sqrt())


def foreign_trials(folder: Path, sim: ArmSim, count: int, sight: Observation) -> tuple[list[Trial], list[np.ndarray]]:
    """`count` trials from random starts to the poses of a folder's pictures, in turn; and the pictures for the model.

    The folder's poses.csv has a line for each picture: `file`, and `NAME_rad` for each joint.
    """
    with (folder / "poses.csv").open() as file:
        lines = list(csv.DictReader(file))
    starts = draw_trials(ANYWHERE, count, TASK_SEED, sim)
    trials, pictures = [], []
    for number, other in enumerate(starts):
        line = lines[number % len(lines)]
        goal = State(np.array([float(line[f"{name}_rad"]) for name in sim.names]))
        trials.append(trial_of(ANYWHERE, other.start, goal, sim))
        picture = cv2.imread(str(folder / line["file"]))
        if picture is None:
            raise OSError(f"{folder / line['file']} is not a picture; correct {folder / 'poses.csv'}, which names it")
        pictures.append(sight.goal(picture[..., ::-1]))
    return trials, pictures


def worst(rows: Sequence[Row], group: str, mild: bool = True) -> Row | None:
    """The row of a group with the fewest goals held with a clean goal; None if there is no row.

    `mild` leaves out the greatest severity of each factor.
    """
    beyond = ("x 0.4", "x 1.6", "x 0.3, noise 0.04", "5 %", "5 deg")
    some = [r for r in rows if r.change.group == group and not (mild and r.change.severity in beyond)]
    return min(some, key=lambda row: row.goal_clean.percent, default=None)


def figures(rows: Sequence[Row], task: str) -> Figures:
    """The worst row of each group, named after the task, and every row with its interval."""
    found: Figures = {}
    for group in dict.fromkeys(row.change.group for row in rows):
        name = f"robust.{task}_{NAMES.get(group, group)}"
        if (row := worst(rows, group)) is not None:
            found[name] = (row.goal_clean.percent, f"%, the worst: {row.change.factor} {row.change.severity}")
    for row in rows:
        words = f"{row.change.factor} {row.change.severity}".lower()
        slug = "_".join("".join(letter if letter.isalnum() else " " for letter in words).split())
        for end, rate in (("", row.goal_clean), ("_goal_changed", row.goal_changed)):
            if rate is None:
                continue
            low, high = rate.interval
            values = {"": rate.percent, "_low": low, "_high": high}
            found |= {f"robust.row_{slug}{end}{which}": (value, "%") for which, value in values.items()}
        if row.change.group != "clean":
            found[f"robust.row_{slug}_off"] = (row.off_steps, "control steps that the arm seems to have moved, rms")
        if row.refused is not None:
            found[f"robust.row_{slug}_refused"] = (row.refused.percent, "% of the goals, by the nodes")
    return found


def table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    found = Table(title="goals held (95 %) while the world looks different from training")
    for heading in ("factor", "severity", "goal clean", "goal changed", "seems moved, steps", "refused by nodes"):
        found.add_column(heading)
    for row in rows:
        words = (row.change.factor, row.change.severity, str(row.goal_clean), str(row.goal_changed or "-"))
        found.add_row(*words, f"{row.off_steps:.2f}", "-" if row.refused is None else f"{row.refused.percent:.0f} %")
    return found


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the rows as a heat map with a column for each kind of goal."""
    from matplotlib.figure import Figure

    rates = [(row.goal_clean, row.goal_changed) for row in rows]
    values = np.array([[math.nan if rate is None else rate.percent for rate in pair] for pair in rates])
    figure = Figure(figsize=(5.5, 0.26 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks([0, 1], ["goal clean", "goal changed"])
    axes.set_yticks(range(len(rows)), [f"{row.change.factor} {row.change.severity}" for row in rows])
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, "-" if math.isnan(value) else f"{value:.0f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, label="goals held, %")
    figure.savefig(path, dpi=120)


def write(rows: Sequence[Row], out: Path, command: str, task: str) -> None:
    """Writes summary.json and robust.png into the folder `out`."""
    write_figures(out / "summary.json", figures(rows, task), command, goals=rows[0].goal_clean.trials)
    draw(rows, out / "robust.png")
