"""Exported checkpoints: plain transformers loads them and says what we say; what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import checkpoints
import numpy as np
import pytest
import tiny_llm
import torch
from PIL import Image

from harness.adapter.module import Adapter
from harness.encoders import open_encoder
from harness.engines.hf import HFEngine, Request
from harness.errors import ResourceError, UsageError
from harness.export import export_llava
from harness.images import prepare
from harness.protocol import read_protocol

MINI = read_protocol("mini")
PROTOCOL = replace(MINI, adapter=replace(read_protocol("main").adapter, width=32))
QUESTIONS = ["what color is the star?", "how many objects are there?", "where is the ring?", "zebra?"]


@pytest.fixture
def llm():
    return tiny_llm.new_llm(3)


def trained(encoder, llm, recipe=PROTOCOL.adapter, seed=0):
    """An adapter as training leaves it: every number moved, the standardisation taken from tokens."""
    torch.manual_seed(seed)
    adapter = Adapter(encoder.width, encoder.grid[0] ** 2, 4, recipe, llm)
    adapter.standardise(torch.randn(50, encoder.grid[0] ** 2, encoder.width) * 2 + 0.5)
    with torch.no_grad():
        adapter.gain.fill_(1.7)
    return adapter.eval()


def pictures(count=4):
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (40 + 9 * i, 90 - 7 * i, 3), np.uint8) for i in range(count)]


def our_answers(encoder, adapter, llm, images):
    pixels = torch.from_numpy(prepare(images, PROTOCOL.image, encoder.mean, encoder.std))
    with torch.no_grad():
        visual = adapter(encoder.encode(pixels).patch_tokens)
    requests = [Request(i, question, (), 8) for i in range(len(images)) for question in QUESTIONS]
    return HFEngine(llm).answer(requests, lambda rows: visual[list(rows)])


def their_answers(folder, images):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    said = []
    for pixels in images:
        for question in QUESTIONS:
            chat = [{"role": "user", "content": f"<image>{question}"}]
            text = processor.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            inputs = processor(images=Image.fromarray(pixels), text=text, return_tensors="pt")
            with torch.no_grad():
                ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            new = ids[0, inputs["input_ids"].shape[1] :]
            said.append(processor.tokenizer.decode(new, skip_special_tokens=True))
    return said


@pytest.mark.parametrize("name", ["clip_vision_model", "siglip_vision_model", "vit"])
def test_plain_transformers_gives_the_same_answers(tmp_path, llm, name):
    saved = checkpoints.save_transformers(tmp_path / "encoder", name)
    encoder = open_encoder(checkpoints.submission(saved.folder, saved.side), saved.folder, resolution=64)
    adapter = trained(encoder, llm)
    images = pictures()
    ours = our_answers(encoder, adapter, llm, images)
    export_llava(encoder, adapter, llm, PROTOCOL, tmp_path / "out", {"encoder": name})
    assert their_answers(tmp_path / "out", images) == ours
    assert len(set(ours)) > 4, "answers that differ by picture and question"
    assert json.loads((tmp_path / "out" / "eyechart.json").read_text()) == {"encoder": name}


def refused(tmp_path, llm, *, name="clip_vision_model", recipe=PROTOCOL.adapter, protocol=PROTOCOL, **view):
    saved = checkpoints.save_transformers(tmp_path / "encoder", name)
    submission = checkpoints.submission(saved.folder, saved.side)
    encoder = open_encoder(submission, saved.folder, **{"resolution": 64, **view})
    with pytest.raises(UsageError, match="no place in a LLaVA checkpoint") as error:
        export_llava(encoder, trained(encoder, llm, recipe), llm, protocol, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
    return error.value.line()


def test_a_network_without_patches_is_refused(tmp_path, llm):
    refused(tmp_path, llm, name="resnet")


def test_a_tower_read_before_its_last_norm_is_refused(tmp_path, llm):
    assert "image features that differ" in refused(tmp_path, llm, name="dinov2")


def test_registers_are_refused(tmp_path, llm):
    assert "one class token or none" in refused(tmp_path, llm, name="dinov2_with_registers")


def test_pooled_tokens_are_refused(tmp_path, llm):
    protocol = replace(PROTOCOL, tokens=replace(PROTOCOL.tokens, budget=4))
    assert "4 x 4 tokens pooled to 4" in refused(tmp_path, llm, protocol=protocol)


def test_another_side_is_refused(tmp_path, llm):
    assert "64 pixels seen at 128" in refused(tmp_path, llm, resolution=128)


def test_another_layer_is_refused(tmp_path, llm):
    assert "tokens.layer = 0" in refused(tmp_path, llm, layer=1)


def test_letterboxing_is_refused(tmp_path, llm):
    protocol = replace(PROTOCOL, image=replace(PROTOCOL.image, resize="letterbox"))
    assert "letterboxed" in refused(tmp_path, llm, protocol=protocol)


@pytest.mark.parametrize("changes", [{"depth": 3}, {"kind": "linear", "depth": 1}, {"width": 48}])
def test_another_adapter_is_refused(tmp_path, llm, changes):
    assert "an adapter of" in refused(tmp_path, llm, recipe=replace(PROTOCOL.adapter, **changes))


def test_places_are_refused(tmp_path, llm):
    words = tuple(["red"] * 16)
    recipe = replace(PROTOCOL.adapter, places="learnt", position_words=words)
    assert 'adapter.places = "none"' in refused(tmp_path, llm, recipe=recipe)


def test_nothing_is_overwritten(tmp_path, llm):
    saved = checkpoints.save_transformers(tmp_path / "encoder", "vit")
    encoder = open_encoder(checkpoints.submission(saved.folder, saved.side), saved.folder, resolution=64)
    with pytest.raises(ResourceError, match="not empty"):
        export_llava(encoder, trained(encoder, llm), llm, PROTOCOL, saved.folder, {})
