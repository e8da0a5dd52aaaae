"""Errors of a served model in MLflow's own words: its server hides every other kind behind "unexpected error".

Imported by MLflow's loader alone, when it is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from workbench.errors import ConfigError, HeadError, SamplingError, UserError


class Predicts(Protocol):
    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[str]: ...


class Answering:
    """A model as MLflow asks it."""

    def __init__(self, model: Predicts) -> None:
        self.model = model

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Of the model. Raises MlflowException, in the same words, where it raises an error of ours: for what was
        asked as an invalid parameter, which a server answers with 400."""
        try:
            return self.model.predict(data, params)
        except UserError as error:
            asked = isinstance(error, ConfigError | SamplingError) and not isinstance(error, HeadError)
            raise MlflowException(
                str(error), error_code=INVALID_PARAMETER_VALUE if asked else INTERNAL_ERROR
            ) from error
