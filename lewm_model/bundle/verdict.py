# SPDX-License-Identifier: Apache-2.0
"""The verdict of the preflight (`lewm doctor model`) on a bundle, and whether it still applies.

A verdict applies to the files and the planning settings that it was made with: not to other weights, heads or graphs,
nor to another horizon or deadline.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lewm_model.bundle.bundle import DECODER, Bundle
from lewm_model.config import PlanConfig

GO, NO_GO = "GO", "NO-GO"
_DRAWN = (DECODER, "onnx/decoder.onnx")  # not used for planning, so a verdict does not depend on them


@dataclass(frozen=True)
class Verdict:
    """Both are None where the preflight says GO for these files and settings."""

    no_go: str | None  # why no arm should move with the model, as a message to users
    doubt: str | None  # why the model counts as not judged, likewise


def judged(bundle: Bundle, plan: PlanConfig) -> dict[str, Any]:
    """The files and settings that a preflight judges, to be stored with its verdict."""
    return {"files": {n: h for n, h in bundle.files.items() if n not in _DRAWN}, "plan": asdict(plan)}


def verdict(bundle: Bundle, plan: PlanConfig) -> Verdict:
    """The verdict on planning with a bundle and these settings.

    A NO-GO applies to its files whatever the settings, until the model is judged again.
    """
    found = bundle.evaluation.get("preflight")
    again = f"run `lewm doctor model {bundle.folder}`"
    if not isinstance(found, dict):
        return Verdict(None, f"the model was not judged yet; {again}")
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
