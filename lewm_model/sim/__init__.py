# SPDX-License-Identifier: Apache-2.0
"""SDF world -> MuJoCo: steps, renders and takes trajectories like the arm. Imports neither torch nor ROS.

Rendering needs no display: EGL on the CPU. `LP_NUM_THREADS=0` makes small pictures about twice as fast, because
Mesa's software renderer then works in the calling thread. Both are read when MuJoCo and Mesa load, hence here.
"""

import os

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
