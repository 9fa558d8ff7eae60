# SPDX-License-Identifier: Apache-2.0
"""Forward kinematics of an arm from its URDF or MJCF, and a workspace box that its links must stay in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from lewm_model.robot.limits import LimitsError, parse_xml

TOOL = "tool"  # name of the link at a tool's end
TURNING, SLIDING = ("revolute", "continuous"), ("prismatic",)  # joint types of URDF
AXES = "xyz"


class Chain:
    """The links from a base to a tip and the joints between them; made with `from_urdf` or `from_mjcf`.

    :ivar links: names of the L links after the base, in order.
    :ivar moving: (L,) bool, whether the joints can move the origin of that link's frame.
    """

    def __init__(self, links: Sequence[str], joints: Sequence[_Joint]) -> None:
        self.links, self._joints = tuple(links), tuple(joints)
        self._columns = sum(joint.column is not None for joint in joints)
        # The frame (3, 4) of each link in that of the link before it is a sum of four parts: a constant, and factors of
        # the joint value's sine, its cosine and the value itself.
        self._parts = np.stack([joint.parts() for joint in joints], 1)[:, :, None]  # (4, L, 1, 3, 4)
        self._moved_by = np.array([-1 if joint.column is None else joint.column for joint in joints])
        poses = np.random.default_rng(0).uniform(-1.0, 1.0, (16, self._columns))
        self.moving = np.ptp(self.positions(poses), axis=0).max(-1) > 1e-9

    @property
    def columns(self) -> int:
        """The number of joints, which is that of the columns of joint positions."""
        return self._columns

    @classmethod
    def from_urdf(cls, path: str | Path, base: str, tip: str, joints: Sequence[str]) -> Chain:
        """Reads a chain; xacro files have to be expanded first.

        :param base: link in whose frame positions are given.
        :param tip: last link of the chain.
        :param joints: joints that are commanded, in the order of the columns of joint positions.
        :raises LimitsError: the file is no URDF or has no such chain, or `joints` are not exactly the joints that move
            the tip: the position of another one would be unknown, and one behind the tip moves links that are not
            checked.
        """
        path = Path(path)
        robot = parse_xml(path, "robot")
        names = [link.get("name") for link in robot.findall("link")]
        for parameter, link in (("base", base), ("tip", tip)):
            if link not in names:
                raise LimitsError(
                    f"{path} has no {parameter} link '{link}'; its links are {', '.join(map(str, names))}"
                )
        parents: dict[str, tuple[str, Element]] = {}  # of each link: its parent and the joint between them
        for element in robot.findall("joint"):
            ends = [_attribute(path, element, end, "link") for end in ("parent", "child")]
            if ends[1] in parents:
                raise LimitsError(f"link '{ends[1]}' in {path} is the child of two joints; a URDF must be a tree")
            parents[ends[1]] = (ends[0], element)

        links: list[str] = []
        chain: list[_Joint] = []
        link = tip
        while link != base:
            if link not in parents or link in links:
                reached = "form a cycle" if link in links else f"end at '{link}'"
                raise LimitsError(f"the parents of '{tip}' in {path} {reached} and do not include '{base}'")
            links.insert(0, link)
            link, element = parents[link]
            chain.insert(0, _read_joint(path, element, joints))
        _must_move(path, base, tip, chain, joints)
        return cls(links, chain)

    @classmethod
    def from_mjcf(cls, path: str | Path, base: str, tip: str, joints: Sequence[str]) -> Chain:
        """As `from_urdf`, from an MJCF; `tip` is a site or a body. Needs MuJoCo.

        :raises LimitsError: likewise.
        """
        import mujoco  # not at the top: it is not needed, nor always installed, for an arm with a URDF

        try:
            spec = mujoco.MjSpec.from_file(str(path))
            for part in (*spec.geoms, *spec.meshes):  # only frames are needed, and meshes take long to load
                spec.delete(part)
            spec.compiler.boundmass = spec.compiler.boundinertia = 1e-6
            model = spec.compile()
        except ValueError as error:
            raise LimitsError(f"MuJoCo does not read {path}: {error}") from error
        bodies, sites = (
            [model(i).name for i in range(n)] for model, n in ((model.body, model.nbody), (model.site, model.nsite))
        )
        for parameter, name, known in (("base", base, bodies), ("tip", tip, [*sites, *bodies])):
            if name not in known:
                raise LimitsError(f"{path} has no {parameter} '{name}'; it has {', '.join(filter(None, known))}")
        body = int(model.site_bodyid[sites.index(tip)]) if tip in sites else bodies.index(tip)
        way: list[int] = []
        while bodies[body] != base:
            if body == 0:
                raise LimitsError(f"the parents of '{tip}' in {path} do not include '{base}'")
            way.insert(0, body)
            body = int(model.body_parentid[body])
        chain: list[_Joint] = []
        links: list[str] = []
        for body in way:
            origin, turn = model.body_pos[body], _of_quaternion(model.body_quat[body])
            for joint in range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body]):
                name, kind, anchor = model.joint(joint).name, model.jnt_type[joint], model.jnt_pos[joint]
                slides = bool(kind == mujoco.mjtJoint.mjJNT_SLIDE)
                if not slides and kind != mujoco.mjtJoint.mjJNT_HINGE:
                    raise LimitsError(f"joint '{name}' in {path} is neither a hinge nor a slide")
                axis, column = model.jnt_axis[joint], _column(path, name, joints)
                chain.append(_Joint(name, origin + turn @ anchor, turn, axis, slides, column))
                links.append(bodies[body])
                origin, turn = -anchor, np.eye(3)
            if not links or links[-1] != bodies[body] or origin.any():  # no joint, or one beside the origin
                chain.append(_Joint("", origin, turn, np.eye(3)[0], False, None))
                links.append(bodies[body])
        if tip in sites:
            site = sites.index(tip)
            turn = _of_quaternion(model.site_quat[site])
            chain.append(_Joint("", model.site_pos[site], turn, np.eye(3)[0], False, None))
            links.append(tip)
        _must_move(path, base, tip, chain, joints)
        return cls(links, chain)

    def with_tool(self, end: np.ndarray) -> Chain:
        """The chain with one more link, whose origin is at `end` (3,) m in the tip's frame."""
        return Chain((*self.links, TOOL), (*self._joints, _Joint("", end, np.eye(3), np.eye(3)[0], False, None)))

    def positions(self, joint_positions: npt.ArrayLike) -> np.ndarray:
        """Origins of the links' frames in the base's frame, (N, L, 3) m, at joint positions (N, A) rad or m."""
        return self.frames(joint_positions)[0]

    def frames(self, joint_positions: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Origins (N, L, 3) m and rotations (N, L, 3, 3) of the links' frames in the base's frame, at joint positions
        (N, A) rad or m.
        """
        values = np.asarray(joint_positions, float)
        if values.ndim != 2 or values.shape[1] != self._columns:
            raise ValueError(f"joint positions have shape {values.shape}, (N, {self._columns}) is expected")
        moved = np.pad(values, ((0, 0), (0, 1))).T[self._moved_by, :, None, None]  # (L, N, 1, 1); 0 for fixed joints
        still, sine, cosine, slide = self._parts
        frames = still + np.sin(moved) * sine + np.cos(moved) * cosine + moved * slide  # each in the frame before it
        for before, frame in pairwise(frames):
            np.matmul(before[..., :3], frame.copy(), out=frame)
            frame[..., 3] += before[..., 3]
        return frames[..., 3].swapaxes(0, 1), frames[..., :3].swapaxes(0, 1)

    def jacobian(self, joint_positions: npt.ArrayLike) -> np.ndarray:
        """Geometric Jacobian (N, 6, A) of the tip at joint positions (N, A) rad or m, in the base's frame: rows x, y, z
        in m, then rotation about x, y, z in rad, per rad or m of each joint.
        """
        origins, rotations = self.frames(joint_positions)
        columns = np.zeros((len(origins), 6, self._columns))
        for i, joint in enumerate(self._joints):
            if joint.column is None:
                continue
            axis = rotations[:, i] @ joint.axis  # the joint's own rotation does not change it
            if joint.slides:
                columns[:, :3, joint.column] = axis
            else:
                columns[:, :3, joint.column] = np.cross(axis, origins[:, -1] - origins[:, i])
                columns[:, 3:, joint.column] = axis
        return columns


class _Joint:
    """One joint: its frame in its parent's, its axis, and its column in joint positions, None for a fixed one."""

    def __init__(
        self, name: str, origin: np.ndarray, rotation: np.ndarray, axis: np.ndarray, slides: bool, column: int | None
    ) -> None:
        self.name, self.origin, self.rotation, self.axis = name, origin, rotation, axis
        self.slides, self.column = slides, column

    def parts(self) -> np.ndarray:
        """(4, 3, 4): the child's rotation and origin in the parent's frame, by Rodrigues' formula, are the sum of the
        first part, the second times the sine of the joint's value, the third times its cosine, and the fourth times it.
        """
        parts = np.zeros((4, 3, 4))
        parts[0, :, 3] = self.origin
        parts[0, :, :3] = self.rotation
        if self.column is not None and self.slides:
            parts[3, :, 3] = self.rotation @ self.axis
        elif self.column is not None:
            x, y, z = self.axis
            cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
            parts[0, :, :3] += self.rotation @ cross @ cross
            parts[1, :, :3], parts[2, :, :3] = self.rotation @ cross, -self.rotation @ cross @ cross
        return parts


class Workspace:
    """A box that the links of an arm must stay in. Spheres around the origins of the links' frames are checked, of
    those that the joints move. With radius 0 the box has to be smaller than the free space by half the links'
    thickness.

    :param lower: (3,) least x, y, z in the frame of the chain's base, m.
    :param upper: (3,) greatest x, y, z, m.
    :param radii: (L,) of the spheres, or one for all, m.
    :raises ValueError: the box is empty or not finite, or no link moves.
    """

    def __init__(self, chain: Chain, lower: npt.ArrayLike, upper: npt.ArrayLike, radii: npt.ArrayLike = 0.0) -> None:
        self.chain = chain
        self.lower, self.upper = np.array(lower, float), np.array(upper, float)
        for name, values in (("lower", self.lower), ("upper", self.upper)):
            if values.shape != (3,) or not np.isfinite(values).all():
                raise ValueError(f"workspace.{name} is {values}; give x, y and z in m")
        if (self.lower >= self.upper).any():
            axis = AXES[int((self.lower >= self.upper).argmax())]
            raise ValueError(f"workspace.lower is not less than workspace.upper along {axis}")
        if not chain.moving.any():
            raise ValueError("no joint changes where the links of the workspace's chain are; choose a later tip link")
        thick = np.broadcast_to(np.asarray(radii, float), (len(chain.links),))[chain.moving, None]
        self._lowest, self._highest = self.lower + thick, self.upper - thick  # (moving links, 3) m
        self._links = [link for link, moves in zip(chain.links, chain.moving, strict=True) if moves]

    def beyond(self, joint_positions: npt.ArrayLike) -> np.ndarray:
        """How far links are beyond each side of the box, at most, (N, 6) m: below in x, y, z, then above; 0 inside."""
        return np.maximum(self._beyond(self.chain.positions(joint_positions)), 0.0).max(1)

    def find_outside(self, joint_positions: npt.ArrayLike, room: float | np.ndarray = 0.0) -> str | None:
        """Which link is outside where, as a message to users; None when all are inside at all joint positions (N, A).

        :param room: how far links may be beyond the sides, m, one number or (6,) as of `beyond`.
        """
        origins = self.chain.positions(joint_positions)
        return self._farthest(origins, self._beyond(origins) - room)

    def find_leaving(self, origins: np.ndarray) -> str | None:
        """As `find_outside`, for a path of link origins (N, L, 3) m; links that start outside may be as far outside as
        at the start, so that they can move back.
        """
        beyond = self._beyond(origins)
        return self._farthest(origins, beyond - np.maximum(beyond[0], 0.0).max(0))

    def _farthest(self, origins: np.ndarray, over: np.ndarray) -> str | None:
        """The message for the greatest excess in `over` (N, moving links, 6) m; None where there is none."""
        if (over <= 1e-9).all():  # False for NaN, which thus counts as outside
            return None
        _, link, side = np.unravel_index(int(np.nan_to_num(over, nan=np.inf).argmax()), over.shape)
        axis, above = int(side) % 3, bool(side >= 3)
        edge = (self.upper if above else self.lower)[axis]
        places = origins[:, self.chain.moving][:, link, axis]
        return (
            f"link '{self._links[int(link)]}' at {AXES[axis]} = {places.max() if above else places.min():.3f} m, "
            f"the box {'ends' if above else 'begins'} at {edge:.3f} m"
        )

    def _beyond(self, origins: np.ndarray) -> np.ndarray:
        """How far link origins (N, L, 3) m are beyond each side, (N, moving links, 6) m; negative inside."""
        moving = origins[:, self.chain.moving]
        return np.concatenate([self._lowest - moving, moving - self._highest], -1)


def _must_move(path: str | Path, base: str, tip: str, chain: Sequence[_Joint], joints: Sequence[str]) -> None:
    found = [joint.name for joint in chain]
    missing = [name for name in joints if name not in found]
    if missing:
        raise LimitsError(
            f"joint '{missing[0]}' does not lie between '{base}' and '{tip}' in {path}; "
            "name the arm's first link as the base and the last one that moves as the tip"
        )


def _column(path: str | Path, name: str, moved: Sequence[str]) -> int:
    """The column in joint positions of a joint that is not fixed. Raises LimitsError where it is not commanded."""
    if name not in moved:
        raise LimitsError(
            f"joint '{name}' in {path} moves the tip and is not among the planned joints {', '.join(moved)}; "
            "choose a tip before it, or make it a fixed joint at its actual angle"
        )
    return list(moved).index(name)


def _of_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a unit quaternion w x y z."""
    angle = 2.0 * np.arctan2(np.linalg.norm(quaternion[1:]), quaternion[0])
    length = np.linalg.norm(quaternion[1:])
    return np.eye(3) if length == 0.0 else _turn(quaternion[1:] / length, float(angle))


def _turn(axis: np.ndarray, angle: npt.ArrayLike) -> np.ndarray:
    """Rotations (…, 3, 3) about a unit axis (3,) by angles (…, 1, 1) or one number, rad; Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)


