"""Which extra queries does training add? `DenoisingQueries`: noised true boxes that the layers learn to mend."""

from dataclasses import dataclass

from torch import Tensor

from fusion.interface import _TensorStruct


@dataclass
class DenoisingQueries(_TensorStruct):
    """M noised boxes a clip, appended after all other queries. Ordinary queries never see them; they see their own group."""

    box_BM9: Tensor
    """Noised boxes in the ego frame at the reference time; finite everywhere (padding too)."""
    class_BM: Tensor
    """int64 class shown to the network (may be wrong on purpose); 0 in padding."""
    mask_BM: Tensor
    """float32, 1 for a real query, 0 for padding."""
    group_BM: Tensor
    """int64 group; queries of different groups do not see each other (one noised copy of the frame is one group)."""
