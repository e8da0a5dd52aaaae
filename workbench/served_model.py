"""A trained model as a folder that needs nothing else, and text from it: what is registered with MLflow.

    config.yaml              the run's configuration
    model.safetensors        the network
    autoencoder.safetensors  a CALM's autoencoder
    tokenizer/               ``workbench.tokenizer``
    model.json               which run it is of, and the code of a head from outside the package

MLflow loads it through ``_load_pyfunc``, by this module's name: no object is ever pickled, and no code of the
folder is run. The package must be installed where a model is loaded. Imports no mlflow, but when MLflow loads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench import files, own_heads
from workbench.build import assemble
from workbench.chunk_samplers import DEFAULT_BATCH_SIZE, SamplerChoice
from workbench.config import CalmConfig, RunConfig
from workbench.config_file import stored_config
from workbench.errors import ConfigError, RunError
from workbench.language_model import LanguageModel
from workbench.layers import generator
from workbench.model import Calm
from workbench.records import CONFIG
from workbench.sampling import generate
from workbench.saved_runs import SavedRun
from workbench.temperature import BUDGET
from workbench.tensor_files import fill, read_tensors, write_tensors
from workbench.tokenizer import END_ID, Tokenizer, load_tokenizer
from workbench.train_autoencoder import build_autoencoder

if TYPE_CHECKING:
    from workbench.tracking_served import Answering

ABOUT, TOKENIZER = "model.json", "tokenizer"
WEIGHTS, AUTOENCODER = "model.safetensors", "autoencoder.safetensors"
FORMAT = 1
PROMPT = "prompt"
"""Name of the column of prompts."""
PARAMS: dict[str, tuple[str, Any, str]] = {
    "max_tokens": ("long", 256, "tokens of each text at most"),
    "temperature": ("double", None, "of samplers exact, batch and softmax; none: 0.5"),
    "sampler": ("string", "auto", "auto, plain, exact, batch, noise or softmax"),
    "num_samples": ("long", 1, "texts for each prompt"),
    "seed": ("long", 0, "equal seed, equal text"),
    "batch_size": ("long", DEFAULT_BATCH_SIZE, "samples for a chunk of sampler batch"),
    "noise_scale": ("double", None, "of sampler noise; none: 0.5"),
    "budget": ("long", BUDGET, "samples that sampler exact may draw for a chunk"),
}
"""What can be asked of a model: MLflow's type, default, meaning."""


def export(saved: SavedRun, run_dir: Path, folder: Path) -> None:
    """Write the model of a run into the empty ``folder``. Raises OutputError, and RunError where a head from
    outside the package has other code now than the run was trained and scored with."""
    record = saved.record
    own = record.environment.get("own_head") or own_heads.recorded(record.head)
    if own:
        own_heads.require_same(str(record.head), own, str(run_dir))
    files.writable_folder(folder / TOKENIZER)
    files.write_atomic(folder / CONFIG, (run_dir / CONFIG).read_text(encoding="utf-8"))
    write_tensors(folder / WEIGHTS, saved.model.network.state_dict(), alone=True)
    if isinstance(saved.model, Calm):
        write_tensors(folder / AUTOENCODER, saved.model.autoencoder.state_dict(), alone=True)
    saved.corpus.tokenizer.save(folder / TOKENIZER)
    about: dict[str, Any] = {
        "run_id": record.run_id,
        "name": record.name,
        "study": record.study,
        "step": saved.step,
    }
    about |= {"config_hash": record.config_hash, "data_hash": record.data_hash, "corpus": saved.corpus.name}
    about |= {"own_head": own} if own else {}
    files.write_json(folder / ABOUT, {"format": FORMAT, **about})


