"""`eyechart convert`: hostile, odd and plain checkpoints, in the locked process or, where enough, here."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness import convert as convert_module, convert_child
from harness.convert import SANDBOX, Options, child_environment, convert
from harness.convert_read import Request
from harness.convert_tensors import write_safetensors
from harness.digest import digest_file
from harness.errors import (
    EyechartError,
    InternalError,
    ResourceError,
    SubmissionError,
    UnsafeInputError,
    UsageError,
)

sys.path.insert(0, str(Path(__file__).parent))
from convert_files import PLENTY, Call, files_below, here, saved, weights

ROOT = Path(__file__).resolve().parent.parent
# Runs the child with something changed first: the change is a line before `main`.
CHILD = "import sys; import harness.convert_child as c; {change}; sys.exit(c.main())"
AS_CHILD = "import json, os, sys; request = json.loads(sys.argv[1]); "


def child(monkeypatch, code):
    monkeypatch.setattr(convert_module, "COMMAND", (sys.executable, "-B", "-c", code))


def changed_child(monkeypatch, change):
    child(monkeypatch, CHILD.format(change=change))


# --- the whole way, through the locked process ---------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One conversion with everything in it."""
    folder = tmp_path_factory.mktemp("whole")
    source = saved(folder / "own.pth", {"state_dict": weights(), "epoch": 3, "best": torch.tensor(0.5)})
    config = folder / "any name.json"
    config.write_text('{"model_type":  "vit"}')
    seen = []
    options = Options(drop=("head.",), config=config)
    done = convert(source, folder / "out", options, lambda *step: seen.append(step))
    return folder, source, done, seen


def test_weights_come_out_as_they_were(whole):
    folder, _, done, _ = whole
    expected = weights()
    out = load_file(done.path)
    assert set(out) == {"conv.weight", "norm.num_batches_tracked"}
    assert all(torch.equal(out[name], expected[f"module.{name}"]) for name in out)
    assert files_below(folder) == [
        "any name.json",
        "out",
        "out/config.json",
        "out/model.safetensors",
        "own.pth",
    ]
    assert (folder / "out" / "config.json").read_text() == '{"model_type":  "vit"}'


def test_the_report_says_what_was_done(whole):
    _, _, done, seen = whole
    assert done.sha256 == digest_file(done.path)
    assert (done.num_tensors, done.num_params, done.dtypes) == (2, 48, (("F32", 1), ("I64", 1)))
    assert (done.key, done.stripped, done.dropped) == ("state_dict", ("module.",), ("module.head.bias",))
    assert done.ignored == ("'epoch' (int)", "'best' (number as a tensor)") and done.tied == ()
    assert done.sandbox in SANDBOX and {"resource limits", "audit hook"} <= set(done.guards)
    assert (done.sandbox == "A") == ("network namespace" in done.guards)
    assert {total for _, total in seen} == {(whole[0] / "own.pth").stat().st_size}


def test_same_input_same_bytes_whatever_the_process_or_the_order(whole, tmp_path):
    _, source, done, _ = whole
    here(source, tmp_path / "again.safetensors", drop=("head",))
    assert (tmp_path / "again.safetensors").read_bytes() == done.path.read_bytes()
    turned = saved(tmp_path / "turned.pth", dict(reversed(weights().items())))
    here(turned, drop=("head",))
    assert digest_file(tmp_path / "turned.safetensors") == done.sha256


