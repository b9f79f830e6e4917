"""What the locked process does with a checkpoint, done here: refusals, tables, names, tensors."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import re
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.convert_read import Request, foreign_global, load_weights_only
from harness.convert_tensors import check_tensors, find_tables, write_safetensors
from harness.errors import (
    ResourceError,
    SubmissionError,
    UnsafeInputError,
    UsageError,
)
from harness.safetensors_header import read_safetensors_header

sys.path.insert(0, str(Path(__file__).parent))
from convert_files import PLENTY, Call, here, saved, weights

# --- refused pickles -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
@pytest.mark.parametrize(
    ("function", "args", "asked"),
    [
        (os.system, ("touch {canary}",), "posix.system"),
        (eval, ("__import__('os').system('touch {canary}')",), "builtins.eval"),
        (socket.create_connection, (("127.0.0.1", 9),), "socket.create_connection"),
        (subprocess.Popen, (["touch", "{canary}"],), "{subprocess}.Popen"),
    ],
)
def test_evil_reduce(tmp_path, monkeypatch, how, function, args, asked):
    canary = tmp_path / "canary"
    opened = []
    monkeypatch.setattr(socket.socket, "connect", lambda *a: opened.append(a))
    # Protocol 2 has Python 2's names.
    asked = asked.format(subprocess="subprocess" if "pickle_protocol" in how else "commands")
    args = [a.format(canary=canary) if isinstance(a, str) else a for a in args]
    path = saved(tmp_path / "own.pth", {**weights(), "x": Call(function, *args)}, **how)
    with pytest.raises(UnsafeInputError, match=re.escape(f"found {asked},")) as caught:
        here(path)
    assert "do not load this file anywhere" in caught.value.fix and not canary.exists() and not opened


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_is_refused_by_name(tmp_path, protocol):
    canary = tmp_path / "canary"
    path = tmp_path / "own.pth"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {canary}"), protocol=protocol))
    with pytest.raises(UnsafeInputError, match=r"posix\.system"):
        here(path)
    assert not canary.exists()


def test_a_chain_of_allowed_calls_is_refused_too(tmp_path):
    """A call of what a call gave: each name is allowed, the function it yields is not."""
    path = tmp_path / "own.pth"
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R)R."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("own/data.pkl", pickled)
        archive.writestr("own/version", "3")
        archive.writestr("own/byteorder", "little")
    with pytest.raises(UnsafeInputError, match="Trying to call reduce"):
        here(path)


@pytest.mark.parametrize(
    ("beside", "asked", "weights_of"),
    [
        ({"hyper_parameters": argparse.Namespace(lr=0.1)}, "argparse.Namespace", "c['state_dict']"),
        ({"loss": np.float64(0.5)}, "numpy._core.multiarray.scalar", "c['state_dict']"),
        ({"at": Path("x")}, "pathlib.PosixPath", "c['state_dict']"),
    ],
)
def test_a_harmless_class_is_named_and_the_line_that_helps_works(
    tmp_path, monkeypatch, beside, asked, weights_of
):
    path = saved(tmp_path / "own.ckpt", {"state_dict": weights(), **beside})
    with pytest.raises(UnsafeInputError, match=re.escape(f"found {asked},")) as caught:
        here(path)
    assert weights_of in caught.value.fix and "if you made this file yourself" in caught.value.fix
    monkeypatch.chdir(tmp_path)
    exec(re.search('`python -c "(.*)"`', caught.value.line())[1], {})
    out, done = here(tmp_path / "weights.pth")
    assert len(out) == 3 and done.key == "."


def test_a_whole_network_is_told_apart(tmp_path, monkeypatch):
    path = saved(tmp_path / "own.pth", nn.Linear(2, 3))
    with pytest.raises(UnsafeInputError, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        here(path)
    monkeypatch.chdir(tmp_path)
    exec(re.search('`python -c "(.*)"`', caught.value.line())[1], {})
    assert set(here(tmp_path / "weights.pth")[0]) == {"weight", "bias"}


def test_an_odd_file_name_is_not_pasted_into_a_command(tmp_path):
    path = saved(tmp_path / "own';boom'.ckpt", {"state_dict": weights(), "x": argparse.Namespace()})
    with pytest.raises(UnsafeInputError) as caught:
        here(path)
    assert "boom" not in caught.value.fix and "checkpoint.pth" in caught.value.fix


def test_names_in_a_pickle_are_found_without_loading_it():
    assert foreign_global(pickle.dumps(Call(os.system, "x"), protocol=5)) == "posix.system"
    assert foreign_global(pickle.dumps(OrderedDict(a=1), protocol=5)) == ""
    assert foreign_global(b"\x80\x05rubbish") == foreign_global(b"") == ""


# --- files that are no checkpoint ------------------------------------------------------------------


def script(path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def cut(share, **how):
    def write(path):
        data = saved(path, weights(), **how).read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return write


def flipped(path):
    data = bytearray(saved(path, weights()).read_bytes())
    place = data.index(b"data.pkl") + 80
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))


def other_protocol(path):
    saved(path, weights(), pickle_protocol=4)


LEGACY = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: p.write_bytes(b"<html>not found</html>"), r"not a torch checkpoint.*<htm"),
        (lambda p: p.write_bytes(b"e3b0c44298fc1c14" * 100), "not a torch checkpoint"),
        (lambda p: p.write_bytes(b"\x80\x02"), "damaged or cut short"),
        (lambda p: p.write_bytes(b"PK\x03\x04 and no more"), "damaged or cut short"),
        (lambda p: zipfile.ZipFile(p, "w").writestr("a/b.txt", "x"), "damaged or cut short"),
        (cut(0.9), "damaged or cut short"),
        (cut(0.5), "damaged or cut short"),
        (cut(0.95, **LEGACY), "damaged or cut short"),
        (cut(0.3, **LEGACY), "damaged or cut short"),
        (flipped, "damaged|cannot be read"),
        (other_protocol, "cannot be read as weights alone.*torch.save its weights without options"),
        (script, "TorchScript"),
        (tar, "tar archive"),
        (lambda p: saved(p, 7), "no table of tensors in it: found int"),
        (lambda p: saved(p, torch.zeros(3)), "no table of tensors in it: found tensor"),
        (lambda p: saved(p, {}), "found an empty table"),
        (lambda p: saved(p, [torch.zeros(3)]), "found list"),
        (lambda p: saved(p, {"epoch": 3, "loss": torch.tensor(1.0)}), "found 'epoch', 'loss'"),
    ],
)
def test_what_is_no_checkpoint_is_one_clear_error(tmp_path, write, says):
    path = tmp_path / "own.pth"
    write(path)
    with pytest.raises(SubmissionError, match=says) as caught:
        here(path)
    assert caught.value.exit_code == 3 and "\n" not in caught.value.line()


@pytest.mark.parametrize("how", [{}, LEGACY, {"pickle_protocol": 4}])
def test_random_damage_is_one_of_our_errors(tmp_path, how):
    """Damage inside a sound archive too, where no checksum stops the pickle's reader."""
    sound = saved(tmp_path / "sound.pth", {"state_dict": weights(), "x": argparse.Namespace()}, **how)
    dice = random.Random(0)

    def damage(data):
        changed = bytearray(data)
        for _ in range(dice.randint(1, 6)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        return bytes(changed)

    path = tmp_path / "own.pth"
    for number in range(60):
        if how == LEGACY or number % 2:
            path.write_bytes(damage(sound.read_bytes()))
        else:
            with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w") as new:
                for item in old.namelist():
                    data = old.read(item)
                    new.writestr(item, damage(data) if item.endswith("data.pkl") else data)
        with pytest.raises((SubmissionError, UnsafeInputError)):
            here(path)


# --- which table, which names ----------------------------------------------------------------------


def lightning():
    moments = {0: {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3), "step": torch.tensor(1.0)}}
    return {
        "epoch": 3,
        "state_dict": weights(),
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "optimizer": {"state": moments, "param_groups": []},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.3)}},
        "hyper_parameters": {"lr": 0.1},
    }


