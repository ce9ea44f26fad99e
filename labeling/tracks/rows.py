"""Which rows belong to which track when all tracks lie one after another in one array? Sums, medians, neighbours of such rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class TrackRows:
    """R rows of K tracks, track after track; each track has at least one."""

    count: np.ndarray
    """(K,) int64 rows of each track."""

    @classmethod
    def of_parts(cls, parts: list[np.ndarray]) -> "TrackRows":
        """The layout of arrays that are about to be concatenated."""
        return cls(np.array([len(part) for part in parts], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.count)

    @cached_property
    def total(self) -> int:
        """R."""
        return int(self.count.sum())

    @cached_property
    def end(self) -> np.ndarray:
        """(K,) one past each track's last row."""
        return np.cumsum(self.count)

    @cached_property
    def first(self) -> np.ndarray:
        """(K,) each track's first row."""
        return self.end - self.count

    @cached_property
    def owner(self) -> np.ndarray:
        """(R,) the track of each row."""
        return np.repeat(np.arange(len(self.count)), self.count)

    def sums(self, value: np.ndarray) -> np.ndarray:
        """(K, ...) sum over each track's rows of `value` (R, ...), real or complex."""
        return np.add.reduceat(value, self.first, axis=0) if len(self) else value[:0]

    def largest(self, value: np.ndarray) -> np.ndarray:
        """(K,) of `value` (R,)."""
        return np.maximum.reduceat(value, self.first) if len(self) else value[:0]

    def any(self, mask: np.ndarray) -> np.ndarray:
        """(K,) whether any row of each track is true in `mask` (R,)."""
        return np.logical_or.reduceat(mask, self.first) if len(self) else mask[:0]

    def running(self, value: np.ndarray) -> np.ndarray:
        """(R,) sum of `value` from the track's first row up to each row."""
        total = np.cumsum(value)
        before = np.concatenate([[0.0], total])[self.first]
        return total - before[self.owner]

    def quantile(self, value: np.ndarray, weight: np.ndarray, share: float = 0.5) -> np.ndarray:
        """(K,) smallest value of each track that leaves at least this share of its weight at or below."""
        order = np.lexsort((value, self.owner))
        reached = np.cumsum(weight[order])
        before = np.concatenate([[0.0], reached])[self.first]
        target = before + share * (reached[self.end - 1] - before)
        at = np.searchsorted(reached, target - 1e-12 * np.abs(target)).clip(self.first, self.end - 1)
        return value[order][at]

    def previous(self, mask: np.ndarray) -> np.ndarray:
        """(R,) the nearest row at or before each row in the same track that is true in `mask`; -1 where there is none."""
        at = np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1)) if len(mask) else np.zeros(0, dtype=np.int64)
        return np.where(at >= self.first[self.owner], at, -1)

    def following(self, mask: np.ndarray) -> np.ndarray:
        """(R,) the nearest row at or after each row in the same track that is true in `mask`; -1 where there is none."""
        num = len(mask)
        at = np.minimum.accumulate(np.where(mask, np.arange(num), num)[::-1])[::-1] if num else np.zeros(0, dtype=np.int64)
        return np.where(at < self.end[self.owner], at, -1)

    def neighbours(self, time_s: np.ndarray, reach_s: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Pairs of rows (a, b, seconds apart) of one track, a before b, up to `reach_s` apart; one batch a distance in rows."""
        for step in range(1, int(self.count.max(initial=1))):
            apart_s = time_s[step:] - time_s[:-step]
            a = np.flatnonzero((self.owner[step:] == self.owner[:-step]) & (apart_s <= reach_s))
            if not len(a):
                return
            yield a, a + step, apart_s[a]

    def clock(self, time_s: np.ndarray) -> np.ndarray:
        """(R,) times that ascend over all rows: each track on a stretch of its own, so that one `np.interp` serves all."""
        span_s = float(np.ptp(time_s)) + 1.0 if len(time_s) else 1.0
        return time_s - (time_s.min() if len(time_s) else 0.0) + span_s * self.owner

    def rows_of(self, tracks: np.ndarray) -> np.ndarray:
        """The rows of some tracks (a mask (K,)), in order."""
        return np.flatnonzero(tracks[self.owner])
