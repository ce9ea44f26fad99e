"""How much of the error of rough ego motion, of a camera's clock and of its mount is removed by looking at the pictures?

python -m benchmarks.ego_refinement runs/ego --pandaset ../shared/realdata/pandaset

Simulates clips into the folder (kept for the next time), makes their exact motion rough (`labeling.motion.perturbation`: steps 1 % too
long, 0.5 degrees of drift in 10 s about an axis near the vertical, one camera's clock 20 ms wrong), refines it and compares with the truth.
PandaSet's poses are taken as the truth of real pictures; as they do not fit its pictures exactly, the rough clip's solution is also
compared with the one that is found from the poses as given. Road users are masked, and not masked; `--ablate` also leaves out, in turn,
points that pass between cameras and the road: which of them gives the scale? `--exact` refines each simulated clip from its exact
poses too: what comes out is error, and `auto` should have let them be.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from labeling.motion.masks import rectangles_of_layer
from labeling.motion.perturbation import Roughness, roughened
from labeling.motion.pictures import read_pictures
from labeling.motion.refine import Found, refine
from labeling.motion.settings import MotionSettings, RefineMotion
from labeling.motion.stage import refined_verdict
from labeling.motion.state import refined_clip
from scenes.atomic import atomic_file
from scenes.clips import Clip, find_clips
from scenes.geometry import NS_PER_S, invert_rigid, rotvec_from_rotation
from scenes.readers.command import import_dataset
from scenes.simulator.command import simulate

VARIANTS = {"all": {}, "no masks": {}, "no road": {"use_road": False}, "no crossings": {"use_crossings": False}}
"""What the settings leave out; all but "no masks" leave out the pictures of road users (the truth layer's boxes stand for a detector's)."""


SHORTEST_M = 5.0


@dataclass(frozen=True)
class MotionError:
    """How wrong a clip's motion is, both paths begun at the same pose."""

    scale: float
    """Length of the path over its true length, minus one."""
    place_m: float
    """Root mean square over the frames."""
    drift_deg_per_10s: float
    """Wrong turning from the first to the last frame."""

    @staticmethod
    def of(exact: Clip, other: Clip) -> "MotionError":
        """Compares frame poses."""
        paths = [np.stack([frame.world_from_ego for frame in clip.frames]) for clip in (exact, other)]
        true, got = (invert_rigid(path[0]) @ path for path in paths)
        lengths = [float(np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1).sum()) for path in (true, got)]
        seconds = (exact.frames[-1].timestamp_ns - exact.frames[0].timestamp_ns) / NS_PER_S
        wrong = invert_rigid(true) @ got
        turned = np.rad2deg(np.linalg.norm(rotvec_from_rotation(wrong[-1, :3, :3])))
        place_m = float(np.sqrt((wrong[:, :3, 3] ** 2).sum(axis=1).mean()))
        return MotionError(lengths[1] / max(lengths[0], 1e-9) - 1, place_m, float(turned) / seconds * 10)


@dataclass(frozen=True)
class Row:
    """One clip, one camera's clock, one variant."""

    clip: str
    kind: str
    variant: str
    length_m: float
    before: MotionError
    after: MotionError
    clock_before_ms: float
    clock_after_ms: float
    others_ms: float
    """The largest clock offset given to a camera whose clock was right."""
    found: Found
    seconds: float
    cpu_s: float
    duration_s: float


def draw_roughness(clip: Clip, rng: np.random.Generator) -> Roughness:
    """1 % too long or too short, 0.5 degrees in 10 s about an axis within 20 degrees of the vertical, 20 ms early or late on one camera."""
    tilt, side = rng.uniform(0, np.deg2rad(20)), rng.uniform(0, 2 * np.pi)
    axis = np.array([np.sin(tilt) * np.cos(side), np.sin(tilt) * np.sin(side), np.cos(tilt)]) * rng.choice([-1, 1])
    drift = np.deg2rad(0.05) * axis
    camera = str(rng.choice(clip.rig.names))
    return Roughness(0.01 * rng.choice([-1, 1]), (float(drift[0]), float(drift[1]), float(drift[2])), 0.02 * rng.choice([-1, 1]), camera)


