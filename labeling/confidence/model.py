"""With which probability is a box's centre within 0.5, 1 and 2 m? A chain of logistic models: nearer is never likelier than farther.

The first model gives P(within 2 m), the next P(within 1 m | within 2 m), the last P(within 0.5 m | within 1 m), each for each kind of
object, fitted with a ridge on boxes whose truth is known (`labeling.confidence.fit`). Products of the chain are the three probabilities.
"""

from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from labeling.confidence.features import FEATURES, GROUP_NAMES, BoxRows
from labeling.tracks.confidence import logistic
from scenes.atomic import read_json, write_json
from scenes.boxes import CENTRE_DISTANCES_M
from scenes.errors import ConfigError, DataError

CONFIDENCE_SCHEMA_VERSION = 1
CHAIN_M = tuple(reversed(CENTRE_DISTANCES_M))
"""Distances in the order of the chain: the widest first."""
FEWEST_BOXES = 40
"""A model is fitted for a kind of object only with so many right and so many wrong boxes; otherwise that of all kinds serves."""
EVERYTHING = "all"


@dataclass(frozen=True)
class CentreModel:
    """Weights of the chain for each kind of object and for all together."""

    weights: dict[str, list[list[float]]]
    """Group name (or "all") to, for each distance of `CHAIN_M`, the bias and the weights of `features`."""
    fitted_on: dict = field(default_factory=dict)
    """What it was fitted and checked on, for people."""
    features: tuple[str, ...] = FEATURES
    """Those of `labeling.confidence.features.FEATURES` that it reads: what tells boxes apart depends on where they came from."""

    def within(self, rows: BoxRows) -> np.ndarray:
        """(F, 3) probabilities, columns as `CENTRE_DISTANCES_M`."""
        read = [FEATURES.index(name) for name in self.features]
        design = np.concatenate([np.ones((len(rows), 1)), rows.features[:, read]], axis=1)
        chain = np.ones((len(rows), len(CHAIN_M)))
        for k, name in enumerate(GROUP_NAMES):
            mine = rows.group == k
            chain[mine] = logistic(design[mine] @ np.array(self.weights.get(name, self.weights[EVERYTHING])).T)
        return np.cumprod(chain, axis=1)[:, ::-1]

    def with_own_widest(self) -> "CentreModel":
        """The same but for the widest distance: there the tracks' own probability stands."""
        own = [0.0, *(float(name == "odds") for name in self.features)]
        return replace(self, weights={name: [own, *rows[1:]] for name, rows in self.weights.items()})

    def save(self, path: Path) -> None:
        """Writes the weights as JSON."""
        write_json(path, {"schema_version": CONFIDENCE_SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "CentreModel":
        """Reads what `save` wrote; another program's file is refused with `DataError`."""
        values = read_json(path)
        features = tuple(values.get("features", ()))
        if not features or not set(features) <= set(FEATURES) or values.get("schema_version") != CONFIDENCE_SCHEMA_VERSION:
            raise DataError(f"{path}: expected confidence weights for some of {', '.join(FEATURES)}, got others; fit them again")
        shape = (len(CHAIN_M), 1 + len(features))
        for name, rows in values["weights"].items():
            if np.shape(rows) != shape or not np.isfinite(np.array(rows, dtype=np.float64)).all():
                raise DataError(f"{path}, {name}: expected {shape[0]} rows of {shape[1]} finite weights; fit them again")
        if EVERYTHING not in values["weights"]:
            raise DataError(f"{path}: expected weights for {EVERYTHING!r}, got {', '.join(values['weights']) or 'none'}; fit them again")
        return cls(values["weights"], values.get("fitted_on", {}), features)

    @classmethod
    def shipped(cls, name: str) -> "CentreModel":
        """One of the models that come with the program: see `shipped_path`."""
        return cls.load(shipped_path(name))


def shipped_path(name: str) -> Path:
    """The file of a shipped model; an unknown name is refused with those that exist."""
    folder = Path(str(resources.files("labeling.confidence") / "shipped"))
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json")))
        raise ConfigError(f"confidence: expected one of {known} or a file, got {name!r}; fit one with python -m labeling.confidence.fit")
    return path


def fitted_model(rows: list[BoxRows], distance_m: list[np.ndarray], ridge: float = 5.0) -> CentreModel:
    """The model that makes known distances (F,) of each clip's boxes most likely; infinite where a box is wrong, NaN where unknown."""
    features = np.concatenate([part.features for part in rows])
    group = np.concatenate([part.group for part in rows])
    apart_m = np.concatenate(distance_m)
    known = ~np.isnan(apart_m)
    weights = {EVERYTHING: _fitted_chain(features[known], apart_m[known], ridge, None)}
    for k, name in enumerate(GROUP_NAMES):
        mine = known & (group == k)
        weights[name] = _fitted_chain(features[mine], apart_m[mine], ridge, weights[EVERYTHING])
    return CentreModel(weights)


def _fitted_chain(features: np.ndarray, apart_m: np.ndarray, ridge: float, fallback: list[list[float]] | None) -> list[list[float]]:
    chain = []
    for k, within_m in enumerate(CHAIN_M):
        among = apart_m < (CHAIN_M[k - 1] if k else np.inf) if k else np.ones(len(apart_m), dtype=bool)
        is_right = apart_m[among] < within_m
        if fallback is not None and min(is_right.sum(), (~is_right).sum()) < FEWEST_BOXES:
            chain.append(fallback[k])
        else:
            chain.append(_fitted(features[among], is_right, ridge))
    return chain


def _fitted(features: np.ndarray, is_right: np.ndarray, ridge: float) -> list[float]:
    """Bias and weights on raw features; the ridge acts on standardised ones."""
    if not len(features):
        return [0.0] * (1 + features.shape[1])
    middle, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    design = np.concatenate([np.ones((len(features), 1)), (features - middle) / spread], axis=1)
    sign = np.where(is_right, 1.0, -1.0)
    penalty = ridge * np.array([0.0] + [1.0] * features.shape[1])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (design @ weights)
        value = np.logaddexp(0, -margin).sum() + (penalty * weights**2).sum() / 2
        return float(value), design.T @ (-sign * logistic(-margin)) + penalty * weights

    best = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    weights = best[1:] / spread
    return [round(float(best[0] - weights @ middle), 5), *np.round(weights, 5).tolist()]
