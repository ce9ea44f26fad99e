"""Which queries stand on the same object, and which of them speaks for it? Duplicates are told apart without NonMaxSuppression.

One-to-one matching teaches queries to keep apart, but a remembered and a new query may still find one object. A query whose
neighbour of the same kind within the class's radius scores higher falls silent; the neighbour inherits its id. Only comparisons, products
and reductions over a (Q, Q) table are used, which every runtime has. How near a neighbour must be is not a matter of the last bits.
"""

import torch
from torch import Tensor
from torch.nn import functional

from scenes.boxes import TWO_WHEELERS, VEHICLE_CLASSES

REMEMBERED, ANSWERED = (1.0, 1.2), (0.5, 1.2)
"""Up to the first share of the squared radius one object is clearly meant, from the second on another. What is remembered comes back at the
next step, and two that are half remembered fight, so its border is narrow and seldom met. What is answered does not come back: over a
wide border little differences of place make less of scores."""
UNDECIDED_LOGIT = 0.5
"""An answered object may also be of a class whose logit is less below that of its likeliest, the more the less."""


def class_groups(class_names: tuple[str, ...]) -> Tensor:
    """(K,) float32: classes with the same number are so alike that one object may be found as either."""
    return torch.tensor(
        [0.0 if name in VEHICLE_CLASSES else 1.0 if name in TWO_WHEELERS else 2.0 + k for k, name in enumerate(class_names)]
    )


def same_object(box_BQ9: Tensor, class_BQ: Tensor, radius_K: Tensor, group_K: Tensor) -> Tensor:
    """(B, Q, Q) float32: how far query j stands on the object of query i: 1 if it is of its kind and within the radius of its class (and
    for i = j), 0 well beyond it; see `nearness`.
    """
    radius, group = (functional.embedding(class_BQ, values[:, None])[..., 0] for values in (radius_K, group_K))
    return nearness(box_BQ9, box_BQ9, radius) * _alike(group)


def may_be_same_object(box_BQ9: Tensor, logits_BQK: Tensor, radius_K: Tensor, group_K: Tensor) -> Tensor:
    """(B, Q, Q) float32: `same_object` for answers: neither a little difference of place nor one of logits decides anything.

    Who is undecided between two classes may be the same object as one of either kind, and has a radius between theirs.
    """
    lead_BQK = logits_BQK.amax(-1, keepdim=True) - logits_BQK
    share_BQK = (1.0 - lead_BQK * (1.0 / UNDECIDED_LOGIT)).clamp(min=0.0)  # 1 for the likeliest
    alike_BQQ = (share_BQK @ _alike(group_K).to(share_BQK.dtype) @ share_BQK.transpose(1, 2)).clamp(max=1.0)
    radius = (share_BQK * radius_K).sum(-1) / share_BQK.sum(-1)
    return nearness(box_BQ9, box_BQ9, radius, ANSWERED) * alike_BQQ


def _alike(group: Tensor) -> Tensor:
    """(..., N, N) float32: 1 where two of N groups (..., N), numbers as `class_groups` gives them, are the same."""
    return ((group[..., :, None] - group[..., None, :]).abs() < 0.5).float()


def nearness(box_BQ9: Tensor, other_BS9: Tensor, radius_BQ: Tensor, border: tuple[float, float] = REMEMBERED) -> Tensor:
    """(B, Q, S) float32: 1 for others seen from above within the radius in metres, 0 beyond; evenly in the square across the `border`, two
    shares of the squared radius.
    """
    dx, dy = (box_BQ9[:, :, None, i] - other_BS9[:, None, :, i] for i in (0, 1))
    near, far = border
    share = 1.0 / ((far - near) * radius_BQ * radius_BQ)
    return (far / (far - near) - (dx * dx + dy * dy) * share[:, :, None]).clamp(0.0, 1.0)


def speaks(score_BQ: Tensor, same_BQQ: Tensor) -> Tensor:
    """(B, Q) float32: 1 for a query that no query on the same object outscores, else as little as the nearest that does leaves it."""
    outscored = (score_BQ[:, None, :] > score_BQ[:, :, None]).float()
    return 1.0 - (same_BQQ * outscored).amax(-1)


def inherit(id_BQ: Tensor, age_BQ: Tensor, score_BQ: Tensor, same_BQQ: Tensor) -> tuple[Tensor, Tensor]:
    """(B, Q) ids and ages: a query without an id takes both over from a remembered query on the same object for which it is the best."""
    best_B1Q = (score_BQ[:, :, None] * (same_BQQ.transpose(1, 2) >= 1.0).float()).argmax(1, keepdim=True)
    index_1Q1 = torch.arange(score_BQ.shape[1], device=score_BQ.device)[None, :, None]
    heir_BQQ = (best_B1Q == index_1Q1) & (id_BQ >= 0)[:, None, :]  # j is the best of the object on which i, with an id, stands
    heir = heir_BQQ.long()  # products, because a runtime's Where takes longer
    bequeathed = (heir * (id_BQ + 1)[:, None, :]).amax(-1) - 1
    its_age = (heir.float() * age_BQ[:, None, :]).amax(-1)
    return torch.where(id_BQ >= 0, id_BQ, bequeathed), torch.where(id_BQ >= 0, age_BQ, its_age)