@pytest.fixture
def server():
    """Listens on this machine; `accept` says at once that nobody came."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("asked", ["posix.system", "socket.create_connection"])
def test_hostile_call_is_refused_by_name_and_never_made(tmp_path, server, capfd, asked):
    canary = tmp_path / "canary"
    call = {
        "posix.system": Call(os.system, f"touch {canary}"),
        "socket.create_connection": Call(socket.create_connection, server.getsockname()),
    }[asked]
    source = saved(tmp_path / "own.pth", {"state_dict": call, **weights()})
    with pytest.raises(UnsafeInputError, match=rf"{re.escape(asked)}.*not load this file anywhere") as caught:
        convert(source, tmp_path / "new" / "out", Options())
    assert caught.value.exit_code == 4 and "\n" not in caught.value.line()
    assert "none of it was executed" in caught.value.line()
    assert files_below(tmp_path) == ["own.pth"]
    assert capfd.readouterr() == ("", "")
    with pytest.raises(BlockingIOError):
        server.accept()


def test_with_a_hole_in_the_reader_the_lock_still_holds(tmp_path, monkeypatch):
    """Torch's reader had holes before: here it is replaced by one that executes everything."""
    changed_child(
        monkeypatch,
        "import torch; load = torch.load; "
        "torch.load = lambda f, **how: load(f, map_location='cpu', weights_only=False)",
    )
    canary = tmp_path / "canary"
    source = saved(tmp_path / "own.pth", {"a": Call(os.system, f"touch {canary}"), **weights()})
    with pytest.raises(UnsafeInputError, match=r"forbidden act.*pickle\.find_class"):
        convert(source, tmp_path / "out", Options())
    assert files_below(tmp_path) == ["own.pth"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    changed_child(
        monkeypatch, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    )
    source = saved(tmp_path / "own.pth", {"a": torch.zeros(100_000)})
    with pytest.raises(ResourceError, match=r"model\.safetensors: cannot write.*Free some space") as caught:
        convert(source, tmp_path / "out", Options())
    assert caught.value.exit_code == 6 and files_below(tmp_path) == ["own.pth"]


def test_memory_is_bounded(tmp_path, monkeypatch):
    changed_child(monkeypatch, "c.SPARE_MEMORY_BYTES = c.MEMORY_FACTOR = 0")
    source = saved(tmp_path / "own.pth", {"a": torch.zeros(16 << 20)})
    with pytest.raises(ResourceError, match="memory is too small"):
        convert(source, tmp_path / "out", Options())
    assert files_below(tmp_path) == ["own.pth"]


def test_the_process_knows_no_secret(tmp_path, monkeypatch):
    canaries = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "HTTPS_PROXY")
    for name in canaries:
        monkeypatch.setenv(name, "canary-1234")
    # The environment and open files as the child has them come back as an error's text.
    child(
        monkeypatch,
        AS_CHILD + "seen = {'env': dict(os.environ), 'cwd': os.getcwd(), 'group': os.getpgrp(), "
        "'pid': os.getpid(), 'files': sorted(map(int, os.listdir('/proc/self/fd'))), 'request': request}; "
        "error = dict(kind='UsageError', what=json.dumps(seen), where='', found='', expected='', fix=''); "
        "print(json.dumps({'guards': [], 'error': error}))",
    )
    source = saved(tmp_path / "own.pth", weights())
    with pytest.raises(UsageError) as caught:
        convert(source, tmp_path / "out", Options())
    seen = json.loads(caught.value.what)
    assert "canary" not in json.dumps(seen)
    assert not [name for name in seen["env"] if re.match("HF_|HUGG|AWS_|SSH_|.*TOKEN|.*PROXY", name)]
    assert seen["env"]["HOME"] == seen["cwd"] != os.path.expanduser("~")
    assert not Path(seen["cwd"]).exists(), "the private folder is gone"
    assert seen["group"] == seen["pid"]
    given = {seen["request"]["source_fd"], seen["request"]["target_fd"]}
    assert len(set(seen["files"]) - {0, 1, 2} - given) == 1, "that of the folder being listed"


def test_the_current_folder_is_no_place_for_modules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert str(tmp_path) not in child_environment(tmp_path / "home")["PYTHONPATH"].split(os.pathsep)
    assert "-P" in convert_module.COMMAND


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", ResourceError, "was killed: found SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", ResourceError, "was killed: found SIGSEGV"),
        ("import sys; sys.exit(3)", InternalError, "exit code 3"),
        ("print('[1]')", InternalError, "no answer"),
        ("print('{}')", InternalError, "no answer"),
        ('print(\'{"error": {"kind": "SystemExit"}}\')', InternalError, "no answer"),
        ("print('x' * 2000)", InternalError, "no answer"),
    ],
)
def test_a_process_that_dies_or_babbles_is_one_error(tmp_path, monkeypatch, code, error, says):
    monkeypatch.setattr(convert_module, "MAX_REPORT_BYTES", 1000)
    child(monkeypatch, f"import sys; print('told', file=sys.stderr, flush=True); {code}")
    source = saved(tmp_path / "own.pth", weights())
    with pytest.raises(error, match=says) as caught:
        convert(source, tmp_path / "a" / "b", Options())
    assert error is ResourceError or caught.value.__notes__ == ["told\n"]
    assert files_below(tmp_path) == ["own.pth"]


def test_a_process_that_writes_rubbish_is_not_believed(tmp_path, monkeypatch):
    child(
        monkeypatch,
        AS_CHILD + "os.write(request['target_fd'], b'rubbish of some length'); "
        "print(json.dumps({'guards': [], 'done': {}}))",
    )
    with pytest.raises(EyechartError, match=r"out/model\.safetensors"):
        convert(saved(tmp_path / "own.pth", weights()), tmp_path / "out", Options())
    assert files_below(tmp_path) == ["own.pth"]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["deadline", "interruption"])