def measure(clip: Clip, rng: np.random.Generator, variants: list[str], kind: str, solved: Found | None = None) -> list[Row]:
    """Roughens the clip once, refines it in each variant, compares with the clip's poses and with `solved`, found from its exact ones."""
    roughness = draw_roughness(clip, rng)
    rough, index = roughened(clip, roughness), clip.rig.names.index(roughness.clock_camera)
    rows, duration = [], (clip.frames[-1].timestamp_ns - clip.frames[0].timestamp_ns) / NS_PER_S
    way = np.stack([frame.world_from_ego[:3, 3] for frame in clip.frames])
    for variant in variants:
        begun, cpu = time.monotonic(), time.process_time()
        settings = replace(MotionSettings(), **VARIANTS[variant])
        movers = {} if variant == "no masks" else rectangles_of_layer(clip, clip.layer("truth"))
        found = refine(rough, settings, read_pictures(rough, settings.features.max_width_px, movers))
        if found is None:
            print(f"{clip.name}: too few fixed points, motion kept", flush=True)
            continue
        spent = (time.monotonic() - begun, time.process_time() - cpu)
        references = [(kind, clip, np.zeros(len(clip.rig)))]
        if solved is not None:
            references.append((f"{kind}, own solution", refined_clip(clip, solved.state), solved.state.clock_s))
        for against, reference, clock_s in references:
            errors = [MotionError.of(reference, one) for one in (rough, refined_clip(rough, found.state))]
            left_ms = 1e3 * (found.state.clock_s - clock_s + np.eye(len(clip.rig))[index] * roughness.clock_s)
            others = float(np.abs(np.delete(left_ms, index)).max())
            length = float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())
            name = f"{clip.name} ({roughness.clock_camera})"
            clocks = (1e3 * roughness.clock_s, float(left_ms[index]), others)
            rows.append(Row(name, against, variant, length, errors[0], errors[1], *clocks, found, *spent, duration))
            print(line_of(rows[-1]), flush=True)
    return rows


def line_of(row: Row) -> str:
    """A row of the table."""
    before, after, found = row.before, row.after, row.found
    cells = [
        row.clip, row.kind, row.variant, f"{row.length_m:.0f}", f"{100 * before.scale:+.2f} -> {100 * after.scale:+.2f}",
        f"{before.place_m:.3f} -> {after.place_m:.3f}", f"{before.drift_deg_per_10s:.2f} -> {after.drift_deg_per_10s:.3f}",
        f"{row.clock_before_ms:+.0f} -> {row.clock_after_ms:+.1f}", f"{row.others_ms:.1f}",
        f"{found.before_px:.2f} -> {found.after_px:.2f}",
        f"{found.num_tracks}, {found.num_crossings}, {found.num_road}", f"{100 * found.sigmas.scale:.2f}",
        f"{row.cpu_s:.0f} ({row.cpu_s / row.duration_s:.1f}x)",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| clip (camera with the wrong clock) | kind | with | metres | scale % | place m RMS | degrees in 10 s | clock ms | other clocks ms "
    "| pixels, median | points, crossings, road | scale sigma % | processor s (x real time) |\n|" + "---|" * 13
)


@dataclass(frozen=True)
class Spoiled:
    """What refining exact motion makes of it, and whether `auto` would have kept its hands off."""

    clip: str
    after: MotionError
    clocks_ms: float
    """The largest offset given to a camera whose clock was right."""
    found: Found
    kept: bool


def spoil(clip: Clip) -> Spoiled | None:
    """Refines a clip whose poses and clocks are exact; None if there is too little to see."""
    settings = MotionSettings()
    pictures = read_pictures(clip, settings.features.max_width_px, rectangles_of_layer(clip, clip.layer("truth")))
    found = refine(clip, settings, pictures)
    if found is None:
        return None
    verdict = refined_verdict(clip, RefineMotion.AUTO, settings, pictures=pictures)
    after = MotionError.of(clip, refined_clip(clip, found.state))
    return Spoiled(clip.name, after, 1e3 * float(np.abs(found.state.clock_s).max()), found, not verdict.refined)


