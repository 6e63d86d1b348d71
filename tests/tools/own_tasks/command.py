"""The retinue command with the tasks beside this file: command.py WORDS."""

import sys
from pathlib import Path

import retinue.tasks

retinue.tasks.__path__.append(str(Path(__file__).parent))

if __name__ == "__main__":
    from retinue.tools.command import main

    sys.exit(main(sys.argv[1:]))