def _read_joint(path: Path, element: Element, moved: Sequence[str]) -> _Joint:
    name, kind = element.get("name", ""), element.get("type")
    if kind not in (*TURNING, *SLIDING, "fixed"):
        raise LimitsError(
            f"joint '{name}' in {path} is {kind}; only revolute, continuous, prismatic and fixed are supported"
        )
    column = None
    if kind != "fixed":
        column = _column(path, name, moved)
    origin, rpy = _numbers(path, element, "origin", "xyz", "0 0 0"), _numbers(path, element, "origin", "rpy", "0 0 0")
    axis = np.eye(3)[0] if kind == "fixed" else _numbers(path, element, "axis", "xyz", "1 0 0")  # some write 0 0 0
    length = float(np.linalg.norm(axis))
    if length < 1e-6:
        raise LimitsError(f"the <axis> of joint '{name}' in {path} has no length; give it a direction")
    roll, pitch, yaw = (_turn(unit, angle) for unit, angle in zip(np.eye(3), rpy, strict=True))
    return _Joint(name, origin, yaw @ pitch @ roll, axis / length, kind in SLIDING, column)


def _attribute(path: Path, joint: Element, tag: str, attribute: str) -> str:
    child = joint.find(tag)
    value = None if child is None else child.get(attribute)
    if not value:
        raise LimitsError(f"joint '{joint.get('name')}' in {path} has no <{tag} {attribute}=...>")
    return value


def _numbers(path: Path, joint: Element, tag: str, attribute: str, default: str) -> np.ndarray:
    """The three finite numbers (3,) of an optional attribute."""
    child = joint.find(tag)
    text = default if child is None else child.get(attribute, default)
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise LimitsError(
            f"<{tag} {attribute}> of joint '{joint.get('name')}' in {path} is {text!r}; write three numbers"
        )
    return values
