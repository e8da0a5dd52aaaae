"""``calm sample``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import HeadSamplingOption, HomeOption, JsonOption

if TYPE_CHECKING:
    from workbench.chunk_samplers import SamplerChoice
    from workbench.sampling import Generation
    from workbench.saved_runs import SavedRun

SAMPLES = 512
"""By which the calls of ``exact`` are estimated."""
LARGE = 1000
"""Expected calls for a chunk above which a warning is due."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sample)


def sample(
    run: Annotated[str, typer.Argument(help="Run folder, id or name.")],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="Text to continue; several are continued together.")
    ] = None,
    prompt_file: Annotated[
        list[Path] | None, typer.Option("--prompt-file", help="A file whose whole text is a prompt.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Tokens to generate, unless the text ends before.")
    ] = 256,
    num: Annotated[int, typer.Option(min=1, max=10_000, help="Independent continuations of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Equal seed, equal text.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(help="Below 1: closer to the likeliest text. Of exact, batch and softmax; default 0.5."),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            help="plain: the model's own distribution; exact: temperature by rejection, slow; batch: about "
            "that temperature, from --batch-size samples; noise: the head's noise scaled; softmax: of a token "
            "baseline; auto: batch or softmax."
        ),
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Samples for one chunk of sampler batch; default 32.")
    ] = None,
    noise_scale: Annotated[
        float | None, typer.Option(help="Of sampler noise: 1 is the model itself, 0 no noise; default 0.5.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Samples that sampler exact may draw for one chunk; default 10,000.")
    ] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Where exact has spent its budget, sampler batch decides.")
    ] = False,
    set_: HeadSamplingOption = None,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Continue texts. One text is shown as it is being written.

    Of a prompt a CALM reads whole chunks of K tokens, counted from its end: the first few tokens that are left
    over are not read. A prompt shorter than a chunk is taken for the beginning of a document. A text that outgrows
    the blocks of the training goes on from the latter half of the last block."""
    from workbench.config_file import parse_assignments
    from workbench.home import open_home
    from workbench.layers import generator
    from workbench.run_names import find_run
    from workbench.sampling import Generation
    from workbench.saved_runs import load_run

    choice = _choice(sampler, temperature, batch_size, noise_scale, budget, fallback)
    prompts = [*(prompt or []), *map(_read, prompt_file or [])] or [""]
    place = open_home(home)
    saved = load_run(find_run(run, place), place, overrides=parse_assignments(set_ or []))
    texts = [text for text in prompts for _ in range(num)]
    encoded = [saved.corpus.tokenizer.encode(text) for text in texts]
    generation = Generation(
        saved.model,
        encoded,
        num_tokens=tokens,
        rng=generator(seed, "sample", device=saved.model.device),
        sampler=choice,
        window=saved.config.train.block_len,
    )
    work = _Work(saved, generation, texts, tokens, seed)
    work.warn_of_length()
    if generation.sampler.kind == "exact":
        work.warn_of_calls(encoded)
    if as_json:
        work.as_json()
    elif len(texts) == 1:
        work.stream()
    else:
        work.show_all()
    work.warn_of_fallbacks()


def _choice(
    sampler: str,
    temperature: float | None,
    batch_size: int | None,
    noise_scale: float | None,
    budget: int | None,
    fallback: bool,
) -> SamplerChoice:
    """Raises ConfigError for options that contradict each other or have no effect."""
    from workbench.chunk_samplers import SamplerChoice
    from workbench.errors import ConfigError

    if sampler != "exact" and (budget is not None or fallback):
        name = "--budget" if budget is not None else "--fallback"
        raise ConfigError(f"{name} is for --sampler exact, {sampler} given")
    if batch_size is not None and not (sampler in ("auto", "batch") or fallback):
        raise ConfigError(f"--batch-size is for --sampler batch (or exact with --fallback), {sampler} given")
    given: dict[str, Any] = {"temperature": temperature, "noise_scale": noise_scale}
    given |= {"batch_size": batch_size, "budget": budget, "on_spent": "batch" if fallback else None}
    if noise_scale is not None and sampler == "auto":
        if temperature is not None:
            raise ConfigError("--noise-scale chooses sampler noise, which has no temperature; give one of the two")
        sampler = "noise"
    return SamplerChoice(sampler, **{name: value for name, value in given.items() if value is not None})


def _read(path: Path) -> str:
    """Raises ConfigError where the file is no readable text."""
    from workbench.errors import ConfigError
    from workbench.given_files import read_text

    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the prompt {path}: {error}") from None


@dataclass
class _Work:
    """One call of the command."""

    saved: SavedRun
    generation: Generation
    prompts: list[str]
    """One for each text."""
    num_tokens: int
    seed: int
    expected: float | None = None
    """Calls of ``exact`` for the next chunk, the most of any prompt."""

    # ---- what is shown ---------------------------------------------------------------------------

    def stream(self) -> None:
        """One text, piece by piece; what was written stays there whatever ends it."""
        from workbench.text_stream import TextStream

        stream = TextStream(self.saved.corpus.tokenizer)
        _write(self.prompts[0])
        try:
            with _spent_budget_explained(self.generation):
                for new in self.generation:
                    _write(stream.feed(_without_end(new[0])))
        finally:
            _write(stream.close() + "\n")

    def show_all(self) -> None:
        """Several texts, one after another when all are there, as far as they came."""
        try:
            self._run()
        finally:
            for i, (prompt, text) in enumerate(zip(self.prompts, self._texts(), strict=True)):
                _write(f"--- {i + 1} of {len(self.prompts)}\n{prompt}{text}\n")

    def as_json(self) -> None:
        """Also what there is when something ends it."""
        import json
        import time

        from workbench.own_heads import blaming

        began, error = time.perf_counter(), None
        try:
            with blaming(self.saved.record.head):
                self._run()
        except Exception as caught:
            error = str(caught)
            raise
        finally:
            spent = time.perf_counter() - began
            print(json.dumps({**self._settings(), **self._found(), "seconds": spent, "error": error}, indent=1))

    def _settings(self) -> dict[str, Any]:
        import dataclasses

        from workbench.config import CalmConfig

        config, sampler = self.saved.config, self.generation.sampler
        return {
            "run": self.saved.record.name,
            "seed": self.seed,
            "sampler": dataclasses.asdict(sampler),
            "temperature": sampler.effective_temperature(),
            "chunk_size": config.chunk_size,
            "head": config.model.head.model_dump() if isinstance(config.model, CalmConfig) else None,
            "window": config.train.block_len,
        }

    def _found(self) -> dict[str, Any]:
        import math

        made = self.generation.result()
        known = self.expected if self.expected is not None and math.isfinite(self.expected) else None
        return {
            "num_chunks": made.num_chunks,
            "calls_per_chunk": made.calls_per_chunk,
            "drawn_per_chunk": made.drawn_per_chunk,
            "fallback_chunks": made.fallback_chunks,
            "expected_calls": known,
            "texts": [
                {
                    "prompt": prompt,
                    "text": text,
                    "num_tokens": len(made.texts[i]),
                    "finished": made.finished[i],
                    "unread_prompt_tokens": made.unread[i],
                }
                for i, (prompt, text) in enumerate(zip(self.prompts, self._texts(), strict=True))
            ],
        }

    def _run(self) -> None:
        """With a progress bar on a terminal."""
        from rich.progress import Progress

        from workbench.cli.display import make_console

        console = make_console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("tokens", total=len(self.prompts) * self.num_tokens)
            with _spent_budget_explained(self.generation):
                for _ in self.generation:
                    progress.update(task, completed=self.generation.num_tokens_made)

    def _texts(self) -> list[str]:
        decode = self.saved.corpus.tokenizer.decode
        return [decode(_without_end(text.tolist())) for text in self.generation.result().texts]

    # ---- what is said beside ---------------------------------------------------------------------

    def warn_of_length(self) -> None:
        window, k = self.saved.config.train.block_len, self.saved.model.chunk_size
        longest = max(self.generation.result().unread)
        if longest >= k:
            _note(f"the first {longest:,} tokens of the prompt are not read: the model sees {window} at most")

    def warn_of_calls(self, encoded: list[Any]) -> None:
        """Estimates the calls of ``exact`` for the chunk after each prompt, and says so where they are many."""
        import time

        from workbench.layers import generator
        from workbench.model import Calm
        from workbench.sampling import expected_calls

        model, choice = self.saved.model, self.generation.sampler
        assert isinstance(model, Calm)
        assert choice.temperature is not None
        began = time.perf_counter()
        distinct = list({tokens.tobytes(): tokens for tokens in encoded}.values())
        found = [
            expected_calls(
                model,
                tokens,
                temperature=choice.temperature,
                rng=generator(self.seed, "expected calls", number, device=model.device),
                num_samples=SAMPLES,
                window=self.saved.config.train.block_len,
            )
            for number, tokens in enumerate(distinct)
        ]
        each = (time.perf_counter() - began) / (SAMPLES * len(distinct))
        self.expected = max(found)
        if self.expected > min(LARGE, choice.budget):
            _note(_words_on_calls(self.expected, choice, each))

    def warn_of_fallbacks(self) -> None:
        made = self.generation.result()
        if made.fallback_chunks:
            choice = made.sampler
            _note(
                f"{made.fallback_chunks} of {made.num_chunks} chunks were beyond the budget of {choice.budget:,} "
                f"calls and drawn by batch, N = {choice.batch_size}: the text is not exact"
            )


def _words_on_calls(expected: float, choice: SamplerChoice, seconds: float) -> str:
    import math

    assert choice.temperature is not None
    if math.isinf(expected):
        words = f"more calls than {SAMPLES} samples can tell"
    else:
        least = "at least " if 0.5 < choice.temperature < 1 else ""
        words = f"{least}about {expected:,.0f} calls ({expected * seconds:.2g} s)"
    end = "it will probably be spent" if choice.on_spent == "error" else "batch will probably decide instead"
    spent = f", above the budget of {choice.budget:,}: {end}" if expected > choice.budget else ""
    return (
        f"sampler exact at temperature {choice.temperature:g} needs {words} for the next chunk in the mean{spent}"
        "; sampler batch is quick at any temperature"
    )


@contextmanager
def _spent_budget_explained(generation: Generation) -> Iterator[None]:
    """SamplingError in the words of the command line."""
    from workbench.errors import SamplingError

    try:
        yield
    except SamplingError:
        choice, made = generation.sampler, generation.num_tokens_made
        raise SamplingError(
            f"sampler exact at temperature {choice.temperature:g} has spent its budget of {choice.budget:,} calls "
            f"on one chunk, after {made} tokens; give a larger --budget, another --temperature, --fallback (batch "
            "decides such chunks), or --sampler batch"
        ) from None


def _without_end(tokens: list[int]) -> list[int]:
    from workbench.tokenizer import END_ID

    return tokens[:-1] if tokens and tokens[-1] == END_ID else tokens


def _note(text: str) -> None:
    typer.echo(f"calm: {text}", err=True)


def _write(text: str) -> None:
    """At once. What the output's encoding cannot show becomes a question mark, and control characters, which a
    model of bytes may write, U+FFFD where the output is a terminal."""
    import re
    import sys

    if sys.stdout.isatty():
        text = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
