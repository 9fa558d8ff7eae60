# SPDX-License-Identifier: Apache-2.0
"""The shield between planner and arm: every trajectory is checked before it is sent. Does not depend on ROS."""

from lewm_ros.safety.limits import CUBIC_RAD as CUBIC_RAD
from lewm_ros.safety.limits import CUBIC_SHARE as CUBIC_SHARE
from lewm_ros.safety.limits import MAX_STEP_S as MAX_STEP_S
from lewm_ros.safety.limits import Intervention as Intervention
from lewm_ros.safety.limits import Reason as Reason
from lewm_ros.safety.limits import find_violation as find_violation
from lewm_ros.safety.limits import state_at as state_at
from lewm_ros.safety.shield import TRANSPORT_S as TRANSPORT_S
from lewm_ros.safety.shield import Shield as Shield
from lewm_ros.safety.shield import ShieldConfig as ShieldConfig
from lewm_ros.safety.shield import State as State
