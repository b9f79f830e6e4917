"""What engines share: which one is meant, answers kept in parts, what the death of an engine costs."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import tiny_llm
import tiny_run
import torch

from harness import answers as answers_module, cli
from harness.answer_parts import AnswerParts
from harness.bundle import find_bundles, read_bundle, run_key
from harness.engines import choose, vllm as vllm_engine
from harness.engines.base import Request
from harness.engines.choose import open_engine, require_engine, resolve_engine
from harness.engines.hf import HFEngine
from harness.engines.vllm import VLLMEngine
from harness.errors import IncompleteError, ResourceError, UsageError
from harness.plan import make_plan
from harness.records import Answer, Sample

# --- which engine ---


@pytest.mark.parametrize(
    ("device", "installed", "meant"),
    [("cpu", False, "hf"), ("cpu", True, "hf"), ("cuda", False, "hf"), ("cuda", True, "vllm")],
)
def test_auto(monkeypatch, device, installed, meant):
    monkeypatch.setattr(choose, "_is_installed", lambda package: installed)
    assert resolve_engine("auto", device) == meant
    assert (resolve_engine("hf", device), resolve_engine("vllm", device)) == ("hf", "vllm")


def test_an_unknown_engine_is_refused():
    with pytest.raises(UsageError, match="unknown engine: found sglang, expected auto, hf, vllm"):
        resolve_engine("sglang", "cpu")


def test_an_engine_that_is_not_installed_is_refused_before_work(monkeypatch):
    monkeypatch.setattr(choose, "_is_installed", lambda package: False)
    require_engine("hf")
    with pytest.raises(UsageError, match="make setup-vllm"):
        require_engine("vllm")
    with pytest.raises(UsageError, match="make setup-vllm"):
        open_engine("vllm", None)


# --- parts ---


def some(count, first=0):
    ids = [f"s{i:03d}" for i in range(first, first + count)]
    samples = [Sample(sample_id=i, cluster=i, media=(i,), prompt="?", references=()) for i in ids]
    return samples, [Answer(sample_id=i, prompt_hash="0" * 16, answer=f"a{i}", status="scored") for i in ids]


def test_a_part_is_found_again_in_the_order_asked(tmp_path):
    parts, (samples, answers) = AnswerParts(tmp_path / "parts"), some(5)
    assert parts.read(samples) is None
    parts.write(samples[::-1], answers[::-1])
    assert parts.read(samples[::-1]) == answers[::-1]
    assert parts.read(samples[:4]) is None
    parts.clear()
    assert not parts.folder.exists()
    parts.clear()


def test_a_damaged_part_is_made_again(tmp_path):
    parts, (samples, answers) = AnswerParts(tmp_path), some(5)
    parts.write(samples, answers)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert parts.read(samples) is None
    # Sound, but of other samples.
    parts.write(samples, some(5, first=3)[1])
    assert parts.read(samples) is None


# --- an engine that dies ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = tiny_run.shared(tmp_path_factory)
        tiny_run.install(patch, made)
        yield made


@pytest.fixture
def new_home(tiny, request):
    home = tiny.home(re.sub(r"\W+", "-", request.node.name))
    shutil.copytree(tiny_run.uninterrupted(tiny).root / "cache", home.root / "cache")
    shutil.rmtree(home.answers)
    return home


class Mortal(HFEngine):
    """The reference engine, which dies after some calls."""

    calls = 0
    lives = 10**9
    closed = 0

    def answer(self, requests, visual, progress=None):
        Mortal.calls += 1
        if Mortal.calls > Mortal.lives:
            raise IncompleteError("the engine died", fix="run the same command again")
        return super().answer(requests, visual, progress)

    def close(self):
        Mortal.closed += 1


@pytest.fixture
def mortal(monkeypatch):
    monkeypatch.setattr(answers_module, "open_engine", lambda name, llm, batch: Mortal(llm, batch))
    monkeypatch.setattr(answers_module, "PART_IMAGES", 8)
    for name, value in {"calls": 0, "lives": 10**9, "closed": 0}.items():
        monkeypatch.setattr(Mortal, name, value)
    return Mortal


def test_a_dead_engine_costs_one_part(tiny, new_home, mortal, monkeypatch):
    monkeypatch.setattr("harness.unit_scores.score_in_process", tiny_run.known_scores(tiny))
    mortal.lives = 3
    with pytest.raises(IncompleteError, match="the engine died") as caught:
        tiny_run.carry_out(tiny, new_home)
    assert caught.value.exit_code == 9
    assert mortal.closed == 1
    (folder,) = new_home.unfinished.glob("answers-*")
    assert len(list(folder.iterdir())) == 3
    assert not list(new_home.answers.glob("*")) if new_home.answers.exists() else True
    dead_calls, mortal.lives = mortal.calls, 10**9
    tiny_run.carry_out(tiny, new_home)
    again = mortal.calls - dead_calls
    # Parts do not show in the result: an uninterrupted run in one part a task made the same bytes.
    assert tiny_run.contents(new_home.results) == tiny_run.contents(tiny_run.uninterrupted(tiny).results)
    assert not list(new_home.unfinished.glob("answers-*"))
    # A fresh run asks all, the resumed one all but the three parts that were kept.
    shutil.rmtree(new_home.answers)
    shutil.rmtree(new_home.results)
    before = mortal.calls
    tiny_run.carry_out(tiny, new_home)
    assert mortal.calls - before == again + 3


def test_the_engine_is_part_of_the_run_key_and_hf_of_record(tiny):
    home = tiny_run.uninterrupted(tiny)

    def plan(**options):
        known = (str(tiny.protocol), home, [home.results], tiny.tasks)
        return make_plan(tiny.manifest, *known, **options)

    assert plan().pending == []
    made = plan(engine="vllm")
    assert {u.task.kind for u in made.pending} == {u.task.kind for u in made.units} - {"probe"}
    assert {u.run.engine for u in made.pending} == {"vllm"}
    of_record = {run_key(read_bundle(p).run) for p in find_bundles(home.results)}
    assert not of_record & {run_key(u.run) for u in made.pending}
    assert {run_key(u.run) for u in plan().units} == of_record


def test_commands_take_the_engine(tiny, monkeypatch, capsys):
    home = tiny_run.uninterrupted(tiny)
    tiny_run.patch_commands(monkeypatch, tiny)
    words = [str(tiny.manifest), "--protocol", str(tiny.protocol), "--home", str(home.root)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(choose, "_is_installed", lambda package: False)
    for option, pending in (("auto", 0), ("hf", 0), ("vllm", 12)):
        assert cli.main(["status", *words, "--engine", option]) == 0
        assert capsys.readouterr().out.count("pending") == pending
    assert cli.main(["run", *words, "--engine", "vllm"]) == 2
    assert "make setup-vllm" in capsys.readouterr().err
    assert cli.main(["plan", *words, "--engine", "vllm"]) == 2
    assert cli.main(["plan", *words, "--engine", "nonsense"]) == 2


# --- vLLM's engine, with transformers in vLLM's place ---

LLM = tiny_llm.new_llm(3)
VISUAL = torch.randn(20, 5, LLM.width, generator=torch.Generator().manual_seed(1))
PROMPTS = ["what color is the star?", "how many objects are there?", "what shape is the red thing?"]
REQUESTS = [
    Request(i % 20, PROMPTS[i % 3], ("A", "B", "C") if i % 4 == 0 else (), 1 + i % 6) for i in range(50)
]


class EngineDeadError(Exception):
    """vLLM's name for it, and its message."""

    def __init__(self):
        super().__init__("EngineCore encountered an issue.")


