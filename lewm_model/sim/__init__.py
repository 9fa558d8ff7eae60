# SPDX-License-Identifier: Apache-2.0
"""The simulator: worlds in MuJoCo that take joint trajectories and give pictures, as a real arm with a camera does.
Imports neither torch nor ROS.

Rendering needs no display: EGL on the CPU. `LP_NUM_THREADS=0` makes small pictures about twice as fast, because
Mesa's software renderer then works in the calling thread. Both variables are read when MuJoCo and Mesa are loaded, so
they are set here.
"""

import os

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
