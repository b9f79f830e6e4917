from __future__ import annotations

import harness.torchvision_shim

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoints import save_transformers
from safetensors.torch import load_file, save_file

from harness.encoders import open_encoder
from harness.encoders.base import ENCODE_CHUNK
from harness.encoders.safetensors_load import read_header
from harness.errors import IntegrityError, InternalError, SubmissionError, UnsafeInputError
from harness.records import InputSpec, Source, Submission, WeightFile


def saved(folder, model_type, *, half=False, **changes):
    network = save_transformers(folder, model_type, **changes).network
    if half:
        network = network.half()
        network.save_pretrained(folder)
    return network.float()


def submission(folder, *, floor=None, resolution=64, kind="local", only=None):
    names = sorted(only or (p.name for p in folder.iterdir() if p.is_file()))
    files = tuple(
        WeightFile(path=n, sha256=hashlib.sha256((folder / n).read_bytes()).hexdigest()) for n in names
    )
    return Submission(
        id="toy", title="Toy", authors=(), links=(), license="", contamination="",
        source=Source(kind="floor" if floor else kind, name=floor or "toy", revision="local", files=files),
        input=InputSpec(resolution=resolution, mean=(0.5,) * 3, std=(0.5,) * 3),
        pretraining=(), floor=floor, base="base" if floor else "",
    )  # fmt: skip


def images(num, side=64, seed=1):
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def resnet(tmp_path):
    saved(tmp_path, "resnet")
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("model_type", ["resnet", "pvt_v2", "vit"])
def test_half_precision_files_are_computed_in_full(tmp_path, model_type):
    network = saved(tmp_path, model_type, half=True)
    encoder = open_encoder(submission(tmp_path), tmp_path)
    assert {p.dtype for p in encoder.module.parameters()} == {torch.float32}
    with torch.no_grad():
        wanted = network(pixel_values=images(2)).last_hidden_state
    wanted = wanted.flatten(2).transpose(1, 2) if wanted.ndim == 4 else wanted[:, 1:]
    torch.testing.assert_close(encoder.encode(images(2)).patch_tokens, wanted, rtol=0, atol=1e-5)


def test_earlier_layer_counts_from_the_end(tmp_path):
    network = saved(tmp_path, "vit")
    with torch.no_grad():
        states = network(pixel_values=images(2), output_hidden_states=True).hidden_states
    encoder = open_encoder(submission(tmp_path), tmp_path, layer=1)
    torch.testing.assert_close(encoder.encode(images(2)).patch_tokens, states[-2][:, 1:], rtol=0, atol=1e-5)
    with pytest.raises(SubmissionError, match="too few layers"):
        open_encoder(submission(tmp_path), tmp_path, layer=3)


def test_any_batch_size_gives_the_same_bytes(resnet):
    encoder = open_encoder(submission(resnet), resnet)
    pixels = images(ENCODE_CHUNK + 5)
    whole = encoder.encode(pixels).patch_tokens
    first = encoder.encode(pixels[:ENCODE_CHUNK]).patch_tokens
    rest = encoder.encode(pixels[ENCODE_CHUNK:]).patch_tokens
    assert torch.equal(whole, torch.cat([first, rest]))
    # Elsewhere in the chunk the last bits may differ, not more.
    torch.testing.assert_close(encoder.encode(pixels[3:4]).patch_tokens, whole[3:4], rtol=0, atol=1e-5)


def test_encoder_is_frozen_and_its_digest_sees_one_changed_weight(resnet):
    encoder = open_encoder(submission(resnet), resnet)
    before = encoder.weight_digest()
    encoder.encode(images(2))
    assert encoder.weight_digest() == before
    assert not any(p.requires_grad for p in encoder.module.parameters())
    parameter = next(encoder.module.parameters())
    parameter.data[0, 0, 0, 0] += 1e-3
    assert encoder.weight_digest() != before
    parameter.requires_grad_(True)
    with pytest.raises(IntegrityError, match="encoder is not frozen"):
        encoder.weight_digest()


def test_digest_also_covers_batch_norm_statistics(resnet):
    encoder = open_encoder(submission(resnet), resnet)
    before = encoder.weight_digest()
    next(b for n, b in encoder.module.named_buffers() if n.endswith("running_mean")).add_(1e-3)
    assert encoder.weight_digest() != before


def test_unsupported_architecture_lists_what_is(resnet):
    edit_config(resnet, model_type="mamba")
    with pytest.raises(
        SubmissionError, match="unsupported architecture: found 'mamba', expected one of beit, clip"
    ):
        open_encoder(submission(resnet), resnet)


@pytest.mark.parametrize(
    "key",
    [
        "auto_map",
        "_attn_implementation",
        "_attn_implementation_internal",
        "trust_remote_code",
        "quantization_config",
    ],
)
def test_configuration_that_asks_for_code_is_unsafe(resnet, key):
    edit_config(resnet, **{key: {"AutoModel": "evil--evil.Model"}})
    with pytest.raises(UnsafeInputError, match=key) as caught:
        open_encoder(submission(resnet), resnet)
    assert caught.value.exit_code == 4


