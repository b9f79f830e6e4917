"""Add the doctor's report to bundles that were made before runs kept it.

    python scripts/examine_later.py results harness/mini/weights/*.toml --protocol mini

The doctor looks at the files that the manifest pins, which are those that the bundles name by their hashes.
What it says goes into `environment.json`, with the day: the receipt is sealed, and stays as the run wrote it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.bundle import find_bundles, read_bundle
from harness.doctor import examine
from harness.files import write_json
from harness.protocol import read_protocol
from harness.submission import read_submission, verify_files


def main() -> int:
    """Print what was found for each encoder, and in how many bundles it stands now."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--protocol", required=True)
    arguments = parser.parse_args()
    protocol = read_protocol(arguments.protocol)
    today = dt.datetime.now(dt.UTC).date().isoformat()
    for manifest in arguments.manifests:
        sub = read_submission(manifest)
        folder = arguments.results / protocol.name / sub.id
        places = [path for path in find_bundles(arguments.results) if path.parent == folder]
        if sub.floor is not None or not places:
            continue
        verify_files(sub, manifest.parent)
        report = examine(sub, manifest.absolute().parent, protocol).receipt()
        added = 0
        for bundle in map(read_bundle, places):
            same = bundle.run.submission.identity_digest == sub.identity_digest
            if same and "doctor" not in bundle.receipt:
                environment = {**bundle.environment, "doctor": {**report, "examined": today}}
                write_json(bundle.path / "environment.json", environment)
                added += 1
        print(
            f"{sub.id}: {report['verdict']} {report['findings']}, added to {added} of {len(places)} bundles"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
