"""``python -m workbench.cli``: the command ``calm``, for launchers that start modules."""

from workbench.cli import program

program()