def test_unknown_configuration_key_is_refused(resnet):
    edit_config(resnet, patch_size=16, hiden_act="relu")
    with pytest.raises(SubmissionError, match="unknown configuration keys: found hiden_act, patch_size"):
        open_encoder(submission(resnet), resnet)


@pytest.mark.parametrize(
    "changes",
    [
        dict(hidden_sizes=[10**9, 24, 32]),
        dict(depths=[10**6, 1, 1]),
        dict(depths=[1] * 1000),
        dict(embedding_size={"a": 1}),
        dict(hidden_act="no-such-activation"),
        dict(layer_type="evil"),
        dict(embedding_size="wide"),
        dict(embedding_size=-4),
    ],
)
def test_configuration_of_no_network_is_one_line(resnet, changes):
    edit_config(resnet, **changes)
    with pytest.raises(SubmissionError) as caught:
        open_encoder(submission(resnet), resnet)
    assert "\n" not in str(caught.value)


def test_vast_network_is_refused_before_it_is_allocated(resnet):
    edit_config(resnet, hidden_sizes=[65536, 65536, 65536])
    with pytest.raises(SubmissionError, match="configuration describes another network than the weights"):
        open_encoder(submission(resnet), resnet)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_broken_configuration_is_refused(resnet, text):
    (resnet / "config.json").write_text(text)
    with pytest.raises(SubmissionError, match=r"config\.json"):
        open_encoder(submission(resnet), resnet)


def test_missing_extra_and_misshapen_tensors_are_listed_together(resnet):
    names = sorted(load_file(resnet / "model.safetensors"))

    def edit(weights):
        for name in names[:12]:
            del weights[name]
        weights["head.weight"] = torch.zeros(3)
        weights[names[13]] = torch.zeros(2, 2, 2)

    edit_weights(resnet, edit)
    with pytest.raises(SubmissionError) as caught:
        open_encoder(submission(resnet), resnet)
    message = str(caught.value)
    assert f"12 missing ({', '.join(names[:10])}, …)" in message
    assert "1 extra (head.weight)" in message
    assert f"1 of another shape ({names[13]} [2, 2, 2] instead of" in message
    assert "\n" not in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weight_is_named(resnet, value):
    name = "embedder.embedder.convolution.weight"
    edit_weights(resnet, lambda w: w[name].view(-1)[3:4].fill_(value))
    with pytest.raises(SubmissionError, match=rf"{name}: weights hold NaN or infinity: found 1 of"):
        open_encoder(submission(resnet), resnet)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_weights_are_refused(resnet, keep):
    path = resnet / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SubmissionError, match=r"model\.safetensors: weights are truncated"):
        open_encoder(submission(resnet), resnet)


def test_pickle_is_refused_under_any_name(resnet):
    torch.save({"a": torch.zeros(2)}, resnet / "model.safetensors")
    with pytest.raises(UnsafeInputError, match="pickle"):
        open_encoder(submission(resnet), resnet)
    (resnet / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(UnsafeInputError, match="weights are not safetensors"):
        open_encoder(submission(resnet), resnet)


def header_file(path, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}},
        {"a": {"shape": [2]}},
        {"a": 1},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
    ],
)
def test_malformed_headers_are_refused(tmp_path, header):
    with pytest.raises(SubmissionError):
        read_header(header_file(tmp_path / "w.safetensors", header, b"\0" * 8))


