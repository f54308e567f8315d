"""Runs watched_app.py with other authors' tokenizers made narrow, so that a comparison takes a second.

Their weights are looked for in the folder that $TOKENIZERS names; MaskGIT's are published in org/name on the hub. The
code is the real one, only the widths are not.
"""

import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NARROW = {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4}
NARROW_F16 = {"block_out_channels": [8, 8, 8, 8, 16], "norm_num_groups": 4}


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # as app.py has it; here the library is imported before that
    sys.path.insert(0, str(ROOT))
    from rpiae.tokenizers import ldm, maskgit, published, sd_vae

    sd_vae.ARCHITECTURE |= NARROW
    ldm.ARCHITECTURE |= NARROW_F16
    published.ASSETS = Path(os.environ["TOKENIZERS"])
    maskgit.PUBLISHED = replace(maskgit.PUBLISHED, hub_id="org/name")  # where a test has a hub
    maskgit.find = maskgit.PUBLISHED.find
    del os.environ["HF_HUB_OFFLINE"]  # read by now; to app.py it would mean that a person wants no hub at all
    runpy.run_path(str(ROOT / "tests" / "app" / "watched_app.py"), run_name="__main__")


if __name__ == "__main__":
    main()
