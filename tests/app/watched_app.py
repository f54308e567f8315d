"""Runs app.py with every look-up and connection written down: `python watched_app.py LOG [app.py's arguments]`.

Used by tests that prove that no request leaves the machine. One line for each event: its name, and where to.
With WATCH_FILES=LOG2 in the environment, files that are opened or changed are written down, too: "r" or "w", and which.
"""

import os
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
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    log = open(sys.argv[1], "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - open as long as the process lives

    def watch(event: str, arguments: tuple) -> None:
        if event in WATCHED:
            where = arguments[WATCHED[event]]
            log.write(f"{event} {where[0] if isinstance(where, tuple) else where}\n")

    sys.addaudithook(watch)
    if os.environ.get("WATCH_FILES"):
        watch_files(os.environ["WATCH_FILES"])
    sys.path.insert(0, str(ROOT))
    sys.argv = [str(ROOT / "app.py"), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def watch_files(path: str) -> None:
    log = open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - see above

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and not isinstance(arguments[0], int):
            name, mode, flags = arguments
            writes = set(mode) & set("wax+") if mode else (flags or 0) & WRITING
            log.write(f"{'w' if writes else 'r'} {os.path.abspath(os.fsdecode(name))}\n")
        elif event in CHANGES and not isinstance(arguments[0], int):
            folder = arguments[-1] if isinstance(arguments[-1], int) and event != "os.truncate" else -1
            start = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
            for name in (part for part in arguments[:2] if isinstance(part, (str, bytes, os.PathLike))):
                log.write(f"w {os.path.abspath(os.path.join(start, os.fsdecode(name)))}\n")

    sys.addaudithook(watch)


if __name__ == "__main__":
    main()
