# SPDX-License-Identifier: Apache-2.0
"""Between joint velocities and Cartesian velocities of the tip: what actions of kind `cartesian_velocity` mean.

A column x, y or z is the tip's velocity in m/s, roll, pitch or yaw its rate of turn in rad/s about x, y or z, all in
the frame of the chain's base. Columns of other kinds, a gripper's, are the velocity of the joint of that name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lewm_model.robot.actions import KINDS, ActionSpec
from lewm_model.robot.chain import Chain

AXES = ("x", "y", "z", "roll", "pitch", "yaw")
ALL = len(AXES)  # joints of an arm that can do all of them
# Where the arm can hardly move in some direction, joints would need any speed for it. The inverse is damped from this
# share of the arm's length on, more and more down to a singularity.
NEAR_SINGULAR, DAMPING = 0.02, 0.02
TURN_ARM = 0.25  # of the arm's length: how far a rad of turning moves things, to compare turning with moving


class TipMotion:
    """What a plan's actions are for the joints, and the other way round.

    An arm of six joints or more keeps the directions that no column commands as they are: one that is commanded x, y, z
    and yaw goes on to point down. One of fewer joints leaves them free.

    :param joints: names of all A joints, the chain's first, in its order.
    :raises ValueError: a column is none of AXES and no joint, or the chain cannot do what is commanded.
    """

    def __init__(self, chain: Chain, spec: ActionSpec, joints: Sequence[str]) -> None:
        self.chain, self._joints, self._block_s = chain, len(joints), spec.block_s
        self._rows: list[int] = []  # of the six, for each Cartesian column
        self._cartesian: list[int] = []  # columns of the action, ...
        self._direct: list[tuple[int, int]] = []  # ... and those that are a joint's, with the joint's column
        for column, (name, kind) in enumerate(zip(spec.names, spec.kinds, strict=True)):
            if KINDS[kind].drives_joints and name in joints[chain.columns :]:
                self._direct.append((column, list(joints).index(name)))
            elif kind == "cartesian_velocity" and name in AXES:
                self._cartesian.append(column)
                self._rows.append(AXES.index(name))
            else:
                raise ValueError(
                    f"column {name!r} of the actions is a {kind} that this arm cannot do: Cartesian columns are called "
                    f"{', '.join(AXES)}, others after a joint that does not move the tip"
                )
        self._commanded = list(range(ALL)) if chain.columns >= ALL else sorted(self._rows)
        if chain.columns < len(self._commanded):
            raise ValueError(f"an arm of {chain.columns} joints cannot do {', '.join(spec.names)} at will")
        self._columns = len(spec.names)
        home = chain.positions(np.zeros((1, chain.columns)))[0]
        self.length_m = float(np.linalg.norm(np.diff(home, axis=0, prepend=0.0), axis=1).sum())
        self._weights = np.where(np.arange(ALL) < 3, 1.0, TURN_ARM * self.length_m)
        turns = np.array([AXES.index(name) >= 3 if name in AXES else False for name in spec.names])
        # The longest way that a column may have: across all that the arm reaches, half a turn.
        self.farthest = np.where(turns, np.pi, 2.0 * self.length_m)

    def displacements(self, paths: np.ndarray) -> np.ndarray:
        """What joint positions (…, T, A) rad move the action's columns by, from one to the next: (…, T - 1, C)."""
        shape = paths.shape
        arm = paths[..., : self.chain.columns].reshape(-1, self.chain.columns)
        origins, rotations = (values[:, -1] for values in self.chain.frames(arm))
        origins, rotations = origins.reshape(*shape[:-1], 3), rotations.reshape(*shape[:-1], 3, 3)
        turned = rotations[..., 1:, :, :] @ np.swapaxes(rotations[..., :-1, :, :], -1, -2)
        # A small turn R is 1 + [w]: w is its antisymmetric part, and by less than 1e-3 of it wrong up to 0.1 rad.
        w = 0.5 * np.stack([turned[..., i, j] - turned[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
        moved = np.concatenate([np.diff(origins, axis=-2), w], -1)
        found = np.empty((*shape[:-2], shape[-2] - 1, self._columns))
        found[..., self._cartesian] = moved[..., self._rows]
        for column, joint in self._direct:
            found[..., column] = np.diff(paths[..., joint], axis=-1)
        return found

    def joint_velocities(self, positions: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Joint velocities (S, A) rad/s that do `actions` (S, C) at positions (S, A) rad, by damped least squares.

        q' = J^T (J J^T + d^2)^-1 v, with d = 0 where every direction is well within reach (Y. Nakamura, H. Hanafusa:
        Inverse kinematic solutions with singularity robustness for robot manipulator control, 1986). Of several ways
        to do it, that of the least speed. It is continuous in both.

        An arm that nears a singularity on its way slows down as a whole, so that the tip keeps its direction: within an
        action block it comes no farther than where the direction that it loses would be lost, and does not swing
        through and back.
        """
        wanted = np.zeros((len(actions), ALL))
        wanted[:, self._rows] = actions[:, self._cartesian]
        wanted = (wanted * self._weights)[:, self._commanded]
        jacobians = self.chain.jacobian(positions[:, : self.chain.columns]) * self._weights[:, None]
        u, s, vt = np.linalg.svd(jacobians[:, self._commanded], full_matrices=False)
        near, damping = NEAR_SINGULAR * self.length_m, DAMPING * self.length_m
        damped = s * s + damping**2 * np.maximum(0.0, 1.0 - (s / near) ** 2)  # of each direction by itself
        along = np.einsum("nji,nj->ni", u, wanted) / damped
        # A singular value, m, changes by this at most when a joint turns by 1 rad, or nearly so.
        lost = TURN_ARM * self.length_m * self._block_s * np.linalg.norm(along, axis=1, keepdims=True)
        along = along * s / np.maximum(lost, 1.0)
        found = np.zeros((len(actions), self._joints))
        found[:, : self.chain.columns] = np.einsum("nik,ni->nk", vt, along)
        for column, joint in self._direct:
            found[:, joint] = actions[:, column]
        return found