def test_oversized_header_is_unsafe(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(UnsafeInputError, match="header too long"):
        read_header(path)


def test_shards_are_read_together_and_a_tensor_in_two_is_refused(tmp_path):
    network = saved(tmp_path, "resnet")
    weights = load_file(tmp_path / "model.safetensors")
    names = sorted(weights)
    (tmp_path / "model.safetensors").unlink()
    save_file({n: weights[n] for n in names[:9]}, tmp_path / "model-1.safetensors")
    save_file({n: weights[n] for n in names[9:]}, tmp_path / "model-2.safetensors")
    encoder = open_encoder(submission(tmp_path), tmp_path)
    assert encoder.num_params == sum(p.numel() for p in network.parameters())
    save_file({n: weights[n] for n in names[8:]}, tmp_path / "model-2.safetensors")
    with pytest.raises(SubmissionError, match="tensor appears in two files"):
        open_encoder(submission(tmp_path), tmp_path)


def test_pooler_of_a_vit_may_be_there_and_is_not_used(tmp_path):
    saved(tmp_path, "vit")
    assert any("pooler" in name for name in load_file(tmp_path / "model.safetensors"))
    before = open_encoder(submission(tmp_path), tmp_path).weight_digest()
    edit_weights(tmp_path, lambda w: [w.pop(n) for n in list(w) if n.startswith("pooler.")])
    assert open_encoder(submission(tmp_path), tmp_path).weight_digest() == before


@pytest.mark.parametrize("only", [["model.safetensors"], ["config.json"]])
def test_config_and_weights_must_both_be_listed(resnet, only):
    with pytest.raises(SubmissionError, match=r"source\.files"):
        open_encoder(submission(resnet, only=only), resnet)


def test_windows_that_do_not_fit_the_protocols_side_are_refused(tmp_path):
    saved(tmp_path, "swin", image_size=112, window_size=7)
    assert open_encoder(submission(tmp_path, resolution=112), tmp_path).grid == (7, 7)
    with pytest.raises(SubmissionError, match="cannot encode an image of this size: found 64 pixels"):
        open_encoder(submission(tmp_path, resolution=112), tmp_path, resolution=64)


def test_a_convolutional_encoder_takes_any_size(resnet):
    encoder = open_encoder(submission(resnet, resolution=96), resnet)
    assert encoder.grid == (6, 6)
    assert encoder.encode(images(1, 64)).grid == (4, 4)


def test_unknown_source_kind_is_refused(resnet):
    with pytest.raises(SubmissionError, match=r"source\.kind"):
        open_encoder(submission(resnet, kind="open_clip"), resnet)


def test_opening_leaves_the_global_random_state_alone(resnet):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    open_encoder(submission(resnet), resnet)
    calibration = images(4).numpy()
    open_encoder(submission(resnet, floor="random-init"), resnet, calibration)
    assert torch.equal(torch.get_rng_state(), before)


def test_blind_is_zeros_of_width_64(tmp_path):
    encoder = open_encoder(submission(tmp_path, floor="blind"), tmp_path)
    output = encoder.encode(images(3))
    assert output.patch_tokens.shape == (3, 16, 64)
    assert output.grid == encoder.grid == (4, 4)
    assert not output.patch_tokens.any()
    assert not output.pooled.any()
    assert encoder.num_params == 0


def test_pixel_patches_are_the_pixels_of_each_patch(tmp_path):
    encoder = open_encoder(submission(tmp_path, floor="pixel-patches"), tmp_path)
    pixels = images(2)
    output = encoder.encode(pixels)
    assert output.patch_tokens.shape == (2, 16, 768)
    torch.testing.assert_close(
        output.patch_tokens[:, 6], pixels[:, :, 16:32, 32:48].flatten(1), rtol=0, atol=0
    )
    assert encoder.weight_digest() == encoder.weight_digest()


def test_shuffled_image_is_its_base(resnet):
    base = open_encoder(submission(resnet), resnet)
    floor = open_encoder(submission(resnet, floor="shuffled-image"), resnet)
    assert floor.weight_digest() == base.weight_digest()
    assert floor.description() == base.description()


def test_random_init_is_seeded_and_calibrated(resnet):
    sub = submission(resnet, floor="random-init", only=["config.json"])
    calibration = (3 * images(3 * ENCODE_CHUNK) + 1).numpy()
    torch.manual_seed(1)
    first = open_encoder(sub, resnet, calibration)
    torch.manual_seed(2)
    again = open_encoder(sub, resnet, calibration)
    assert first.weight_digest() == again.weight_digest()
    assert first.weight_digest() != open_encoder(submission(resnet), resnet).weight_digest()
    norm = next(m for m in first.module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.momentum is not None
    with torch.no_grad():
        stem = first.module.embedder.embedder.convolution(torch.from_numpy(calibration))
    torch.testing.assert_close(norm.running_mean, stem.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, stem.var(dim=(0, 2, 3)), rtol=2e-2, atol=1e-4)


def test_random_init_with_batch_norm_needs_images(resnet):
    with pytest.raises(InternalError, match="calibrate batch norm"):
        open_encoder(submission(resnet, floor="random-init", only=["config.json"]), resnet)


def test_random_init_without_batch_norm_needs_none(tmp_path):
    saved(tmp_path, "pvt_v2")
    output = open_encoder(submission(tmp_path, floor="random-init"), tmp_path).encode(images(2))
    assert float(output.patch_tokens.std()) > 0.1


def test_shim_makes_the_libraries_import_in_a_fresh_process():
    code = (
        "import sys, harness.torchvision_shim as s\n"
        "assert 'transformers' not in sys.modules\n"
        "import importlib.util\n"
        "if importlib.util.find_spec('torchvision'):\n"
        "    import torchvision.transforms.v2, torchvision.ops\n"
        "assert s.declare_missing_ops() == bool(s._declared)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("absent", ["torchvision", "torch"])
def test_shim_does_nothing_where_the_package_is_absent(monkeypatch, absent):
    shim = harness.torchvision_shim
    monkeypatch.setattr(shim, "_declared", [])
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    find = shim.importlib.util.find_spec
    monkeypatch.setattr(shim.importlib.util, "find_spec", lambda name: None if name == absent else find(name))
    assert shim.declare_missing_ops() is False


def test_shim_leaves_a_loaded_torchvision_alone(monkeypatch):
    monkeypatch.setattr(harness.torchvision_shim, "_declared", [])
    monkeypatch.setitem(sys.modules, "torchvision", object())
    assert harness.torchvision_shim.declare_missing_ops() is False


def test_calibration_is_of_pixels_not_bytes(resnet):
    sub = submission(resnet, floor="random-init", only=["config.json"])
    with pytest.raises(InternalError, match="prepared pixels"):
        open_encoder(sub, resnet, np.zeros((4, 64, 64, 3), np.uint8))
