"""One of two processes, which asks the first to find something out: writes down who was asked, and what was heard.

python one_of_two.py RANK STORE FOLDER
"""

import sys
from pathlib import Path

import torch.distributed as dist

from retinue.datasets.targets import DataError
from retinue.tools.processes import found_by_first

RANK, STORE, FOLDER = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])


def find() -> dict[str, int]:
    """Says who was asked."""
    with (FOLDER / "asked").open("a") as file:
        file.write(f"{RANK} ")
    return {"rank": RANK}


def refuse() -> None:
    """As data that cannot be used do."""
    raise DataError("a.png: is truncated")


if __name__ == "__main__":
    dist.init_process_group("gloo", init_method=f"file://{STORE}", rank=RANK, world_size=2)
    heard = [str(found_by_first(find))]
    try:
        found_by_first(refuse)
    except DataError as error:
        heard.append(str(error))
    (FOLDER / f"heard{RANK}").write_text("\n".join(heard))
    dist.destroy_process_group()
