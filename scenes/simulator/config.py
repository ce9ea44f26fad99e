"""Which drive is to be simulated?"""

from dataclasses import dataclass
from pathlib import Path

from scenes.errors import ConfigError

SCENARIOS = ("highway", "city", "intersection", "parking", "crossing")
WEATHERS = ("day", "dusk", "night", "rain", "fog")
MIXED = "mixed"
LARGEST_SIDE_PX = 4096
LONGEST_S = 60
"""The roads of a clip are laid out for a drive of at most this length."""


@dataclass(frozen=True)
class SimulationConfig:
    """Everything that decides a clip's bytes, together with the clip's index."""

    seconds: float = 8.0
    """Length of a clip; a frame every 1/hz seconds, at least one."""
    hz: float = 2.0
    """Frames per second."""
    seed: int = 0
    size_hw: tuple[int, int] = (96, 256)
    """Image height and width in pixels."""
    scenario: str = MIXED
    """One of `SCENARIOS`, or `mixed`: another one each clip."""
    weather: str = MIXED
    """One of `WEATHERS`, or `mixed`: another one each clip."""
    replay: Path | None = None
    """A clip whose truth tracks and ego path are driven again instead of procedural traffic."""
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= LONGEST_S:
            raise ConfigError(
                f"--seconds: expected more than 0 and at most {LONGEST_S}, got {self.seconds:g}; choose a clip length such as 8"
            )
        if not 0 < self.hz <= 50:
            raise ConfigError(f"--hz: expected more than 0 and at most 50 frames per second, got {self.hz:g}; choose 2, as nuScenes has")
        if self.seed < 0:
            raise ConfigError(f"--seed: expected a number from 0 on, got {self.seed}; choose another seed")
        height, width = self.size_hw
        if not (16 <= height <= LARGEST_SIDE_PX and 16 <= width <= LARGEST_SIDE_PX):
            raise ConfigError(f"--size: expected sides from 16 to {LARGEST_SIDE_PX} pixels, got {height}x{width}; choose e.g. 96x256")
        _check_choice("--scenario", self.scenario, SCENARIOS)
        _check_choice("--weather", self.weather, WEATHERS)

    @property
    def num_frames(self) -> int:
        """Frames of one clip."""
        return max(1, round(self.seconds * self.hz))


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value != MIXED and value not in choices:
        raise ConfigError(f"{option}: unknown value {value!r}; expected {MIXED}, {', '.join(choices)}")


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of a text such as "96x256"."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH in pixels such as 96x256, got {text!r}; write two whole numbers with an x")
    return int(parts[0]), int(parts[1])
