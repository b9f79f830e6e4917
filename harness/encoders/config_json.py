"""A stranger's JSON configuration as data: only an architecture's own fields, as values within limits."""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before transformers is imported)

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from harness.digest import digest_bytes
from harness.encoders.architectures import ARCHITECTURES, WHOLE
from harness.errors import SubmissionError, UnsafeInputError
from harness.fields import cut, parse_json, show
from harness.submission import MAX_CONFIG_BYTES, MAX_SIDE

MAX_CONFIG_NUMBER = 65_536
MAX_LAYERS = 256
"""Of a whole network."""
MAX_WINDOW = 32
"""Cells a side; tables of windows grow with its fourth power, and some libraries fill them one by one."""
MAX_TEXT = 200

_BOOK_KEEPING = frozenset("""
    _name_or_path architectures chunk_size_feed_forward dtype finetuning_task id2label is_encoder_decoder
    label2id model_type out_features out_indices output_attentions output_hidden_states problem_type
    return_dict stage_names torch_dtype transformers_version torchscript use_bfloat16 gradient_checkpointing
""".split())  # fmt: skip
"""What every configuration may carry and does not change the features."""
_OF_GENERATION = frozenset("""
    add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    eos_token_id exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id is_decoder
    length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_scores pad_token_id prefix pruned_heads remove_invalid_values
    repetition_penalty return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
    typical_p
""".split())  # fmt: skip
"""Settings of text generation that older versions of the library wrote into every configuration."""
_WITHOUT_EFFECT = {
    "swin": frozenset({"hidden_size", "num_layers", "path_norm"}),
    "swinv2": frozenset({"hidden_size", "num_layers", "path_norm"}),
    # Once written for its rule of resampling, which is antialiased and without offset in every version.
    "dinov2_with_registers": frozenset({"interpolate_antialias", "interpolate_offset"}),
    "siglip_vision_model": frozenset({"projection_dim"}),
    "clip_vision_model": frozenset({"dropout", "projection_dim"}),
    "metaclip_2_vision_model": frozenset({"dropout", "projection_dim"}),
}
"""Fields the library computes from others, or once wrote and no longer reads."""
_HARMLESS = frozenset({"_attn_implementation_autoset"})
"""A note of the library to itself, whose name begins like an unsafe one's."""
_UNSAFE = (
    "auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "_attn_implementation",
    "attn_implementation", "_experts_implementation", "_commit_hash",
)  # fmt: skip
"""Leading names of keys that would load code, other weights or another kernel."""
LAYER_FIELDS = frozenset({
    "num_hidden_layers", "depths", "num_encoder_blocks", "num_stages", "depth", "layers"
})  # fmt: skip
SIDE_FIELDS = frozenset({"image_size", "img_size"})


def read_config(path: Path, sha256: str = "") -> tuple[str, dict[str, Any]]:
    """Read config.json of transformers as data.

    Args:
        path: the file.
        sha256: see `read_table`.

    Returns:
        The architecture's name, a key of `ARCHITECTURES`, and the fields to build its configuration from.
        Of a model with two sides (clip, siglip) those of the image side.

    Raises:
        UnsafeInputError: a key that would load code, or a file beyond any honest size.
        SubmissionError: not JSON, an architecture we do not know, an unknown key, a number out of range.
    """
    where = path.name
    config = read_table(path, where, sha256)
    refuse_code(config, where)
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in WHOLE:
        model_type = WHOLE[model_type][0]
        where, inner = f"{where}: vision_config", config.get("vision_config")
        if not isinstance(inner, dict):
            raise SubmissionError("configuration has no image side", where=where, found=type(inner).__name__)
        _refuse_second_side(config, inner, path.name)
        config = inner
        refuse_code(config, where)
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise SubmissionError(
            "unsupported architecture",
            where=f"{where}: model_type",
            found=f"{model_type!r:.60}",
            expected="one of " + ", ".join(sorted([*ARCHITECTURES, *WHOLE])),
        )
    known = known_fields(model_type)
    # An architecture may have a field of a name that elsewhere is book-keeping.
    dropped = (_HARMLESS | _BOOK_KEEPING | _OF_GENERATION | _WITHOUT_EFFECT.get(model_type, frozenset())) - (
        known - _BOOK_KEEPING - _WITHOUT_EFFECT.get(model_type, frozenset())
    )
    fields = {key: value for key, value in config.items() if key not in dropped}
    refuse_unknown(fields, known, where, f"fields of {model_type} only")
    check_ranges(fields, where)
    return model_type, fields


def _refuse_second_side(config: Mapping[str, Any], side: Mapping[str, Any], where: str) -> None:
    """Old CLIP configurations say their image side twice, and the library lets the second win."""
    second = config.get("vision_config_dict")
    if second is None:
        return
    shared = set(second) & set(side) if isinstance(second, dict) else set()
    wrong = sorted(k for k in shared if second[k] != side[k] and k not in _BOOK_KEEPING | _OF_GENERATION)
    more = sorted(set(second) - set(side) - _BOOK_KEEPING - _OF_GENERATION) if shared else []
    if not isinstance(second, dict) or wrong or more:
        raise SubmissionError(
            "image side is described twice, in two ways",
            where=f"{where}: vision_config_dict",
            found=cut(", ".join([*wrong, *more]) or type(second).__name__),
            expected="what vision_config says",
            fix="write the values that were trained into vision_config and remove vision_config_dict",
        )