def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch, how):
    note = tmp_path / "pid"
    child(monkeypatch, f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)")

    def step(*_):
        if how == "interruption" and note.exists() and note.read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr(convert_module, "START_S", 2 if how == "deadline" else 50)
    with pytest.raises(ResourceError if how == "deadline" else KeyboardInterrupt):
        convert(saved(tmp_path / "own.pth", weights()), tmp_path / "out", Options(), step)
    assert not is_running(int(note.read_text()))
    assert files_below(tmp_path) == ["own.pth", "pid"]


# --- the locks, tried from inside ------------------------------------------------------------------

KERNEL = """
import json, os, socket, sys
sys.path.insert(0, sys.argv[1])
import harness.convert_child as c
def works(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0
address = ("127.0.0.1", int(sys.argv[2]))
before = works(lambda: socket.create_connection(address, 5).close())
net, files, rights = c.leave_network(), c.restrict_files(), c.drop_rights()
print(json.dumps({
    "before": before, "net": net, "files": files, "rights": rights,
    "connect": works(lambda: socket.create_connection(address, 5).close()),
    "datagram": works(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", address)),
    "write": works(lambda: open(sys.argv[3], "w").close()),
    "program": works(lambda: os.execv(sys.executable, [sys.executable, "-c", ""])),
    "read": works(lambda: open(c.__file__).close()),
    "kept": [line for line in open("/proc/self/status") if line.startswith("CapEff")],
}))
"""


def test_what_the_kernel_holds(tmp_path, server):
    words = [str(ROOT), str(server.getsockname()[1]), str(tmp_path / "file")]
    # Without our own guard against networks, which would answer in the kernel's place.
    done = subprocess.run([sys.executable, "-c", KERNEL, *words], capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["before"] == 0 and seen["read"] == 0
    if seen["net"]:
        assert seen["datagram"] == errno.ENETUNREACH and seen["connect"] != 0
    if seen["files"]:
        assert (seen["write"], seen["program"]) == (errno.EACCES, errno.EACCES)
        assert not (tmp_path / "file").exists()
    if seen["rights"]:
        assert int(seen["kept"][0].split()[1], 16) == 0
    if not (seen["net"] or seen["files"]):
        pytest.skip("this kernel lends neither lock")


HOOK = """
import ctypes, json, os, resource, shutil, socket, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
import harness.convert_child as c
made = sys.argv[2]
c.limit_resources(1000, 1000)
refused = c.install_hook()
acts = {
    "socket": lambda: socket.socket(),
    "name": lambda: socket.getaddrinfo("localhost", 80),
    "system": lambda: os.system("touch " + made),
    "popen": lambda: subprocess.Popen(["touch", made]),
    "exec": lambda: os.execv(sys.executable, [sys.executable]),
    "spawn": lambda: os.posix_spawn(sys.executable, [sys.executable], {}),
    "fork": lambda: os.fork(),
    "write": lambda: open(made, "w"),
    "append": lambda: open(made, "ab"),
    "os.open": lambda: os.open(made, os.O_RDWR | os.O_CREAT),
    "remove": lambda: os.remove(sys.argv[3]),
    "rename": lambda: os.rename(sys.argv[3], made),
    "folder": lambda: os.mkdir(made),
    "copy": lambda: shutil.copyfile(sys.argv[3], made),
    "library": lambda: ctypes.CDLL("libm.so.6"),
    "kill": lambda: os.kill(os.getppid(), 0),
}
got = {}
for name, act in acts.items():
    try:
        act()
        got[name] = "done"
    except c.RefusedError:
        got[name] = "refused"
fine = [open(c.__file__).read(4), os.listdir(os.path.dirname(c.__file__)) != []]
print(json.dumps([got, len(refused) >= len(acts), fine]))
limits = ("CORE", "FSIZE", "NOFILE", "NPROC")
print(json.dumps({n: resource.getrlimit(getattr(resource, "RLIMIT_" + n))[1] for n in limits}))
"""


def test_what_the_interpreter_refuses(tmp_path):
    keep = tmp_path / "keep"
    keep.write_text("mine")
    words = [str(ROOT), str(tmp_path / "made"), str(keep)]
    done = subprocess.run([sys.executable, "-c", HOOK, *words], capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    acts, limits = done.stdout.splitlines()
    got, all_noted, fine = json.loads(acts)
    assert set(got.values()) == {"refused"} and all_noted and fine == ['"""T', True]
    assert files_below(tmp_path) == ["keep"] and keep.read_text() == "mine"
    limits = json.loads(limits)
    assert (limits["CORE"], limits["NPROC"]) == (0, 0) and 0 < limits["NOFILE"] <= 64
    assert 1000 < limits["FSIZE"] < 10_000_000


def test_the_parent_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import harness.convert; print(harness.convert.COMMAND[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "harness.convert_child\n", done.stderr


def test_old_and_missing_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ResourceError, match=r"found 2\.9\.1\+cpu, expected 2\.10 or later"):
        convert_child._import_torch_side()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ResourceError, match="not installed"):
        convert_child._import_torch_side()


# --- inputs and outputs ---------------------------------------------------------------------------


def to_safetensors(path):
    with open(path, "wb") as file:
        write_safetensors(weights(), file, Request(source="", target="", max_bytes=PLENTY))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda p: None, UsageError, "no such file"),
        (Path.mkdir, UsageError, "not a plain file"),
        (os.mkfifo, UsageError, "not a plain file"),
        (lambda p: p.symlink_to("nowhere"), UsageError, "no such file"),
        (lambda p: p.symlink_to("/dev/zero"), UsageError, "not a plain file"),
        (to_safetensors, UsageError, "safetensors already"),
        (Path.touch, SubmissionError, "empty file"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), SubmissionError, "git-lfs"),
    ],
)
def test_sources_refused_before_a_process_is_started(tmp_path, monkeypatch, make, error, says):
    monkeypatch.setattr(convert_module, "COMMAND", ("no such program",))
    make(tmp_path / "own.pth")
    before = files_below(tmp_path)
    with pytest.raises(error, match=says):
        convert(tmp_path / "own.pth", tmp_path / "new" / "out", Options())
    assert files_below(tmp_path) == before


