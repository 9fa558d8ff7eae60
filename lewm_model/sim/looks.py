# SPDX-License-Identifier: Apache-2.0
"""Random looks of a simulated scene: lamps, colours of table and arm, texture, camera pose, distractors on the table.

A look changes how a scene is drawn, not what is simulated: it edits MuJoCo's scene of one picture (`mjvScene`), which
MuJoCo builds anew for each, and not the model. `Looks` draws a look for every picture. One that lasted for an episode
would help to predict its frames, so the latent would encode it; one that lasts for a picture does not predict the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from lewm_model.sim.arm import ArmSim

AS_IT_IS = 0.3  # share of the pictures that show the scene as in its file
# Shares of the other pictures in which each part differs from the file.
SHARES = {"light": 0.8, "table": 0.5, "texture": 0.4, "arm": 0.35, "camera": 0.5, "distractors": 0.35}
STRENGTH = (0.6, 1.4)  # of the light on the table, as a multiple of the file's
AMBIENT = (0.2, 0.9)  # share of the light that is ambient; the rest comes from lamps
MOST_LAMPS, TILT_DEG, TINT = 3, 65.0, 0.2  # lamps; greatest angle from the vertical; each colour times exp(+- this)
CASTING = 0.8  # share of the lights that cast a shadow
SHIFT, TURN_DEG, ZOOM = 0.06, 5.0, 0.06  # of the camera: share of its picture, about its axis, share of the distance
MOST_DISTRACTORS = 5
DISTRACTOR_SIZE = (0.02, 0.07)  # half lengths, in multiples of 2.4 times the arm's reach, about what a picture shows
APART = 0.3  # least distance of the colours of table and arm, since an arm that cannot be seen teaches nothing
NEAR_FLAT = 0.04  # relative tolerance of the brightness by which table is recognised; MuJoCo draws it a little darker
SWINGS_S = (4.0, 20.0)  # period of each number of a swinging look
# Amplitudes of a swinging look: share of the picture, angle, share of the distance, each colour of the table.
SWINGING_SHIFT, SWINGING_TURN_DEG, SWINGING_ZOOM, SWINGING_PAINT = 0.01, 1.0, 0.01, 0.15
_SWINGING = 0x53574E47  # the seeds of swinging looks are (this, seed)
SHADOW_M = 0.001  # height at which a shadow is drawn, just above the table
SHADOW_FLATNESS = 1e-3  # height of a shape that is flattened into its shadow, as a share; with 0 it has no normals
GRAIN = (0.05, 0.3)  # share of the table's brightness that its texture changes
TABLE_SHARE = 0.8  # of the table's width and length, around its middle, where objects are put at random


@dataclass(frozen=True)
class Texture:
    """A pattern on the table that scales its colour: bent waves, or squares."""

    strength: float
    waves: tuple[float, float]  # rad over the picture, along x and y
    bend: tuple[float, float]  # rad, and how often over the picture
    squares: bool

    def over(self, height: int, width: int) -> np.ndarray:
        """Factors (height, width)."""
        y, x = np.mgrid[0 : 1 : 1j * height, 0 : 1 : 1j * width]
        along, across = self.waves[0] * x + self.waves[1] * y, self.waves[1] * x - self.waves[0] * y
        bent = along + self.bend[0] * np.sin(self.bend[1] * across / max(1.0, math.hypot(*self.waves)))
        pattern = np.sign(np.sin(along) * np.sin(across)) if self.squares else np.sin(bent)
        return 1.0 + self.strength * pattern


@dataclass(frozen=True)
class Look:
    """One look. Colours are red, green and blue in [0, 1]; None and () keep what the scene's file says."""

    ambient: np.ndarray | None = None  # colour (3,) of the ambient light; if given, `lamps` replace the file's
    lamps: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # direction (3,) in which the light goes, and colour (3,)
    colours: dict[int, np.ndarray] | None = None  # (3,) of geoms, by number
    shift: tuple[float, float] = (0.0, 0.0)  # of the camera, right and up, share of its picture's height
    turn_rad: float = 0.0  # of the camera about its axis
    zoom: float = 0.0  # share by which the picture is enlarged
    # Type of geom, position (3,) m, half lengths (3,) m and colour (3,) of each.
    distractors: tuple[tuple[int, np.ndarray, np.ndarray, np.ndarray], ...] = ()
    texture: Texture | None = None
    shadows: tuple[tuple[int, ...], np.ndarray] | None = None  # geoms that cast one, and the colour (3,) of the table


