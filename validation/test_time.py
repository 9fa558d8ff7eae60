# SPDX-License-Identifier: Apache-2.0
"""Measures the processor time of the test suite: `make test-time`, into out/tests. Exits with the status of the tests.

python -m validation.test_time [--out out/tests] [PYTEST ARGUMENT ...]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from lewm_model.evaluation.figures import write_figures


def main() -> int:
    """Runs the tests and writes tests.cpu_minutes, of all their processes, and tests.wall_minutes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/tests"))
    options, arguments = parser.parse_known_args()
    began = time.monotonic()
    status = subprocess.run([sys.executable, "-m", "pytest", *arguments]).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "tests.cpu_minutes": ((used.ru_utime + used.ru_stime) / 60.0, "min"),
        "tests.wall_minutes": ((time.monotonic() - began) / 60.0, "min"),
    }
    write_figures(options.out / "summary.json", figures, "make test-time", status=status, arguments=arguments)
    print("; ".join(f"{name} {value:.1f} {unit}" for name, (value, unit) in figures.items()))
    return status


if __name__ == "__main__":
    sys.exit(main())
