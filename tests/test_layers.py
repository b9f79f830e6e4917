"""Import directions: the tree is the pipeline, data flows one way, heavy libraries stay at the edge."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Low to high. Modules of one row may import each other (no cycles); a row may import the rows above it.
LAYERS: list[set[str]] = [
    {"harness.errors", "harness.torchvision_shim", "harness.home", "harness.progress", "harness.tables"}
    | {"harness.badge"},
    {"harness.device", "harness.bfloat16"},
    {"harness.digest", "harness.files", "harness.seeds", "harness.fields", "harness.record_json"},
    {"harness.recipes"},
    {"harness.records"},
    {"harness.safetensors_header"},
    {"harness.submission", "harness.protocol", "harness.task"},
    {"harness.forecast"},
    {"harness.prompts"},
    {"harness.sample_tables"},
    {"harness.images"},
    {"harness.media", "harness.frame_pack"},
    {"harness.data"},
    {"harness.encoders"},
    {"harness.convert", "harness.convert_child", "harness.convert_read", "harness.convert_tensors"},
    {"harness.hub"},
    {"harness.fetch"},
    {"harness.llm_files"},
    {"harness.datasets"},
    {"harness.checkpoint_folder"},
    {"harness.submit"},
    {"harness.cache"},
    {"harness.features"},
    {"harness.doctor_checks"},
    {"harness.doctor"},
    {"harness.probe", "harness.adapter"},
    {"harness.engines"},
    {"harness.export"},
    {"harness.stages"},
    {"harness.scoring"},
    {"harness.lmms"},
    {"harness.bundle"},
    {"harness.duplicates"},
    # Pure arithmetic on arrays; below the store, whose view carries intervals.
    {"harness.variance"},
    {"harness.stats"},
    {"harness.comparison", "harness.bootstrap", "harness.simulation"},
    {"harness.family"},
    {"harness.cells"},
    # Pairs are read without the store; their rows are in it.
    {"harness.pairs"},
    {"harness.policy", "harness.gate_records"},
    {"harness.gate_sides"},
    {"harness.gate_candidate", "harness.gate_differences", "harness.gate_needs"},
    {"harness.pair_rows", "harness.pair_facts", "harness.board_rows", "harness.floor_rows"},
    {"harness.store_files", "harness.ledger"},
    {"harness.store"},
    {"harness.row_formats"},
    {"harness.query"},
    {"harness.export_board"},
    {"harness.bundle_rules"},
    {"harness.siblings"},
    {"harness.request"},
    {"harness.check", "harness.verify", "leaderboard"},
    {"harness.check_output"},
    {"harness.baseline", "harness.compare_output"},
    {"harness.self_test", "harness.schemas"},
    {"harness.site_check"},
    {"harness.answer_parts"},
    {"harness.answers"},
    {"harness.unit_scores"},
    {"harness.rescore"},
    {"harness.workload"},
    {"harness.plan", "harness.executors"},
    {"harness.plan_tables"},
    {"harness.mini", "harness.run"},
    {"harness.handover"},
    {"harness.rehearsal"},
    {"harness.commands", "harness.checkpoint_commands", "harness.data_commands", "harness.mini_commands"}
    | {"harness.protocol_commands", "harness.index_commands", "harness.check_commands"}
    | {"harness.compare_commands"},
    {"harness.rehearsal_commands", "harness.verify_commands"},
    {"harness.argument_parser"},
    {"harness.index_arguments", "harness.check_arguments"},
    {"harness.arguments"},
    {"harness.cli"},
]
# Neighbours that must not know each other.
INDEPENDENT = [
    ("harness.probe", "harness.adapter"),
    ("harness.check", "leaderboard"),
    ("harness.verify", "leaderboard"),
]
# Package markers without layer: they import nothing of ours.
ROOTS = {"harness", "harness.__main__"}

# library -> the only modules that may import it
EDGE = {
    "lmms_eval": {"harness.lmms"},
    "timm": {"harness.encoders.timm"},
    "open_clip": {"harness.encoders.open_clip"},
    "ray": {"harness.executors.ray"},
    "vllm": {"harness.engines.vllm"},
    "peft": None,  # one module, whichever it is
}
# What the torch-free core must do without.
BLOCKED = ["torch", "torchvision", "transformers", "datasets", "timm", "open_clip", "peft", "accelerate"]
BLOCKED += ["lmms_eval", "vllm", "ray", "sklearn", "av", "safetensors", "tokenizers", "huggingface_hub"]
TORCH_FREE = [
    "harness.query",
    "harness.export_board",
    "harness.bundle",
    "harness.store",
    "harness.stats",
    "harness.pairs",
    "harness.check",
    "harness.family",
    "harness.check_commands",
    "harness.self_test",
]
TORCH_FREE += [
    "harness.verify",
    "harness.verify_commands",
    "harness.site_check",
    "harness.cli",
    "harness.data_commands",
    "harness.protocol_commands",
    "leaderboard.build",
    "leaderboard.views",
    "leaderboard.charts",
    "leaderboard.plane_keys",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, Path]:
    return {
        module_name(p): p for top in ("harness", "leaderboard") for p in sorted((ROOT / top).rglob("*.py"))
    }


SOURCES = sources()


def imports_of(name: str, path: Path) -> set[str]:
    """Dotted names imported anywhere in a module, also inside functions and through importlib."""
    found: set[str] = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            submodules = {f"{base}.{a.name}" for a in node.names} & set(SOURCES)
            found.update(submodules)
            # `from harness import files` is an import of harness.files, not of everything in harness.
            if not submodules or len(submodules) < len(node.names):
                found.add(base)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            found.update(
                a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )
    return found


IMPORTS = {name: imports_of(name, path) for name, path in SOURCES.items()}
OURS = {name: {i for i in found if i in SOURCES} - {name} for name, found in IMPORTS.items()}


def unit_of(name: str) -> str:
    """The thing that has a layer: a top-level module or sub-package of harness, or all of leaderboard."""
    parts = name.split(".")
    return parts[0] if parts[0] == "leaderboard" else ".".join(parts[:2])


def layer_of(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if unit_of(name) in layer)


def test_every_module_has_a_layer():
    known = set().union(*LAYERS)
    homeless = sorted({unit_of(n) for n in SOURCES if n not in ROOTS} - known)
    assert not homeless, f"give a place in LAYERS to {homeless}"


def test_imports_go_down():
    wrong = [
        f"{name} imports {other}"
        for name, others in OURS.items()
        if name not in ROOTS
        for other in sorted(others - ROOTS)
        if layer_of(other) > layer_of(name)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("left", "right"), INDEPENDENT)
def test_neighbours_are_independent(left, right):
    wrong = [
        f"{name} imports {other}"
        for name, others in OURS.items()
        for other in others
        if {unit_of(name), unit_of(other)} == {left, right}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_cycles():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "import cycle: " + " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(OURS[name]):
            # A package's marker re-exports its modules, and they may import its base: not a cycle of units.
            if not (other.startswith(name + ".") or name.startswith(other + ".")):
                visit(other, (*path, name))
        done.add(name)

    for name in sorted(OURS):
        visit(name, ())


@pytest.mark.parametrize("library", sorted(EDGE))
def test_heavy_library_has_one_door(library):
    users = {n for n, found in IMPORTS.items() if any(i.split(".")[0] == library for i in found)}
    allowed = EDGE[library]
    if allowed is None:
        assert len(users) <= 1, f"{library} is imported by {sorted(users)}"
    else:
        assert users <= allowed, f"{library} is imported by {sorted(users - allowed)}"


def test_tasks_import_little():
    allowed = set(sys.stdlib_module_names) | {"lmms_eval", "numpy", "PIL", "nltk", "huggingface_hub"}
    for path in sorted((ROOT / "tasks").rglob("*.py")):
        found = imports_of("tasks." + path.stem, path)
        # Pictures by reference are read by one piece of code, here and in `eyechart run`.
        found -= {"harness.images", "harness.media"} if path.name == "media.py" else set()
        tops = {i.split(".")[0] for i in found}
        assert tops <= allowed, f"{path.relative_to(ROOT)} imports {sorted(tops - allowed)}"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize("module", [m for m in TORCH_FREE if m in SOURCES])
def test_imports_with_torch_blocked(module):
    done = run_python(f"""
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {BLOCKED!r}:
                    raise ModuleNotFoundError(f"{{name}} is blocked by tests/test_layers.py")

        sys.meta_path.insert(0, Block())
        import {module}
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif("harness.cli" not in SOURCES, reason="harness/cli.py does not exist yet")
def test_help_starts_with_torch_blocked():
    done = run_python(f"""
        import sys
        for name in {BLOCKED!r}:
            sys.modules[name] = None
        from harness.cli import build_parser
        assert "eyechart" in build_parser().format_help()
    """)
    assert done.returncode == 0, done.stderr


def test_import_harness_is_fast_and_light():
    code = """
        import sys, time
        start = time.perf_counter()
        import harness
        took = time.perf_counter() - start
        heavy = {"torch", "transformers", "duckdb", "numpy", "pyarrow"} & set(sys.modules)
        print(f"{took:.3f} {sorted(heavy)}")
    """
    # The best of three: the first start of a cold machine measures the disk.
    results = [run_python(code).stdout.split(" ", 1) for _ in range(3)]
    assert min(float(r[0]) for r in results) < 0.3
    assert {r[1].strip() for r in results} == {"[]"}
