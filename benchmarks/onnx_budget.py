"""Is `--budget-ms` honoured? All candidates once, then three budgets: the chosen file timed anew, and what else would have fitted.

    python -m benchmarks.onnx_budget FOLDER        # files of benchmarks.onnx_precision: accuracy stands in their manifests
    python -m benchmarks.onnx_budget nano --calibrate TRAINING_CLIPS --data VALIDATION_CLIPS       # makes and measures them itself

The budgets lie between the candidates' times (a tenth above the fastest, half-way between two in the middle, a tenth above the slowest)
unless given. Exit status 1 if a chosen file's p90, measured once more in a session of its own, is over the budget, a more accurate
candidate fits, or a budget is refused.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from export.budget import BudgetSettings, choose, make_candidates, measured_in_turns_ms, measured_p90_ms, write_choice
from export.command import parse_sizes
from export.lower import Samples
from export.pareto import Candidate, table
from export.runner import OnnxNetwork
from scenes.clips import find_clips
from scenes.errors import ConfigError


def budgets(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER|CHECKPOINT")],
    calibrate: tuple[Path, ...] = (),
    data: tuple[Path, ...] = (),
    budget_ms: tuple[float, ...] = (),
    also: tuple[str, ...] = (),
    input_sizes: tuple[str, ...] = ("64x192",),
    calibration_clips: int = 6,
    cpu_time: bool = False,
) -> int:
    """Makes the candidates, chooses for every budget, measures again.

    Args:
        what: A folder of exported files with accuracy in their manifests, or a checkpoint.
        calibrate: Clips for int8.
        data: Clips that accuracy is measured on.
        budget_ms: Budgets; default three that lie between the candidates' times.
        also: Further checkpoints that compete.
        input_sizes: Further picture sizes, ROWSxCOLUMNS.
        calibration_clips: How many of the clips of `calibrate` are used.
        cpu_time: On a machine that others use too: processor time of one thread instead of the clock's.
    """
    console = Console(highlight=False, width=140)
    failed, threads = 0, 1 if cpu_time else None
    with TemporaryDirectory() as folder:
        if Path(what).is_dir():
            settings = BudgetSettings([Path(what)], Samples([], "truth"), threads=threads, cpu_time=cpu_time)
            found = ready_candidates(Path(what), settings)
        else:
            chosen = find_clips(list(calibrate))
            samples = Samples(chosen[:: max(1, len(chosen) // calibration_clips)][:calibration_clips], "truth")
            sizes = parse_sizes(input_sizes)
            settings = BudgetSettings(find_clips(list(data)), samples, threads=threads, cpu_time=cpu_time, input_sizes=sizes)
            found = make_candidates([what, *also], Path(folder), settings, console.print)
        times = sorted(entry.latency_ms for entry, _ in found)
        half = float(np.mean(times[(len(times) - 1) // 2 :][:2]))  # not the time of any of them: that would be kept by luck alone
        for limit in budget_ms or (1.1 * times[0], half, 1.1 * times[-1]):
            out = Path(folder) / "chosen.onnx"
            try:
                best = write_choice(found, out, limit, settings)
            except ConfigError as error:  # on a machine that has become slower meanwhile
                console.print(str(error))
                failed += 1
                continue
            console.print(table([entry for entry, _ in found], best, limit))
            again_ms = measured_p90_ms(out, settings)
            better = [e.name for e, _ in found if e.latency_ms <= limit and e.accuracy > best.accuracy]
            console.print(f"budget {limit:.1f} ms: {best.name}, p90 measured again {again_ms:.1f} ms; more accurate and fitting: {better}")
            failed += again_ms > limit or bool(better)
        try:
            choose([entry for entry, _ in found], 0.1)
        except ConfigError as error:
            console.print(f"too small a budget says: {error}")
    return 1 if failed else 0


def ready_candidates(folder: Path, settings: BudgetSettings) -> list[tuple[Candidate, Path]]:
    """The files of a folder whose accuracy is known, timed here."""
    known = {path: OnnxNetwork(path).manifest.accuracy for path in sorted(folder.glob("*.onnx"))}
    accuracy = {path: float(values[settings.metric]) for path, values in known.items() if settings.metric in values}
    times = dict(zip(accuracy, measured_in_turns_ms(list(accuracy), settings), strict=True))
    return [(Candidate(path.stem, times[path], False, accuracy[path], path.stat().st_size / 1e6), path) for path in accuracy]


if __name__ == "__main__":
    raise SystemExit(tyro.cli(budgets))
