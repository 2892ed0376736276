"""``compiler.tune``: from a model file to records in a tuning log."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import EdgeccError
from compiler.target import Target, load_target

if TYPE_CHECKING:
    import numpy as np

    from compiler.quantize.bound import Metric
    from compiler.quantize.recipe import Recipe
    from compiler.quantize.request import Request
    from compiler.tuning.log_writer import LogWriter
    from compiler.tuning.measure import Device, Settings
    from compiler.tuning.tasks import Task
    from compiler.tuning.tuner import Progress, Tuner

Event = dict[str, Any]


@dataclass(frozen=True)
class Where:
    """Where candidates are measured; at most one of them, this machine where there is none.

    Args:
        emulated: count under the target's emulator instead of measuring.
        ssh: [USER@]HOST[:PORT] of boards.
        rpc: HOST:PORT of TVM RPC servers.
        tracker: HOST:PORT of a TVM RPC tracker, and ``key`` of the boards there.
    """

    emulated: bool = False
    ssh: Sequence[str] = ()
    rpc: Sequence[str] = ()
    tracker: str | None = None
    key: str | None = None

    @property
    def runner(self) -> str:
        """As the log names it."""
        if self.emulated:
            return "emulated"
        if self.ssh:
            return "ssh"
        return "rpc" if self.rpc or self.tracker else "local"


@dataclass(frozen=True)
class TunedTask:
    """What tuning did for one operator.

    Args:
        calls: in one inference.
        default_seconds, best_seconds: of one call; infinite where the default can't be measured.
        chosen: the decision; "" where it is the default or comes from the log.
        history: best seconds after each trial.
        tensorized: candidates beside the default that used the same intrinsic as it, and those that
            did not and were left out; none of an operator without one.
    """

    label: str
    template: str
    calls: int
    macs: int
    default_seconds: float
    best_seconds: float
    chosen: str
    history: tuple[float, ...]
    tensorized: tuple[int, int]


@dataclass(frozen=True)
class TuneResult:
    """What a run of the tuner did.

    Args:
        log: the folder of the records.
        recalled: tasks of which the log knew enough.
        trials: candidates built or measured in this run.
        seconds: wall time.
        default_ms, best_ms: of all tasks with known times together in one inference.
    """

    log: Path
    target: Target
    tasks: tuple[TunedTask, ...]
    recalled: int
    trials: int
    seconds: float
    default_ms: float
    best_ms: float


def tune(
    model: str | Path,
    target: str | Path | Target = "host",
    *,
    trials: int | None = None,
    threads: int | None = None,
    tuning_logs: str | Path = "tuning_logs",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    consts: Mapping[str, np.ndarray] | None = None,
    quantize: str = "none",
    calibration: Any = None,
    recipe: str | Path | Recipe = "auto",
    max_drop: str | None = None,
    validation: Any = None,
    metric: Metric | None = None,
    exact: bool = False,
    where: Where | None = None,
    builders: str | None = None,
    cooldown: float = 0.0,
    notify: Callable[[Event], None] = lambda event: None,
) -> TuneResult:
    """Searches the schedule spaces of a model's operators on the real machine.

    Args:
        model, target, shapes, consts, quantize, calibration, recipe, max_drop, validation, metric,
            exact: as of ``compiler.build``.
        trials: candidates to measure at most; default: until the next promise less than 1 % of the
            model's time.
        threads: of the kernels; default: the target's cores.
        tuning_logs: folder with a folder of records for each target.
        builders: address of a Dask scheduler that builds candidates, tcp://HOST:PORT.
        cooldown: seconds of pause before each measurement.
        notify: called with each event.

    Raises:
        EdgeccError: the model, the target, the log or the device is at fault. Finished measurements
            are in the log, whatever happens.
    """
    from compiler.quantize.request import make_request
    from compiler.target_check import check_llvm
    from compiler.tuning.log_writer import LogWriter
    from compiler.tuning.measure import Settings

    started = time.monotonic()
    chosen = target if isinstance(target, Target) else load_target(target)
    check_llvm(chosen)
    where = where or Where()
    request = make_request(
        quantize, calibration, recipe, None, "float32", max_drop, validation, metric
    )
    tasks = model_tasks(
        Path(model),
        chosen,
        shapes,
        consts,
        exact,
        request,
        lambda text: notify({"event": "note", "text": text}),
    )
    n_threads = 1 if where.emulated else threads or chosen.cores
    settings = Settings(n_threads, cooldown_s=cooldown, cold_bytes=2 * chosen.caches.l2)
    with LogWriter(Path(tuning_logs) / chosen.name) as log:
        notify({"event": "repaired", "lines": log.repaired})
        with _tuner(tasks, chosen, log, where, settings, builders, notify) as tuner:
            recalled = tuner.recalled
            tuner.run(trials if trials is not None else 1 << 30)
    tuned = tuple(_outcome(progress) for progress in tuner.tasks)
    known = [t for t in tuned if math.isfinite(t.default_seconds)]
    return TuneResult(
        log.folder,
        chosen,
        tuned,
        recalled,
        tuner.trials,
        time.monotonic() - started,
        1e3 * sum(t.calls * t.default_seconds for t in known),
        1e3 * sum(t.calls * t.best_seconds for t in known),
    )


def model_tasks(
    model: Path,
    target: Target,
    shapes: Mapping[str, tuple[int, ...]] | None,
    consts: Mapping[str, np.ndarray] | None,
    exact: bool,
    request: Request | None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Task]:
    """What there is to tune of a model file.

    Args:
        request: how to quantise it before; None: not at all.
        say: called with a line when something takes long.

    Raises:
        EdgeccError: the model is at fault, or no operator of it has a choice.
    """
    from compiler.frontend import import_model
    from compiler.passes import lower, simplify
    from compiler.precision import calibration_source
    from compiler.quantize.float16 import narrow
    from compiler.quantize.request import HALVES, fulfil
    from compiler.tuning.tasks import extract

    imported = import_model(model, dict(shapes or {}), dict(consts or {}))
    module = simplify(imported.module, target)
    if request is not None:
        if request.precision in HALVES:
            module = narrow(module, target, request.recipe, precision=request.precision).half.module
        else:
            source = None if request.weights_only else calibration_source(imported, request)
            outcome = fulfil(request, imported, module, target, source, _stages(say), exact)
            module = outcome.quantized.module
    tasks = extract(lower(module, target, exact), target)
    if not tasks:
        raise EdgeccError(f"{model}: nothing to tune, no operator has a choice of schedules")
    return tasks


def _stages(say: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Says each stage of ``compiler.build``'s progress once."""
    last = ""

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if stage != last:
            say(stage)
        last = stage

    return progress


