"""A finished run in MLflow's model registry: its model with weights, signature and scores, a version of a name.

Everything is asked for before it is made, so a registration that was broken off (a server that went away, a
process that was killed) is continued by the next one, and one that is repeated makes nothing twice. The version
comes last: it exists only once the model is there with all its files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.tracking_experiment import MlflowException  # isort: skip

import mlflow
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

from workbench import files, records, served_model
from workbench.errors import RunError, TrackingError
from workbench.home import Home
from workbench.saved_runs import load_run
from workbench.tracking import SINGLE, Outcome, Tracker, open_tracker
from workbench.tracking_datasets import datasets
from workbench.tracking_metrics import points
from workbench.tracking_mlflow import MlflowTracker
from workbench.tracking_outages import OUTAGES, chunks, insist
from workbench.tracking_schema import family, read_config, read_cursor, run_params, run_tags

PATIENCE_SECONDS = 30.0
"""For a server that is there but busy."""
LOADER = served_model.__name__
DIGEST = "calm.model"
"""Tag of a logged model: hash of its files."""
VERSIONS = "mlflow.modelVersions"
"""Tag by which MLflow's pages find the versions of a logged model."""
SHOWN = (
    *("eval/brierlm", "eval/brierlm_se", "eval/brierlm_low", "eval/brierlm_high", "eval/score"),
    *(f"eval/brier_{n}{end}" for n in (1, 2, 3, 4) for end in ("", "_se")),
    *("eval/cross_entropy", "eval/cross_entropy_se", "eval/bits_per_byte", "eval/byte_perplexity"),
    *("compute/train_flops", "compute/infer_flops_per_token", "parameters/total", "ae/token_accuracy"),
)
"""Metrics of the run that its model has, too."""
VERSION_TAGS = ("study", "kind", "chunk_size", "head", "seed", "config_hash", "data_hash", "eval_fingerprint")
_NAME = re.compile(r"[^/:\s][^/:]{0,199}")
_ALIAS = re.compile(r"[\w-]{1,100}")
_VERSION = re.compile(r"[vV]\d+")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    run_id: str
    """MLflow's, of the run it is of."""
    aliases: tuple[str, ...]
    description: str
    new: bool = False
    """Whether it was made now."""
    alias_was: str | None = None
    """The other version that the alias meant until now."""

    @property
    def uri(self) -> str:
        """For ``mlflow.pyfunc.load_model``."""
        return f"models:/{self.name}/{self.version}"


def register(
    run_dir: Path | str,
    *,
    home: Home,
    name: str | None = None,
    alias: str | None = None,
    tracking_uri: str | None = None,
    again: bool = False,
) -> Registered:
    """Register the model of a completed run as a version of ``name`` (default: ``calm-`` and its corpus), with
    ``alias`` pointing to it. A run that has a version keeps it, unless ``again``.

    Raises RunError for a run that is not completed or is damaged, and TrackingError for a name that MLflow does
    not take and a server that does not answer; the same call then goes on where it stopped."""
    run_dir = Path(run_dir)
    record = records.read_record(run_dir)
    if record.status != "completed":
        raise RunError(
            f"{run_dir} is {record.status} at step {record.step} of {record.num_steps}; only a completed run is "
            "registered: its scores are those of the model that is kept"
        )
    tree = read_config(run_dir)
    name = default_name(str(tree["data"]["corpus"])) if name is None else name
    check_names(name, alias)
    with (
        files.locked(run_dir / ".register.lock"),
        tempfile.TemporaryDirectory(prefix="calm-model-") as folder,
        contextlib.closing(_open(tracking_uri, record.study or SINGLE, home)) as tracker,
        _said_plainly(tracker, run_dir),
    ):
        made = Path(folder) / "calm"
        served_model.export(load_run(run_dir, home), run_dir, made)
        _deliver(tracker, run_dir)
        deadline = time.monotonic() + PATIENCE_SECONDS
        work = _Registration(tracker, run_dir, record, tree, made)
        return insist(lambda: work.go(name, alias, again=again), deadline)


def registered_models(home: Home, tracking_uri: str | None = None) -> list[Registered]:
    """All versions of all models, by name, the latest first; makes no database. Raises TrackingError."""
    if tracking_uri is None and not home.mlflow_database.exists():
        return []
    with contextlib.closing(_open(tracking_uri, SINGLE, home)) as tracker, _said_plainly(tracker, None):
        client = tracker.client()
        models = sorted(client.search_registered_models(max_results=1000), key=lambda model: str(model.name))
        return [
            _registered(client, version)
            for model in models
            for version in sorted(_versions(client, model.name), key=lambda v: -int(v.version))
        ]


def default_name(corpus: str) -> str:
    """``calm-shakespeare``; of a user's files their last part without its ending. Models of one text are versions
    of one name."""
    _, colon, path = corpus.partition(":")
    plain = re.sub(r"[^\w.-]+", "-", Path(path).stem if colon else corpus).strip("-.")
    return f"calm-{plain or 'text'}"[:200]


