"""What a run will take, before it begins: operations, tokens, hours, disk and memory. Arithmetic only.

Operations (two a multiply-accumulate), with P the weights of the LLM's layers without embeddings:
an image costs twice its multiply-accumulates once; a training token 4 P where the LLM is frozen or has
low-rank updates (forward, and backward to the inputs), 6 P where all of it is trained; an answer's token
2 P, the image's prefix counted once for all questions about it. Attention and adapter are left out: at
these lengths they are a few per cent.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
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
"""Of a GPU's bfloat16 peak that training reaches at best, after LLaVA's own run with 0.45: predicted."""
ENCODE_UTILISATION = 0.55
"""Of a GPU's float32 peak that encoding reaches; 0.59 with a ViT-L/14 on an H200 (docs/performance.md)."""
PACK_ENTRIES_S = 7.8e9
"""Attention over a whole pack: entries (token x pack x head x layer) a second, forward and backward. Measured
on an H200 with both Qwen2.5 of the protocols, 5,700 tokens a second in packs of 4,096. Until attention is
computed row by row it bounds training; slower cards will stay below it."""
CPU_CORE_SPEED = 8e10
"""Operations a second of one core, as the demo's own run has them (docs/performance.md): 34k images of 0.045
GMACs in 31 to 36 s, an adapter in 85 to 107 s."""
PROCESS_BYTES = 600_000_000
"""Of a process with the libraries loaded and no work yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Something that computes, as far as a forecast needs to know it."""

    name: str
    train_speed: float
    """Operations a second in training and answering."""
    encode_speed: float
    """In encoding, which is exact float32 everywhere."""
    memory_bytes: int
    pack_entries_s: float = math.inf
    """Entries of packs' attention a second, which training does not pass, whatever the operations."""
    workers: int = 1
    """Processes that share the work; on a CPU each trains one seed."""

    @property
    def is_cpu(self) -> bool:
        """Whether its memory is the machine's."""
        return self.name == "cpu"


def _gpu(name: str, bfloat16: float, float32: float, gigabytes: int) -> Device:
    return Device(
        name=name,
        train_speed=UTILISATION * bfloat16,
        encode_speed=ENCODE_UTILISATION * float32,
        memory_bytes=gigabytes * 10**9,
        pack_entries_s=PACK_ENTRIES_S,
    )


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("H200", 790e12, 67e12, 141),
        _gpu("H100", 790e12, 67e12, 80),
        _gpu("A100", 312e12, 19.5e12, 80),
        _gpu("L40S", 362e12, 91.6e12, 48),
        _gpu("RTX 4090", 165e12, 82.6e12, 24),
    )
}
"""By a part of the name that the driver gives them. Dense operations a second from the makers' data sheets,
without sparsity; of the H100 and H200 what matrices reach."""


def cpu_device(workers: int, memory_bytes: int) -> Device:
    """This machine without a GPU.

    Args:
        workers: processes of one thread.
        memory_bytes: that may still be taken.
    """
    speed = CPU_CORE_SPEED * workers
    return Device(
        name="cpu", train_speed=speed, encode_speed=speed, memory_bytes=memory_bytes, workers=workers
    )


def gpu_device(name: str, memory_bytes: int | None = None) -> Device:
    """A GPU by its name; one that is not in the table counts as the slowest of it.

    Args:
        name: as the driver or a person says it.
        memory_bytes: that may still be taken; the table's where it is None.
    """
    found = next((gpu for key, gpu in GPUS.items() if key.lower() in name.lower()), None)
    known = found or min(GPUS.values(), key=lambda gpu: gpu.train_speed)
    return replace(known, name=name, memory_bytes=memory_bytes or known.memory_bytes)


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
    def low_rank_weights(self) -> int:
        """Weights of updates of rank 1 on all layers' matrices."""
        keys = self.width * self.groups // self.heads
        attention = 2 * 2 * self.width + 2 * (self.width + keys)
        return self.layers * (attention + 3 * (self.width + self.ffn))

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
    """Images and clips they hang on, a clip as so many images as it has tokens of one."""
    row_tokens: float = 0.0
    """Of a training row after its image, as the mixture's first rows have them; 0 where it is not here."""
    opening_tokens: int = OPENING_TOKENS
    encoder_params: int = 0
    """Numbers of the encoder, which stays in memory."""


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
    pack_entries: float = 0.0
    """Of the attention of packed training, see PACK_ENTRIES_S."""

    @property
    def ops(self) -> float:
        """All together."""
        return self.encode_ops + self.train_ops + self.answer_ops

    def seconds(self, device: Device, seeds: int) -> float:
        """How long it takes there; one process trains a seed, so three take two processes two turns."""
        turns = math.ceil(seeds / device.workers) * device.workers / seeds
        rest = self.encode_ops / device.encode_speed + self.answer_ops / device.train_speed
        train = max(self.train_ops / device.train_speed, self.pack_entries / device.pack_entries_s)
        return rest + turns * train

    def needed_bytes(self, device: Device) -> int:
        """Memory that the run takes there: on a CPU every process, libraries included."""
        share = PROCESS_BYTES + self.memory_bytes
        return share * device.workers + PROCESS_BYTES if device.is_cpu else self.memory_bytes


