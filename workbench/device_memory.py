"""Bytes that a training holds on a device, from the configuration alone; the parts of ``workbench.device_plan``.

What is counted is a CUDA device's: fused RMSNorm and attention, which keep their input and result; norms and the
energy head's residual stream in float32, also inside autocast. The tests hold it against the live bytes of small
models' steps with such kernels.

Letters: D width, F SwiGLU width, V vocabulary, K chunk size, L latent dimension, N samples, M targets.
"""

from __future__ import annotations

from workbench import flops
from workbench.config import CalmConfig, DiffusionHeadConfig, EnergyHeadConfig, FlowHeadConfig, RunConfig

FLOAT = 4
LOSS_SLICE = 2**25
"""Floats of the largest tensor of a slice of the energy loss on a GPU (``workbench.energy_score``)."""
_LOSS_TENSORS = 4
"""Of that size at a time: both samples of the pairs, their difference and its square."""
EstimatedHead = EnergyHeadConfig | DiffusionHeadConfig | FlowHeadConfig
"""Sections of the heads of which activations are estimated: the workbench's own."""


def half(config: RunConfig) -> int:
    """Bytes of a number inside the model's autocast regions."""
    return _half(config.runtime.dtype)


def _half(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else FLOAT


# Weights


def state_bytes(config: RunConfig, vocab: int, *, share: int = 1) -> float:
    """Weights, gradients and two moments, and the frozen autoencoder. Muon keeps one moment of what it trains; two
    are counted."""
    sizes = flops.parameters(config, vocab)
    return FLOAT * (4 * sizes["total"] / share + sizes.get("autoencoder", 0))


def network_bytes(config: RunConfig, vocab: int) -> float:
    """Of the trained network's weights."""
    return float(FLOAT * flops.parameters(config, vocab)["total"])


def blocks(config: RunConfig) -> list[tuple[int, int]]:
    """Weights of a repeated block (``workbench.blocks``), and how many there are: layers, then the head's blocks,
    none of a head from outside."""
    backbone, width = config.model.backbone, config.model.backbone.width
    found = [(flops.layer_matrices(backbone) + 2 * width, backbone.num_layers)]
    if isinstance(config.model, CalmConfig) and isinstance(config.model.head, EstimatedHead):
        energy, num = isinstance(config.model.head, EnergyHeadConfig), config.model.head.num_blocks
        assert num is not None, "resolve the configuration first"
        found.append((6 * width**2 + 7 * width if energy else 5 * width**2 + 5 * width, num))
    return found


def outside(config: RunConfig, vocab: int) -> int:
    """Weights outside the blocks, which FSDP's outermost unit holds: embedding, output layer, compression, the
    ends of the head."""
    return flops.parameters(config, vocab)["total"] - sum(size * num for size, num in blocks(config))


def weight_copies(config: RunConfig, vocab: int, *, checkpointing: bool = False) -> float:
    """In the autocast region's type, of the matrices that products use: of all blocks, or of the one that is
    computed again. (Autocast remembers some of the others until the forward pass ends, when no block is there
    again: less, but for a few hundred positions.)"""
    if half(config) == FLOAT:
        return 0.0
    embedding = flops.parameters(config, vocab).get("embedding", 0)
    sizes = blocks(config)
    inner = max(size for size, _ in sizes) if checkpointing else sum(size * num for size, num in sizes)
    return 2.0 * (outside(config, vocab) - embedding + inner)


def gathered_bytes(config: RunConfig, vocab: int) -> float:
    """What FSDP puts together on a device beside its share. The outermost unit: in float32 from the beginning of
    the forward pass to the end of the backward pass, with its gradient and autocast's copy. A block: in the
    region's type the one that runs, the next one and the buffer of the exchange, and its gradient as computed and
    as it is added up, in float32."""
    low = half(config)
    root, embedding = outside(config, vocab), flops.parameters(config, vocab).get("embedding", 0)
    copy = 2.0 * (root - embedding) if low != FLOAT else 0.0
    return 2 * FLOAT * root + copy + (4 * low + FLOAT) * max(size for size, _ in blocks(config))


def bucket_bytes(config: RunConfig, vocab: int) -> float:
    """DDP's buckets of gradients. They are the gradients themselves in a step of one micro-batch; with several,
    what these add up to lies beside them until the last."""
    return network_bytes(config, vocab)


# Of a batch


def beside_bytes(config: RunConfig, at_once: int, *, checkpointing: bool = False) -> float:
    """Of a micro-batch of so many sequences, beside what each of them holds: the noise of the whole batch, of
    which a part takes its rows (``workbench.draws``; freed before the peak, whose tensors need not fit in its
    place), and the slices of the energy loss on a GPU. With checkpointing the peak is a block that is computed
    again, when the loss is done."""
    model = config.model
    if not isinstance(model, CalmConfig) or not isinstance(model.head, EstimatedHead):
        return 0.0
    head, latent = model.head, config.autoencoder.latent_dim
    positions = config.train.block_len // model.chunk_size - 1
    noise = slices = 0.0
    if at_once < config.batch_sequences:
        inputs = latent if model.input_mode != "tokens" else 0
        noise = FLOAT * config.batch_sequences * positions * (_noise_of_head(head, latent) + inputs)
    if isinstance(head, EnergyHeadConfig) and not checkpointing:
        num = head.num_samples
        row = num * max(head.num_targets, (num - 1) * latent // 2)
        slices = _LOSS_TENSORS * FLOAT * min(LOSS_SLICE, at_once * positions * row)
    return noise + slices


def _noise_of_head(head: EstimatedHead, latent: int) -> int:
    """Numbers a position that are drawn at once: denoising heads draw their latent vectors before the noise."""
    return head.num_samples * head.noise_dim if isinstance(head, EnergyHeadConfig) else head.num_draws * latent


def activation_bytes(config: RunConfig, vocab: int, *, checkpointing: bool = False) -> float | None:
    """Of one block of tokens, at the peak; None for a head that is not estimated."""
    model, low = config.model, half(config)
    width, layers = model.backbone.width, model.backbone.num_layers
    layer = _layer(config)
    kept, again = layers * layer, 0.0
    if checkpointing:  # the inputs, and one layer with the gradients of its gates and its result
        kept = float(layers * FLOAT * width)
        again = layer + low * (2 * (model.backbone.mlp_width or 0) + width)
    if not isinstance(model, CalmConfig):
        ends = 2 * FLOAT * width  # the last norm's input and result
        logits = 3 * FLOAT * vocab  # log-probabilities, their gradient, the logits' gradient
        return (config.train.block_len - 1) * (kept + max(ends + logits, again))
    if not isinstance(model.head, EstimatedHead) or model.auxiliary_weight:
        return None
    k, latent = model.chunk_size, config.autoencoder.latent_dim
    compression = (k + 4) * low * width + FLOAT * width if model.input_mode != "latent" else 0
    latents = 4 * FLOAT * latent  # posterior and its standard deviation, targets and inputs
    of_head = _energy_head if isinstance(model.head, EnergyHeadConfig) else _denoising_head
    head = max(of_head(config, checkpointing=checkpointing), again)
    return (config.train.block_len // k - 1) * (kept + compression + latents + head)


def _layer(config: RunConfig) -> float:
    """Of one position: the residual stream in float32, the rest in the region's type."""
    backbone = config.model.backbone
    width, inner = backbone.width, backbone.mlp_width or 0
    shared = (backbone.num_kv_heads or backbone.num_heads) / backbone.num_heads
    attention = 2 + (1 + shared) + (1 + 2 * shared)  # normed, result; rotated; queries, keys and values
    return 2 * FLOAT * width + half(config) * ((attention + 1) * width + 4 * inner)


def _energy_head(config: RunConfig, *, checkpointing: bool) -> float:
    """Of one position: the hidden state, and N samples through the energy head."""
    assert isinstance(config.model, CalmConfig)
    assert isinstance(config.model.head, EnergyHeadConfig)
    head, width, low = config.model.head, config.model.backbone.width, half(config)
    assert head.num_blocks is not None, "resolve the configuration first"
    samples, stream = head.num_samples, FLOAT * width
    # the last norm's input and result; the hidden state embedded, normed, and, unless it is in float32, cast
    hidden = 4 * stream + (low * width * (1 if checkpointing else head.num_blocks) if low != FLOAT else 0)
    first = stream + low * head.noise_dim
    last = stream + 3 * low * width + 2 * FLOAT * config.autoencoder.latent_dim
    if not checkpointing:
        return hidden + samples * (head.num_blocks * (stream + 9 * low * width) + first + last)
    again = 9 * low * width + stream + 3 * low * width  # with the gradients of its result and of its gates
    return hidden + samples * (head.num_blocks * stream + first + max(last, again))


def _denoising_head(config: RunConfig, *, checkpointing: bool) -> float:
    """Of one position: the hidden state, and N draws, each with its time, through the network of the diffusion and
    the flow head (``workbench.heads.adaln``)."""
    assert isinstance(config.model, CalmConfig)
    assert isinstance(config.model.head, DiffusionHeadConfig | FlowHeadConfig)
    head, width, low = config.model.head, config.model.backbone.width, half(config)
    assert head.num_blocks is not None, "resolve the configuration first"
    stream, inner, latent = FLOAT * width, low * width, config.autoencoder.latent_dim
    hidden = 2 * stream + (inner if low != FLOAT else 0)  # the last norm's input and result, cast for the head
    modulated = 3 * stream + inner  # the norm's input and result, 1 + scale; what comes out
    time = low * head.time_dim + 4 * inner  # sinusoids; embedded, activated, with the hidden state's, activated
    noisy = low * latent + time
    # numbers a latent dimension that the loss keeps, and has until it is there
    kept, values = (3, 10) if isinstance(head, DiffusionHeadConfig) else (1, 5)
    values += low != FLOAT
    # the end of the forward pass, or the gradients of the last norm's result and modulation
    last = modulated + FLOAT * latent * kept + max(4 * stream - inner, FLOAT * latent * values)
    block = modulated + 4 * inner
    if not checkpointing:
        return hidden + head.num_draws * (noisy + head.num_blocks * block + last)
    again = block + 5 * inner - (stream if low == FLOAT else 0)
    return hidden + head.num_draws * (noisy + head.num_blocks * inner + max(last, again))


# The autoencoder's stage


def autoencoder_state_bytes(config: RunConfig, vocab: int) -> float:
    """Weights, gradients and two moments, and the matrices' copies in bfloat16."""
    low = _half(config.runtime.autoencoder_dtype)
    return (4 * FLOAT + (2 if low != FLOAT else 0)) * flops.parameters(config, vocab)["autoencoder"]


def autoencoder_chunk_bytes(config: RunConfig, vocab: int) -> float:
    """Activations of one chunk at the peak: the log-probabilities, their gradient and that of the logits, all in
    float32; the rest is small beside them."""
    ae, low = config.autoencoder, _half(config.runtime.autoencoder_dtype)
    block = FLOAT * ae.width + low * (ae.width + 4 * (ae.mlp_width or 0))
    blocks_of_token = (ae.encoder_layers + ae.decoder_layers) // 2
    token = 3 * FLOAT * vocab + blocks_of_token * block + (FLOAT + 3 * low) * ae.width
    return config.chunk_size * token + blocks_of_token * block + 4 * FLOAT * ae.width
