"""Pack what a graphics machine without PyAV and without room for the suite needs, into one small folder.

    python scripts/gpu_pack.py --home .eyechart --out .gpu

Writes `frames/<dataset>/frames-<n>.parquet` (frames of the suite's clips, decoded here, lossless) and
`weights.tar.xz` (the zoo and the language model). Still images are not packed: scripts/gpu_session.py
renders them there, and the datasets' pinned digests prove that they are the same.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.files import read_json
from harness.frame_pack import pack_name, write_pack
from harness.home import find_home
from harness.mini.members import WEIGHTS
from harness.mini.suite import write_suite
from harness.protocol import read_protocol

WITH_CLIPS = ("video", "mixture")


def main() -> None:
    """Write the folder and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--home", type=Path, help="data (default: $EYECHART_HOME or .eyechart)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    data = find_home(arguments.home).data("mini")
    write_suite(data)
    frames = read_protocol("mini").video.frames
    for name in WITH_CLIPS:
        folder = data / name
        clips = [path for path in read_json(folder / "DATASET.json")["files"] if path.endswith(".mp4")]
        names = sorted((Path(path).stem for path in clips), key=int)
        write_pack(folder / "clips", names, frames, arguments.out / "frames" / name / pack_name(frames))
    with tarfile.open(arguments.out / "weights.tar.xz", "w:xz", preset=6) as archive:
        archive.add(
            WEIGHTS, "weights", filter=lambda item: None if item.name.endswith("curve.json") else item
        )
    for path in sorted(p for p in arguments.out.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path}")


if __name__ == "__main__":
    main()
