"""Tests to inherit, for parts of your own: what every generative head must do (docs/own-head.md).

    class TestMine(HeadSuite):
        kind = "my_head"

For pytest, which nothing else of the workbench needs; no other module imports this package."""

from __future__ import annotations

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"workbench.testing wants pytest ({error}): pip install 'pytest>=9.2'") from None

pytest.register_assert_rewrite("workbench.testing.head_suite", "workbench.testing.two_modes")

from workbench.testing import head_suite  # noqa: E402  what is said above must come first

HIDDEN, LATENT, build = head_suite.HIDDEN, head_suite.LATENT, head_suite.build
ContractSuite = head_suite.ContractSuite
HeadSuite = head_suite.HeadSuite
OneModeSuite = head_suite.OneModeSuite
