"""What does the car know now? `Surround`: N cameras and the memory of before become a 4D world and the memory for later."""

import torch
from torch import Tensor, nn

from fusion.atlas import Atlas
from fusion.bev import BevEncoder, DenseHead
from fusion.config import ModelConfig
from fusion.denoising import DenoisingQueries
from fusion.distinct import class_groups, inherit, may_be_same_object, same_object, speaks
from fusion.interface import Detections, LayerOutput, StepInput, StepOutput, WorldState
from fusion.kinematics import followed, recalled
from fusion.layer import Surroundings
from fusion.lenses import GEOMETRY_CHANNELS, Lenses, ground_distance, ray_geometry, read_lenses
from fusion.lifting import Lifting
from fusion.memory import Candidates, empty_state, forget_invalid, move_boxes, push_maps, remember_objects, warp_maps
from fusion.objects import BevTokens, Decoder, Queries, QuerySource, denoising_apart
from fusion.occupancy import OccupancyHead
from perception.backbone import Backbone
from perception.camera_network import CameraNetwork
from perception.depth import DepthBins


class Surround(nn.Module):
    """The network of ARCHITECTURE.md: call it once a time step with the state that the step before returned.

    `num_layers` may be lowered after training: every decoder layer is an exit. `extra_heads` holds further heads by name;
    each is called with (queries, bev features) and returns named tensors for `StepOutput.extra`.
    """

    centers_XY2: Tensor
    group_K: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.num_layers = config.num_layers
        self.sampler = config.sampler
        net, bev = config.backbone, config.bev
        backbone = Backbone(net.name, net.levels, net.pretrained, net.freeze_bn, net.frozen_stages, net.dropped_blocks)
        self.bins = DepthBins(config.depth.bins, config.depth.min_m, config.depth.max_m)
        self.cameras = CameraNetwork(backbone, net.neck_channels, config.depth.bins, GEOMETRY_CHANNELS)
        self.lifting = Lifting(config.grid, self.bins, net.neck_channels, bev.lift_channels, bev.channels)
        self.bev_encoder = BevEncoder(bev.channels, bev.encoder_channels, bev.encoder_blocks, bev.memory_channels, bev.memory_maps)
        self.bev_tokens = BevTokens(config) if bev.token_layers else None
        self.dense_head = DenseHead(bev.channels, len(config.class_names))
        self.source = QuerySource(config)
        self.decoder = Decoder(config)
        self.occupancy = OccupancyHead(bev.channels, config.grid) if config.occupancy else None
        self.extra_heads = nn.ModuleDict()
        self.register_buffer("group_K", class_groups(config.class_names), persistent=False)
        self.register_buffer("centers_XY2", config.grid.centers_ego(), persistent=False)

    def empty_state(self, batch: int, device: torch.device | str = "cpu") -> WorldState:
        """The state that starts `batch` clips."""
        config = self.config
        return empty_state(batch, config.query, config.grid, config.bev.memory_maps, config.bev.memory_channels, device)

    def forward(self, step: StepInput, state: WorldState, denoising: DenoisingQueries | None = None) -> tuple[StepOutput, WorldState]:
        """One time step of B clips: everything predicted, and the state for the next step."""
        lenses = read_lenses(step)
        state = forget_invalid(state)
        levels, depth_logits = self.see(step, lenses)
        atlas = Atlas.stack(levels, lenses, self.sampler_on(lenses.alive_BN.device))
        lifted = self.lifting(atlas, depth_logits)
        old_maps, known = warp_maps(state, step.prev_from_ego_B44, step.dt_B, self.config.grid, self.centers_XY2, atlas.sampler)
        bev, newest = self.bev_encoder(lifted, torch.cat([old_maps, known.to(old_maps.dtype)], dim=2).flatten(1, 2))
        memory = self.recall(state, step)
        if self.bev_tokens is not None:
            bev = self.bev_tokens(bev, self.surroundings(atlas, None, memory))
        heatmap, dense_box = self.dense_head(bev)
        queries = self.seed(heatmap, dense_box, bev, memory, state, denoising)
        apart_BQQ = None if denoising is None else denoising_apart(denoising, self.ordinary_queries)
        around = self.surroundings(atlas, bev, memory)
        past = recalled(memory.embedding_BQC, memory.box(), memory.presence_BQ, step.dt_B)
        queries, layers = self.decoder(queries, self.source.position, apart_BQQ, around, past, self.num_layers)
        maps, ages = push_maps(state, old_maps, newest, step.dt_B)
        next_state, source_BS = self.remember(queries, layers[-1], past.box_BS9, state, step.dt_B, maps, ages)
        occupancy, flow = self.occupancy(bev) if self.occupancy is not None else (None, None)
        output = StepOutput(
            layers=layers,
            num_denoising=0 if denoising is None else denoising.box_BM9.shape[1],
            heatmap_BKXY=heatmap,
            dense_box_BRXY=dense_box,
            occupancy_BOXYZ=occupancy,
            flow_B2XYZ=flow,
            depth_BNDHW=depth_logits.reshape(*lenses.alive_BN.shape, *depth_logits.shape[1:]).float(),
            extra={name: value for head in self.extra_heads.values() for name, value in head(queries, bev).items()},
            presence_BQ=queries.presence_BQ,
            source_BS=source_BS,
        )
        return output, next_state

    def sampler_on(self, device: torch.device) -> str:
        """How images are sampled there, see `ModelConfig.sampler`."""
        if self.sampler != "auto":
            return self.sampler
        return "bag" if device.type == "cpu" and not torch.compiler.is_exporting() else "gridsample"

    @property
    def ordinary_queries(self) -> int:
        """New and remembered queries, without denoising ones."""
        return self.config.query.new_queries + self.config.query.memory_slots

    def see(self, step: StepInput, lenses: Lenses) -> tuple[list[Tensor], Tensor]:
        """Feature levels (B*N, C, h, w) and depth logits (B*N, D, h, w) of all cameras."""
        geometry = ray_geometry(lenses, self.config.backbone.levels[0])
        ground = self.bins.hat(self.bins.position(ground_distance(geometry)), dim=2)
        return self.cameras(step.images_BNHW3, lenses.alive_BN, geometry, ground)

    def recall(self, state: WorldState, step: StepInput) -> Queries:
        """The remembered objects where they should be now."""
        box = move_boxes(state.box_BS9, step.prev_from_ego_B44, step.dt_B)
        shift = step.prev_from_ego_B44.float()
        motion = torch.stack([shift[:, 0, 3] * 0.1, shift[:, 1, 3] * 0.1, shift[:, 1, 0], shift[:, 0, 0] - 1.0, step.dt_B.float()], dim=-1)
        return self.source.from_memory(state.query_BSC, box, state.score_BS, motion)

    def surroundings(self, atlas: Atlas, bev: Tensor | None, memory: Queries) -> Surroundings:
        """What a layer's tokens may look at."""
        placed = memory.embedding_BQC + self.source.position(memory.box())
        return Surroundings(atlas, bev, self.config.grid, placed, memory.presence_BQ)

    def seed(
        self, heatmap: Tensor, dense_box: Tensor, bev: Tensor, memory: Queries, state: WorldState, denoising: DenoisingQueries | None
    ) -> Queries:
        """New queries at the heatmap's peaks, then remembered ones, then (training) denoising ones."""
        new = self.source.give_way(self.source.from_peaks(heatmap, dense_box, bev), memory, state.score_BS)
        parts = [new, memory] if denoising is None else [new, memory, self.source.from_noise(denoising)]
        return Queries.concatenate(parts)

    def scores(self, answer: LayerOutput, presence_BQ: Tensor) -> Tensor:
        """(B, Q) probability that a query is an object, tempered by the expected quality of its box and by the query's presence."""
        return answer.logits_BQK.amax(-1).sigmoid() * answer.quality_BQ.sigmoid() ** self.config.query.quality_power * presence_BQ

    def remember(
        self, queries: Queries, answer: LayerOutput, moved_BS9: Tensor, state: WorldState, dt_B: Tensor, maps: Tensor, ages: Tensor
    ) -> tuple[WorldState, Tensor]:
        """The state after this step, the best ordinary queries and the newest maps; and (B, S) int64, which query each slot remembers.

        `moved_BS9` is where the remembered objects were expected. What has left the bird's-eye grid, outside which nothing was trained,
        is forgotten.
        """
        config, n, new = self.config.query, self.ordinary_queries, self.config.query.new_queries
        dt = dt_B.float()[:, None]
        fresh, faded = torch.zeros_like(answer.quality_BQ[:, :new]), state.score_BS * torch.exp(dt * _log(config.score_decay))
        answer = answer.map(lambda value: value[:, :n].detach())
        score = self.scores(answer, queries.presence_BQ[:, :n])
        same = same_object(answer.box_BQ9, answer.logits_BQK.argmax(-1), self.source.radius_K, self.group_K)
        ids = torch.cat([torch.full_like(fresh, -1, dtype=torch.int64), state.id_BS], dim=1)
        ids, ages_BQ = inherit(ids, torch.cat([fresh, state.age_BS + dt], dim=1), score, same)
        box = torch.cat([answer.box_BQ9[:, :new], followed(moved_BS9, answer.box_BQ9[:, new:], score[:, new:], faded)], dim=1)
        total = torch.maximum(score, torch.cat([fresh, faded], dim=1)) * speaks(score, same)
        candidates = Candidates(
            embedding_BQC=queries.embedding_BQC[:, :n],
            box_BQ9=box,
            score_BQ=total * self.config.grid.contains(box[..., 0], box[..., 1]),
            id_BQ=ids,
            age_BQ=ages_BQ,
        )
        query, box, score, ids, age, next_id, source = remember_objects(candidates, state.next_id_B, config.memory_slots, config)
        return WorldState(torch.ones_like(state.valid_B), query, box, score, ids, age, next_id, maps, ages), source

    def detections(self, output: StepOutput, state_out: WorldState) -> Detections:
        """The readable answer, best first; ids are those of the slots that remember the same queries."""
        n = self.ordinary_queries
        answer = output.layers[-1].map(lambda value: value[:, :n])
        assert output.presence_BQ is not None and output.source_BS is not None
        score = self.scores(answer, output.presence_BQ[:, :n])
        voice = speaks(score, may_be_same_object(answer.box_BQ9, answer.logits_BQK, self.source.radius_K, self.group_K))
        score, order = (score * voice).topk(n, dim=1)
        box = answer.box_BQ9.gather(1, order[..., None].expand(-1, -1, 9))
        classes = answer.logits_BQK.argmax(-1).gather(1, order)
        same = (order[:, :, None] == output.source_BS[:, None]) & (score > 0)[..., None]
        ids = torch.where(same, state_out.id_BS[:, None], torch.full_like(state_out.id_BS[:, None], -1)).amax(-1)
        return Detections(box, score, classes, ids)


def _log(value: float) -> float:
    return float(torch.log(torch.tensor(value)))