class FakeFront:
    """As much of `vllm.LLM` as the engine uses; `mixes` serves equal lengths from one cache entry."""

    mixes = False
    dies_after = None

    def __init__(self, **options):
        self.options, self.cache, self.asked, self.down = options, {}, [], False
        self.pythonpath = os.environ["PYTHONPATH"]
        assert (Path(options["model"]) / "model.safetensors").is_file()
        self.killed = threading.Event()
        reader = threading.Thread(target=self.killed.wait, daemon=True)
        reader.start()
        self.core = types.SimpleNamespace(
            shutdown=self.shut, outputs_queue=queue.Queue(), output_queue_thread=reader
        )
        self.llm_engine = types.SimpleNamespace(engine_core=self.core)

    def shut(self):
        self.down = True
        self.killed.set()

    def reset_prefix_cache(self):
        self.cache.clear()

    @torch.inference_mode()
    def generate(self, prompts, sampling, *, use_tqdm):
        assert not use_tqdm
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            self.killed.set()  # as vLLM does: its reader ends, and says nothing to whoever waits
            raise self.core.outputs_queue.get(timeout=20)
        self.asked += zip(prompts, sampling, strict=True)
        return [self._one(p["prompt_embeds"], s) for p, s in zip(prompts, sampling, strict=True)]

    def _one(self, embeds, sampling):
        if self.mixes and not sampling.options["skip_reading_prefix_cache"]:
            embeds = self.cache.setdefault(len(embeds), embeds)
        ids, logprobs = [], []
        while len(ids) < sampling.options["max_tokens"]:
            whole = torch.cat([embeds, LLM.embed(torch.tensor(ids, dtype=torch.long))])
            logits = LLM.model(inputs_embeds=whole[None]).logits[0, -1]
            allowed = sampling.options.get("allowed_token_ids")
            ids.append(allowed[int(logits[allowed].argmax())] if allowed else int(logits.argmax()))
            logprob = float(logits.log_softmax(0)[ids[-1]])
            logprobs.append({ids[-1]: types.SimpleNamespace(logprob=logprob)})
            if ids[-1] in sampling.options.get("stop_token_ids", ()):
                break
        return types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=ids, logprobs=logprobs)])