def spoiled_table(rows: list[Spoiled]) -> str:
    """Errors that refining exact motion makes, and what `auto` decides."""
    lines = [
        "| clip | scale % | place m RMS | degrees in 10 s | clocks ms | pixels, median | `auto` keeps the exact motion |",
        "|---|" + "---|" * 6,
    ]
    for row in rows:
        after, px = row.after, f"{row.found.before_px:.3f} -> {row.found.after_px:.3f}"
        cells = [
            row.clip,
            f"{100 * after.scale:+.2f}",
            f"{after.place_m:.3f}",
            f"{after.drift_deg_per_10s:.3f}",
            f"{row.clocks_ms:.1f}",
            px,
        ]
        lines.append("| " + " | ".join([*cells, "yes" if row.kept else "NO"]) + " |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """Ratios after / before: of the sums over the clips (so that a clip counts by its error), and the median clip.

    Clips of less than `SHORTEST_M` are left out: who stands learns neither scale nor clocks, and needs neither.
    """
    rows = [row for row in rows if row.length_m >= SHORTEST_M]
    lines = ["| clips | with | scale | place | drift | clock | other clocks ms, median |", "|---|---|---|---|---|---|---|"]
    for kind in sorted({row.kind for row in rows}):
        for variant in VARIANTS:
            some = [row for row in rows if row.kind == kind and row.variant == variant]
            if not some:
                continue
            pairs = [
                np.array([[abs(r.before.scale), abs(r.after.scale)] for r in some]),
                np.array([[r.before.place_m, r.after.place_m] for r in some]),
                np.array([[r.before.drift_deg_per_10s, r.after.drift_deg_per_10s] for r in some]),
                np.array([[abs(r.clock_before_ms), abs(r.clock_after_ms)] for r in some]),
            ]
            cells = [f"{p[:, 1].sum() / p[:, 0].sum():.2f} (median {np.median(p[:, 1] / p[:, 0]):.2f})" for p in pairs]
            others = f"{np.median([r.others_ms for r in some]):.1f}"
            lines.append("| " + " | ".join([f"{len(some)} {kind}", variant, *cells, others]) + " |")
    return "\n".join(lines)


def main(
    folder: tyro.conf.Positional[Path],
    /,
    clips: int = 6,
    first: int = 0,
    seconds: float = 8.0,
    seed: int = 41,
    size: str = "192x528",
    pandaset: Path | None = None,
    masks_only: bool = False,
    ablate: bool = False,
    exact: bool = False,
    out: Path | None = None,
) -> None:
    """Prints the table and, with --out, writes it.

    Args:
        folder: Where the simulated clips and the imported recording lie or come to lie.
        clips: Simulated clips; 0 for none.
        first: The first of them, to share the work between several runs.
        seconds: Length of one, at ten frames a second.
        seed: Of the simulation and of the perturbations.
        size: Of the simulated pictures.
        pandaset: A PandaSet root; its sequences are measured too.
        masks_only: Leave out the runs without masks.
        ablate: Also without crossings and without the road.
        exact: Also refine the simulated clips from their exact poses.
        out: A Markdown file.
    """
    variants = list(VARIANTS) if ablate else ["all"] if masks_only else ["all", "no masks"]
    rows: list[Row] = []
    spoiled: list[Spoiled] = []
    print(HEADER)
    if clips:
        simulate(folder / "sim", clips=first + clips, seconds=seconds, hz=10.0, seed=seed, size=size)
        for number, path in list(enumerate(find_clips([folder / "sim"])))[first : first + clips]:
            rows += measure(Clip.open(path), np.random.default_rng([seed, number]), variants, "simulated")
            one = spoil(Clip.open(path)) if exact else None
            spoiled += [one] if one is not None else []
    if pandaset is not None:
        import_dataset("pandaset", pandaset, folder / "pandaset", link=True)
        for number, path in enumerate(find_clips([folder / "pandaset"])):
            clip = Clip.open(path)
            solved = refine(clip, MotionSettings(), movers_px=rectangles_of_layer(clip, clip.layer("truth")))
            for draw in range(2):
                rows += measure(clip, np.random.default_rng([seed, 1000 + number, draw]), variants, "PandaSet", solved)
    parts = ["\n".join([HEADER, *map(line_of, rows)]), "Error after over error before:", summary(rows)]
    text = "\n\n".join(parts + (["From exact poses:", spoiled_table(spoiled)] if spoiled else []))
    print("\n" + text)
    if out is not None:
        with atomic_file(out) as temporary:
            temporary.write_text(text + "\n")


if __name__ == "__main__":
    tyro.cli(main)
