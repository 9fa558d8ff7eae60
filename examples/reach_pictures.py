# SPDX-License-Identifier: Apache-2.0
"""Lets an arm reach one goal picture after the other, as your own program would.

Try it on the simulated arm::

    ros2 launch lewm_ros plan.launch.py enable:=true      # the simulated arm, in another terminal
    python examples/reach_pictures.py first.png second.png
"""

import argparse
import sys
from pathlib import Path

from lewm_ros.client import GoalClient, Outcome
from lewm_ros.goals import read_picture


def main() -> int:
    parser = argparse.ArgumentParser(description="Reaches goal pictures one after the other.")
    parser.add_argument("pictures", nargs="+", type=Path, help="of what the camera should see")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for each")
    arguments = parser.parse_args()
    with GoalClient() as client:
        for path in arguments.pictures:
            result = client.reach(read_picture(path), timeout_s=arguments.timeout)
            print(f"{path}: {result.outcome.name.lower()}: {result.text}")
            if result.outcome is not Outcome.REACHED:
                return result.outcome.value
    return 0


if __name__ == "__main__":
    sys.exit(main())
