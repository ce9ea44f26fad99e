"""How does a run proceed? `Trainer`: step after step, saved often, resumed exactly, stopped in words when it goes wrong."""

import json
import math
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from fusion.interface import WorldState
from fusion.model import Surround
from scenes.atomic import atomic_file, write_json
from scenes.errors import ConfigError, DataError, SurroundError
from training.checkpoints import load_matching, read_checkpoint, save_checkpoint
from training.dataset import StepBatch, StreamDataset, step_batches
from training.device import choose_device
from training.losses import draw_denoising, step_losses
from training.matching import tracks_of_slots
from training.memory_noise import spoil_memory
from training.recipes import TrainConfig, to_json
from training.validation import validate

console = Console()


class NonFiniteLoss(SurroundError):
    """The loss was NaN or infinite; the batch that did it lies in the run's folder."""


class Trainer:
    """One training run; make it and call `run()`. Under torchrun every process makes its own."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.out = config, Path(config.run.out)
        self.rank, self.world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = choose_device(config.run.device, "--run.device")
        if config.run.threads:
            torch.set_num_threads(config.run.threads)
        self.dataset = StreamDataset(config, self.rank, self.world_size)
        torch.manual_seed(config.run.seed)
        model = config.model.unpretrained() if self.checkpoint_path.is_file() else config.model
        self.model = Surround(model).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze_all_but(self.model, config.optim.only)
        self.ema = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.optimizer = make_optimizer(self.model, config)
        self.step = 0
        streams = len(self.dataset.streams)
        self.state: WorldState = self.model.empty_state(streams, self.device)
        self.slot_track_BS = torch.full_like(self.state.id_BS, -1)
        self.stopping = False

    def run(self) -> Path:
        """Trains to the end (or to where it is stopped); returns the checkpoint's path."""
        with _process_group(self.world_size, self.device), _signals(self), self._log() as log:
            self._begin()
            network = self._network()
            with _progress(self.rank) as progress:
                self._loop(network, log, progress)
            self.save()
            if self.stopping:
                raise KeyboardInterrupt
            if self.step >= self.config.optim.steps:
                self._validate(log)
        return self.checkpoint_path

    @property
    def checkpoint_path(self) -> Path:
        """Where the run's state is kept."""
        return self.out / "checkpoint.pt"

    def _begin(self) -> None:
        """Resumes what the folder holds, or starts afresh."""
        if self.checkpoint_path.is_file():
            self.resume()
        elif self.config.run.init:
            missing = load_matching(self.model, self.config.run.init)
            self.ema = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            if self.rank == 0:
                text = f"all weights from {self.config.run.init}" if not missing else f"not in {self.config.run.init}: {', '.join(missing)}"
                console.print(text, highlight=False)
        if self.rank == 0:
            write_json(self.out / "config.json", to_json(self.config))

    def _network(self) -> nn.Module:
        if self.world_size == 1:
            return self.model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(self.model, device_ids=ids)

    def _loop(self, network: nn.Module, log: "_Log", progress: "_Bar") -> None:
        optim, run = self.config.optim, self.config.run
        started_at = self.step
        meter = _Meter()
        if self.step >= optim.steps:
            return
        for batch in step_batches(self.dataset, self.step * optim.accumulate):
            meter.loaded()
            parts = self._forward_backward(network, batch)
            meter.add(parts)
            if (batch.step + 1) % optim.accumulate:
                meter.worked(0)
                continue
            norm = self._update()
            self.step += 1
            meter.worked(1)
            last = self.step >= optim.steps or (run.stop_after and self.step - started_at >= run.stop_after)
            if self.step % run.log_every == 0 or last:
                line = meter.line(self.step, norm, learning_rate(self.config, self.step - 1))
                log.write(line)
                progress(self.step, optim.steps, line)
            self._agree_to_stop()
            if self.step % run.save_every == 0 and not last:
                self.save()
            if run.val_every and self.step % run.val_every == 0 and not last:
                self._validate(log)
            if last or self.stopping:
                return

    def _forward_backward(self, network: nn.Module, batch: StepBatch) -> dict[str, float]:
        """One time step: state in, loss, gradients, state out."""
        self.model.train()
        inputs, targets = batch.inputs.to(self.device), batch.targets.to(self.device)
        keep_B = 1 - batch.reset_B.to(self.device)
        state = replace(self.state, valid_B=self.state.valid_B * keep_B)
        generator = torch.Generator().manual_seed(hash_seed(self.config.run.seed, batch.step, self.rank))
        state, kept_BS = spoil_memory(state, self.config.memory, generator)
        slots = torch.where(kept_BS & (keep_B[:, None] > 0), self.slot_track_BS, -1)
        denoising = draw_denoising(targets, self.config.loss, len(self.config.model.class_names), generator)
        last = (batch.step + 1) % self.config.optim.accumulate == 0
        sync = nullcontext() if last or self.world_size == 1 else network.no_sync()  # type: ignore[operator]
        with sync:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=use_bfloat16(self.config.run.precision, self.device)):
                output, new_state = network(inputs, state, denoising)
            parts = step_losses(output, inputs, targets, self.config.model, self.config.loss, slots, denoising)
            loss = torch.stack(list(parts.values())).sum()
            self._check(loss, parts, batch)
            (loss / self.config.optim.accumulate).backward()
        self.state = new_state.detach()
        self.slot_track_BS = tracks_of_slots(self.state, targets, self.model.config.query.keep_score)
        values = torch.stack([loss, *parts.values()]).detach().cpu().tolist()
        return dict(zip(("loss", *parts), values, strict=True))

    def _check(self, loss: Tensor, parts: dict[str, Tensor], batch: StepBatch) -> None:
        if torch.isfinite(loss):
            return
        wrong = [name for name, value in parts.items() if not torch.isfinite(value)]
        path = self.out / "bad_batch.pt"
        with atomic_file(path) as temporary:
            torch.save({"step": batch.step, "frames": batch.frames, **batch.inputs.tensors(), **batch.targets.tensors()}, temporary)
        raise NonFiniteLoss(
            f"step {self.step}: the loss is not finite (in {', '.join(wrong)}); the batch is kept in {path}, "
            f"it shows {'; '.join(batch.frames)}; look at it, lower optim.lr, and go on from the last checkpoint"
        )

    def _update(self) -> float:
        """Clips, steps, averages; returns the gradient's length."""
        optim = self.config.optim
        limit = optim.clip_norm if optim.clip_norm > 0 else math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(optim.ema, (1 + self.step) / (10 + self.step))
        update_average(self.ema, self.model.state_dict(), decay)
        return float(norm)

    def _agree_to_stop(self) -> None:
        """A signal to one process stops all after the same step."""
        if self.world_size > 1:
            flag = torch.tensor(float(self.stopping), device=self.device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            self.stopping = bool(flag > 0)

    def save(self) -> None:
        """Writes everything that the next step depends on, atomically; every process calls it, the first one writes."""
        streams = self._gathered_streams()
        if self.rank != 0:
            return
        run = {
            "step": self.step,
            "training_weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "streams": streams,
        }
        meta = {"name": self.out.name, "steps": self.step, "seed": self.config.run.seed, "train": to_json(self.config)}
        save_checkpoint(self.checkpoint_path, self.ema, self.config.model, meta, run)

    def resume(self) -> None:
        """Goes back to exactly where the checkpoint was written; another config's checkpoint is refused."""
        header, content = read_checkpoint(self.checkpoint_path)
        if "run" not in content:
            raise DataError(f"{self.checkpoint_path}: it cannot be resumed, only used (--init); choose another --out")
        changed = _changes(header["train"], to_json(self.config))
        if changed:
            raise ConfigError(f"{self.out}: holds a run with other settings ({', '.join(changed)}); give the same ones or another --out")
        run = content["run"]
        self.step = int(run["step"])
        self.model.load_state_dict(run["training_weights"])
        self.optimizer.load_state_dict(run["optimizer"])
        self.ema = {name: tensor.to(self.device) for name, tensor in content["weights"].items()}
        if len(run["streams"]) != self.world_size:
            raise ConfigError(f"{self.out}: was run by {len(run['streams'])} process(es), now {self.world_size}; start as many")
        mine = run["streams"][self.rank]
        self.state = WorldState(**mine["state"]).to(self.device)
        self.slot_track_BS = mine["slot_track_BS"].to(self.device)
        torch.set_rng_state(mine["rng"])

    def _gathered_streams(self) -> list[dict[str, Any]]:
        """What belongs to each process: the carried states of its streams and its random numbers."""
        mine = {"state": self.state.to("cpu").tensors(), "slot_track_BS": self.slot_track_BS.cpu(), "rng": torch.get_rng_state()}
        if self.world_size == 1:
            return [mine]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, mine)
        return gathered

    def _validate(self, log: "_Log") -> None:
        if self.rank != 0 or not self.config.data.val:
            return
        model = Surround(self.config.model.unpretrained())
        model.load_state_dict({name: tensor.cpu() for name, tensor in self.ema.items()})
        scores = validate(model.eval().to(self.device), self.config)
        log.write({"step": self.step, **{f"val_{name}": value for name, value in scores.items()}})
        console.print(f"step {self.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()), highlight=False)

    @contextmanager
    def _log(self) -> Iterator["_Log"]:
        at = 0
        if self.checkpoint_path.is_file():
            at = int(read_checkpoint(self.checkpoint_path)[1].get("run", {}).get("step", 0))
        log = _Log(self.out, at, enabled=self.rank == 0)
        try:
            yield log
        finally:
            log.close()


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to autocast: on a CPU bfloat16 is several times slower, so `auto` does not."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")


