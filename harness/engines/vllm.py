"""The fast engine: the same prompts, as embeddings, into vLLM.

A prompt goes in as one matrix: embedded chat opening, visual tokens, embedded question. Never as a mixture of
ids and embeddings, whose prefix-cache keys do not tell the two apart (vLLM issue 56655), and never with
penalties, which end the engine where lengths differ (issue 57719). vLLM computes in processes of its own.
Letters: I images, N visual tokens, L prompt length, H LLM width.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401

import contextlib
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.adapter.llm import LanguageModel
from harness.engines.base import IMAGE_CHUNK, Progress, Request, Visual, letter_ids
from harness.errors import EyechartError, IncompleteError, ResourceError
from harness.seeds import numpy_generator

CHILDREN = Path(__file__).parent / "vllm_children"
"""On PYTHONPATH while vLLM starts processes: what each of them does first."""
SETTINGS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # an evaluation talks to nobody
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would copy torch's threads in the middle of their work
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the workers of a run would all be bound to the same cores
}
"""Environment variables of vLLM; those that a person has set stay. None can move a number."""
QUIET = {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""For its processes only: warnings of libraries to their own authors would stand between progress lines."""
RESTORED = ("PYTHONPATH", "LD_PRELOAD", *QUIET)
"""What starting vLLM leaves changed in the environment and other children must not inherit."""
CPU_CACHE_BYTES = 1 << 30
GPU_SHARE = 0.2
"""Of a GPU's memory: a run has up to four workers, and each holds an engine for its own seed."""
BLOCK = {"cpu": 32, "cuda": 16}
"""Prompt rows to one entry of the prefix cache; the CPU's default of 128 is longer than most prompts."""
MAX_LENGTH = 4096
CANARY_TOLERANCE = 1e-3
"""Of a log probability; the same prompt computed with and without the prefix cache differs by some 1e-5."""
MEMORY_WORDS = ("out of memory", "allocate memory", "available memory", "free memory", "kv cache")


class VLLMEngine:
    """Answers requests about visual tokens with vLLM.

    Args:
        llm: the language model, already trained along where the protocol says so.
        batch: questions decoded together; moves speed only.

    Raises:
        ResourceError: too little memory for the engine.
        IncompleteError: vLLM did not start.
    """

    name = "vllm"

    def __init__(self, llm: LanguageModel, batch: int = 128) -> None:
        self._llm = llm
        self._engine = _start(llm, batch)
        _tell_of_death(self._engine.llm_engine.engine_core)
        self._reads_cache = True
        try:
            self._reads_cache = self.cache_is_sound()
        except BaseException:
            self.close()
            raise

    @property
    def reads_cache(self) -> bool:
        """Whether prompts are served from the prefix cache: False where the canary found it unsound."""
        return self._reads_cache

    def answer(
        self, requests: Sequence[Request], visual: Visual, progress: Progress | None = None
    ) -> list[str]:
        """Answers in the order of the requests.

        Args:
            requests: any order; several may share an image.
            visual: rows -> (I, N, H) visual tokens of these images.
            progress: called with (answers done, answers in all).

        Raises:
            DatasetError: an option is not a single token of the LLM.
            ResourceError: memory is too small.
            IncompleteError: the engine died.
        """
        answers = [""] * len(requests)
        done = 0
        images = sorted({r.media for r in requests})
        for start in range(0, len(images), IMAGE_CHUNK):
            chunk = images[start : start + IMAGE_CHUNK]
            shown = dict(zip(chunk, visual(chunk), strict=True))
            # An image's questions one after another, while the cache still holds its beginning.
            here = sorted(
                (i for i, r in enumerate(requests) if r.media in shown), key=lambda i: requests[i].media
            )
            prompts = [self._embed(requests[i].prompt, shown[requests[i].media]) for i in here]
            outputs = self._generate(prompts, [self._sampling(requests[i]) for i in here])
            for i, output in zip(here, outputs, strict=True):
                answers[i] = self._spell(requests[i], list(output.outputs[0].token_ids))
            done += len(here)
            if progress:
                progress(done, len(requests))
        return answers

    def close(self) -> None:
        """End vLLM's processes."""
        self._engine.llm_engine.engine_core.shutdown()

    def cache_is_sound(self) -> bool:
        """The canary: two images of equal size under one question must not be taken for one another.

        The second is asked with the first in the prefix cache and again with an empty cache. False where the
        two differ, and where the images cannot be told apart at all, since then nothing was proven.
        """
        rows = 2 * max(BLOCK.values())
        scale = self._llm.model.get_input_embeddings().weight.std()
        noise = numpy_generator("vllm canary").standard_normal((2, rows, self._llm.width))
        one, other = (self._embed("what is it?", torch.from_numpy(image).float() * scale) for image in noise)
        self._engine.reset_prefix_cache()
        first = self._peek(one)
        beside = self._peek(other)
        self._engine.reset_prefix_cache()
        alone = self._peek(other)
        return _agree(beside, alone) and not _agree(first, alone)

    def _embed(self, question: str, image: Tensor) -> Tensor:
        """(N, H) -> (L, H) of the LLM's dtype, the whole prompt."""
        prompt = self._llm.encode_prompt(question)
        with torch.inference_mode():
            before, after = (self._llm.embed(torch.tensor(ids)) for ids in (prompt.prefix, prompt.tail))
            return torch.cat([before, image.to(before), after])

    def _sampling(self, request: Request) -> Any:
        """Greedy, as long as allowed; a choice is one token among its letters."""
        if request.options:
            letters = letter_ids(self._llm, request.options)
            return self._greedy(max_tokens=1, allowed_token_ids=letters)
        return self._greedy(max_tokens=request.max_new_tokens, stop_token_ids=[self._llm.end_id])

    def _greedy(self, **options: Any) -> Any:
        from vllm import SamplingParams

        skip = None if self._reads_cache else True
        return SamplingParams(temperature=0.0, detokenize=False, skip_reading_prefix_cache=skip, **options)

    def _generate(self, prompts: Sequence[Tensor], sampling: Sequence[Any]) -> list[Any]:
        """What vLLM puts out, in the order of the prompts."""
        from vllm.v1.engine.exceptions import EngineDeadError

        asked = [{"prompt_embeds": prompt} for prompt in prompts]
        try:
            outputs: list[Any] = self._engine.generate(asked, list(sampling), use_tqdm=False)
        except (EngineDeadError, MemoryError, torch.OutOfMemoryError) as error:
            raise _tell("vLLM's engine died", error) from error
        return outputs

    def _spell(self, request: Request, ids: list[int]) -> str:
        if request.options:
            return request.options[letter_ids(self._llm, request.options).index(ids[0])]
        end = self._llm.end_id
        return self._llm.decode(ids[: ids.index(end)] if end in ids else ids)

    def _peek(self, prompt: Tensor) -> tuple[int, float]:
        """The likeliest next token and its log probability."""
        (output,) = self._generate([prompt], [self._greedy(max_tokens=1, logprobs=1)])
        token = int(output.outputs[0].token_ids[0])
        return token, float(output.outputs[0].logprobs[0][token].logprob)


