"""`eyechart export model` after a real run of the miniature: plain transformers says what bundles hold."""

from __future__ import annotations

import json
import re

import checkpoints
import pytest
import tiny_run
import torch
from PIL import Image

from harness.bundle import find_bundles, read_bundle
from harness.cli import main
from harness.data import open_split
from harness.protocol import read_protocol, replace_values
from harness.task import read_task

TASK = "eyechart_mini_vqa"
SAVED = {"resolution = 64": "resolution = 64", "mean = [0.5, 0.5, 0.5]": "mean = [0.48, 0.45, 0.4]"}
SAVED |= {"std = [0.25, 0.25, 0.25]": "std = [0.27, 0.26, 0.28]"}


def write_protocol(tiny, path, **more):
    """The miniature's, with an adapter of LLaVA's shape and one task."""
    swaps = {
        "tokens.dtype": '"float32"',  # as plain transformers computes; float16 can turn a tie the other way
        "adapter.depth": "2",
        "adapter.width": "32",
        "adapter.frame_words": "[]",
        **more,
    }
    text = replace_values(tiny.protocol.read_text(), swaps)
    text = re.sub(r"tasks = \[.*?\]", f'tasks = ["{TASK}"]', text, flags=re.DOTALL)
    path.write_text(text.replace("[adapter]", '[adapter]\nplaces = "none"'))
    return path


def write_encoder(folder, name):
    """A tiny vision transformer with its manifest."""
    checkpoints.save_transformers(folder, name)
    (folder / "preprocessor_config.json").unlink()
    kind = {'name = "resnet"': f'name = "{name}"'}
    return tiny_run.write_manifest(folder, "tiny-vit", **SAVED, **kind)


@pytest.fixture(scope="module")
def ran(tiny, tmp_path_factory):
    """Manifest, protocol and home of a finished run of a tiny CLIP tower."""
    root = tmp_path_factory.mktemp("export")
    manifest = write_encoder(root / "encoder", "clip_vision_model")
    protocol = write_protocol(tiny, root / "llava.toml")
    home = tiny.home("export-home")
    words = [str(manifest), "--protocol", str(protocol), "--home", str(home.root)]
    assert main(["run", *words, "--engine", "hf", "--ignore-doctor"]) == 0
    return manifest, protocol, home


def export(ran, to, *more):
    manifest, protocol, home = ran
    places = ["--protocol", str(protocol), "--home", str(home.root), "--to", str(to)]
    return main(["export", "model", str(manifest), *places, *more])


def complaint(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eyechart:")]
    assert len(lines) == 1
    return lines[0]


def plain_answers(folder, samples, media, limit):
    """By transformers alone: its processor, its model, its greedy decoding."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    place = {key: i for i, key in enumerate(media.keys)}
    said = {}
    for sample in samples:
        pixels = Image.fromarray(media.load(place[sample.media[0]]))
        chat = [{"role": "user", "content": f"<image>{sample.prompt}"}]
        text = processor.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = processor(images=pixels, text=text, return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        said[sample.sample_id] = processor.tokenizer.decode(new, skip_special_tokens=True)
    return said


@pytest.mark.parametrize("seed", [0, 2])
def test_plain_transformers_says_what_the_bundle_holds(ran, tiny, tmp_path, capsys, seed):
    _, protocol, home = ran
    assert export(ran, tmp_path / "out", "--seed", str(seed), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    origin = json.loads((tmp_path / "out" / "eyechart.json").read_text())
    assert told == {"path": str(tmp_path / "out"), **origin}
    assert (origin["submission"], origin["seed"], origin["llm"]) == ("tiny-vit", seed, "mini-llm")
    bundles = [read_bundle(path) for path in find_bundles(home.results)]
    bundle = next(b for b in bundles if b.run.seed == seed)
    assert bundle.receipt["adapter"]["key"] == origin["adapter"]
    task = read_task(TASK, tiny.tasks)
    split = open_split(task, home.data("mini"), 4)
    limit = task.max_new_tokens or read_protocol(str(protocol)).decoding.max_new_tokens
    stored = {a.sample_id: a.answer for a in bundle.answers}
    assert plain_answers(tmp_path / "out", split.samples, split.media, limit) == stored
    assert len(set(stored.values())) > 3, "answers that differ by picture and question"


def test_what_to_do_next(ran, tmp_path, capsys):
    assert export(ran, tmp_path / "out") == 0
    assert "LlavaForConditionalGeneration.from_pretrained" in capsys.readouterr().out
    assert export(ran, tmp_path / "out") == 6
    assert "not empty" in complaint(capsys)


def test_an_adapter_that_is_not_trained_yet(ran, tiny, tmp_path, capsys):
    manifest, _, home = ran
    other = write_protocol(tiny, tmp_path / "other.toml", **{"adapter.lr": "0.003"})
    assert export((manifest, other, home), tmp_path / "out") == 9
    line = complaint(capsys)
    assert "no adapter of seed 0" in line
    assert f"`eyechart run {manifest} --protocol {other}`" in line
    assert not (tmp_path / "out").exists()


def test_an_encoder_without_a_place_is_told_before_anybody_trains_for_it(ran, tiny, tmp_path, capsys):
    _, protocol, home = ran
    assert export((tiny.manifest, protocol, home), tmp_path / "out") == 2
    assert "no place in a LLaVA checkpoint" in complaint(capsys)
    manifest, _, _ = ran
    assert export((manifest, tiny.protocol, home), tmp_path / "out") == 2
    assert "kind mlp, depth 2" in complaint(capsys)


def test_a_seed_that_the_protocol_has_not(ran, tmp_path, capsys):
    assert export(ran, tmp_path / "out", "--seed", "9") == 2
    assert "0, 1, 2" in complaint(capsys)


def test_an_unpinned_protocol(ran, tmp_path, capsys):
    manifest, _, home = ran
    assert export((manifest, "cheap", home), tmp_path / "out") == 2
    assert "UNPINNED" in complaint(capsys)
