"""`eyechart submit`: what a folder says is read, what it does not say is asked, nothing is guessed."""

from __future__ import annotations

import json
import tomllib

import pytest
import torch
from checkpoints import fill
from safetensors.torch import load_file, save_file

from harness.cli import main
from harness.errors import SubmissionError, UnsafeInputError, UsageError
from harness.submission import read_submission, verify_files
from harness.submit import MANIFEST, OBJECTIVES, Given, submit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT = Given(resolution=64, mean=MEAN, std=STD)


@pytest.fixture
def vit(tmp_path):
    """A tiny ViT as transformers saves it, with a preprocessor and a model card."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path / "My ViT_tiny"
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    torch.manual_seed(0)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    preprocessor = {"image_mean": list(MEAN), "image_std": list(STD), "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "README.md").write_text(
        "---\ntags: [vision]\nlicense: apache-2.0\n---\n# A card\nlicense: mit\n"
    )
    return folder


@pytest.fixture
def resnet(tmp_path):
    """A tiny ResNet without anything beside it."""
    from transformers import ResNetConfig, ResNetModel

    folder = tmp_path / "resnet"
    torch.manual_seed(0)
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(folder)
    return folder


def test_what_the_folder_says_is_read(vit):
    draft = submit(vit, Given())
    assert draft.path == vit / MANIFEST
    made = tomllib.loads(draft.path.read_text())
    assert made["id"] == "my-vit-tiny" and made["license"] == "apache-2.0"
    assert made["input"] == {"resolution": 32, "mean": list(MEAN), "std": list(STD)}
    assert [f["path"] for f in made["source"]["files"]] == ["config.json", "model.safetensors"]
    facts = {fact.what: (fact.value, fact.origin) for fact in draft.facts}
    network = load_file(vit / "model.safetensors")
    assert facts["parameters"] == (f"{sum(t.numel() for t in network.values()):,}", "counted")
    assert facts["tokens"][0] == "4 x 4 of 16"
    assert facts["resolution"] == ("32", "config.json") and facts["mean"][1] == "preprocessor_config.json"
    assert draft.open_fields == (
        "title",
        "authors",
        "contamination",
        "pretraining.objective",
        "pretraining.data",
        "pretraining.images_seen",
    )


def test_the_filled_draft_is_a_valid_submission(vit):
    path = submit(vit, Given()).path
    fill(path)
    made = read_submission(path)
    verify_files(made, vit)
    assert made.family == "label-classification" and made.source.kind == "local"


@pytest.mark.parametrize(
    "left", ["title", "authors", "license", "contamination", "objective", "data", "images_seen"]
)
def test_each_open_field_is_refused_while_it_is_open(resnet, left):
    path = submit(resnet, INPUT).path
    key = {"authors": "authors = []", "images_seen": "# images_seen = 0"}.get(left, f'{left} = ""')
    fill(path, **{key: key})
    with pytest.raises(SubmissionError, match=left):
        read_submission(path)
    fill(path)
    read_submission(path)


def test_what_nothing_says_is_left_open_and_never_a_default(resnet):
    draft = submit(resnet, Given())
    made = tomllib.loads(draft.path.read_text())
    assert made["input"] == {} and made["license"] == ""
    assert {"input.resolution", "input.mean", "input.std", "license"} <= set(draft.open_fields)
    assert "parameters" not in {fact.what for fact in draft.facts}
    fill(draft.path)
    with pytest.raises(SubmissionError, match=r"input\.(resolution|mean|std): key missing"):
        read_submission(draft.path)


def test_the_objective_is_never_filled_in_but_every_choice_is_named(vit):
    text = submit(vit, Given()).path.read_text()
    assert tomllib.loads(text)["pretraining"][0]["objective"] == ""
    assert all(objective in text for objective in OBJECTIVES) and "none" not in OBJECTIVES


def test_the_command_line_goes_before_the_files(resnet):
    (resnet / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "size": 224}))
    draft = submit(resnet, Given(id="mine", resolution=64, mean=MEAN, std=STD))
    made = tomllib.loads(draft.path.read_text())
    assert made["id"] == "mine" and made["input"] == {"resolution": 64, "mean": list(MEAN), "std": list(STD)}


@pytest.mark.parametrize(
    ("table", "side"),
    [
        ({"size": {"shortest_edge": 48}, "crop_size": {"height": 40, "width": 40}}, 40),
        ({"size": {"shortest_edge": 48}, "crop_size": 40, "do_center_crop": False}, 48),
        ({"size": {"height": 48, "width": 64}}, None),
        ({"size": 48}, 48),
        ({"size": True}, None),
        ({"size": "48"}, None),
    ],
)
def test_spellings_of_a_size(resnet, table, side):
    (resnet / "preprocessor_config.json").write_text(json.dumps(table))
    made = tomllib.loads(submit(resnet, Given()).path.read_text())
    assert made["input"].get("resolution") == side


def test_no_normalisation_is_mean_0_and_deviation_1(resnet):
    (resnet / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": False, "image_mean": [0.5] * 3})
    )
    made = tomllib.loads(submit(resnet, Given()).path.read_text())
    assert made["input"] == {"mean": [0.0] * 3, "std": [1.0] * 3}


def test_shards_are_those_of_the_index(resnet):
    weights = load_file(resnet / "model.safetensors")
    names = sorted(weights)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for part, keys in parts.items():
        save_file({key: weights[key] for key in keys}, resnet / part)
    index = {"weight_map": {key: part for part, keys in parts.items() for key in keys}}
    (resnet / "model.safetensors.index.json").write_text(json.dumps(index))
    draft = submit(resnet, INPUT)
    made = tomllib.loads(draft.path.read_text())
    assert [f["path"] for f in made["source"]["files"]] == ["config.json", *parts]
    assert "parameters" in {fact.what for fact in draft.facts}


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def only_pickles(folder):
    without_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK")


def two_files(folder):
    data = (folder / "model.safetensors").read_bytes()
    without_weights(folder)
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(data)


def lost_shard(folder):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "gone.safetensors"}})
    )


def outside(folder):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../x.safetensors"}})
    )


def fewer_tensors(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop(min(weights))
    save_file(weights, folder / "model.safetensors")


def another_network(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (without_weights, SubmissionError, "no weights"),
        (only_pickles, UnsafeInputError, "pytorch_model.bin"),
        (two_files, SubmissionError, "a.safetensors, b.safetensors"),
        (lost_shard, SubmissionError, "gone.safetensors"),
        (outside, UnsafeInputError, "../x.safetensors"),
        (fewer_tensors, SubmissionError, "1 missing"),
        (another_network, SubmissionError, "gpt2"),
        (truncated, SubmissionError, "model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), SubmissionError, "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), SubmissionError, "not JSON"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text("{"),
            SubmissionError,
            "not JSON",
        ),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text("[]"),
            SubmissionError,
            "not a JSON table",
        ),
        (lambda folder: (folder / MANIFEST).write_text("mine"), UsageError, "a manifest already"),
    ],
)
def test_a_broken_folder_is_one_clear_error_and_no_manifest(resnet, damage, error, says):
    damage(resnet)
    before = {p: p.read_bytes() for p in resnet.iterdir()}
    with pytest.raises(error, match=says):
        submit(resnet, INPUT)
    assert {p: p.read_bytes() for p in resnet.iterdir()} == before


def test_a_size_the_network_is_not_built_for_is_refused(vit):
    with pytest.raises(UsageError, match="contradicts the network's configuration: found 64, expected 32"):
        submit(vit, Given(resolution=64))


def test_the_command_says_what_it_found_and_what_is_left(vit, capsys):
    assert main(["submit", str(vit)]) == 0
    out = capsys.readouterr().out
    assert "preprocessor_config.json" in out and f"Then: eyechart doctor {vit / MANIFEST}" in out
    assert "pretraining.objective" in out.split("Left to you")[1]
    (vit / MANIFEST).unlink()
    assert main(["submit", str(vit), "--json", "--id", "mine"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["manifest"] == str(vit / MANIFEST) and "title" in made["open"]
    assert {"what": "license", "value": "apache-2.0", "origin": "README.md"} in made["found"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 2, "no such folder"),
        (["{vit}", "--id", "Not An Id"], 2, "--id"),
        (["{vit}", "--mean", "0.5"], 2, "expected 3 arguments"),
        (["{vit}", "--resolution", "big"], 2, "resolution"),
    ],
)
def test_wrong_words_are_one_line(vit, capsys, words, code, says):
    assert main(["submit", *(w.format(vit=vit) for w in words)]) == code
    err = capsys.readouterr().err
    assert says in err and len([line for line in err.splitlines() if line.startswith("eyechart:")]) == 1
    assert not (vit / MANIFEST).exists()