def _agree(one: tuple[int, float], other: tuple[int, float]) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) <= CANARY_TOLERANCE


def _start(llm: LanguageModel, batch: int) -> Any:
    """Start vLLM with the weights of `llm`; they travel through a folder that is gone once they are read.

    Raises:
        ResourceError, IncompleteError: see `VLLMEngine`.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with _birth(), tempfile.TemporaryDirectory(prefix="eyechart-llm-") as folder:
        with warnings.catch_warnings(action="ignore"):
            import vllm

        front: Any = vllm.LLM
        device = "cuda" if torch.cuda.is_available() else "cpu"
        memory = (
            {"kv_cache_memory_bytes": CPU_CACHE_BYTES}
            if device == "cpu"
            else {"gpu_memory_utilization": GPU_SHARE}
        )
        llm.model.save_pretrained(folder)
        if llm.device.type != "cpu":
            # From here on it only embeds prompts; the card's memory is vLLM's.
            llm.model.to("cpu")
            torch.cuda.empty_cache()
        try:
            return front(
                model=folder,
                skip_tokenizer_init=True,
                enable_prompt_embeds=True,
                dtype=str(llm.model.dtype).removeprefix("torch."),
                generation_config="vllm",  # not the model's own: it could ask for penalties
                enforce_eager=True,
                enable_prefix_caching=True,
                block_size=BLOCK[device],
                max_num_seqs=batch,
                max_model_len=min(int(llm.model.config.max_position_embeddings), MAX_LENGTH),
                seed=0,
                use_tqdm_on_load=False,
                disable_log_stats=True,
                **memory,
            )
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            raise _tell("vLLM did not start", error) from error


def _tell_of_death(client: Any) -> None:
    """Wake whoever waits for answers once nobody reads them from the engine any more.

    When an engine is killed, vLLM 0.32 ends the thread that reads from it without a word to the queue
    behind it (`SyncMPClient`), and a call that waits there would wait for ever.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    reader, answers = client.output_queue_thread, client.outputs_queue

    def watch() -> None:
        reader.join()
        answers.put_nowait(EngineDeadError())

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _birth() -> Iterator[None]:
    """What vLLM's processes inherit: a torchvision that loads, and quiet."""
    saved = {name: os.environ.get(name) for name in RESTORED}
    for name, quiet in QUIET.items():
        os.environ.setdefault(name, quiet)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHILDREN), *filter(None, [saved["PYTHONPATH"]])])
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _tell(what: str, error: BaseException) -> EyechartError:
    """One clear line for what vLLM throws: memory where it says so, otherwise work that can be resumed."""
    found = " ".join(str(error).split())[:160] or type(error).__name__
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MEMORY_WORDS):
        return ResourceError(what, found=found, expected="enough memory", fix="use fewer --workers")
    return IncompleteError(
        what,
        found=found,
        fix="run the same command again: finished answers are kept. "
        "VLLM_LOGGING_LEVEL=INFO shows more, --engine hf does without vLLM",
    )