def check_names(name: str, alias: str | None) -> None:
    """Raises TrackingError for what MLflow would refuse, before anything is made."""
    if not _NAME.fullmatch(name) or name != name.strip():
        raise TrackingError(
            f"the name {name!r} is no name of a model; wanted: up to 200 characters without / and :, for example "
            "calm-shakespeare"
        )
    reserved = alias is not None and (alias.lower() == "latest" or _VERSION.fullmatch(alias))
    if alias is not None and (reserved or not _ALIAS.fullmatch(alias)):
        raise TrackingError(
            f"the alias {alias!r} cannot be used; wanted: letters, digits, - and _, for example champion (latest "
            "and v1, v2 ... are MLflow's own)"
        )


class _Registration:
    """One run on its way into the registry; ``go`` may be called again after any failure."""

    def __init__(
        self, tracker: MlflowTracker, run_dir: Path, record: records.RunRecord, tree: dict[str, Any], folder: Path
    ) -> None:
        cursor = read_cursor(run_dir)
        assert cursor is not None, "the run was delivered"
        self._client = tracker.client()
        self._run_id, self._experiment_id = cursor.run_id, cursor.experiment_id
        self._run_dir, self._record, self._tree, self._folder = run_dir, record, tree, folder
        self._digest = _digest(folder)
        self._alias_was: str | None = None
        tags = run_tags(record, tree, record.status)
        self._tags = {f"calm.{key}": tags[f"calm.{key}"] for key in VERSION_TAGS if f"calm.{key}" in tags}
        self._tags |= {"calm.run_id": record.run_id}
        if record.final is not None:
            self._tags["calm.brierlm"] = record.final.brier.words()

    def go(self, name: str, alias: str | None, *, again: bool) -> Registered:
        model = self._model()
        if str(model.status) != "READY":
            self._upload(model)
        self._link(model)
        self._measure(model)
        version, new = self._version(model, name, again=again)
        self._name_versions(model, name, version)
        if alias is not None:
            before = self._client.get_registered_model(name).aliases.get(alias)
            if before is not None and str(before) != str(version):
                self._alias_was = str(before)  # kept: where only the answer was lost, the alias has moved already
            self._client.set_registered_model_alias(name, alias, version)
        made = _registered(self._client, self._client.get_model_version(name, version), new=new)
        return dataclasses.replace(made, alias_was=self._alias_was)

    def _model(self) -> Any:
        """The run's logged model, perhaps without its files yet."""
        known = self._client.search_logged_models(
            [self._experiment_id], filter_string=f"source_run_id = '{self._run_id}'", max_results=100
        )
        ours = [model for model in known if model.tags.get(DIGEST) == self._digest and _usable(model)]
        if ours:
            return min(ours, key=lambda model: str(model.status) != "READY")
        return self._client.create_logged_model(
            self._experiment_id,
            name=_plain(self._record.name),
            source_run_id=self._run_id,
            tags={**self._tags, DIGEST: self._digest},
            params=run_params(self._tree),
            model_type=family(self._tree["model"]),
        )

    def _upload(self, model: Any) -> None:
        """All files, then the word that they are there."""
        with tempfile.TemporaryDirectory(prefix="calm-pyfunc-") as folder:
            package = Path(folder) / "model"
            about = Model(
                artifact_path=model.artifact_location,
                run_id=self._run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            )
            mlflow.pyfunc.save_model(
                str(package),
                loader_module=LOADER,
                data_path=str(self._folder),
                mlflow_model=about,
                signature=signature(),
                input_example=(["To be"], {"max_tokens": 64, "seed": 0}),
                pip_requirements=requirements(),
            )
            self._client.log_model_artifacts(model.model_id, str(package))
        self._client.finalize_logged_model(model.model_id, "READY")

    def _link(self, model: Any) -> None:
        """The model as an output of the run."""
        outputs = self._client.get_run(self._run_id).outputs
        known = {output.model_id for output in outputs.model_outputs} if outputs else set()
        if model.model_id not in known:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step=self._record.step)])

    def _measure(self, model: Any) -> None:
        """The run's last scores, on the text they were measured on: the same points as the run's own, so that
        MLflow keeps each once."""
        scored = [use for use in datasets(self._run_dir, self._record, self._tree) if use.context == "evaluation"]
        latest = {point.key: point for point in points(self._run_dir, self._record, ended=True)}
        metrics = [
            Metric(
                point.key,
                point.value,
                point.timestamp,
                point.step,
                model_id=model.model_id,
                run_id=self._run_id,
                dataset_name=scored[0].name if scored and key.startswith("eval/") else None,
                dataset_digest=scored[0].digest if scored and key.startswith("eval/") else None,
            )
            for key in SHOWN
            if (point := latest.get(key)) is not None
        ]
        known = {metric.key for metric in self._client.get_logged_model(model.model_id).metrics or []}
        for part in chunks([metric for metric in metrics if metric.key not in known], 1000):
            self._client.log_batch(self._run_id, metrics=part)

    def _version(self, model: Any, name: str, *, again: bool) -> tuple[str, bool]:
        """Its number, and whether it was made now."""
        try:
            self._client.create_registered_model(name, tags={"calm.corpus": self._tree["data"]["corpus"]})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = [v for v in _versions(self._client, name) if v.run_id == self._run_id]
        if known and not again:
            return str(max(int(version.version) for version in known)), False
        made = self._client.create_model_version(
            name,
            source=model.artifact_location,  # MLflow resolves models:/ by its global address, which is not ours
            run_id=self._run_id,
            model_id=model.model_id,
            tags=self._tags,
            description=_description(self._record, self._tree),
            await_creation_for=0,
        )
        return str(made.version), True

    def _name_versions(self, model: Any, name: str, version: str) -> None:
        known = json.loads(self._client.get_logged_model(model.model_id).tags.get(VERSIONS, "[]"))
        entry = {"name": name, "version": int(version)}
        if not any(row["name"] == name and int(row["version"]) == int(version) for row in known):
            self._client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps([*known, entry])})


