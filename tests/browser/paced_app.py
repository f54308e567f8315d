"""Runs watched_app.py with steps that take some time on every machine, so that a test can watch a job and stop it."""

import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEP_AT_LEAST = 0.05  # seconds


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from app.follower import Follower

    step = Follower.__call__

    def paced(self, *given, **named):
        time.sleep(max(0.0, getattr(self, "due", 0.0) - time.monotonic()))
        self.due = time.monotonic() + STEP_AT_LEAST
        return step(self, *given, **named)

    Follower.__call__ = paced
    runpy.run_path(str(ROOT / "tests" / "app" / "watched_app.py"), run_name="__main__")


if __name__ == "__main__":
    main()
