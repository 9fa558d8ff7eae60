# SPDX-License-Identifier: Apache-2.0
"""Differential kinematics between joints and tip, for actions of kind `cartesian_velocity`.

Columns x, y and z are the tip's linear velocity in m/s; roll, pitch and yaw its angular velocity in rad/s about x, y
and z; all in the frame of the chain's base. Columns of other kinds, such as a gripper's, are velocities of the joint of
that name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lewm_model.robot.actions import KINDS, ActionSpec
from lewm_model.robot.chain import Chain

AXES = ("x", "y", "z", "roll", "pitch", "yaw")
ALL = len(AXES)  # joints of an arm that can move in all of them
# Near a singularity a motion of the tip would need unlimited joint velocities. Below a singular value of NEAR_SINGULAR
# the inverse is damped increasingly, up to DAMPING at 0; both are shares of the arm's length.
NEAR_SINGULAR, DAMPING = 0.02, 0.02
TURN_ARM = 0.25  # lever arm that makes rotation comparable with translation, m per rad, as a share of the arm's length


class TipMotion:
    """Converts actions to joint velocities, and joint motion to displacements of the actions' columns.

    An arm of six joints or more does not move in directions without a column: one with x, y, z and yaw keeps its roll
    and pitch. An arm of fewer joints leaves them free.

    :param joints: names of all A joints, the chain's first, in its order.
    :raises ValueError: a column is neither one of AXES nor a joint, or the chain has too few joints for the columns.
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
                    f"column {name!r} of the actions is a {kind} that this arm cannot execute: Cartesian columns are "
                    f"named {', '.join(AXES)}, others after a joint that does not move the tip"
                )
        self._commanded = list(range(ALL)) if chain.columns >= ALL else sorted(self._rows)
        if chain.columns < len(self._commanded):
            raise ValueError(f"an arm of {chain.columns} joints cannot move in {', '.join(spec.names)} independently")
        self._columns = len(spec.names)
        home = chain.positions(np.zeros((1, chain.columns)))[0]
        self.length_m = float(np.linalg.norm(np.diff(home, axis=0, prepend=0.0), axis=1).sum())
        self._weights = np.where(np.arange(ALL) < 3, 1.0, TURN_ARM * self.length_m)
        turns = np.array([AXES.index(name) >= 3 if name in AXES else False for name in spec.names])
        # The longest way of a column: across the whole reach of the arm in m, half a turn in rad.
        self.farthest = np.where(turns, np.pi, 2.0 * self.length_m)

    def displacements(self, paths: np.ndarray) -> np.ndarray:
        """Displacements (…, T - 1, C), m or rad, of the action's columns between joint positions (…, T, A) rad."""
        shape = paths.shape
        arm = paths[..., : self.chain.columns].reshape(-1, self.chain.columns)
        origins, rotations = (values[:, -1] for values in self.chain.frames(arm))
        origins, rotations = origins.reshape(*shape[:-1], 3), rotations.reshape(*shape[:-1], 3, 3)
        turned = rotations[..., 1:, :, :] @ np.swapaxes(rotations[..., :-1, :, :], -1, -2)
        # A small rotation R is 1 + [w], so w is its antisymmetric part. The relative error is below 2e-3 up to 0.1 rad.
        w = 0.5 * np.stack([turned[..., i, j] - turned[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
        moved = np.concatenate([np.diff(origins, axis=-2), w], -1)
        found = np.empty((*shape[:-2], shape[-2] - 1, self._columns))
        found[..., self._cartesian] = moved[..., self._rows]
        for column, joint in self._direct:
            found[..., column] = np.diff(paths[..., joint], axis=-1)
        return found

    def joint_velocities(self, positions: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Joint velocities (S, A) rad/s for `actions` (S, C) at positions (S, A) rad, by damped least squares.

        q' = J^T (J J^T + d^2)^-1 v, with d = 0 away from singularities (Y. Nakamura, H. Hanafusa: Inverse kinematic
        solutions with singularity robustness for robot manipulator control, 1986). Of several solutions it is that of
        the least norm. It is continuous in positions and actions.

        An arm that approaches a singularity slows down as a whole, so that the tip keeps its direction: within an
        action block it does not come farther than to the singularity, and so does not swing through and back.
        """
        wanted = np.zeros((len(actions), ALL))
        wanted[:, self._rows] = actions[:, self._cartesian]
        wanted = (wanted * self._weights)[:, self._commanded]
        jacobians = self.chain.jacobian(positions[:, : self.chain.columns]) * self._weights[:, None]
        u, s, vt = np.linalg.svd(jacobians[:, self._commanded], full_matrices=False)
        near, damping = NEAR_SINGULAR * self.length_m, DAMPING * self.length_m
        damped = s * s + damping**2 * np.maximum(0.0, 1.0 - (s / near) ** 2)  # of each singular direction
        along = np.einsum("nji,nj->ni", u, wanted) / damped
        # A joint that turns by 1 rad changes a singular value, m, by about TURN_ARM * length at most.
        lost = TURN_ARM * self.length_m * self._block_s * np.linalg.norm(along, axis=1, keepdims=True)
        along = along * s / np.maximum(lost, 1.0)
        found = np.zeros((len(actions), self._joints))
        found[:, : self.chain.columns] = np.einsum("nik,ni->nk", vt, along)
        for column, joint in self._direct:
            found[:, joint] = actions[:, column]
        return found
