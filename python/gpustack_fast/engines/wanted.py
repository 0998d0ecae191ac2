"""What the configuration wants now of engines of ours: the models that should run, and of which
generation, and which replicas are as it says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from gpustack_fast.config import ModelConfig
from gpustack_fast.config.model_fields import makes_same_process
from gpustack_fast.engines.replica import Replica

__all__ = ["WantedModels"]


class WantedModels:
    """The models of ours that should run: none at first. Lives on the event loop."""

    def __init__(self) -> None:
        self._models: dict[str, ModelConfig] = {}
        self._generations: dict[str, int] = {}

    def take(self, models: Iterable[ModelConfig], generations: Mapping[str, int]) -> None:
        """Sets them; those of somebody else's engines are left out. `generations`: 1 where there is
        none.
        """
        self._models = {model.name: model for model in models if not model.external}
        self._generations = dict(generations)

    def __getitem__(self, name: str) -> ModelConfig:
        return self._models[name]

    def values(self) -> Collection[ModelConfig]:
        """All of them, in the order of the configuration."""
        return self._models.values()

    def generation(self, name: str) -> int:
        """That of a model, from which its engines are made now."""
        return self._generations.get(name, 1)

    def hand_to(self, replica: Replica) -> None:
        """Has a replica go on by what is wanted now, or notes that it cannot."""
        model = self._models.get(replica.slot.model)
        if model is None:
            return
        if makes_same_process(replica.model, model):
            # Also where an edit was taken back: nothing need be replaced for that.
            replica.take(model, self.generation(model.name))
        else:
            replica.edited = True

    def look_for_edit(self, replica: Replica) -> None:
        """Notes of an adopted replica that runs whether its model was edited before."""
        model = self._models.get(replica.slot.model)
        replica.edited = model is not None and not makes_same_process(replica.model, model)

    def compared(self, replica: Replica) -> None:
        """Notes that it is known of an adopted replica whether it is up to date."""
        if not replica.is_outdated:
            # It may be of an older one that comes to the same.
            replica.generation = self.generation(replica.slot.model)

    def are_compared(self, name: str, replicas: Iterable[Replica]) -> bool:
        """Whether it is known of all `replicas`, which are those of a model, that they are of its
        generation.
        """
        generation = self.generation(name)
        return all(one.generation == generation for one in replicas if not one.retired)
