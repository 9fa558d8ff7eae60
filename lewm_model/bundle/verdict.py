# SPDX-License-Identifier: Apache-2.0
"""What the preflight (`lewm doctor model`) said of a bundle, and whether that still holds.

A verdict is on files and on settings: other weights, heads or graphs, or plans that look farther ahead or have less
time, were not judged by it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lewm_model.bundle.bundle import DECODER, Bundle
from lewm_model.config import PlanConfig

GO, NO_GO = "GO", "NO-GO"
_DRAWN = (DECODER, "onnx/decoder.onnx")  # nothing is planned with them


@dataclass(frozen=True)
class Verdict:
    """Both None: the preflight says GO, of just these files and settings."""

    no_go: str | None  # why no arm should move with the model
    doubt: str | None  # why nobody knows whether it can be planned with


def judged(bundle: Bundle, plan: PlanConfig) -> dict[str, Any]:
    """What a preflight judges, to be kept with its verdict."""
    return {"files": {n: h for n, h in bundle.files.items() if n not in _DRAWN}, "plan": asdict(plan)}


def verdict(bundle: Bundle, plan: PlanConfig) -> Verdict:
    """What the preflight of a bundle says of planning with these settings.

    A NO-GO stands until the model is judged again, whatever the settings; it goes with the files that it was of.
    """
    found = bundle.evaluation.get("preflight")
    again = f"run `lewm doctor model {bundle.folder}`"
    if not isinstance(found, dict):
        return Verdict(None, f"nobody knows whether the model can be planned with; {again}")
    then, now = found.get("judged"), judged(bundle, plan)
    if isinstance(then, dict) and then.get("files") != now["files"]:
        return Verdict(None, f"the model counts as not judged: its files are not those that the preflight saw; {again}")
    if found.get("verdict") != GO:
        reason = str(found.get("reason"))[:300]
        return Verdict(f"the preflight of the model in {bundle.folder} says {NO_GO}: {reason}", None)
    if not isinstance(then, dict) or not isinstance(then.get("plan"), dict):
        return Verdict(None, f"the model counts as not judged: its preflight does not say what it saw; {again}")
    other = [
        f"plan.{name} {then['plan'][name]}, not {value}"
        for name, value in now["plan"].items()
        if then["plan"].get(name, value) != value
    ]
    if other:
        return Verdict(None, f"the model counts as not judged: its preflight was with {'; '.join(other)}; {again}")
    return Verdict(None, None)
