"""A run folder as it was written before formats had numbers, word for word.

It was interrupted before its first checkpoint. Its text is ``tiny_runs.write_text``'s, in the current folder."""

from __future__ import annotations

from pathlib import Path

HASH, DATA_HASH = "50215e2e755bda65", "8d376b693384d7eb"

CONFIG = """\
name: null
seed: 0
data:
  corpus: text:text.txt
  tokenizer:
    kind: byte
    vocab_size: null
  validation_fraction: 0.1
  test_fraction: 0.1
  max_documents: null
autoencoder:
  latent_dim: 6
  width: 24
  mlp_width: 60
  token_dropout: 0.15
  latent_dropout: 0.15
  kl_weight: 0.001
  kl_floor: 0.5
  init: fan_in
  steps: 30
  batch_chunks: 32
  lr: 0.002
  warmup_steps: 100
  decay_fraction: 0.5
  weight_decay: 0.1
  clip: 1.0
  seed: 0
  eval_chunks: 256
model:
  kind: calm
  chunk_size: 4
  input_mode: tokens
  latent_feedback: reencoded
  backbone:
    width: 32
    num_layers: 2
    num_heads: 4
    num_kv_heads: 4
    mlp_width: 96
    rope_theta: 10000.0
  head:
    num_blocks: 2
    kind: energy
    noise_dim: 8
    num_samples: 4
    num_targets: 6
    distance: power
    alpha: 1.0
    quadric_scale: 0.5
    quadric_gamma: 0.5
  auxiliary_weight: 0.0
  init: fan_in
optim:
  kind: adamw
  lr: 0.002
  matrix_lr: null
  momentum: 0.95
  matrix_every: 1
  batch_positions: 32
  betas:
  - 0.9
  - 0.95
  weight_decay: 0.1
  clip: 1.0
  warmup_fraction: 0.03
  decay_fraction: 0.0
train:
  train_flops: null
  train_tokens: 3072
  block_len: 32
  num_evaluations: 3
  first_evaluation: 0.3
  checkpoint_every_seconds: 30.0
  cache_targets: true
eval:
  split: validation
  context_len: 32
  min_context: 16
  grid_stride: 8
  num_windows: 16
  num_samples: 4
  target_se: null
  max_positions: 50000
  seed: 0
  network_calls: []
  solvers: []
  tradeoff: null
  sample_tokens: 8
runtime:
  device: cpu
  dtype: float32
  autoencoder_dtype: float32
  threads: 1
"""

EARLIER_HASH = "9a47e39d50f96c26"
MISSING_EARLIER = ("  matrix_every: 1\n", "  momentum: 0.95\n", "  solvers: []\n", "  tradeoff: null\n")
"""Fields that came without a number: a run from before them has another hash than one of the same settings now."""

EVALUATION = """\
{"step": 7, "tokens": 896, "train_flops": 102893728.0, "phase": "constant", "fingerprint": "f48dcf3ffc4bdf34", \
"brier": {"brier": [-8.85, -3.65, -2.6, -0.52], "brier_se": [1.93, 1.31, 1.0, 0.52], "brierlm": 0.0, \
"brierlm_se": 0.8, "brierlm_low": 0.0, "brierlm_high": 15.66, "weak_orders": [1, 2, 3, 4], "bootstrap_se": 0.0, \
"num_positions": 32, "num_clusters": 16, "num_windows": 16, "rounds": 1, "score": 0.2}, "cross_entropy": null, \
"network_calls": 1, "energy_loss": 7.7153, "energy_loss_shuffled": 7.7134, "energy_loss_gain_se": 0.0015, \
"seconds": 0.095}"""

RECORD = f"""\
{{
 "run_id": "old",
 "name": "old",
 "study": null,
 "role": "run",
 "trial": null,
 "seed": 0,
 "kind": "calm",
 "head": "energy",
 "status": "interrupted",
 "reason": "interrupted; the same command continues it",
 "config_hash": "{HASH}",
 "data_hash": "{DATA_HASH}",
 "eval_fingerprint": "f48dcf3ffc4bdf34",
 "created": "2026-11-26T15:03:14+00:00",
 "finished": "2026-11-26T15:03:16+00:00",
 "step": 7,
 "num_steps": 24,
 "tokens": 896,
 "train_seconds": 1.06,
 "wall_seconds": 2.47,
 "tokens_per_second": 2896.06,
 "parameters": {{"total": 43296}},
 "compute": {{"train_flops": 102893728.0}},
 "final": {EVALUATION},
 "floors": {{"unigram": {{"brier": [6.6, 0.5, 0.05, 0.006], "brierlm": 0.18, "cross_entropy": 3.3}}}},
 "overlap": null,
 "bottleneck": null,
 "call_curve": [],
 "tradeoff": [],
 "diagnostics": [],
 "environment": {{
  "python": "3.11.7",
  "cpu": "a processor",
  "threads": 1,
  "versions": {{"torch": "2.13.0+cpu", "numpy": "2.4.6"}},
  "git_commit": "024925af1745f96e59b056dd8e32970358ee292b",
  "git_diff_hash": ""
 }},
 "mlflow": null
}}
"""


def write_old_run(run_dir: Path, *, earlier: bool = False) -> Path:
    """``earlier``: as it would have been before MISSING_EARLIER."""
    run_dir.mkdir(parents=True)
    config, record = CONFIG, RECORD
    if earlier:
        record = record.replace(HASH, EARLIER_HASH)
        for line in MISSING_EARLIER:
            config = config.replace(line, "")
    (run_dir / "config.yaml").write_text(config)
    (run_dir / "record.json").write_text(record)
    (run_dir / "evaluations.jsonl").write_text(EVALUATION + "\n")
    return run_dir
