"""Runs app.py with every look-up and connection written down: `python watched_app.py LOG [app.py's arguments]`.

Used by tests that prove that no request leaves the machine. One line for each event: its name, and where to.
"""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WATCHED = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}


def main() -> None:
    log = open(sys.argv[1], "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - open as long as the process lives

    def watch(event: str, arguments: tuple) -> None:
        if event in WATCHED:
            where = arguments[WATCHED[event]]
            log.write(f"{event} {where[0] if isinstance(where, tuple) else where}\n")

    sys.addaudithook(watch)
    sys.path.insert(0, str(ROOT))
    sys.argv = [str(ROOT / "app.py"), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