def test_the_only_table_is_found_among_optimisers_and_scores(tmp_path):
    out, done = here(saved(tmp_path / "own.ckpt", lightning()))
    assert done.key == "state_dict" and len(out) == 3
    assert "'epoch' (int)" in done.ignored and "'optimizer' (dict)" in done.ignored


def test_several_tables_are_listed_with_their_sizes_and_one_can_be_named(tmp_path):
    few = {"a": torch.ones(2)}
    path = saved(tmp_path / "own.pth", {"student": weights(), "teacher": few, "ema": {"deep.er": few}})
    listed = r"student \(2 tensors\), teacher \(1 tensors\)"
    with pytest.raises(UsageError, match=rf"several tables.*{listed}.*--key student") as caught:
        here(path)
    assert caught.value.exit_code == 2
    assert here(path, key="teacher")[1].key == "teacher"
    with pytest.raises(UsageError, match=rf"'teecher'.*{listed}"):
        here(path, key="teecher")


def test_inner_tables_are_named_by_dots_and_the_checkpoint_by_one(tmp_path):
    inner = {"model": {"state.dict": {"a": torch.ones(2)}, "other": {"b": torch.ones(3)}}, "c": torch.ones(4)}
    path = saved(tmp_path / "own.pth", inner)
    assert set(here(path, key="model.state.dict")[0]) == {"a"}
    assert set(here(path, key="model.other")[0]) == {"b"}
    out, done = here(path, key=".")
    assert set(out) == {"c"} and list(done.ignored) == ["'model' (dict)"]