class Looks:
    """Draws a look for every picture of a simulated arm, from `begin` on; the same seeds give the same looks."""

    def __init__(self, sim: ArmSim) -> None:
        self._sim, model = sim, sim.model
        self._arm = [int(g) for g in np.flatnonzero(sim.geoms_of_robot & _seen(model))]
        self._table = table_of(sim)
        self._casting = tuple(int(g) for g in np.flatnonzero(_seen(model)) if g not in self._table[:1])
        self._colours = np.array([colour_of(model, geom) for geom in range(model.ngeom)])
        self._rng = np.random.default_rng(0)

    def begin(self, *seed: int) -> None:
        """Draws every picture from now on with a look of its own."""
        self._rng = np.random.default_rng(np.random.SeedSequence(seed))
        wear(self._sim, self.draw)

    def draw(self) -> Look:
        """The look of the next picture."""
        rng = self._rng
        if rng.random() < AS_IT_IS:
            return Look()
        chosen = {name: rng.random() < share for name, share in SHARES.items()}
        colours: dict[int, np.ndarray] = {}
        if chosen["arm"]:
            colours |= self._painted_arm()
        if chosen["table"]:
            arm = np.array([colours.get(geom, self._colours[geom]) for geom in self._arm])
            colours |= dict.fromkeys(self._table, _apart_from(arm, rng))
        ambient, lamps = self._light() if chosen["light"] else (None, ())
        shadows = None
        if lamps and self._table and rng.random() < CASTING:
            shadows = self._casting, colours.get(self._table[0], self._colours[self._table[0]])
        moved = rng.uniform(-1.0, 1.0, 4) * chosen["camera"]
        return Look(
            ambient,
            lamps,
            colours,
            (SHIFT * moved[0], SHIFT * moved[1]),
            math.radians(TURN_DEG) * moved[2],
            ZOOM * moved[3],
            self._distractors() if chosen["distractors"] else (),
            self._texture() if chosen["texture"] else None,
            shadows,
        )

    def _light(self) -> tuple[np.ndarray, tuple[tuple[np.ndarray, np.ndarray], ...]]:
        rng = self._rng
        tint = np.exp(rng.uniform(-TINT, TINT, 3))
        strength, share = rng.uniform(*STRENGTH), rng.uniform(*AMBIENT)
        parts = rng.dirichlet(np.ones(rng.integers(1, MOST_LAMPS + 1)))
        lamps = []
        for part in parts:
            tilt, way = math.radians(TILT_DEG) * math.sqrt(rng.random()), rng.uniform(0.0, 2 * math.pi)
            direction = np.array([math.sin(tilt) * math.cos(way), math.sin(tilt) * math.sin(way), -math.cos(tilt)])
            lamps.append((direction, tint * strength * (1.0 - share) * part / math.cos(tilt)))
        return tint * strength * share, tuple(lamps)

    def _painted_arm(self) -> dict[int, np.ndarray]:
        """Colours of the arm: its own with red, green and blue permuted, or a new one for each link; then faded."""
        rng = self._rng
        before = self._colours[self._arm]
        if rng.random() < 0.6:
            after = before[:, rng.permutation(3)]
        else:
            after = before.copy()
            bodies = self._sim.model.geom_bodyid[self._arm]
            for body in np.unique(bodies):
                own = before[bodies == body]  # so that parts of a link stay darker or brighter than its other parts
                after[bodies == body] = rng.uniform(0.0, 1.0, 3) * (own.max(1) / max(0.05, own.max()))[:, None]
        worn = rng.uniform(0.0, 0.5)
        after = after + worn * (rng.uniform(0.2, 0.8) - after) + rng.uniform(-0.08, 0.08, after.shape)
        return dict(zip(self._arm, after.clip(0.0, 1.0), strict=True))

    def _distractors(self) -> tuple[tuple[int, np.ndarray, np.ndarray, np.ndarray], ...]:
        """Flat objects on the table, below the arm."""
        rng, span = self._rng, 2.4 * self._sim.reach_m
        kinds = (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER)
        found = []
        for _ in range(rng.integers(1, MOST_DISTRACTORS + 1)):
            size = np.array([*(span * rng.uniform(*DISTRACTOR_SIZE, 2)), 0.002])
            place = np.array([*rng.uniform(-span / 2, span / 2, 2), 0.002])
            found.append((int(rng.choice(kinds)), place, size, rng.random(3)))
        return tuple(found)

    def _texture(self) -> Texture:
        rng = self._rng
        way, often = rng.uniform(0.0, 2 * math.pi), math.exp(rng.uniform(math.log(8.0), math.log(80.0)))
        waves = (often * math.cos(way), often * math.sin(way))
        bend = (rng.uniform(0.0, 5.0), rng.uniform(2.0, 8.0))
        return Texture(rng.uniform(*GRAIN), waves, bend, bool(rng.random() < 0.3))


