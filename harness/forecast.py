"""What a run will take, before it begins: operations, tokens, hours, disk and memory. Arithmetic only.

Operations (two a multiply-accumulate), with P the weights of the LLM's layers without embeddings:
an image costs twice its multiply-accumulates once; a training token 4 P where the LLM is frozen or has
low-rank updates (forward, and backward to the inputs), 6 P where all of it is trained; an answer's token
2 P, the image's prefix counted once for all questions about it. Attention and adapter are left out: at
these lengths they are a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import IntegrityError, ResourceError
from harness.files import read_json
from harness.records import Protocol, Task

TEXT_TOKENS = 48
"""Of one exchange of the mixture or one question with its answer; an assumption, stated in the plan."""
ANSWER_TOKENS = 8
OPENING_TOKENS = 24
"""Of a chat template with a system message."""
UTILISATION = 0.4
"""Of a GPU's peak that training and encoding reach; LLaVA's own run had 0.45."""
PEAK = {"H200": 790e12, "H100": 790e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bfloat16 operations a second, by a part of the GPU's name."""
CPU_SPEED = 3e11
"""Operations a second of two cores, measured on matrices (docs/performance.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMShape:
    """The shape of a Qwen2 or another model of Llama's kind."""

    width: int
    layers: int
    ffn: int
    heads: int
    groups: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' matrices; embeddings and head left out."""
        keys = self.width * self.groups // self.heads
        attention = self.width * (2 * self.width + 2 * keys)
        return self.layers * (attention + 3 * self.width * self.ffn)

    @property
    def all_weights(self) -> int:
        """With one table of embeddings, which the head shares."""
        return self.layer_weights + self.vocabulary * self.width


QWEN_SHAPES = {
    "Qwen/Qwen2.5-0.5B-Instruct": LLMShape(
        width=896, layers=24, ffn=4864, heads=14, groups=2, vocabulary=151936
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": LLMShape(
        width=1536, layers=28, ffn=8960, heads=12, groups=2, vocabulary=151936
    ),
}
"""Of models that need not be here to be planned with; from their configurations."""


def read_shape(folder: Path) -> LLMShape:
    """The shape that a model's config.json says.

    Raises:
        IntegrityError: no such file, or a number is missing.
    """
    config = read_json(folder / "config.json")
    names = {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "ffn": "intermediate_size",
        "heads": "num_attention_heads",
        "groups": "num_key_value_heads",
        "vocabulary": "vocab_size",
    }
    try:
        return LLMShape(**{ours: int(config[theirs]) for ours, theirs in names.items()})
    except (KeyError, TypeError, ValueError) as error:
        where = str(folder / "config.json")
        raise IntegrityError("language model's shape is unreadable", where=where, found=str(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a protocol asks of an encoder, counted."""

    images: int
    """To be encoded once and kept."""
    streamed_images: int
    """To be encoded again for each seed and pass, where the mixture's features are not kept."""
    gmacs: float
    """Of one image."""
    width: int
    """Of the encoder's features."""
    tokens: int
    """Visual tokens an image, after pooling."""
    questions: int
    """Samples of the tasks that are asked, all together."""
    asked_images: int
    """Images and clips they hang on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Operations, sizes and times of one run with all its seeds."""

    encode_ops: float
    train_tokens: int
    train_ops: float
    answer_tokens: int
    answer_ops: float
    disk_bytes: int
    memory_bytes: int
    """Of one training process, on the device that trains."""

    @property
    def ops(self) -> float:
        """All together."""
        return self.encode_ops + self.train_ops + self.answer_ops

    def hours(self, speed: float) -> float:
        """At `speed` operations a second."""
        return self.ops / speed / 3600


def forecast(protocol: Protocol, shape: LLMShape, load: Workload, disk_bytes: int) -> Forecast:
    """Predict a run.

    Args:
        protocol: stages, batches, seeds, what is trained.
        shape: of its language model.
        load: from the data that is there.
        disk_bytes: of features and adapters that are kept.
    """
    seeds, recipe = len(protocol.seeds), protocol.adapter
    row = OPENING_TOKENS + load.tokens + (1 + recipe.questions_per_image) * TEXT_TOKENS
    rows = recipe.steps * recipe.batch + sum(stage.steps * stage.batch for stage in recipe.stages)
    per_token = 6 if protocol.llm.training == "full" else 4
    train_tokens = seeds * rows * row
    answer_tokens = seeds * (
        load.asked_images * (OPENING_TOKENS + load.tokens) + load.questions * (TEXT_TOKENS + ANSWER_TOKENS)
    )
    return Forecast(
        encode_ops=2e9 * load.gmacs * (load.images + load.streamed_images),
        train_tokens=train_tokens,
        train_ops=float(per_token) * shape.layer_weights * train_tokens,
        answer_tokens=answer_tokens,
        answer_ops=2.0 * shape.layer_weights * answer_tokens,
        disk_bytes=disk_bytes,
        memory_bytes=_memory(protocol, shape, row),
    )


def _memory(protocol: Protocol, shape: LLMShape, row: int) -> int:
    """Weights, their gradients and states where they are trained, and one step's activations."""
    number = 2 if protocol.decoding.dtype == "bfloat16" else 4
    weights = 4 * shape.all_weights
    trained = 12 * shape.all_weights if protocol.llm.training == "full" else 0
    recipe = protocol.adapter
    tokens = recipe.pack_tokens or recipe.batch * row
    # A layer keeps about 34 numbers a token and width for its backward pass (Korthikanti et al.,
    # arXiv 2205.05198, table 2, without dropout), and its attention weights.
    kept = 34 * shape.width * tokens + shape.heads * tokens * min(tokens, recipe.pack_tokens or row) * 2
    logits = 3 * 4 * shape.vocabulary * tokens // 4
    return int(weights + trained + shape.layers * kept * number / 2 + logits)


def speed_of(device: str) -> float:
    """Operations a second that a device reaches: of a GPU known by its name, else of two CPU cores."""
    for name, peak in PEAK.items():
        if name in device:
            return UTILISATION * peak
    return CPU_SPEED


def refuse_what_does_not_fit(wanted: Forecast, free_memory: int, device: str) -> None:
    """Stop before a run that would end for want of memory.

    Args:
        wanted: from `forecast`.
        free_memory: bytes of the device that trains.
        device: its name.

    Raises:
        ResourceError: says what would do.
    """
    if wanted.memory_bytes > free_memory:
        need, have = (f"{size / 2**30:.1f} GiB" for size in (wanted.memory_bytes, free_memory))
        raise ResourceError(
            "the device's memory is too small for this protocol",
            where=device,
            found=have,
            expected=f"about {need}",
            fix="use a larger device, or a protocol with a smaller language model",
        )


def samples_asked(tasks: dict[str, Task]) -> int:
    """Questions of all tasks that are asked."""
    return sum(task.num_expected for task in tasks.values() if task.kind != "probe")