def test_tables_in_circles_end():
    table = {"a": torch.ones(1)}
    table["self"] = table
    wide = {str(n): {} for n in range(50)}
    for inner in wide.values():
        inner.update(wide)
    assert len(find_tables(table)) == 5 and find_tables(wide) == []


def test_what_is_no_tensor_is_left_and_told(tmp_path):
    out, done = here(saved(tmp_path / "own.pth", {**weights(), "epoch": 3, "note": None, 5: "five"}))
    assert len(out) == 3 and list(done.ignored) == ["'epoch' (int)", "'note' (NoneType)", "5 (str)"]


@pytest.mark.parametrize(
    ("said", "names", "stripped", "dropped"),
    [
        ({}, "backbone.a backbone.b head.c", "module.", ""),
        ({"strip": "backbone.", "drop": ["head."]}, "a b", "module. backbone.", "module.head.c"),
        ({"strip": "backbone", "drop": ["head"]}, "a b", "module. backbone.", "module.head.c"),
        ({"strip": "module."}, "backbone.a backbone.b head.c", "module.", ""),
        ({"strip": "module.backbone.", "drop": ["module.head."]}, "a b", "module.backbone.", "module.head.c"),
        ({"drop": ["head.c"]}, "backbone.a backbone.b", "module.", "module.head.c"),
        (
            {"drop": ["head.", "backbone.b"]},
            "backbone.a",
            "module.",
            "module.head.c module.backbone.b",
        ),
    ],
)
def test_names(tmp_path, said, names, stripped, dropped):
    names_in = ("module.backbone.a", "module.backbone.b", "module.head.c")
    path = saved(tmp_path / "own.pth", {name: torch.ones(1) for name in names_in})
    out, done = here(path, **said)
    assert sorted(out) == names.split()
    assert (list(done.stripped), list(done.dropped)) == (stripped.split(), dropped.split())


def test_a_wrapper_inside_what_is_stripped_goes_too(tmp_path):
    path = saved(tmp_path / "own.pth", {"model.module.a": torch.ones(1), "model.module.b": torch.ones(1)})
    assert sorted(here(path, strip="model.")[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"strip": "backbone."}, r"--strip backbone\.: 1 tensors' names do not begin so.*'x'.*--drop"),
        ({"strip": "nothing."}, "2 tensors' names do not begin so"),
        ({"drop": ["back"]}, "--drop back: no tensor's name begins so.*'backbone.x'"),
        ({"drop": [""]}, "no tensor's name begins so"),
        ({"drop": ["backbone.", "x"]}, "no tensor is left"),
    ],
)
def test_names_that_do_not_fit(tmp_path, said, says):
    """`backbone.x` and `x` would be one after stripping: no tensor is renamed unless all are."""
    path = saved(tmp_path / "own.pth", {"backbone.x": torch.ones(1), "x": torch.ones(1)})
    with pytest.raises(UsageError, match=says):
        here(path, **said)


@pytest.mark.parametrize("name", ["", "__metadata__", "a\nb", "a\u202eb", "a" * 513, "\ud800"])
def test_names_that_cannot_be_written(name):
    tensors = {name: torch.ones(1), "good": torch.ones(1)}
    with pytest.raises(SubmissionError, match="name cannot be written"):
        check_tensors(tensors, Request(source="own.pth", target="", max_bytes=PLENTY))


def test_a_name_that_is_no_text(tmp_path):
    with pytest.raises(SubmissionError, match="name is not text: found 7"):
        here(saved(tmp_path / "own.pth", {"a": torch.ones(1), 7: torch.ones(1)}))


