"""The mini language model's tokenizer: a real `tokenizers` Unigram with Qwen2's chat markers.

Words are single tokens; so are the fixed phrases of lmms-eval's prompts and each coordinate of a box (the
same text goes in, one token is spent); signs are spelt letter by letter; any other printable text falls
back to characters.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.mini.captions import LETTERS as PLACED_LETTERS
from harness.mini.clips import MOVES
from harness.mini.language import BOX_STEPS, CELLS, DESCRIBE, SIGN_QUESTIONS
from harness.mini.world import COLORS, PATTERNS, SHAPES, SIZES
from harness.prompts import BOX_REQUEST, LETTERS, SHORT_ANSWER

PAD, START, END, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPACE = "▁"
_PHRASES = (
    "user\n",
    "assistant\n",
    SHORT_ANSWER,
    BOX_REQUEST.rstrip(),
    DESCRIBE,
    *SIGN_QUESTIONS,
    *(question.capitalize() for question in SIGN_QUESTIONS),
    "what color is the",
    "what shape is the",
    "what pattern is on the",
    "how many objects are there?",
    "is there a",
    "which way does the",
    " move?",
    "where is the",
    " in",
    " thing?",
    *(f"\n{letter}. " for letter in LETTERS),
    " sign:",
)


def _pieces() -> list[str]:
    """All tokens in order, spaces written as ▁."""
    # No token "no": it would split the signs that begin with it in another way than all others.
    words = [*SIZES, *PATTERNS, *COLORS, *SHAPES, "sign"]
    alone = [*words, *PLACED_LETTERS, *MOVES, "yes", "1", "2", "3", "4", *CELLS]
    alone += [f"f{i}" for i in range(1, 9)] + [f"{axis}{i}" for axis in "xy" for i in range(8)]
    inside = [f" {w}" for w in words] + [f" {axis}{i}" for axis in "xy" for i in range(8)]
    numbers = [f"{i / BOX_STEPS:.2f}" for i in range(BOX_STEPS + 1)]
    boxes = [f"[{n}" for n in numbers] + [f", {n}" for n in numbers] + ["]"]
    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    pieces = [*_PHRASES, *alone, *inside, *boxes, *characters]
    return list(dict.fromkeys(piece.replace(" ", _SPACE) for piece in pieces))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer from its word lists; identical on every call."""
    # Longer pieces win: each piece costs one, so the segmentation with the fewest tokens is the best.
    vocabulary = [(PAD, 0.0), ("<unk>", -20.0)] + [(piece, -1.0 + 1e-4 * len(piece)) for piece in _pieces()]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never", split=False)
    core.decoder = decoders.Metaspace(_SPACE, prepend_scheme="never", split=False)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (PAD, START, END, IMAGE)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token="<unk>",
        additional_special_tokens=[START, IMAGE],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """Save tokenizer.json, tokenizer_config.json and the chat template as transformers does."""
    build_tokenizer().save_pretrained(str(folder))
