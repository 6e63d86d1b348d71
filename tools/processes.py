"""Several processes that train together: what one of them finds out, all know."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

Found = TypeVar("Found")


def found_by_first(find: Callable[[], Found]) -> Found:
    """What `find` returns or raises, asked in the first process alone: the others take its word. It is pickled."""
    if not (dist.is_available() and dist.is_initialized()):
        return find()
    # A group of its own: reading a large data set may take longer than other groups wait.
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    word: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            word[0] = find()
        except Exception as error:  # the others would wait for ever
            word[1] = error
    dist.broadcast_object_list(word, src=0, group=group)  # type: ignore[arg-type]
    dist.destroy_process_group(group)
    if word[1] is not None:
        raise word[1]
    return word[0]
