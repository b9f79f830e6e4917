"""What the doctor looks for, in words: one entry a code of a finding, in the order of its looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DOCTOR_CHECKS: Mapping[str, str] = {
    "resolution": "the manifest's side is the one that the checkpoint's files state, and the patch fits it",
    "normalisation": "mean and deviation are those that the checkpoint's own files state",
    "channel-order": "mean and deviation are given for red, green, blue, not turned round",
    "size-claim": "the manifest claims the number of parameters that the image side has",
    "not-finite": "every feature is finite, also in the precision of the protocol",
    "constant-features": "features depend on the picture",
    "constant-tokens": "every token depends on the picture, and the tokens of a picture differ",
    "low-rank": "features of different pictures differ in several directions",
    "nondeterministic": "the same picture gives the same features twice",
    "batch-dependence": "a picture's features do not depend on which pictures are encoded with it",
    "prefix-token": "no class or register token stands among the patches, and no patch is missing",
    "patch-order": "tokens lie row by row, where the picture has what they see",
    "position-embedding": "positions matter, and belong to the side at which the encoder is measured",
}


def finding_words(codes: Sequence[str]) -> str:
    """Findings by code, each with what did not hold; a code that is not known here stands alone."""
    known = (f"{code} (not so: {DOCTOR_CHECKS[code]})" if code in DOCTOR_CHECKS else code for code in codes)
    return "; ".join(known)
