"""Which parts of the network gain nothing from a lower precision? Timed side by side, part by part."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from onnx import ModelProto

from export.precision import Lowering, session_of

ROUNDS, STEPS_A_ROUND = 6, 3
ENOUGH_S = 8.0
"""A comparison of large graphs ends after this time, but not before two rounds."""
CLEARLY = 0.005
"""A part stays fp32 only where the step takes by this share less time then: less is noise."""
TIMES = 3
"""A busy neighbour in the same core moves a single comparison by a tenth."""

Measure = Callable[[ModelProto, ModelProto, dict[str, np.ndarray]], float]
"""How many times as long as the first graph the second takes for one step."""


def relative_time(first: ModelProto, second: ModelProto, feed: dict[str, np.ndarray]) -> float:
    """Processor time of one thread, the least of many steps in turns, so that neither what else runs nor its caches count."""
    sessions = [session_of(model, threads=1) for model in (first, second)]
    least, began = [float("inf")] * 2, time.process_time()
    for done in range(ROUNDS):
        if done >= 2 and time.process_time() - began > ENOUGH_S:
            break
        for number, session in enumerate(sessions):
            for _ in range(STEPS_A_ROUND):
                start = time.process_time()
                session.run(None, feed)
                least[number] = min(least[number], time.process_time() - start)
    return least[1] / least[0]


def slower_parts(lowering: Lowering, rules: Mapping[str, str], feed: dict[str, np.ndarray], measure: Measure = relative_time) -> list[str]:
    """The lowered parts without which the graph is clearly faster, each left away alone; found so every time of `TIMES`."""
    together = lowering.convert(rules)

    def is_slower(part: str) -> bool:
        without = lowering.convert({other: rule for other, rule in rules.items() if other != part})
        return all(measure(together, without, feed) < 1.0 - CLEARLY for _ in range(TIMES))

    return [part for part in rules if is_slower(part)]
