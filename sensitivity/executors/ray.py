"""Workers that are actors on the machines of a Ray cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from sensitivity import optional
from sensitivity.errors import MissingPackage, SensitivityError
from sensitivity.executors.base import Lost, Reply, Server, Start


class RayWorker:
    """One actor. Ray reserves a core for it, and a GPU if the model is on one."""

    def __init__(self, start: Start, gpus: int) -> None:
        actor = optional.ray.remote(Server).options(num_cpus=1, num_gpus=gpus, max_restarts=0)
        self._actor = actor.remote(start)
        self.due = self._actor.began.remote()

    def give(self, work: object) -> None:
        """Call the actor. If it is dead, `reply` raises Lost."""
        self.due = self._actor.reply.remote(work)

    def reply(self) -> Reply:
        """Wait for the reply of the actor. Raises Lost."""
        try:
            replied: Reply = optional.ray.get(self.due)
        except optional.ray.exceptions.RayError as error:
            raise Lost(" ".join(str(error).split())[:300]) from error
        return replied

    def stop(self) -> None:
        """Kill the actor."""
        optional.ray.kill(self._actor)


class RayExecutor:
    """Starts actors on the cluster at an address, to which it connects at once.

    Raises MissingPackage without Ray, and SensitivityError if there is no cluster or it has too few
    cores.
    """

    def __init__(self, address: str, count: int, gpus: int) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MissingPackage("ray", "--ray", "ray")
        self.shared = count
        self._gpus = gpus
        _connect(address)
        cores = int(optional.ray.cluster_resources().get("CPU", 0))
        if cores < count:
            self.close()
            raise SensitivityError(
                f"Expected a Ray cluster with a core for each of --workers {count}, got {cores} "
                f"at {address}; give fewer, or add machines with `ray start --address`."
            )

    def start(self, start: Start) -> RayWorker:
        """Start a new actor."""
        return RayWorker(start, self._gpus)

    def ready(self, workers: Sequence[RayWorker]) -> list[RayWorker]:
        """Return the workers whose reply is available, after waiting for at least one."""
        by_answer = {worker.due: worker for worker in workers}
        available, _ = optional.ray.wait(list(by_answer), num_returns=1)
        return [by_answer[reply] for reply in available]

    def close(self) -> None:
        """Disconnect from the cluster, and end it if it was started here."""
        optional.ray.shutdown()


def _connect(address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        optional.ray.init(address=address, include_dashboard=False, **quiet)
    except Exception as error:  # Ray may raise anything
        reason = " ".join(str(error).split())[:200]
        raise SensitivityError(
            f"Expected a Ray cluster at {address}, got {type(error).__name__}: {reason}; start one "
            "with `ray start --head`, or leave out --ray."
        ) from error
