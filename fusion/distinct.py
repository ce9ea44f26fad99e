"""Which queries stand on the same object, and which of them speaks for it? Duplicates are told apart without NonMaxSuppression.

One-to-one matching teaches queries to keep apart, but a remembered and a new query may still find one object. A query whose
neighbour of the same kind within the class's radius scores clearly higher falls silent; the neighbour inherits its id. Of twins that
score about the same neither is silenced by the last bits: how far a query speaks is a continuous number (`fusion.gradual`).
Only arithmetic and reductions over a (Q, Q) table are used, which every runtime has.
"""

import torch
from torch import Tensor

from fusion.gradual import class_shares, ramp
from scenes.boxes import TWO_WHEELERS, VEHICLE_CLASSES

CLEAR_LEAD = 0.03
"""A query falls silent when another on the same object scores higher by this share; with a smaller lead it speaks in part."""


def class_kinds(class_names: tuple[str, ...]) -> Tensor:
    """(K, K) float32: 1 for classes so alike that one object may be found as either."""
    groups = [0 if name in VEHICLE_CLASSES else 1 if name in TWO_WHEELERS else 2 + k for k, name in enumerate(class_names)]
    return torch.tensor([[float(one == other) for other in groups] for one in groups])


def nearness(box_BQ9: Tensor, other_BS9: Tensor, radius_BQ: Tensor) -> Tensor:
    """(B, Q, S): 1 within about nine tenths of the radius of a box, 0 beyond eleven tenths, half at the radius."""
    dx, dy = (box_BQ9[:, :, None, i] - other_BS9[:, None, :, i] for i in (0, 1))
    return ramp(1.2 - (dx * dx + dy * dy) / (radius_BQ * radius_BQ)[:, :, None], 0.4)


def same_object(box_BQ9: Tensor, logits_BQK: Tensor, radius_K: Tensor, kinds_KK: Tensor) -> Tensor:
    """(B, Q, Q) in [0, 1]: how far query j lies within the radius of query i's class and is of its kind."""
    shares = class_shares(logits_BQK)
    return nearness(box_BQ9, box_BQ9, shares @ radius_K) * (shares @ kinds_KK @ shares.transpose(1, 2))


def speaks(score_BQ: Tensor, same_BQQ: Tensor) -> Tensor:
    """(B, Q) in [0, 1]: 1 for a query that no query on the same object outscores, 0 where one does clearly."""
    share = score_BQ[:, :, None] / score_BQ[:, None, :].clamp(min=1e-6)
    return 1.0 - (same_BQQ * ramp(1.0 - share, CLEAR_LEAD)).amax(-1)


def inherit(id_BQ: Tensor, age_BQ: Tensor, score_BQ: Tensor, same_BQQ: Tensor) -> tuple[Tensor, Tensor]:
    """(B, Q) ids and ages: a query without an id takes over from a remembered query on the same object for which it is the best.

    The remembered query then no longer has the id: no two queries share one.
    """
    best_B1Q = (score_BQ[:, :, None] * (same_BQQ.transpose(1, 2) > 0.5).float()).argmax(1, keepdim=True)
    index_1Q1 = torch.arange(score_BQ.shape[1], device=score_BQ.device)[None, :, None]
    heir_BQQ = (best_B1Q == index_1Q1) & (id_BQ < 0)[:, :, None]  # j is the heir of i
    inherited = torch.where(heir_BQQ, id_BQ[:, None, :], torch.full_like(id_BQ, -1)[:, None, :]).amax(-1)
    its_age = torch.where(heir_BQQ & (id_BQ >= 0)[:, None, :], age_BQ[:, None, :], torch.zeros_like(age_BQ)[:, None, :]).amax(-1)
    gone = heir_BQQ.float().amax(1) > 0.5
    return torch.where(id_BQ >= 0, torch.where(gone, -1, id_BQ), inherited), torch.where(id_BQ >= 0, age_BQ, its_age)