def test_a_process_that_cannot_start_is_a_resource_error(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module, "COMMAND", ("no such program",))
    with pytest.raises(ResourceError, match="cannot start"):
        convert(saved(tmp_path / "own.pth", weights()), tmp_path / "out", Options())
    assert files_below(tmp_path) == ["own.pth"]


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_an_output_that_exists_is_left_alone(tmp_path, monkeypatch, what):
    monkeypatch.setattr(convert_module, "COMMAND", ("no such program",))
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    elif what == "folder":
        out.mkdir()
        (out / "model.safetensors").write_text("mine")
    else:
        out.symlink_to("nowhere")
    before = files_below(tmp_path)
    with pytest.raises(UsageError, match="something already") as caught:
        convert(tmp_path / "own.pth", out, Options())
    assert caught.value.exit_code == 2 and files_below(tmp_path) == before


def stand_in(monkeypatch, act="pass"):
    """A child that writes one tensor without torch, after `act`."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(4)
    done = {"key": ".", "stripped": [], "dropped": [], "ignored": [], "tied": []}
    answer = json.dumps({"guards": [], "done": done})
    child(monkeypatch, AS_CHILD + f"os.write(request['target_fd'], {data!r}); {act}; print({answer!r})")


def test_an_empty_folder_may_stand_there(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    (tmp_path / "out").mkdir()
    done = convert(saved(tmp_path / "own.pth", weights()), tmp_path / "out", Options())
    assert files_below(tmp_path) == ["out", "out/model.safetensors", "own.pth"] and done.sandbox == "B"


def test_progress_goes_by_what_is_written(tmp_path, monkeypatch):
    stand_in(monkeypatch, "import time; time.sleep(0.5)")
    seen = []
    source = saved(tmp_path / "own.pth", weights())
    done = convert(source, tmp_path / "out", Options(), lambda *step: seen.append(step))
    assert seen[-1] == (done.path.stat().st_size, source.stat().st_size)


def test_what_comes_there_meanwhile_is_left_alone(tmp_path, monkeypatch):
    out = tmp_path / "out"
    stand_in(monkeypatch, f"os.mkdir({str(out)!r}); open({str(out / 'mine')!r}, 'w').close()")
    with pytest.raises(UsageError, match="something already"):
        convert(saved(tmp_path / "own.pth", weights()), out, Options())
    assert files_below(tmp_path) == ["out", "out/mine", "own.pth"]


def test_open_clip_has_names_of_its_own(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    config = tmp_path / "ViT-B-32.json"
    config.write_text('{"model_cfg": {"embed_dim": 8}}')
    done = convert(saved(tmp_path / "own.pth", weights()), tmp_path / "out", Options(config=config))
    assert done.path == tmp_path / "out" / "open_clip_model.safetensors"
    assert sorted(os.listdir(tmp_path / "out")) == ["open_clip_config.json", "open_clip_model.safetensors"]


@pytest.mark.parametrize(
    ("text", "error"),
    [(None, UsageError), ("{", SubmissionError), ("[]", SubmissionError), (" " * (1 << 21), SubmissionError)],
)
def test_a_configuration_that_is_none_is_refused_first(tmp_path, text, error):
    config = tmp_path / "config.json"
    if text is not None:
        config.write_text(text)
    with pytest.raises(error, match=r"config\.json"):
        convert(tmp_path / "own.pth", tmp_path / "out", Options(config=config))