@pytest.fixture
def front(monkeypatch):
    """A `vllm` to import, whose front can be told to misbehave."""

    class Front(FakeFront):
        pass

    def sampling(**options):
        assert options["temperature"] == 0.0
        assert not [name for name in options if "penalty" in name]
        return types.SimpleNamespace(options=options)

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=Front, SamplingParams=sampling))
    errors = types.SimpleNamespace(EngineDeadError=EngineDeadError)
    monkeypatch.setitem(sys.modules, "vllm.v1", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.v1.engine", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", errors)
    for name in vllm_engine.SETTINGS:
        monkeypatch.setenv(name, "set by the test")
    return Front


def visual(rows):
    return VISUAL[list(rows)]


def test_answers_are_those_of_the_reference(front, monkeypatch):
    monkeypatch.setattr(vllm_engine, "IMAGE_CHUNK", 7)
    engine = VLLMEngine(LLM, 16)
    assert engine.reads_cache
    seen = []
    given = engine.answer(REQUESTS, visual, lambda *counts: seen.append(counts))
    assert given == HFEngine(LLM).answer(REQUESTS, visual)
    assert given[::-1] == engine.answer(REQUESTS[::-1], visual)
    assert len(seen) == 3
    assert seen[-1] == (50, 50)
    options = engine._engine.options
    assert (options["max_num_seqs"], options["dtype"], options["generation_config"]) == (
        16,
        "float32",
        "vllm",
    )
    # Pure embeddings: ids beside them are what mixes up vLLM's prefix cache.
    assert all(set(prompt) == {"prompt_embeds"} for prompt, _ in engine._engine.asked)
    assert not Path(options["model"]).exists()
    engine.close()
    assert engine._engine.down


def test_the_canary_sees_a_cache_that_mixes_images_up(front):
    front.mixes = True
    engine = VLLMEngine(LLM)
    assert not engine.reads_cache
    # Nothing is read from the cache then, and answers are right all the same.
    assert engine.answer(REQUESTS, visual) == HFEngine(LLM).answer(REQUESTS, visual)
    assert all(s.options["skip_reading_prefix_cache"] for _, s in engine._engine.asked[-len(REQUESTS) :])


def test_the_death_of_vllm_is_one_clear_line(front):
    engine = VLLMEngine(LLM)
    engine._engine.dies_after = 0
    with pytest.raises(IncompleteError, match=r"vLLM's engine died.*Run the same command again"):
        engine.answer(REQUESTS, visual)


def test_an_engine_that_dies_under_its_canary_is_ended(front, monkeypatch):
    front.dies_after = 1
    ended = []
    monkeypatch.setattr(front, "shut", lambda self: ended.append(self.options))
    with pytest.raises(IncompleteError):
        VLLMEngine(LLM)
    assert len(ended) == 1


@pytest.mark.parametrize(
    ("thrown", "kind", "code"),
    [
        (RuntimeError("Engine core initialization failed. See root cause above."), IncompleteError, 9),
        (ValueError("Available memory on node 0 is less than requested memory"), ResourceError, 6),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ResourceError, 6),
        (MemoryError(), ResourceError, 6),
    ],
)
def test_a_start_that_fails_is_one_clear_line(front, monkeypatch, thrown, kind, code):
    def fail(self, **options):
        raise thrown

    monkeypatch.setattr(front, "__init__", fail)
    with pytest.raises(kind, match="vLLM did not start") as caught:
        VLLMEngine(LLM)
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)


def test_what_vllm_leaves_in_the_environment_goes(front, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    begin = front.__init__

    def meddle(self, **options):
        begin(self, **options)
        os.environ["LD_PRELOAD"] = "some.so"

    monkeypatch.setattr(front, "__init__", meddle)
    engine = VLLMEngine(LLM)
    assert engine._engine.pythonpath == os.pathsep.join([str(vllm_engine.CHILDREN), "elsewhere"])
    assert os.environ["PYTHONPATH"] == "elsewhere"
    assert "LD_PRELOAD" not in os.environ
    assert all(os.environ[name] == "set by the test" for name in vllm_engine.SETTINGS)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="no torchvision")
def test_torchvision_loads_in_every_child_of_vllm():
    """The folder on PYTHONPATH is enough: no import of ours comes first."""
    root = Path(vllm_engine.__file__).parents[2]
    path = os.pathsep.join([str(vllm_engine.CHILDREN), str(root)])
    code = "import sys; assert 'torch' not in sys.modules; import torchvision.transforms; print('loaded')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout == "loaded\n", done.stderr


def test_what_vllm_started_ends_with_the_process_that_asked_for_it():
    root = Path(vllm_engine.__file__).parents[2]
    grandchild = "import os, time; print(os.getpid(), flush=True); time.sleep(90)"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(vllm_engine.CHILDREN), str(root)])},
    )
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(child)


def is_alive(process):
    """Whether it runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
