"""The command line's words: every command and option that measures or prepares."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.argument_parser import Parser, add_places
from harness.check_arguments import add_check
from harness.index_arguments import add_board, add_index
from harness.records import TIERS


def _add_run(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="submission.toml")
    parser.add_argument("--protocol", default="mini", help="name or path of a protocol (default: mini)")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="bundles (default: results below the home folder)"
    )
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "hf", "vllm"),
        help="what answers the questions (default: vllm where there is CUDA and vLLM is installed, else hf)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where encoder and language model compute (default: cuda where torch sees one, else cpu)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    _add_allow_code(parser)
    add_places(parser)
    return parser


def _add_score(commands: Any) -> None:
    text = "score answers that `run --answers-only` made, here or on another machine"
    score = commands.add_parser("score", help=text, description=text)
    score.add_argument("answers", type=Path, metavar="DIR", help="folder of answers")
    score.add_argument("--protocol", default="", help="name or path (default: the one the answers name)")
    score.add_argument("--results", type=Path, metavar="DIR", help="bundles (default: below the home folder)")
    score.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(score)


def _add_allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-local-code",
        action="store_true",
        help='run the encoder.py of a submission with kind = "python"; such a row is never an official one',
    )


def build_parser() -> argparse.ArgumentParser:
    """All commands and options; tests/golden/cli.json freezes them."""
    parser = Parser(
        prog="eyechart", description="What can a language model see through your frozen vision encoder?"
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser, metavar="COMMAND")

    demo = commands.add_parser("demo", help="measure the example checkpoint and build the site")
    demo.add_argument("--site", type=Path, default=Path("site"), help="folder of the site (default: site)")
    add_places(demo)
    _add_submit(commands)
    _add_checkpoint(commands)
    planned = _add_run(commands, "plan", "check everything and show what a run would do and take")
    gpus = ("H200", "H100", "A100", "L40S", "RTX 4090")
    planned.add_argument("--on", choices=gpus, help="predict for one such GPU instead of this machine")
    run = _add_run(commands, "run", "measure an encoder: probes, adapters, answers, scores, bundles")
    run.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core, at most four)")
    run.add_argument(
        "--batch", type=int, default=128, metavar="N", help="questions decoded together (speed only)"
    )
    run.add_argument(
        "--ignore-doctor", action="store_true", help="measure an encoder in which the doctor found a fault"
    )
    run.add_argument(
        "--for-check",
        type=Path,
        metavar="BASELINE",
        help="judge what was measured against this baseline, and add seeds as the policy declares",
    )
    run.add_argument("--policy", type=Path, metavar="FILE", help="of --for-check")
    run.add_argument(
        "--answers-only",
        type=Path,
        metavar="DIR",
        help="stop before the scores; `eyechart score DIR` goes on",
    )
    run.add_argument(
        "--tier",
        default=TIERS[0],
        choices=TIERS,
        help="what the bundles claim: a pull request may claim self-reported only (default: re-run)",
    )
    _add_run(commands, "status", "show which units of a run are done")
    _add_export(commands)
    _add_score(commands)

    add_index(commands)
    add_check(commands)
    _add_data(commands)
    _add_protocol(commands)
    _add_mini(commands)
    _add_rehearsal(commands)
    return parser


def _add_submit(commands: Any) -> None:
    text = "write the manifest of a checkpoint, as far as it can be read"
    submit = commands.add_parser("submit", help=text, description=text)
    submit.add_argument(
        "checkpoint",
        metavar="FOLDER|HUB-ID",
        help="what transformers, timm or open_clip saved; or org/name, which is fetched first",
    )
    submit.add_argument("--id", default="", help="name of the row (default: the folder's)")
    submit.add_argument(
        "--format",
        default="",
        choices=("transformers", "timm", "open_clip"),
        help="which checkpoint is meant, where a folder holds two",
    )
    submit.add_argument("--revision", default="", help="hub: commit, tag or branch (default: the main one)")
    submit.add_argument("--out", type=Path, metavar="DIR", help="hub: folder to fetch into (default: name)")
    submit.add_argument("--resolution", type=int, metavar="N", help="native side in pixels")
    for name in ("mean", "std"):
        submit.add_argument(f"--{name}", type=float, nargs=3, metavar="X", help="of red, green, blue, 0-1")
    submit.add_argument("--json", action="store_true", help="print a JSON object instead of a table")


def _add_checkpoint(commands: Any) -> None:
    """What is done with a checkpoint before it is measured."""
    text = "look for what is wrong with an encoder, in under a minute"
    doctor = commands.add_parser("doctor", help=text, description=text)
    doctor.add_argument("manifest", type=Path, metavar="MANIFEST", help="submission.toml")
    doctor.add_argument("--protocol", default="mini", help="name or path of a protocol (default: mini)")
    doctor.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    _add_allow_code(doctor)

    text = "fetch the files of a manifest from the hub, at its pinned revision"
    fetch = commands.add_parser("fetch", help=text, description=text)
    fetch.add_argument("manifest", type=Path, metavar="MANIFEST", help="submission.toml")

    text = "write a .pth of your own as safetensors, in a locked process"
    convert = commands.add_parser("convert", help=text, description=text)
    convert.add_argument("file", type=Path, metavar="FILE", help=".pth, .pt, .bin or .ckpt")
    convert.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    convert.add_argument("--config", type=Path, metavar="FILE", help="config.json to put beside the weights")
    convert.add_argument("--key", default="", help="entry that holds the weights (model, state_dict, ema …)")
    convert.add_argument("--strip", default="", help="leading name to remove from every tensor")
    convert.add_argument("--drop", nargs="*", default=[], metavar="NAME", help="leading names to leave out")
    convert.add_argument("--json", action="store_true", help="print a JSON object instead of a table")


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="write a measured model, or the whole board, for other programs"
    )
    parts = export.add_subparsers(dest="part", required=True, parser_class=Parser, metavar="PART")
    text = "encoder, trained adapter and language model as one LLaVA checkpoint of transformers"
    model = parts.add_parser("model", help=text, description=text)
    model.add_argument("manifest", type=Path, metavar="MANIFEST", help="submission.toml")
    model.add_argument("--protocol", default="mini", help="name or path of a protocol (default: mini)")
    model.add_argument("--seed", type=int, default=0, metavar="N", help="whose adapter (default: 0)")
    model.add_argument("--to", type=Path, required=True, metavar="DIR", help="new folder")
    model.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(model)
    add_board(parts)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="real datasets: list, fetch, import, look for what is wrong")
    parts = data.add_subparsers(dest="part", required=True, parser_class=Parser, metavar="PART")
    texts = {
        "list": "show the datasets: rows, repository, revision, what is here",
        "fetch": "fetch a dataset from the hub at its pinned revision, and prepare it",
        "import": "prepare a dataset from files you have: Parquet, official JSON, images, tars, mp4",
        "doctor": "look at every row, image and clip of a prepared dataset",
        "pack": "write what the site shows of a dataset's samples",
    }
    for name, text in texts.items():
        part = parts.add_parser(name, help=text, description=text)
        if name != "list":
            part.add_argument("dataset", metavar="NAME", help="see `eyechart data list`")
        if name == "import":
            part.add_argument("source", type=Path, metavar="FOLDER", help="what you have; never written to")
            part.add_argument(
                "--images", type=Path, metavar="DIR", help="images that the rows name, or a zip of them"
            )
            part.add_argument("--clips", type=Path, metavar="DIR", help="mp4 files, or a zip of them")
        if name == "fetch":
            part.add_argument("--revision", default="", metavar="40-HEX", help="commit of the repository")
            part.add_argument("--pin", action="store_true", help="ask the hub once and write the commit down")
        if name in {"fetch", "import"}:
            part.add_argument("--splits", nargs="+", default=[], metavar="SPLIT", help="some splits only")
            part.add_argument("--partial", action="store_true", help="take another number of rows")
            part.add_argument("--copy", action="store_true", help="copy files instead of linking them")
            part.add_argument(
                "--against",
                nargs="+",
                default=[],
                metavar="NAME",
                help="the mixture: leave out images of these datasets, or of all that are prepared",
            )
        if name != "pack":
            part.add_argument("--json", action="store_true", help="print JSON instead of a table")
        part.add_argument("--suite", default="main", help="folder below the data folder (default: main)")
        add_places(part)


def _add_protocol(commands: Any) -> None:
    text = "protocols: list, show, pin, fetch the language model"
    protocol = commands.add_parser("protocol", help=text)
    parts = protocol.add_subparsers(dest="part", required=True, parser_class=Parser, metavar="PART")
    texts = {
        "list": "show the protocols: suite, language model, budget, seeds, what is pinned and here",
        "show": "print a protocol and its recipe digests",
        "pin": "fill in what is UNPINNED: asks the hub once, and takes the prepared mixture's digest",
        "fetch": "fetch the protocol's language model at its pinned revision",
    }
    for name, about in texts.items():
        part = parts.add_parser(name, help=about, description=about)
        if name != "list":
            part.add_argument("protocol", metavar="NAME", help="name or path of a protocol")
        if name in {"list", "show"}:
            part.add_argument("--json", action="store_true", help="print JSON instead of a table")
        if name == "pin":
            part.add_argument("--revision", default="", metavar="40-HEX", help="another than the newest")
            part.add_argument(
                "--out", type=Path, metavar="FILE", help="the copy (default: <home>/protocols/NAME.toml)"
            )
        add_places(part)


def _add_mini(commands: Any) -> None:
    mini = commands.add_parser(
        "mini", help="the embedded suite: data, zoo, language model, results of record"
    )
    parts = mini.add_subparsers(dest="part", required=True, parser_class=Parser, metavar="PART")
    texts = {
        "data": "write the suite's datasets",
        "train": "pre-train the zoo (hours of CPU), resumable",
        "train-llm": "train the common mini language model, resumable",
        "proof": "show what the language model answers from perfect text",
        "record": "run every zoo member and floor into results/",
        "reproduce": "run them again elsewhere and compare with results/",
        "tables": "print the tables of docs/mini.md from results/",
    }
    for name, text in texts.items():
        part = parts.add_parser(name, help=text, description=text)
        add_places(part)
        if name in {"train", "train-llm"}:
            part.add_argument(
                "--out", type=Path, required=name == "train-llm", help="folder of the new weights"
            )
        if name == "proof":
            part.add_argument(
                "--llm", type=Path, metavar="DIR", help="one of your own (default: the shipped)"
            )
        if name in {"train", "record", "reproduce"}:
            part.add_argument("--only", nargs="*", default=[], metavar="ID", help="some members only")
            part.add_argument(
                "--workers", type=int, metavar="N", help="members at a time (default: one a core)"
            )


def _add_rehearsal(commands: Any) -> None:
    text = "run the main suite's code from end to end on made-up data (minutes)"
    rehearsal = commands.add_parser("rehearsal", help=text, description=text)
    rehearsal.add_argument(
        "--site",
        type=Path,
        default=Path("site-rehearsal"),
        help="folder of the site (default: site-rehearsal)",
    )
    rehearsal.add_argument(
        "--engines", nargs="+", choices=("hf", "vllm"), default=["hf", "vllm"], help="default: hf vllm"
    )
    rehearsal.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    add_places(rehearsal)