def forecast(protocol: Protocol, shape: LLMShape, load: Workload, disk_bytes: int) -> Forecast:
    """Predict a run.

    Args:
        protocol: stages, batches, seeds, what is trained.
        shape: of its language model.
        load: from the data that is there.
        disk_bytes: of features and adapters that are kept.
    """
    seeds, recipe = len(protocol.seeds), protocol.adapter
    text = load.row_tokens or (1 + recipe.questions_per_image) * TEXT_TOKENS
    row = load.opening_tokens + load.tokens + round(text)
    rows = recipe.steps * recipe.batch + sum(stage.steps * stage.batch for stage in recipe.stages)
    per_token = 6 if protocol.llm.training == "full" else 4
    train_tokens = seeds * rows * row
    prefixes = load.asked_images * (load.opening_tokens + load.tokens)
    answer_tokens = seeds * (prefixes + load.questions * (TEXT_TOKENS + ANSWER_TOKENS))
    return Forecast(
        encode_ops=2e9 * load.gmacs * (load.images + load.streamed_images),
        train_tokens=train_tokens,
        train_ops=float(per_token) * shape.layer_weights * train_tokens,
        answer_tokens=answer_tokens,
        answer_ops=2.0 * shape.layer_weights * answer_tokens,
        disk_bytes=disk_bytes,
        memory_bytes=_memory(protocol, shape, row, load.width) + 4 * load.encoder_params,
        pack_entries=float(train_tokens) * recipe.pack_tokens * shape.heads * shape.layers,
    )


def trained_weights(protocol: Protocol, shape: LLMShape, encoder_width: int) -> int:
    """Numbers that training moves, of adapter and language model: what is kept of a seed."""
    recipe = protocol.adapter
    widths = [encoder_width, *[recipe.width] * (recipe.depth - 1 if recipe.kind == "mlp" else 0), shape.width]
    adapter = sum(a * b for a, b in itertools.pairwise(widths))
    whole = shape.all_weights if protocol.llm.training == "full" else 0
    return adapter + whole + sum(stage.lora_rank for stage in recipe.stages) * shape.low_rank_weights


def _memory(protocol: Protocol, shape: LLMShape, row: int, encoder_width: int) -> int:
    """Weights, gradients and two moments of what is trained, and one step's activations."""
    recipe = protocol.adapter
    number = 2 if recipe.dtype == "bfloat16" else 4
    # Autocast keeps a copy of float32 weights in bfloat16 during a step.
    weights = (4 + (2 if number == 2 else 0)) * shape.all_weights
    trained = 12 * trained_weights(protocol, shape, encoder_width)
    tokens = recipe.pack_tokens or recipe.batch * row
    # A layer keeps about 34 numbers a token and width for its backward pass (Korthikanti et al.,
    # arXiv 2205.05198, table 2, without dropout), and its attention weights.
    kept = 34 * shape.width * tokens + shape.heads * tokens * min(tokens, recipe.pack_tokens or row) * 2
    logits = 3 * 4 * shape.vocabulary * tokens // 4
    return int(weights + trained + shape.layers * kept * number / 2 + logits)


def refuse_what_does_not_fit(wanted: Forecast, device: Device) -> None:
    """Stop before a run that would end for want of memory.

    Args:
        wanted: from `forecast`.
        device: that trains, with the memory that may still be taken.

    Raises:
        ResourceError: says what would do.
    """
    needed = wanted.needed_bytes(device)
    if needed <= device.memory_bytes:
        return
    need, have = (f"{size / 2**30:.1f} GiB" for size in (needed, device.memory_bytes))
    one = replace(device, workers=1)
    if device.is_cpu and device.workers > 1 and wanted.needed_bytes(one) <= device.memory_bytes:
        fix = "use --workers 1"
    else:
        large = [gpu.name for gpu in GPUS.values() if wanted.memory_bytes <= gpu.memory_bytes]
        fix = f"use more memory, such as a GPU like the {large[-1]} has" if large else "use more memory"
        fix += ", or a protocol with a smaller language model"
    what = f"memory is too small for this protocol with {device.workers} processes"
    if not device.is_cpu:
        what = "the device's memory is too small for this protocol"
    raise ResourceError(what, where=device.name, found=have, expected=f"about {need}", fix=fix)


def samples_asked(tasks: dict[str, Task]) -> int:
    """Questions of all tasks that are asked."""
    return sum(task.num_expected for task in tasks.values() if task.kind != "probe")
