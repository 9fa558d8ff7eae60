# SPDX-License-Identifier: Apache-2.0
"""What goes out of the shield, whatever goes in: random, hostile and broken inputs in any order.

The second half switches off one check of the shield at a time and expects the driver to notice, to show that it can.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lewm_ros.safety import Intervention, Reason, Shield, ShieldConfig, shield
from validation import shield_driver


def test_what_goes_out_keeps_every_limit_and_is_continuous_whatever_comes_in() -> None:
    counts = shield_driver.drive(20_000, seed=1)
    assert counts["inputs"] >= 20_000
    assert counts["honest plan: sent"] > 100
    assert counts["honest stop: sent"] > 50
    assert counts["hostile plan: sent"] > 10, "only nearly good ones try the tolerances"
    reasons = {what.removeprefix("hostile plan: ") for what in counts if what.startswith("hostile plan: ")}
    wanted = {reason.value for reason in Reason} - {
        Reason.TRACKING.value,
        Reason.CLOCK.value,
        Reason.STOP.value,
        Reason.LOST.value,  # test_execution.py
        Reason.EFFORT.value,  # test_explore.py: the driver's joint states tell no effort
        Reason.SELF_COLLISION.value,  # test_collision.py: the driver's arm is too short to reach itself
        Reason.SCALING.value,
    }
    assert wanted <= reasons


def test_the_driver_does_the_same_twice() -> None:
    assert shield_driver.drive(2_000, seed=5) == shield_driver.drive(2_000, seed=5)


def nothing(*_: object) -> None:
    """A check that is switched off."""


def without(reason: Reason) -> Callable[..., Intervention | None]:
    """`find_violation` that does not know one reason."""
    whole = shield.find_violation

    def check(*arguments: object) -> Intervention | None:
        found = whole(*arguments)  # type: ignore[arg-type]
        return None if found is not None and found.reason is reason else found

    return check


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (Reason.POSITION, "'position'"),
        (Reason.VELOCITY, "'velocity'"),
        (Reason.ACCELERATION, "'acceleration'"),
        (Reason.JERK, "'jerk'"),
        (Reason.NO_STOP, "(does not end at rest|IndexError)"),  # the shield looks for the end of a stop
        (Reason.NOT_FINITE, ""),  # the shield itself may raise
        (Reason.TIMES, ""),
    ],
)
def test_the_driver_sees_that_a_limit_is_not_checked(
    reason: Reason, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shield, "find_violation", without(reason))
    with pytest.raises(AssertionError, match=f"seed 2, episode .*{message}"):
        shield_driver.drive(60_000, seed=2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("_leaving", "out of the workspace"),
        ("_lasting", "a stop that lasts"),
        ("deadman", "the button is released"),
        ("surprise", "it is surprised"),
        ("unheard", "no controller takes the commands"),
        ("pause", "the speed is 0"),
        ("disarm", "it is not armed"),
        ("stop", "armed although stopped|and goes on|goes on after the clock jumped|it is stopped"),
    ],
)
def test_the_driver_sees_that_a_method_of_the_shield_does_nothing(
    method: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "deadman":  # pressed for ever
        pressed = Shield.deadman
        monkeypatch.setattr(Shield, method, lambda self, _: pressed(self, True))
    else:
        monkeypatch.setattr(Shield, method, nothing)
    with pytest.raises(AssertionError, match=message):
        shield_driver.drive(40_000, seed=3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("frame_timeout_s", "no frame is fresh|a plan from a frame"),
        ("joint_timeout_s", "no joint state is fresh"),
        ("deadman_timeout_s", "the button is released"),
        ("tracking_tolerance_rad", "from its command and goes on"),
        ("start_tolerance_rad", "from where the arm"),
        ("jump_tolerance_rad", "jumps by .* rad'"),
        ("jump_tolerance_rad_s", "jumps by .* rad/s"),
    ],
)
def test_the_driver_sees_that_a_tolerance_is_wider_than_it_should_be(
    setting: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Shield.__init__

    def lenient(self: Shield, limits: object, config: ShieldConfig, **arguments: object) -> None:
        wide = {setting: 3.0 * getattr(config, setting)}
        made(self, limits, ShieldConfig(**{**vars(config), **wide}), **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Shield, "__init__", lenient)
    with pytest.raises(AssertionError, match=message):
        shield_driver.drive(60_000, seed=4)


def test_what_watches_interpolates_as_a_cubic_through_points_and_velocities() -> None:
    times = np.array([0.0, 0.1, 0.15])
    motion = shield_driver.Trajectory(times, times[:, None] ** 3, 3 * times[:, None] ** 2)
    at_times, positions, velocities = shield_driver.path(motion)
    np.testing.assert_allclose(positions[:, 0], at_times**3, atol=1e-15)
    np.testing.assert_allclose(velocities[:, 0], 3 * at_times**2, atol=1e-13)
    for time, position, velocity in zip(at_times, positions, velocities, strict=True):
        np.testing.assert_allclose(shield_driver.at(motion, time), (position, velocity), atol=1e-13)
