"""Which parts of the network bear a lower precision? Measured: each part alone, then all that passed together.

Steps are recorded from the fp32 graph with the state it carried; every candidate gets those very states, so that an error is that of
one step and not of a history that went another way. The error is the relative L2 distance of the dense answers, which neither TopK
nor ids make jump.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, helper

PART_STEPS = 6
"""Steps on which a part alone is measured; the whole is measured on all."""
DENSE_OUTPUTS = ("occupancy_confidence", "flow", "next_bev", "scores")


@dataclass
class RecordedStep:
    """One step of the fp32 graph: everything that went in, and its dense answers."""

    feed: dict[str, np.ndarray]
    dense: dict[str, np.ndarray]


@dataclass
class PartError:
    """What a lower precision costs when only this part has it."""

    part: str
    rule: str
    """The conversion rule it takes: the one that cost least, until accuracy says otherwise."""
    errors: dict[str, float]
    """By rule; empty: not measured, because everything together was good enough."""
    kept: bool
    """True: the part stays fp32."""

    @property
    def error(self) -> float:
        """By the rule it takes; NaN if it was not measured."""
        return self.errors.get(self.rule, float("nan"))


@dataclass
class PrecisionChoice:
    """The parts that stay fp32, and the measurements behind it."""

    parts: list[PartError] = field(default_factory=list)
    error: float = 0.0
    """Of the whole graph with that choice."""

    @property
    def keep(self) -> list[str]:
        """Parts that stay fp32."""
        return [entry.part for entry in self.parts if entry.kept]

    @property
    def rules(self) -> dict[str, str]:
        """Every converted part and its rule."""
        return {entry.part: entry.rule for entry in self.parts if not entry.kept}


@dataclass(frozen=True)
class Lowering:
    """A way to lower the precision of a graph's parts."""

    parts: list[str]
    """Those that it can lower."""
    rules: tuple[str, ...]
    """Ways to do it, of which each part takes its best."""
    convert: Callable[[Mapping[str, str]], ModelProto]
    """Part to rule, for the parts to lower, to the converted graph."""


def session_of(model: ModelProto, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A CPU session of a graph in memory."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, names: list[str], feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of those names."""
    return {name: np.asarray(value) for name, value in zip(names, session.run(names, feed), strict=True)}


def observed(model: ModelProto, names: list[str], feeds: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Step by step what some tensors of a graph hold, whether they are outputs or not."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    session = session_of(probe)
    for feed in feeds:
        yield run_session(session, names, feed)


def record_steps(
    model: ModelProto, drives: Iterable[Iterable[dict[str, np.ndarray]]], initial: dict[str, np.ndarray]
) -> list[RecordedStep]:
    """Streams drives (each a sequence of step inputs) through the fp32 graph, each from an empty state."""
    session = session_of(model)
    names = [output.name for output in session.get_outputs()]
    dense_names = [name for name in DENSE_OUTPUTS if name in names]
    recorded = []
    for drive in drives:
        state = initial
        for inputs in drive:
            feed = {**inputs, **state}
            answers = run_session(session, names, feed)
            recorded.append(RecordedStep(feed, {name: answers[name] for name in dense_names}))
            state = {name: answers[f"next_{name.removeprefix('state_')}"] for name in initial}
    return recorded


def answered_by(model: ModelProto, steps: list[RecordedStep]) -> list[RecordedStep]:
    """The same inputs with another graph's dense answers."""
    answers = observed(model, list(steps[0].dense), (step.feed for step in steps))
    return [RecordedStep(step.feed, dense) for step, dense in zip(steps, answers, strict=True)]


def dense_error(model: ModelProto, steps: list[RecordedStep]) -> float:
    """The largest mean relative L2 error of a dense answer over the steps; infinite if anything is not finite."""
    session = session_of(model)
    names = list(steps[0].dense)
    errors: dict[str, list[float]] = {name: [] for name in names}
    for step in steps:
        for name, got in run_session(session, names, step.feed).items():
            want = step.dense[name].astype(np.float64)
            distance = np.linalg.norm(got.astype(np.float64) - want) / max(np.linalg.norm(want), 1e-9)
            errors[name].append(float(distance) if np.isfinite(got).all() else float("inf"))
    return max(float(np.mean(values)) for values in errors.values())


def choose_parts(
    lowering: Lowering,
    steps: list[RecordedStep],
    part_budget: float,
    total_budget: float,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[ModelProto, PrecisionChoice]:
    """The converted graph whose parts were chosen by measurement.

    Args:
        part_budget: A part that alone costs more, by its best rule, stays fp32.
        total_budget: While the whole costs more, the worst remaining part is kept too.
    """
    if len(lowering.rules) == 1:  # nothing to choose but what to keep: if all together is good enough, no part has to be looked at
        choice = PrecisionChoice([PartError(part, lowering.rules[0], {}, False) for part in lowering.parts])
        converted = lowering.convert(choice.rules)
        choice.error = dense_error(converted, steps)
        if choice.error <= total_budget:
            return converted, choice
    choice = measured_parts(lowering, steps, part_budget, progress)
    while True:
        converted = lowering.convert(choice.rules)
        choice.error = dense_error(converted, steps)
        if choice.error <= total_budget or not choice.rules:
            return converted, choice
        keep_worst(choice)


def measured_parts(
    lowering: Lowering, steps: list[RecordedStep], part_budget: float, progress: Callable[[str], None] = lambda text: None
) -> PrecisionChoice:
    """Every part alone, by its best rule, on a few of the steps."""
    few = steps[:: max(1, len(steps) // PART_STEPS)]
    found = []
    for part in lowering.parts:
        errors = {rule: dense_error(lowering.convert({part: rule}), few) for rule in lowering.rules}
        rule = min(errors, key=lambda name: errors[name])
        found.append(PartError(part, rule, errors, errors[rule] > part_budget))
        progress(f"{part}: {errors[rule]:.2e}{' (stays fp32)' if found[-1].kept else ''}")
    return PrecisionChoice(found)


def keep_worst(choice: PrecisionChoice) -> None:
    """Of the parts that are lowered, the one that alone costs most stays fp32 from now on."""
    max((entry for entry in choice.parts if not entry.kept), key=lambda entry: entry.error).kept = True