class SwingingLooks:
    """Light, table colour and camera pose that change all the time, each number of the look with its own period."""

    def __init__(self, sim: ArmSim, seed: int = 0) -> None:
        rng = np.random.default_rng(np.random.SeedSequence((_SWINGING, seed)))
        self._table = table_of(sim)
        self._paint = [colour_of(sim.model, geom) for geom in self._table]
        self._rates = 2 * math.pi / rng.uniform(*SWINGS_S, 13)  # rad/s
        self._phases = rng.uniform(0.0, 2 * math.pi, 13)

    def at(self, time_s: float) -> Look:
        """The look at a time."""
        swing = np.sin(self._rates * time_s + self._phases)
        low, high = STRENGTH
        light = (low + (high - low) * (1.0 + swing[0]) / 2) * np.exp(TINT * swing[1:4])
        tilt, way = 0.5 * math.radians(TILT_DEG) * (1.0 + swing[4]), math.pi * swing[5]
        direction = np.array([math.sin(tilt) * math.cos(way), math.sin(tilt) * math.sin(way), -math.cos(tilt)])
        return Look(
            0.5 * light,
            ((direction, 0.5 * light / math.cos(tilt)),),
            {
                geom: np.clip(own + SWINGING_PAINT * swing[6:9], 0.0, 1.0)
                for geom, own in zip(self._table, self._paint, strict=True)
            },
            (SWINGING_SHIFT * swing[9], SWINGING_SHIFT * swing[10]),
            math.radians(SWINGING_TURN_DEG) * swing[11],
            SWINGING_ZOOM * swing[12],
        )


def wear(sim: ArmSim, look: Callable[[], Look]) -> None:
    """Draws each picture of `sim` with the look that `look` returns just before it; uses its `stage` and `lens`."""
    table = table_of(sim)
    worn, flat = Look(), np.zeros(3)

    def stage(scene: mujoco.MjvScene) -> None:
        nonlocal worn, flat
        worn = look()
        light = lay(worn, scene)
        if table:
            flat = 255.0 * np.clip(light * (worn.colours or {}).get(table[0], colour_of(sim.model, table[0])), 0.0, 1.0)

    def lens(picture: np.ndarray) -> np.ndarray:
        if worn.texture is None or not table:
            return picture
        bare = (np.abs(picture - flat) < 3.0 + NEAR_FLAT * flat).all(-1)  # pixels of the table with nothing on it
        grain = worn.texture.over(*picture.shape[:2])
        found = picture.copy()
        found[bare] = np.clip(picture[bare] * grain[bare][:, None], 0.0, 255.0)
        return found

    sim.stage, sim.lens = stage, lens


def lay(look: Look, scene: mujoco.MjvScene) -> np.ndarray:
    """Applies a look to MuJoCo's scene of one picture; returns the light (3,) that a horizontal white surface then
    reflects.
    """
    if look.colours:
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.objid in look.colours:
                geom.rgba[:3] = look.colours[geom.objid]
    for kind, place, size, colour in look.distractors:
        if scene.ngeom < scene.maxgeom:
            rgba = np.array([*colour, 1.0], np.float32)
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom], kind, size, place, np.eye(3).ravel(), rgba)
            scene.geoms[scene.ngeom].specular = scene.geoms[scene.ngeom].shininess = 0.0
            scene.ngeom += 1
    light = _flat_light(scene)
    if look.ambient is not None:
        for i in range(1 + len(look.lamps)):
            lamp = scene.lights[i]
            lamp.headlight, lamp.id, lamp.castshadow, lamp.texid = int(i == 0), i - 1, 0, -1
            lamp.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
            lamp.pos[:], lamp.dir[:] = (0.0, 0.0, 3.0), (0.0, 0.0, -1.0) if i == 0 else look.lamps[i - 1][0]
            lamp.attenuation[:], lamp.specular[:] = (1.0, 0.0, 0.0), 0.0
            lamp.ambient[:] = light * look.ambient if i == 0 else 0.0
            lamp.diffuse[:] = 0.0 if i == 0 else light * look.lamps[i - 1][1]
        scene.nlight = 1 + len(look.lamps)
        light = _flat_light(scene)
        if look.shadows is not None:
            _cast(*look.shadows, scene)
    for camera in scene.camera:  # MuJoCo has two, for stereo, and draws from the middle between them
        forward, up = (np.array(way, float) for way in (camera.forward, camera.up))
        distance = float(np.linalg.norm(camera.pos))
        high = 2.0 * distance * camera.frustum_top / camera.frustum_near
        right = np.cross(forward, up)
        camera.pos[:] += high * (look.shift[0] * right + look.shift[1] * up)
        camera.up[:] = math.cos(look.turn_rad) * up + math.sin(look.turn_rad) * right
        camera.frustum_top /= 1.0 + look.zoom
        camera.frustum_bottom /= 1.0 + look.zoom
    return light


