"""The training loop: resumable to the bit, in one process or in several."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import engines
from ..data.files import check_room
from ..data.identity import identity, vocabulary_identity
from ..data.json_object import write_json
from ..data.split import Split
from ..exchange import Exchange
from ..model import CMSEI
from ..nn import PairScore, RelationAttention
from ..process_group import agreed_engine, default_group, process_group, rank_and_world, together
from ..progress import Steps
from ..retrieval import RecallMetrics, evaluate
from . import checkpoint as disk
from .batches import Batches
from .config import TrainConfig
from .directory_lock import alone_in
from .distributed import average_gradients, broadcast_state
from .log import Log
from .mentions import find_mentions
from .objective import Objective
from .run_directory import BEST, CHECKPOINTS, LAST, latest_checkpoint
from .run_record import CONFIG, compared_record


def train(
    model: CMSEI,
    training: Split,
    validation: Split | None,
    directory: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    device: str | None = None,
    progress: bool = True,
    started_from: str | os.PathLike[str] | None = None,
) -> RecallMetrics | None:
    """Trains a model and keeps the run in a directory: configuration, log, checkpoints, the best and the last model.

    Under ``torchrun``, each process takes its part of every batch and of every validation; without dropout a step is
    that of one process up to rounding. Process 0 writes the files and shows progress.

    Args:
        model: with its initial weights; a resumed run loads the run's weights into it.
        training: images and captions to learn from; ``validation``: to choose the best model by rSum, or None.
        directory: of the run; created if missing.
        config: the settings.
        resume: continue from the newest checkpoint in the directory, with the same losses as without the interruption.
            The settings must be the run's, but ``workers``, ``checkpoint_every``, ``validate_every`` and ``patience``
            may differ, and ``epochs`` may be larger if the schedule does not depend on it (``"step"``, ``"constant"``).
        device: None is the process's GPU if there is one, else the CPU.
        progress: show loss, best rSum and pairs/s on standard error: a bar on a terminal, else a line every ten seconds
            and for each epoch; and for each validation a line with rSum and R@1, R@5 and R@10 of both directions.
        started_from: the saved model that this one is, as a new run's ``run.json`` is to name it; None if it was built
            from settings.

    Returns:
        Metrics of the last validation, in process 0; None if nothing was validated.

    Raises:
        FileExistsError: the directory holds a run and ``resume`` is False.
        OSError: another process is training in the directory.
        TypeError: an argument is not the CMSEI, Split or TrainConfig that it should be.
        ValueError: the configuration, vocabulary, training data or validation split differ between processes, or from
            those of the resumed run (a run without a validation split may be given one); a split lacks captions or what
            the model is built on; float16 on the CPU; ``patience`` without a validation split; a loss or gradients that
            are not finite.
        ProcessLost: another process failed (with its error) or is lost.
    """
    with prepared_run(model, training, validation, directory, config, resume, device, progress, started_from) as run:
        return run()


@contextlib.contextmanager
def prepared_run(
    model: CMSEI,
    training: Split,
    validation: Split | None,
    directory: Path,
    config: TrainConfig,
    resume: bool,
    device: str | None,
    progress: bool,
    started_from: str | os.PathLike[str] | None,
) -> Iterator[Callable[[], RecallMetrics | None]]:
    """Checks all that :func:`train` checks, and gives the function that trains, which must be called in the block."""
    with process_group(device) as place, contextlib.ExitStack() as stack:
        with together():
            expected = (("model", model, CMSEI), ("training", training, Split), ("config", config, TrainConfig))
            for name, value, kind in expected:
                if not isinstance(value, kind):
                    raise TypeError(f"{name}: expected a {kind.__name__}, got {type(value).__name__}")
            if validation is not None and not isinstance(validation, Split):
                raise TypeError(f"validation: expected a Split or None, got {type(validation).__name__}")
            start = None if started_from is None else os.fspath(started_from)
            run = _Run(model, training, validation, Path(directory), config, place, resume, progress, stack, start)
        yield run.run


class _Run:
    def __init__(
        self,
        model: CMSEI,
        training: Split,
        validation: Split | None,
        directory: Path,
        config: TrainConfig,
        device: torch.device,
        resume: bool,
        progress: bool,
        stack: contextlib.ExitStack,
        start: str | None,
    ) -> None:
        if config.precision == "float16" and device.type != "cuda":
            raise ValueError("precision: expected float32 or bfloat16 on the CPU, got float16")
        if config.patience and validation is None:
            raise ValueError(f"patience: expected 0 (there is no validation split), got {config.patience}")
        self.rank, self.world = rank_and_world()
        self.model, self.validation = model.to(device), validation
        self.directory, self.config, self.device = directory, config, device
        self.progress = progress and self.rank == 0
        _check_split("training", self.model, training)
        if validation is not None:
            _check_split("validation", self.model, validation)
        tokens = [model.text.tokenize(caption) for caption in training.captions]
        self.batches = Batches(
            model.aligned(training),
            tokens,
            config.batch_size,
            config.seed,
            config.neighbours,
            self.rank,
            self.world,
            find_mentions(model, training) if config.grounding else None,
        )
        self.objective = Objective(self.model, config).to(device)
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.objective, config)
        self.average: AveragedModel | None = None
        if config.average:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.average))
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.step, self.engine = 0, "auto"
        self.best, self.since_best = -1.0, 0  # the highest rSum, and validations since it
        self.metrics: RecallMetrics | None = None
        stack.enter_context(alone_in(directory))
        found = self._found = latest_checkpoint(directory / CHECKPOINTS)
        data = {"data": identity(training), "vocabulary": vocabulary_identity(model.vocabulary)}
        data["start"] = {"model": start}
        if validation is not None:
            data["validation"] = identity(validation)
        self._record, self._before = compared_record(directory, config, self.model.config, data, resume, found)
        torch.manual_seed(config.seed + 1000003 * self.rank)  # dropout differs between processes
        if found is not None:
            self._restore(*disk.read_checkpoint(found))
        self.log = Log(directory, self.step, enabled=self.rank == 0)

    def run(self) -> RecallMetrics | None:
        """Trains the epochs that are left."""
        steps = len(self.batches)
        self._synchronise()
        with together():
            if self.rank == 0:
                self._check_room()
            if self.rank == 0 and self._record != self._before:
                write_json(self.directory / CONFIG, self._record)
            if self.rank == 0 and self._found is not None:
                disk.remove_others(self._found.parent, self._found)
        try:
            for epoch in range(self.step // steps, self.config.epochs):
                if 0 < self.config.patience <= self.since_best:
                    self._print_line(f"ended after epoch {epoch}: {self.since_best} validations without a higher rSum")
                    break
                self._epoch(epoch)
                last = epoch + 1 == self.config.epochs
                if self.validation is not None and (last or (epoch + 1) % self.config.validate_every == 0):
                    self._validate(epoch)
                self._checkpoint()
            with together():
                if self.rank == 0:
                    self.scored_model.save_pretrained(self.directory / LAST)
        finally:
            self.log.close()
        return self.metrics

    def _check_room(self) -> None:
        """Checks that the disk has room for the files that exist at the same time.

        A checkpoint is written beside the one before it.

        Raises:
            OSError: there is too little room.
        """
        steps = self.config.epochs * len(self.batches) - self.step
        if steps <= 0:
            return
        model = _bytes(self.scored_model.state_dict().values())
        checkpoint = _bytes(self.objective.state_dict().values()) + 2 * _bytes(self.parameters)  # AdamW has two of each
        checkpoint += model if self.average is not None else 0
        one, more = self.config.epochs == 1 and not self.config.checkpoint_every, self.validation is not None
        if self._found is not None:
            needed, what = checkpoint, "another checkpoint"
        elif one:
            needed, what = checkpoint + (1 + more) * model, "a checkpoint and the models"
        else:
            needed, what = 2 * checkpoint + more * model, "two checkpoints" + " and a model" * more
        check_room(self.directory, needed, os.fspath(self.directory), what)

    @property
    def scored_model(self) -> CMSEI:
        """The model that is validated and saved: the running average where there is one."""
        if self.average is None:
            return self.model
        averaged: CMSEI = self.average.module  # type: ignore[assignment]
        return averaged

    def _synchronise(self) -> None:
        """Makes sure that all processes have the same record, engines and initial weights.

        Raises:
            ValueError: in every process, if the records differ.
        """
        if self.world == 1:
            return
        named = {f"{a}.{b}": x for a in ("training", "model", "data", "vocabulary") for b, x in self._record[a].items()}
        Exchange(default_group()).same(named | {"validation": self._record.get("validation"), "step": self.step})
        self._use_engine("relation_attention", RelationAttention)
        self.engine = self._use_engine("pair_score", PairScore, self.model.scorer.config())
        for module in self._modules:
            broadcast_state(module)

    def _use_engine(
        self, operator: str, kind: type[PairScore] | type[RelationAttention], config: list[int] | None = None
    ) -> str:
        """The engine that all processes use for ``"auto"``; sets it in layers that would choose another here."""
        engine = agreed_engine("auto", self.device, operator, config)
        if engine != engines.choose(self.device, operator, config):
            for layer in (layer for module in self._modules for layer in module.modules()):
                if isinstance(layer, kind) and layer.engine == "auto":
                    layer.engine = engine
        return engine

    @property
    def _modules(self) -> list[torch.nn.Module]:
        return [self.objective, *([] if self.average is None else [self.average])]

    def _epoch(self, epoch: int) -> None:
        config, steps = self.config, len(self.batches)
        done = self.step - epoch * steps
        warm = config.loss == "hinge" and epoch < config.warmup_epochs
        # The warm-up's loss is a sum where the later one is its greatest term: their sizes do not compare.
        kind = {"negatives": "sum" if warm else "hardest"} if config.loss == "hinge" else {}
        self.model.train()
        loader = self.batches.loader(epoch, done, config.workers, pin=self.device.type == "cuda")
        with self._bar(epoch, steps, done) as bar:
            for _ in range(done, steps):
                with together():
                    share = next(loader)
                start = time.perf_counter()
                rate = config.learning_rate * config.rate(self.step, steps)
                for group, factor in zip(self.optimizer.param_groups, (1.0, 1.0, config.scalar_rate), strict=True):
                    group["lr"] = rate * factor
                loss = self._learn(share.to(self.device), warm)
                self.step += 1
                pairs = sum(share.image_counts) * sum(share.caption_counts)
                speed = pairs / (time.perf_counter() - start)
                figures = {"learning_rate": rate, "pairs_per_second": round(speed)}
                self.log.write(self.step, epoch=epoch, loss=loss, **kind, **figures)
                if bar is not None:
                    shown = f"{loss:.3f} (sum over negatives)" if warm else f"{loss:.3f}"
                    best = {"best rSum": f"{self.best:.1f}"} if self.best >= 0 else {}
                    bar.update(1, {"loss": shown, **best, "pairs": f"{speed:,.0f}/s"})
                if config.checkpoint_every and self.step % config.checkpoint_every == 0 and self.step % steps:
                    self._checkpoint()

    def _learn(self, share: Any, sum_of_negatives: bool) -> float:
        """Takes one optimizer step; returns the loss before it."""
        dtype = getattr(torch, self.config.precision)
        mixed = torch.autocast(self.device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with mixed:
            loss: Tensor = self.objective(share, sum_of_negatives)
        value = loss.item()
        if not torch.isfinite(loss):
            found = f"got {value} at step {self.step} (lower learning_rate)"
            raise ValueError(f"the loss: expected a finite number, {found}")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        average_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):  # the scaler leaves out such a step itself
            found = f"got one of {norm.item()} at step {self.step} (lower learning_rate)"
            raise ValueError(f"gradients: expected a finite norm, {found}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return value

    def _validate(self, epoch: int) -> None:
        """Encodes and scores the validation split in all processes; process 0 saves the model if it is the best."""
        if self.validation is None:
            return
        model, split = self.scored_model, self.validation
        group = default_group() if self.world > 1 else None
        with preserved_random_state(self.device):
            images = model.encode_images(split, group=group)
            captions = model.encode_captions(split.captions, group=group)
        scorers = [model.scorer]
        if self.world > 1:
            dist.broadcast_object_list(scorers)  # of processors that round apart, one
        owner = split.caption_to_image
        metrics = evaluate(images, captions, scorer=scorers[0], engine=self.engine, caption_to_image=owner, group=group)
        # In every process: all of them end when patience does.
        better = metrics.rsum > self.best
        self.best, self.since_best = (metrics.rsum, 0) if better else (self.best, self.since_best + 1)
        with together():
            if self.rank == 0:
                self._record_validation(epoch, model, metrics, better)

    def _record_validation(self, epoch: int, model: CMSEI, metrics: RecallMetrics, better: bool) -> None:
        """Logs and prints a validation, and saves the model if it is the best so far."""
        self.metrics = metrics
        self.log.write(self.step, epoch=epoch, validation=metrics.to_dict(), scorer=model.scorer.to_dict())
        if better:
            model.save_pretrained(self.directory / BEST)
        rank = "the best so far" if better else f"best {self.best:.1f}"
        self._print_line(
            f"epoch {epoch + 1}/{self.config.epochs}: validation: rSum {metrics.rsum:.1f} ({rank}), "
            + ", ".join(
                f"{name} {d.r1:.1f} {d.r5:.1f} {d.r10:.1f}" for name, d in (("i2t", metrics.i2t), ("t2i", metrics.t2i))
            )
        )

    def _print_line(self, line: str) -> None:
        if self.progress:
            print(line, file=sys.stderr, flush=True)

    def _checkpoint(self) -> None:
        tensors = {f"objective.{k}": x for k, x in self.objective.state_dict().items()}
        tensors |= disk.pack_optimizer(self.optimizer)
        if self.average is not None:
            tensors |= {f"average.{k}": x for k, x in self.average.state_dict().items()}
        random_state = disk.random_state(self.device)
        states: list[dict[str, Tensor]] = [random_state]
        if self.world > 1:
            states = [{} for _ in range(self.world)]
            dist.all_gather_object(states, random_state)
        tensors |= {f"{i}.{name}": x for i, state in enumerate(states) for name, x in state.items()}
        with together():
            if self.rank == 0:
                state: dict[str, Any] = {"best": self.best, "since_best": self.since_best, "world": self.world}
                state["scaler"] = self.scaler.state_dict()
                disk.write_checkpoint(self.directory / CHECKPOINTS, self.step, tensors, state)

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        if state["world"] != self.world:
            raise ValueError(f"resume: expected {state['world']} processes (as the run had), got {self.world}")
        self.step, self.best, self.since_best = state["step"], state["best"], state.get("since_best", 0)
        self.objective.load_state_dict(_part(tensors, "objective."))
        disk.unpack_optimizer(self.optimizer, tensors)
        if self.average is not None:
            self.average.load_state_dict(_part(tensors, "average."))
        self.scaler.load_state_dict(state["scaler"])
        disk.restore_random_state(_part(tensors, f"{self.rank}."), self.device)

    def _bar(self, epoch: int, steps: int, done: int) -> contextlib.AbstractContextManager[Steps | None]:
        if not self.progress:
            return contextlib.nullcontext()
        return Steps(steps, "step", f"epoch {epoch + 1}/{self.config.epochs}", done)


def _check_split(name: str, model: CMSEI, split: Split) -> None:
    """Raises ValueError for a split that the model cannot encode."""
    if not split.captions:
        raise ValueError(f"{name}: expected a split with captions, got none")
    try:
        model.encode_images(split, [0])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _optimizer(objective: Objective, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over matrices, vectors and the scalars of score and loss, in this order."""
    scalars = [*objective.model.score.parameters()]
    if objective.infonce is not None:
        scalars += objective.infonce.parameters()
    scalar_ids = {id(p) for p in scalars}
    trained = [p for p in objective.parameters() if p.requires_grad and id(p) not in scalar_ids]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        {"params": scalars, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


@contextlib.contextmanager
def preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restores the state of the random generators at the end of the block."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
