"""How does a verified fp32 graph become fp16 or int8, and what does that cost? Parts are chosen by measurement."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import ModelProto

from export.accuracy import clip_steps, measure_accuracy
from export.calibration import calibrate
from export.half import half_lowering, largest_values
from export.int8 import STYLES, UNSIGNED, int8_lowering
from export.manifest import Manifest
from export.networks import LoadedNetwork
from export.onnx_graph import attach_manifest
from export.precision import (
    Lowering,
    PrecisionChoice,
    RecordedStep,
    answered_by,
    choose_parts,
    dense_error,
    keep_worst,
    measured_parts,
    record_steps,
)
from export.runner import OnnxNetwork, initial_state
from export.static_norms import choose_norms, norm_lowering, observed_statistics
from export.steady_norms import one_node_again
from export.synthetic import synthetic_steps, verification_rigs
from export.worthwhile import slower_parts
from scenes.clips import Clip
from scenes.errors import ConfigError

PRECISIONS = ("fp32", "fp16", *STYLES)
FOR_PROCESSORS = UNSIGNED.name
"""The precision whose parts have to be faster on this machine as well."""
CALIBRATION_STEPS, CALIBRATION_DRIVES = 24, 8


@dataclass(frozen=True)
class PrecisionBudget:
    """How much a lower precision may cost."""

    points: float
    """Of mean AP (0 to 1) on the clips, where there are clips with a layer to compare with."""
    part: float
    """Where there are no such clips: relative L2 error of the dense answers in one step when one part alone is lowered."""
    total: float
    """The same of the whole."""


HALF_BUDGET = PrecisionBudget(0.001, 1e-2, 2e-2)
INT8_BUDGET = PrecisionBudget(0.005, 3e-2, 6e-2)
"""Half of the points that may be lost, because they are counted on the clips where the parts are chosen; others are measured on later."""
NORM_POINTS = 0.0025
"""Of mean AP, for constant statistics of group normalisations alone; they count within `INT8_BUDGET` too."""
FINITE = float(np.finfo(np.float64).max)
"""A limit that only infinite or undefined answers exceed: mean AP looks at boxes, and must not be all that is looked at."""
BUDGETS = {"fp16": HALF_BUDGET, **dict.fromkeys(STYLES, INT8_BUDGET)}


@dataclass(frozen=True)
class Samples:
    """What a lower precision is calibrated and judged on."""

    clips: list[Path]
    """Synthetic pictures take their place where there are none."""
    against: str = ""
    """Label layer of the clips; without it the error of the dense answers decides."""


class Judge:
    """Mean AP on clips, of an fp32 graph (measured once) and of what it is lowered to."""

    def __init__(self, proto: ModelProto, manifest: Manifest, samples: Samples) -> None:
        self.proto, self.manifest, self.samples = proto, manifest, samples
        self._before: float | None = None

    def points_lost(self, model: ModelProto) -> float:
        """How much mean AP (0 to 1) the lower precision costs."""
        if self._before is None:
            self._before = self._mean_ap(self.proto)
        return round(self._before - self._mean_ap(model), 5)

    def _mean_ap(self, model: ModelProto) -> float:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            copy = ModelProto()
            copy.CopyFrom(model)
            attach_manifest(copy, self.manifest)
            path.write_bytes(copy.SerializeToString())
            return measure_accuracy(OnnxNetwork(path), self.samples.clips, self.samples.against)["mean_ap"]


def lowered(
    proto: ModelProto,
    manifest: Manifest,
    precision: str,
    network: LoadedNetwork,
    samples: Samples,
    progress: Callable[[str], None] = lambda text: None,
    judge: Judge | None = None,
) -> tuple[ModelProto, Manifest]:
    """The graph in a lower precision, and its manifest with what stayed fp32, what each part costs and what the whole costs.

    A `judge` of the same graph may be shared by several precisions; it is made where the samples have a layer to compare with.
    """
    if precision not in BUDGETS:
        raise ConfigError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}; choose one")
    proto = one_node_again(proto)
    steps = record_steps(proto, calibration_drives(network, manifest, samples.clips), initial_state(manifest))
    budget = BUDGETS[precision]
    told: dict = {"against": "the fp32 graph, one step, relative L2 error of dense answers", "steps": len(steps)}
    judge = (judge or Judge(proto, manifest, samples)) if samples.clips and samples.against else None
    by_parts = steps  # what the parts are measured against
    if judge is not None and precision == FOR_PROCESSORS:
        norms = norm_lowering(proto, observed_statistics(proto, [step.feed for step in steps]))
        if norms.parts:
            proto, chosen, trail = choose_norms(norms, judge.points_lost, NORM_POINTS, progress)
            told["constant_statistics"] = {"norms": chosen, "points": trail}
            by_parts = answered_by(proto, steps)
    lowering = lowering_of(proto, precision, steps)
    part, total = (FINITE, FINITE) if judge is not None else (budget.part, budget.total)
    result, choice = choose_parts(lowering, by_parts, part, total, progress)
    chosen_first = choice.rules
    if judge is not None:
        if len(lowering.rules) > 1:
            _take_best_rules(judge, lowering, choice, progress)
        told["points"] = _keep_until(judge, lowering, choice, by_parts, budget.points, progress)
    if precision == FOR_PROCESSORS:
        slower = slower_parts(lowering, choice.rules, steps[-1].feed)
        progress(f"no faster than in fp32, and therefore left in it: {', '.join(slower) or 'nothing'}")
        told["fp32_because_faster"] = slower
        for entry in choice.parts:
            entry.kept |= entry.part in slower
    if choice.rules != chosen_first:
        result = lowering.convert(choice.rules)
    choice.error = dense_error(result, steps)
    verification = {**manifest.verification, "precision": told | _choice_json(choice)}
    return result, replace(manifest, precision=precision, verification=verification)


def lowering_of(proto: ModelProto, precision: str, steps: list[RecordedStep]) -> Lowering:
    """How this precision is made."""
    if precision == "fp16":
        return half_lowering(proto, largest_values(proto, [step.feed for step in steps]))
    return int8_lowering(proto, calibrate(proto, [step.feed for step in steps]), STYLES[precision])


def _take_best_rules(judge: Judge, lowering: Lowering, choice: PrecisionChoice, progress: Callable[[str], None]) -> None:
    """One rule for all parts instead of each part's own, where mean AP likes that better: it need not agree with the dense answers."""
    own = {entry.part: entry.rule for entry in choice.parts}
    attempts = {"each its own": own} | {rule: dict.fromkeys(own, rule) for rule in lowering.rules}
    lost = {name: judge.points_lost(lowering.convert(rules)) for name, rules in attempts.items()}
    progress("mean AP falls by " + ", ".join(f"{points:.4f} (ranges: {name})" for name, points in lost.items()))
    best = attempts[min(lost, key=lambda name: lost[name])]
    for entry in choice.parts:
        entry.rule = best[entry.part]