def signature() -> ModelSignature:
    """A column of texts in, texts out; the column has no name, so that a list of texts is taken, too."""
    params = [ParamSpec(name, kind, default) for name, (kind, default, _) in served_model.PARAMS.items()]
    text = Schema([ColSpec("string")])
    return ModelSignature(inputs=text, outputs=text, params=ParamSchema(params))


def requirements() -> list[str]:
    """This package and what it needs, as installed: nothing is inferred, and nothing is asked of the network."""
    names = ["calm-workbench"]
    with contextlib.suppress(metadata.PackageNotFoundError):
        wanted = metadata.requires("calm-workbench") or []
        names += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in wanted if "extra ==" not in line]
    found = []
    for package in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{package}=={metadata.version(package).partition('+')[0]}")
    return found


def _open(uri: str | None, experiment: str, home: Home) -> MlflowTracker:
    tracker: Tracker = open_tracker(uri, experiment=experiment, home=home)
    if not isinstance(tracker, MlflowTracker):
        raise TrackingError(f"models are registered with a server or database, --tracking-uri {uri} given")
    return tracker


def _deliver(tracker: MlflowTracker, run_dir: Path) -> None:
    """The run itself, which its model belongs to. Raises TrackingError."""
    outcome = tracker.mirror(run_dir, final=True)
    if outcome not in (Outcome.DELIVERED, Outcome.COMPLETE):
        raise TrackingError(
            f"{run_dir} could not be delivered to {tracker.uri} ({outcome.value}), so its model was not "
            "registered; the same command again does it"
        )


@contextlib.contextmanager
def _said_plainly(tracker: MlflowTracker, run_dir: Path | None) -> Iterator[None]:
    """Outages and refusals in one line."""
    try:
        yield
    except TrackingError:
        raise
    except OUTAGES as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        rest = "" if run_dir is None else "; what has arrived is kept, and the same command goes on from there"
        raise TrackingError(f"{tracker.uri} does not answer or refuses: {reason}{rest}") from None


def _usable(model: Any) -> bool:
    return str(model.status) in ("READY", "PENDING")


def _versions(client: Any, name: str) -> list[Any]:
    quoted = name.replace("'", "\\'")
    return list(client.search_model_versions(f"name = '{quoted}'", max_results=10_000))


def _registered(client: Any, version: Any, *, new: bool = False) -> Registered:
    known = client.get_registered_model(version.name).aliases
    aliases = tuple(sorted(alias for alias, number in known.items() if str(number) == str(version.version)))
    return Registered(
        str(version.name), str(version.version), str(version.run_id), aliases, str(version.description or ""), new
    )


def _description(record: records.RunRecord, tree: dict[str, Any]) -> str:
    """In one line, for the registry's page."""
    config = tree["model"]
    kind = (
        f"CALM, K = {config.get('chunk_size')}, head {record.head}" if record.kind == "calm" else "token baseline"
    )
    parts = [kind, f"{record.parameters.get('total', 0):,} parameters", f"on {tree['data']['corpus']}"]
    if record.final is not None:
        parts.append(f"BrierLM {record.final.brier.words()}")
        if record.final.bits_per_byte is not None:
            parts.append(f"{record.final.bits_per_byte:.3f} bits per byte")
    where = f"run {record.run_id}" + (f" of study {record.study}" if record.study else "")
    return ", ".join([*parts, where])


def _plain(name: str) -> str:
    """As a logged model may be called."""
    return re.sub(r"[/:.%\"']+", "-", name)[:200] or "model"


def _digest(folder: Path) -> str:
    """Of all names and contents."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder)}\0{files.sha256(path)}\n".encode())
    return found.hexdigest()[:32]
