"""A stranger's JSON configuration as data: only an architecture's own fields, as values within limits."""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before transformers is imported)

import inspect
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.encoders.architectures import ARCHITECTURES, WHOLE
from harness.errors import SubmissionError, UnsafeInputError

MAX_CONFIG_BYTES = 1 << 20
MAX_CONFIG_NUMBER = 65_536
MAX_LAYERS = 512

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
    "swinv2": frozenset({"hidden_size", "num_layers", "path_norm", "pretrained_window_sizes"}),
    "clip_vision_model": frozenset({"dropout", "projection_dim"}),
    "metaclip_2_vision_model": frozenset({"dropout", "projection_dim"}),
}
"""Fields the library computes from others, or once wrote and no longer reads."""
_UNSAFE = (
    "auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "_attn_implementation",
    "attn_implementation", "_experts_implementation", "_commit_hash",
)  # fmt: skip
"""Leading names of keys that would load code, other weights or another kernel."""
LAYER_FIELDS = frozenset({
    "num_hidden_layers", "depths", "num_encoder_blocks", "num_stages", "depth", "layers"
})  # fmt: skip


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Read config.json of transformers as data.

    Returns:
        The architecture's name, a key of `ARCHITECTURES`, and the fields to build its configuration from.
        Of a model with two sides (clip, siglip) those of the image side.

    Raises:
        UnsafeInputError: a key that would load code, or a file beyond any honest size.
        SubmissionError: not JSON, an architecture we do not know, an unknown key, a number out of range.
    """
    where = path.name
    config = read_table(path, where)
    refuse_code(config, where)
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in WHOLE:
        model_type = WHOLE[model_type][0]
        where, inner = f"{where}: vision_config", config.get("vision_config")
        if not isinstance(inner, dict):
            raise SubmissionError("configuration has no image side", where=where, found=type(inner).__name__)
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
    dropped = (_BOOK_KEEPING | _OF_GENERATION | _WITHOUT_EFFECT.get(model_type, frozenset())) - (
        known - _BOOK_KEEPING - _WITHOUT_EFFECT.get(model_type, frozenset())
    )
    fields = {key: value for key, value in config.items() if key not in dropped}
    refuse_unknown(fields, known, where, f"fields of {model_type} only")
    check_ranges(fields, where)
    return model_type, fields


def unused_tensors(path: Path) -> tuple[str, ...]:
    """Leading names of a checkpoint's tensors that encoding does not use, by its config.json."""
    model_type = str(read_table(path, path.name).get("model_type"))
    inner, text_side = WHOLE.get(model_type, (model_type, ()))
    return (*ARCHITECTURES[inner].unused, *text_side)


def refuse_code(config: Mapping[str, Any], where: str) -> None:
    """Raises UnsafeInputError for a key that would load code, other weights or another kernel."""
    unsafe = sorted(key for key in config if key.startswith(_UNSAFE))
    if unsafe:
        raise UnsafeInputError(
            "configuration asks for code or settings of its own",
            where=where,
            found=", ".join(unsafe),
            fix="remove the key; an own architecture cannot be an official row",
        )


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], where: str, expected: str) -> None:
    """Raises SubmissionError for keys that are not among the known ones."""
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise SubmissionError(
            "unknown configuration keys",
            where=where,
            found=", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
            expected=expected,
        )


def read_table(path: Path, where: str) -> dict[str, Any]:
    """A JSON object out of a stranger's file.

    Raises:
        UnsafeInputError: a file beyond any honest size.
        SubmissionError: unreadable, not JSON, or no object.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UnsafeInputError(
                "configuration too large", where=where, found=f"{path.stat().st_size:,} bytes"
            )
        config = json.loads(path.read_text("utf-8"))
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
        limit = MAX_LAYERS if key in LAYER_FIELDS else MAX_CONFIG_NUMBER
        values = value if isinstance(value, list) else [value]
        ok = len(values) <= 64 and all(
            v is None or isinstance(v, (str, bool)) or (isinstance(v, (int, float)) and abs(v) <= limit)
            for v in values
        )
        if not ok:
            raise SubmissionError(
                "configuration value out of range",
                where=f"{where}: {key}",
                found=f"{value!r:.60}",
                expected=f"plain values up to {limit}",
            )