def _cast(casting: tuple[int, ...], colour: np.ndarray, scene: mujoco.MjvScene) -> None:
    """Adds the shadows that these geoms cast, by the brightest lamp, on a table of this `colour` (3,) at z = 0.

    A shadow is the geom itself, flattened onto the table along the light, in the colour that the table has in the light
    of the other lamps. MuJoCo's own shadows would take nine tenths of the time of a small picture.
    """
    lamp = max(scene.lights[1 : scene.nlight], key=lambda lamp: -float(lamp.dir[2] * lamp.diffuse.sum()))
    way, light = np.array(lamp.dir, float), _flat_light(scene)
    rgba = np.array([*(colour * (1.0 + way[2] * np.array(lamp.diffuse) / np.maximum(light, 1e-6))), 1.0], np.float32)
    flatten = np.eye(3)
    flatten[:, 2] -= (1.0 - SHADOW_FLATNESS) * way / way[2]
    for geom in scene.geoms[: scene.ngeom]:
        if geom.objtype != mujoco.mjtObj.mjOBJ_GEOM or geom.objid not in casting or scene.ngeom == scene.maxgeom:
            continue
        place, turn = flatten @ geom.pos + (0.0, 0.0, SHADOW_M), flatten @ np.reshape(geom.mat, (3, 3))
        shadow = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(shadow, geom.type, geom.size, place, turn.ravel(), rgba)
        shadow.size[:], shadow.dataid, shadow.specular, shadow.shininess = geom.size, geom.dataid, 0.0, 0.0
        scene.ngeom += 1


def _flat_light(scene: mujoco.MjvScene) -> np.ndarray:
    """The light (3,) that a horizontal white surface reflects."""
    lamps = scene.lights[: scene.nlight]
    return np.sum([lamp.ambient + max(0.0, -float(lamp.dir[2])) * lamp.diffuse for lamp in lamps], axis=0)


def table_of(sim: ArmSim) -> list[int]:
    """The visible static geoms that are not the robot's, which are the table, the widest first."""
    model = sim.model
    still = (model.body_weldid[model.geom_bodyid] == 0) & ~sim.geoms_of_robot & _seen(model)
    return sorted((int(g) for g in np.flatnonzero(still)), key=lambda g: -float(np.prod(model.geom_size[g][:2])))


def random_place(sim: ArmSim, rng: np.random.Generator) -> np.ndarray:
    """A random place (2,) m for an object on the table, which lies around the world's origin. In a world without a
    table: within the arm's reach, in x and in y.
    """
    table = table_of(sim)
    half = TABLE_SHARE * sim.model.geom_size[table[0], :2] if table else np.full(2, sim.reach_m)
    return rng.uniform(-half, half)


def _seen(model: mujoco.MjModel) -> np.ndarray:
    """Which geoms are drawn, (ngeom,) bool: MuJoCo's renderer shows the first three groups."""
    return np.asarray(model.geom_group < 3)


def colour_of(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Red, green and blue (3,) in [0, 1] of a geom, which its material decides if it has one."""
    material = int(model.geom_matid[geom])
    return np.array((model.geom_rgba[geom] if material < 0 else model.mat_rgba[material])[:3], float)


def _apart_from(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random colour (3,) of a table, mostly greyish: the first drawn that is APART from all of `colours` (N, 3)."""
    grey = rng.uniform(0.15, 0.95, (20, 1))
    found = np.clip(grey + rng.normal(0.0, 0.15, (20, 3)) * rng.random((20, 1)), 0.02, 1.0)
    apart = np.linalg.norm(found[:, None] - colours, axis=-1).min(1)
    return np.asarray(found[int((apart > APART).argmax())])