def library_of(config: Mapping[str, Any]) -> Literal["transformers", "timm"]:
    """Which library wrote a config.json: timm names an architecture, transformers a type of model."""
    return "timm" if "architecture" in config and "model_type" not in config else "transformers"


def unused_tensors(path: Path) -> tuple[str, ...]:
    """Leading names of a checkpoint's tensors that encoding does not use, by its config.json."""
    model_type = str(read_table(path, path.name).get("model_type"))
    inner, text_side = WHOLE.get(model_type, (model_type, ()))
    return (*ARCHITECTURES[inner].unused, *text_side)


def refuse_code(config: Mapping[str, Any], where: str) -> None:
    """Raises UnsafeInputError for a key that would load code, other weights or another kernel."""
    unsafe = sorted(key for key in config if key.startswith(_UNSAFE) and key not in _HARMLESS)
    if unsafe:
        raise UnsafeInputError(
            "configuration asks for code or settings of its own",
            where=where,
            found=cut(", ".join(unsafe)),
            fix="remove the key; an own architecture cannot be an official row",
        )


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], where: str, expected: str) -> None:
    """Raises SubmissionError for keys that are not among the known ones."""
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise SubmissionError(
            "unknown configuration keys",
            where=where,
            found=", ".join(cut(key) for key in unknown[:5])
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
            expected=expected,
        )


def refuse_flags(fields: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Raises SubmissionError for true or false where a number is meant, by the library's default."""
    for key, value in fields.items():
        if isinstance(value, bool) and type(defaults[key]) in {int, float}:
            raise SubmissionError(
                "wrong type", where=f"{where}: {cut(key)}", found=show(value), expected="a number"
            )


def read_table(path: Path, where: str, sha256: str = "") -> dict[str, Any]:
    """A JSON object out of a stranger's file.

    Args:
        path: the file.
        where: its name for error messages.
        sha256: hash that what is read must have, where one is known.

    Raises:
        UnsafeInputError: a file beyond any honest size.
        SubmissionError: unreadable, not JSON, no object, or other bytes than `sha256` says.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            expected = f"at most {MAX_CONFIG_BYTES:,} bytes"
            raise UnsafeInputError("configuration too large", where=where, expected=expected)
        if sha256 and digest_bytes(data) != sha256:
            raise SubmissionError(
                "hash differs from the manifest's",
                where=where,
                found=digest_bytes(data),
                expected=sha256,
                fix="leave the files alone while they are measured",
            )
        config = parse_json(data)
    except OSError as error:
        raise SubmissionError(
            "cannot read configuration", where=where, found=error.strerror or str(error)
        ) from error
    except (ValueError, RecursionError) as error:
        raise SubmissionError("configuration is not JSON", where=where, found=str(error)) from error
    if not isinstance(config, dict):
        raise SubmissionError("configuration is not a JSON table", where=where, found=type(config).__name__)
    return config


def known_fields(model_type: str) -> frozenset[str]:
    """Names of the configuration fields that belong to the architecture itself."""
    import transformers

    own = inspect.signature(getattr(transformers, ARCHITECTURES[model_type].config_class).__init__).parameters
    shared = inspect.signature(transformers.PretrainedConfig.__init__).parameters
    return frozenset(
        name for name in own if name not in shared and not name.startswith("_") and name != "kwargs"
    )


def check_ranges(fields: Mapping[str, Any], where: str) -> None:
    """Numbers so small that building the network, before shapes are compared, exhausts nothing.

    Raises:
        SubmissionError: naming the first value that is out of range.
    """
    for key, value in fields.items():
        values = value if isinstance(value, list) else [value]
        if expected := _out_of_range(key, values):
            raise SubmissionError(
                "configuration value out of range",
                where=f"{where}: {cut(key)}",
                found=show(value),
                expected=expected,
            )


def _out_of_range(key: str, values: list[Any]) -> str:
    """What a field's values should have been; empty where they are that."""
    if key in SIDE_FIELDS:
        # A picture here is square: a network built for another shape would read its positions wrongly.
        sides = {str(v) for v in values}
        sound = len(sides) == 1 and all(_whole(v, 1, MAX_SIDE) for v in values)
        return "" if sound or values == [None] else f"one side of 1 to {MAX_SIDE:,} pixels"
    if key in LAYER_FIELDS:
        counts = [v for v in values if v is not None]
        sound = all(_whole(v, 0, MAX_LAYERS) for v in counts) and sum(counts) <= MAX_LAYERS
        return "" if sound else f"whole numbers up to {MAX_LAYERS} together"
    limit = MAX_WINDOW if "window" in key else MAX_CONFIG_NUMBER
    sound = len(values) <= 64 and all(_plain(v, limit) for v in values)
    return "" if sound else f"plain values up to {limit}"


def stated_side(value: object) -> int | None:
    """The side in pixels that a configuration says, as a number or a list; None where it says none."""
    sides: list[Any] = value if isinstance(value, list) else [value]
    return cast("int | None", sides[0]) if sides and not _out_of_range("image_size", sides) else None


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _plain(value: object, limit: int) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and value.isprintable()
    return (
        value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= limit)
    )