@contextlib.contextmanager
def _tuner(
    tasks: list[Task],
    target: Target,
    log: LogWriter,
    where: Where,
    settings: Settings,
    builders: str | None,
    notify: Callable[[Event], None],
) -> Iterator[Tuner]:
    """A tuner with all that it needs, which ends with it."""
    from compiler.tuning.builders import make_builders
    from compiler.tuning.fleet import Fleet
    from compiler.tuning.session import fingerprint
    from compiler.tuning.tuner import Tuner

    with contextlib.ExitStack() as stack:
        devices = make_devices(where, target, settings)
        fleet = Fleet(devices, lambda text: notify({"event": "note", "text": text}))
        stack.callback(fleet.close)
        session = fingerprint(target, where.runner, settings.threads, devices[0].facts())
        workers = make_builders(builders)
        stack.callback(workers.close)
        overlap = where.runner in ("ssh", "rpc")
        tuner = Tuner(target, tasks, log, fleet, workers, session, notify, overlap)
        notify(
            {
                "event": "start",
                "target": target.name,
                "log": str(log.folder),
                "devices": fleet.names,
                "builders": workers.name,
                "threads": settings.threads,
                "peak_gflops": target.peak_gflops() * settings.threads,
                "recalled": tuner.recalled,
                "tasks": [_description(task) for task in tasks],
            }
        )
        yield tuner


def _description(task: Task) -> dict[str, Any]:
    """A task in the event that starts a run."""
    return {
        "label": task.label,
        "template": task.template,
        "calls": task.calls,
        "macs": task.macs,
        "decisions": len(task.space.rows),
    }


def _outcome(progress: Progress) -> TunedTask:
    return TunedTask(
        progress.task.label,
        progress.task.template,
        progress.task.calls,
        progress.task.macs,
        progress.default_seconds,
        progress.search.best,
        progress.chosen,
        tuple(progress.history),
        progress.tensorized,
    )


def make_devices(where: Where, target: Target, settings: Settings) -> list[Device]:
    """The devices to measure on.

    Raises:
        EdgeccError: one can't be reached, or the target's code does not run on this machine.
    """
    from compiler.package.cpu import required_features, why_not_on_host
    from compiler.tuning.measure import EmulatedDevice, local_device
    from compiler.tuning.rpc import rpc_device, tracker_devices
    from compiler.tuning.ssh import ssh_device

    if where.emulated:
        return [EmulatedDevice(target, settings)]
    if where.ssh:
        return _each(ssh_device, where.ssh, target, settings)
    if where.rpc:
        return _each(rpc_device, where.rpc, target, settings)
    if where.tracker and where.key:
        return list(tracker_devices(where.tracker, where.key, target, settings))
    reason = why_not_on_host(target.arch, tuple(required_features(target)))
    if reason:
        raise EdgeccError(
            f"can't measure {target.name} here: {reason}",
            "--ssh USER@HOST or --rpc HOST:PORT measures on a board, --runner emulated estimates",
        )
    return [local_device(target, settings)]


def _each(
    opener: Callable[[str, Target, Settings], Device],
    places: Sequence[str],
    target: Target,
    settings: Settings,
) -> list[Device]:
    """A device at each place, or none at all."""
    devices: list[Device] = []
    try:
        for place in places:
            devices.append(opener(place, target, settings))
    except BaseException:
        for device in devices:
            device.close()
        raise
    return devices
