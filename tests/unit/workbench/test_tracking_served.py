from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from workbench.errors import ConfigError, HeadError, NotFiniteError, SamplingError, UserError
from workbench.tracking_served import Answering


class Refusing:
    """A model that cannot."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        raise self.error


class Echo:
    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        return [f"{data} {params}"]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (ConfigError("max_tokens must be at least 1"), "INVALID_PARAMETER_VALUE", 400),
        (SamplingError("the budget is spent"), "INVALID_PARAMETER_VALUE", 400),
        (HeadError("the head is not here"), "INTERNAL_ERROR", 500),
        (NotFiniteError("no numbers"), "INTERNAL_ERROR", 500),
    ],
)
def test_errors_of_ours_keep_their_words(error: UserError, code: str, status: int) -> None:
    with pytest.raises(MlflowException) as refused:
        Answering(Refusing(error)).predict(["a"])
    assert refused.value.message == str(error)
    assert (refused.value.error_code, refused.value.get_http_status_code()) == (code, status)


def test_mistakes_of_ours_are_not_hidden() -> None:
    with pytest.raises(AssertionError, match="ours"):
        Answering(Refusing(AssertionError("ours"))).predict(["a"])


def test_what_is_asked_is_handed_on() -> None:
    assert Answering(Echo()).predict("a", {"seed": 3}) == ["a {'seed': 3}"]