def _keep_until(
    judge: Judge,
    lowering: Lowering,
    choice: PrecisionChoice,
    steps: list[RecordedStep],
    allowed: float,
    progress: Callable[[str], None],
) -> list[float]:
    """Keeps the worst part in fp32 until mean AP falls by no more than allowed; the fall at each attempt."""
    trail = []
    while True:
        converted = lowering.convert(choice.rules)
        trail.append(judge.points_lost(converted))
        progress(f"mean AP falls by {trail[-1]:.4f}; fp32 kept: {choice.keep or 'nothing'}")
        if (trail[-1] <= allowed and dense_error(converted, steps) <= FINITE) or not choice.rules:
            return trail
        if any(np.isnan(entry.error) for entry in choice.parts):
            choice.parts = measured_parts(lowering, steps, FINITE, progress).parts
        keep_worst(choice)


def calibration_drives(network: LoadedNetwork, manifest: Manifest, clips: list[Path]) -> list[Iterable[dict[str, np.ndarray]]]:
    """Short drives of real clips, or of synthetic pictures where there are none."""
    if clips:
        chosen = clips[:: max(1, len(clips) // CALIBRATION_DRIVES)][:CALIBRATION_DRIVES]
        return [list(clip_steps(Clip.open(path), manifest.input_hw))[: CALIBRATION_STEPS // len(chosen)] for path in chosen]
    rigs = verification_rigs(manifest.input_hw, manifest.num_cameras)
    return [synthetic_steps(rig, network.config, 3, number, manifest.num_cameras) for number, rig in enumerate(rigs)]


def _choice_json(choice: PrecisionChoice) -> dict:
    return {
        "error": float(f"{choice.error:.3g}"),
        "kept_fp32": choice.keep,
        "parts": {entry.part: float(f"{entry.error:.3g}") for entry in choice.parts if np.isfinite(entry.error)},
        "rules": choice.rules,
    }