def hash_seed(*numbers: int) -> int:
    """One generator seed of several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**62)
    return seed


def freeze_all_but(model: Surround, only: str) -> None:
    """Lets only parameters learn whose names the regular expression `only` matches; one that matches none is refused with `ConfigError`."""
    if not only:
        return
    chosen = [name for name, _ in model.named_parameters() if re.search(only, name)]
    if not chosen:
        parts = sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})
        raise ConfigError(f"optim.only: expected a part of the network such as {', '.join(parts)}, got {only!r}; correct the expression")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in chosen)


def make_optimizer(model: Surround, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with decay on matrices and kernels only, the backbone at its own rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = config.optim.backbone_lr if ".backbone." in f".{name}" else 1.0
            decay = config.optim.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    options = [{"params": parameters, "share": share, "weight_decay": decay} for (share, decay), parameters in groups.items()]
    return torch.optim.AdamW(options, lr=config.optim.lr, fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a half cosine down to `final_lr` of the peak."""
    optim = config.optim
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    share = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.lr * (optim.final_lr + (1 - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


@torch.no_grad()
def update_average(average: dict[str, Tensor], current: dict[str, Tensor], decay: float) -> None:
    """Moves every averaged tensor towards the current one, in place; counters are copied."""
    floating = [name for name, tensor in current.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floating], [current[name].detach() for name in floating], 1 - decay)
    for name, tensor in current.items():
        if not tensor.is_floating_point():
            average[name].copy_(tensor)


MAY_CHANGE = ("run.out", "run.init", "run.stop_after", "run.save_every", "run.log_every", "run.val_every", "run.val_clips", "run.threads")
MAY_CHANGE_DATA = ("data.folders", "data.val", "data.workers", "data.cache_gb")
"""Settings that a resumed run may have otherwise: they do not decide its weights (folders may have been moved)."""


def _changes(old: Any, new: Any, where: str = "") -> list[str]:
    """Names of settings that differ and matter."""
    if where in MAY_CHANGE + MAY_CHANGE_DATA:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [name for key in keys for name in _changes(old.get(key), new.get(key), f"{where}.{key}".strip("."))]
    return [] if old == new else [f"{where} was {old}, now {new}"]


class _Meter:
    """Averages losses and times between two lines of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count, self.steps, self.waiting = 0, 0, 0.0
        self.since = self.mark = time.perf_counter()

    def loaded(self) -> None:
        now = time.perf_counter()
        self.waiting += now - self.mark

    def add(self, parts: dict[str, float]) -> None:
        self.count += 1
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def worked(self, steps: int) -> None:
        self.steps += steps
        self.mark = time.perf_counter()

    def line(self, step: int, norm: float, rate: float) -> dict[str, float]:
        now = time.perf_counter()
        seconds = now - self.since
        line = {
            "step": step,
            **{name: round(value / self.count, 5) for name, value in self.sums.items()},
            "grad_norm": round(norm, 4),
            "lr": rate,
            "seconds_per_step": round(seconds / max(1, self.steps), 4),
            "loader_share": round(self.waiting / max(seconds, 1e-9), 4),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        self.__init__()
        return line


class _Log:
    """`log.jsonl` (one object a line) and TensorBoard; lines past the step that is resumed are dropped."""

    def __init__(self, folder: Path, at_step: int, enabled: bool) -> None:
        self.handle = self.board = None
        if not enabled:
            return
        path = folder / "log.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            old = path.read_text().splitlines(keepends=True) if path.is_file() else []
            with atomic_file(path) as temporary:
                temporary.write_text("".join(line for line in old if line.endswith("\n") and json.loads(line)["step"] <= at_step))
            self.handle = open(path, "a")  # noqa: SIM115
        except OSError as error:
            raise DataError(f"{folder}: not writable ({error.strerror or error}); choose another --out") from error
        from torch.utils.tensorboard.writer import SummaryWriter

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=at_step + 1)

    def write(self, line: dict[str, Any]) -> None:
        if self.handle is None or self.board is None:
            return
        self.handle.write(json.dumps(line) + "\n")
        self.handle.flush()
        for name, value in line.items():
            if name != "step":
                self.board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        if self.handle is not None and self.board is not None:
            self.handle.close()
            self.board.close()


class _Bar:
    """A progress bar in a terminal, plain lines elsewhere."""

    def __init__(self, progress: Progress | None, rank: int) -> None:
        self.progress, self.rank = progress, rank
        self.task = progress.add_task("train", total=None) if progress else None

    def __call__(self, step: int, steps: int, line: dict[str, float]) -> None:
        text = f"loss {line['loss']:.3f}  {line['seconds_per_step']:.2f} s/step"
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=step, total=steps, description=text)
        elif self.rank == 0:
            print(f"step {step}/{steps}  {text}  loader {line['loader_share']:.0%}", flush=True)


@contextmanager
def _progress(rank: int) -> Iterator[_Bar]:
    if rank != 0 or not console.is_terminal:
        yield _Bar(None, rank)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, rank)


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """SIGTERM and CTRL-C let the running step end and a checkpoint be written; a second CTRL-C stops at once."""

    def stop(number: int, frame: object) -> None:
        if trainer.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.stopping = True

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _process_group(world_size: int, device: torch.device) -> Iterator[None]:
    if world_size == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
