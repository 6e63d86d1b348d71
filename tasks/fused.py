"""A model made ready for prediction on a CPU: the same results in float32, sooner; in bfloat16, sooner still."""

from copy import deepcopy

import torch

from retinue.backbones.fused import fuse
from retinue.tasks.task import Model


def fused_model(model: Model, dtype: torch.dtype = torch.float32) -> Model:
    """A copy for prediction only, its backbone and its tasks' layers fused in `dtype`; the model stays as it is.

    The copy shares nothing with the model, and cannot be saved, copied or trained. In float32 it gives the model's
    results to rounding, not to the bit: figures of an evaluation are those of the model itself.
    """
    copy = deepcopy(model, {id(model.backbone): fuse(model.backbone, dtype)}).eval()
    for task in copy.named_tasks.values():
        task.fuse(dtype)
    return copy
