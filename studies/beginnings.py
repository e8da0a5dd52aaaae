"""Runs that a study's own start from (``train.init_from``): what a launch has frozen cannot be mended."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from studies.space import baseline_config, followed, setting_config, settings
from studies.spec import StudySpec, describe
from workbench.config import RunConfig, content_hash
from workbench.errors import ConfigError, RunError, StudyError
from workbench.home import Home

_DECIDES = ("model.", "autoencoder.", "data.tokenizer", "train.init_from")
"""Parameters that say whether a run's weights fit."""


def check_beginnings(spec: StudySpec, home: Home) -> None:
    """Raises StudyError that names the baseline or the setting where it cannot start from the run it names."""
    from workbench.initial import initial_run

    for whose, instead, config in _beginnings(spec):
        try:
            initial_run(config.resolved(), home)
        except ConfigError as error:
            raise StudyError(f"{whose}: {error}; in a study: {instead}, or leave train.init_from out") from None
        except RunError as error:
            raise StudyError(f"{whose}: {error}") from None


def _beginnings(spec: StudySpec) -> Iterator[tuple[str, str, RunConfig]]:
    """One run for each architecture, tokenizer and beginning, whose it is, and what can be done where it does not
    fit."""
    cells = (
        (f"baseline {name}", f"give it train.init_from: null in a preset {_OWN}", baseline_config(spec, name))
        for name in spec.baselines
    )
    search = (
        (
            _words(spec, setting),
            f"search in a preset {_OWN} over what the weights allow",
            setting_config(spec, setting),
        )
        for setting in itertools.chain(settings(spec), spec.start)
    )
    seen = set()
    for whose, instead, config in itertools.chain(cells, search):
        if config.train.init_from is None:
            continue
        sections = (config.model, config.autoencoder, config.data.tokenizer)
        key = content_hash([config.train.init_from, *(section.model_dump() for section in sections)])
        if key not in seen:
            seen.add(key)
            yield whose, instead, config


_OWN = "of your own (docs/own-study.md)"


def _words(spec: StudySpec, setting: dict[str, object]) -> str:
    """``the setting chunk_size=4``: of its values those that decide."""
    whole = {**followed(spec, setting), **setting}
    deciding = {name: value for name, value in whole.items() if name.startswith(_DECIDES)}
    return f"the setting {describe(deciding)}" if deciding else "every setting"