def test_stripping_a_whole_name_leaves_none(tmp_path):
    with pytest.raises(SubmissionError, match="name cannot be written"):
        here(saved(tmp_path / "own.pth", {"a.": torch.ones(1), "a.b": torch.ones(1)}), strip="a")


# --- tensors ---------------------------------------------------------------------------------------


def every_kind():
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    floats += [torch.float8_e4m3fn, torch.float8_e5m2]
    wholes = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16]
    kinds = {str(d): torch.linspace(-2, 2, 6).reshape(2, 3).to(d) for d in floats}
    kinds |= {str(d): torch.arange(6).reshape(2, 3).to(d) for d in wholes}
    kinds["bool"] = torch.tensor([True, False, True])
    kinds["scalar"] = torch.tensor(3.5, dtype=torch.bfloat16)
    kinds["empty"] = torch.zeros(0, 4)
    kinds["parameter"] = nn.Parameter(torch.ones(3))
    return kinds


@pytest.mark.parametrize("how", [{}, LEGACY])
def test_every_dtype_is_kept_bit_for_bit(tmp_path, how):
    kinds = every_kind()
    if how:  # the old format has no place for these
        kinds = {name: kinds[name] for name in kinds if not re.search("float8|uint16", name)}
    out, _ = here(saved(tmp_path / "own.pth", kinds, **how))
    assert set(out) == set(kinds)
    for name, tensor in kinds.items():
        assert (out[name].dtype, out[name].shape) == (tensor.dtype, tensor.shape)
        same = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (out[name], tensor)]
        assert torch.equal(*same), name


def test_views_ties_and_slices(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    huge = torch.arange(100_000.0)
    tensors = {
        "embed": base,
        "lm_head": base,
        "turned": base.t(),
        "every_other": base[::2, 1::2],
        "slice": huge[500:503],
        "wide": torch.ones(1).expand(3, 4),
        "signless": torch.zeros(0),
    }
    path = saved(tmp_path / "own.pth", tensors)
    out, done = here(path)
    assert all(torch.equal(out[name], tensors[name]) for name in tensors)
    assert list(done.tied) == ["embed = lm_head"]
    assert path.stat().st_size > 400_000 and (tmp_path / "own.safetensors").stat().st_size < 2000


def test_each_tensor_is_aligned_to_its_type(tmp_path):
    here(saved(tmp_path / "own.pth", every_kind()))
    path = tmp_path / "own.safetensors"
    start = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = read_safetensors_header(path, "own")
    assert all((start + t.begin) % ((t.end - t.begin) // max(1, np.prod(t.shape)) or 1) == 0
               for t in header.values())  # fmt: skip


def quantised():
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (quantised, "qint8"),
        (lambda: torch.eye(3).to_sparse(), "sparse_coo"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.ones(3, dtype=torch.complex64), "complex64"),
        (lambda: torch.ones(3, device="meta"), "no data (device meta)"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_odd_tensors_are_refused_by_name(tmp_path, make, found):
    path = saved(tmp_path / "own.pth", {"good": torch.ones(1), "odd.one": make()})
    with pytest.raises(SubmissionError, match=rf"'odd\.one'.*found {re.escape(found)}"):
        here(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.float8_e5m2])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value, dtype):
    bad = torch.ones(3, 4)
    bad[1, 2] = value
    path = saved(tmp_path / "own.pth", {"good": torch.ones(1), "blocks.0.bad": bad.to(dtype)})
    with pytest.raises(SubmissionError, match=r"'blocks\.0\.bad'.*NaN or infinite: found 1 of 12"):
        here(path)
    assert set(here(path, drop=["blocks"])[0]) == {"good"}


def test_bombs(tmp_path):
    path = saved(tmp_path / "own.pth", {"a": torch.zeros(1).expand(1 << 40)})
    with pytest.raises(UnsafeInputError, match="4,398,046,511,104 bytes"):
        here(path)
    plain = saved(tmp_path / "plain.pth", {"a": torch.zeros(1 << 20)})
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
    assert packed.stat().st_size < 20_000
    with pytest.raises(UnsafeInputError, match="far more than its own size"):
        here(packed, max_bytes=1 << 20)


def test_memory_is_told_from_damage(tmp_path, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(MemoryError):
        load_weights_only(io.BytesIO(b"PK\x03\x04"), Request(source="", target="", max_bytes=1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_failed_write_is_a_resource_error():
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(ResourceError, match="No space left"):
        write_safetensors(weights(), full, Request(source="", target="x", max_bytes=PLENTY))
