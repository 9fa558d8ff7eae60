# SPDX-License-Identifier: Apache-2.0
"""Reads a recording as training does: episodes of pictures, actions and joint positions.

Try it on a recording of the simulator::

    lewm collect data/some.h5 --episodes 4
    python examples/look_at_data.py data/some.h5
"""

import argparse
from pathlib import Path

import numpy as np

from lewm_model.data.clips import load_episodes
from lewm_model.data.report import report_on


def main() -> None:
    parser = argparse.ArgumentParser(description="Tells what a recording holds.")
    parser.add_argument("recording", type=Path, help="HDF5 file of lewm collect or lewm convert")
    episodes = load_episodes(parser.parse_args().recording)
    print(f"{len(episodes.lengths)} episodes of {', '.join(episodes.action_names)}, every {episodes.control_dt_s:g} s")
    for number, (offset, length) in enumerate(zip(episodes.offsets, episodes.lengths, strict=True)):
        rows = slice(offset, offset + length)
        brightness = np.mean(episodes.pixels[rows])
        fastest = np.nanmax(np.abs(episodes.actions[rows]), axis=0)
        print(f"{number}: {length} frames, brightness {brightness:.0f}, fastest {np.round(fastest, 2)}")
    print(report_on(episodes).verdict)


if __name__ == "__main__":
    main()