class ServedModel:
    """Continues prompts."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, config: RunConfig, about: Mapping[str, Any]):
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.about = about
        """Which run it is of."""

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """The continuations of the prompts, without them, in their order; ``num_samples`` of each, one after the
        other. ``data``: a table with a column ``prompt``, a sequence of texts, or one text. ``params``: of
        ``PARAMS``. As ``calm sample`` writes them, the same for an equal seed.

        Raises ConfigError for what cannot be sampled, and SamplingError where ``exact`` has spent its budget."""
        asked = _asked(params or {})
        texts = [text for text in prompts(data) for _ in range(asked["num_samples"])]
        if not texts:
            return []
        made = generate(
            self.model,
            [self.tokenizer.encode(text) for text in texts],
            num_tokens=asked["max_tokens"],
            rng=generator(asked["seed"], "sample", device=self.model.device),
            sampler=_sampler(asked),
            window=self.config.train.block_len,
        )
        return [self.tokenizer.decode(text[text != END_ID]) for text in made.texts]


def load(folder: Path | str) -> ServedModel:
    """What ``export`` wrote, on a graphics card where there is one. Raises RunError where it is damaged, or a head
    from outside the package is not here or has other code than it was trained with."""
    folder = Path(folder)
    try:
        about = files.read_json(folder / ABOUT)
        newer = about["format"] > FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        files.raise_unreadable(folder / ABOUT, error)
        raise RunError(f"{folder} holds no model of this workbench: {error}; register the run again") from None
    if newer:
        raise RunError(f"{folder} was written by a newer workbench; update this one")
    config = stored_config(folder / CONFIG)
    own = about.get("own_head")
    if isinstance(own, dict) and isinstance(config.model, CalmConfig):
        own_heads.require_same(config.model.head.kind, own, f"{folder} (run {about.get('name')})")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"device": device})})
    tokenizer = load_tokenizer(folder / TOKENIZER)
    autoencoder = None
    if config.is_calm:
        autoencoder = build_autoencoder(config, tokenizer.vocab_size)
        fill(autoencoder, read_tensors(folder / AUTOENCODER, what="autoencoder"), folder / AUTOENCODER)
        autoencoder.eval()
    model = assemble(config, tokenizer.vocab_size, autoencoder)
    fill(model.network, read_tensors(folder / WEIGHTS, what="weights"), folder / WEIGHTS)
    return ServedModel(model, tokenizer, config, about)


def _load_pyfunc(path: str) -> Answering:
    """Under the name that MLflow's python function flavour asks for. It refuses in MLflow's way."""
    from workbench.tracking_served import Answering

    return Answering(load(path))


def prompts(data: Any) -> list[str]:
    """Raises ConfigError for what is no text."""
    if isinstance(data, str):
        data = [data]
    elif hasattr(data, "columns"):  # a table: pandas need not be imported to know one
        names = list(data.columns)
        if PROMPT not in names and len(names) != 1:
            raise ConfigError(f"a column {PROMPT!r} of texts is wanted, the table has {names}")
        data = data[PROMPT if PROMPT in names else names[0]]
    given = list(data)
    for number, text in enumerate(given):
        if not isinstance(text, str):
            raise ConfigError(f"prompts are texts; number {number + 1} is {type(text).__name__}")
    return given


def _asked(params: Mapping[str, Any]) -> dict[str, Any]:
    """With defaults, as Python's own numbers. Raises ConfigError."""
    unknown = sorted(params.keys() - PARAMS.keys())
    if unknown:
        raise ConfigError(f"unknown parameter {unknown[0]!r}; known: {', '.join(PARAMS)}")
    asked = {}
    for name, (kind, default, _) in PARAMS.items():
        value = params.get(name, default)
        if value is not None:
            value = {"long": int, "double": float, "string": str}[kind](value)
        elif default is not None:
            value = default
        asked[name] = value
    for name in ("max_tokens", "num_samples"):
        if asked[name] < 1:
            raise ConfigError(f"{name} must be at least 1, {asked[name]} given")
    return asked


def _sampler(asked: Mapping[str, Any]) -> SamplerChoice:
    kind = asked["sampler"]
    if kind == "auto" and asked["noise_scale"] is not None:
        kind = "noise"
    return SamplerChoice(
        kind=kind,
        temperature=asked["temperature"],
        batch_size=asked["batch_size"],
        noise_scale=asked["noise_scale"],
        budget=asked["budget"],
    )


__all__: Sequence[str] = ("PARAMS", "PROMPT", "ServedModel", "export", "load", "prompts")
