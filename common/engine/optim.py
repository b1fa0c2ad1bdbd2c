"""Several optimisers for the parts of a model that are updated in turn."""

import copy

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from common.errors import ConfigError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OptimisersInTurn:
    """An optimiser per name, for the parameters of the named modules (dotted paths in the model):

        optim_wrapper = dict(constructor=OptimisersInTurn, NAME=dict(modules=[...], optimizer=dict(type=...)), ...)

    What else a name's dictionary holds is `OptimWrapper`'s. The model's `train_step` chooses which of them to update.
    Raises: ConfigError for a module that the model does not have, or for parameters that two optimisers would share.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        self.parts = {name: dict(part) for name, part in optim_wrapper_cfg.items() if name != "type"}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        wrappers, owner = {}, {}
        for name, part in self.parts.items():
            part = copy.copy(part)
            parameters = []
            for path in part.pop("modules"):
                try:
                    parameters += model.get_submodule(path).parameters()
                except AttributeError as error:
                    raise ConfigError(f"optim_wrapper.{name}.modules: {path!r} is no module of the model") from error
            for parameter in parameters:
                if owner.setdefault(id(parameter), name) != name:
                    raise ConfigError(f"optim_wrapper: {owner[id(parameter)]} and {name} share parameters")
            optimizer = dict(part.pop("optimizer"))
            wrappers[name] = OptimWrapper(optimizer.pop("type")(parameters, **optimizer), **part)
        return OptimWrapperDict(**wrappers)
