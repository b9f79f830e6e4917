"""The reference engine: greedy decoding with `transformers`, the image prefix computed once.

Questions of equal length are decoded together, so no batch holds padding and an answer does not depend on
what it was batched with beyond the rounding of fp32 sums (a test compares batches of 1 and of 64).
Letters: Q questions, I images, P prefix length, H LLM width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from harness.adapter.llm import LanguageModel
from harness.device import in_halves, memory_told
from harness.encoders.base import exact_float32
from harness.engines.base import IMAGE_CHUNK, Progress, Request, Visual, letter_ids


class HFEngine:
    """Answers requests about visual tokens.

    Args:
        llm: the language model, already trained along where the protocol says so.
        batch: questions decoded together; moves speed only.
    """

    name = "hf"

    def __init__(self, llm: LanguageModel, batch: int = 128) -> None:
        self._llm, self._batch = llm, batch

    def close(self) -> None:
        """Nothing was started."""

    @torch.inference_mode()
    def answer(
        self,
        requests: Sequence[Request],
        visual: Visual,
        progress: Progress | None = None,
    ) -> list[str]:
        """Answers in the order of the requests.

        Where the device's memory does not suffice, fewer images and questions are taken at a time; no
        answer depends on how many.

        Args:
            requests: any order; several may share an image.
            visual: rows -> (I, N, H) visual tokens of these images.
            progress: called with (answers done, answers in all).

        Raises:
            DatasetError: an option is not a single token of the LLM.
            ResourceError: memory is too small for a single question.
        """
        answers: dict[int, str] = {}
        images = sorted({r.media for r in requests})
        asked: dict[int, list[int]] = {image: [] for image in images}
        for i, request in enumerate(requests):
            asked[request.media].append(i)

        def keep(part: list[int], texts: list[str]) -> None:
            answers.update(zip(part, texts, strict=True))
            if progress:
                progress(len(answers), len(requests))

        def ask(chunk: list[int]) -> list[None]:
            place = {image: row for row, image in enumerate(chunk)}
            prefix = self._read_prefix(visual(chunk))
            here = sorted(i for image in chunk for i in asked[image] if i not in answers)

            def decode(part: list[int]) -> list[str]:
                rows = torch.tensor([place[requests[i].media] for i in part])
                return self._decode([requests[i] for i in part], prefix, rows)

            for part in self._batches(here, requests):
                keep(part, in_halves(decode, part))
            return [None] * len(chunk)

        with exact_float32(), memory_told("answers"):
            for start in range(0, len(images), IMAGE_CHUNK):
                in_halves(ask, images[start : start + IMAGE_CHUNK])
        return [answers[i] for i in range(len(requests))]

    def _batches(self, indices: Sequence[int], requests: Sequence[Request]) -> Iterator[list[int]]:
        """Indices in batches of equal tail length and equal decoding."""

        def key(i: int) -> tuple[int, tuple[str, ...], int]:
            request = requests[i]
            length = len(self._llm.encode_prompt(request.prompt).tail)
            return length, request.options, request.max_new_tokens

        for _, group in groupby(sorted(indices, key=key), key):
            members = list(group)
            for start in range(0, len(members), self._batch):
                yield members[start : start + self._batch]

    def _read_prefix(self, visual: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer for the chat opening and the visual tokens, (I, heads, P, d)."""
        opening = self._llm.embed(torch.tensor(self._llm.encode_prompt("").prefix))
        shown = visual.to(opening.device, opening.dtype)
        embeds = torch.cat([opening.expand(len(shown), -1, -1), shown], 1)
        cache = DynamicCache()
        self._llm.model.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        layers: list[Any] = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    def _decode(
        self, requests: list[Request], prefix: list[tuple[Tensor, Tensor]], rows: Tensor
    ) -> list[str]:
        """Greedy answers of one batch; a choice is one token among its letters."""
        cache, device = DynamicCache(), self._llm.device
        rows = rows.to(device)
        for layer, (keys, values) in enumerate(prefix):
            cache.update(keys[rows], values[rows], layer)
        tail = torch.tensor([self._llm.encode_prompt(r.prompt).tail for r in requests], device=device)
        letters = letter_ids(self._llm, requests[0].options)
        logits = self._step(tail, cache)
        if letters:
            best = logits[:, letters].argmax(1)
            return [requests[0].options[int(i)] for i in best]
        end = self._llm.end_id
        tokens = logits.argmax(1)
        generated = [tokens]
        finished = tokens == end
        while not bool(finished.all()) and len(generated) < requests[0].max_new_tokens:
            tokens = self._step(tokens[:, None], cache).argmax(1)
            generated.append(tokens)
            finished |= tokens == end
        table = torch.stack(generated, 1).tolist()
        return [self._llm.decode(ids[: ids.index(end)] if end in ids else ids) for ids in table]

    def _step(self, ids: Tensor, cache: DynamicCache) -> Tensor:
        """(Q, L) new ids -> (Q, V) logits after the last one."""
        out = self._llm.model.model(input_ids=ids, past_key_values=cache, use_cache=True)
        logits: Tensor = self._llm.model.lm_head(out.last_hidden_state[:, -1])
        return logits
