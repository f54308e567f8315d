"""Starts RPiAE Studio: `python app.py [--checkpoint DIR | FILE | hf:ORG/NAME] [--host H] [--port P] ...`."""

import argparse
import contextlib
import gc
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
BUNDLED = ROOT / "assets" / "checkpoints" / "stickers-256"


def main() -> int:
    """Opens the page first and loads the model behind it; 2 when the command line asks for what cannot be."""
    settings = _settings()
    wants_no_hub = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    _stay_at_home(settings.checkpoint)
    # On a server that others reach, they choose among what it offers: no folders of this machine, no downloads.
    own = _is_own(settings.host)

    # Only now: gradio and huggingface_hub read their switches when they are imported. What prepares torch comes first.
    from app import zero  # isort: skip
    from app import checkpoint
    from app.hub import Hub
    from app.jobs import Jobs
    from app.service import Service
    from app.shelf import Shelf, offers
    from app.store import Store

    try:
        checkpoint.check(settings.checkpoint)
        kind = zero.ZeroService if zero.ON else Service
        wanted = {"dtype": settings.dtype, "together": settings.together, "compiled": settings.compile}
        service = kind(settings.checkpoint, allow_paths=own, **wanted)
        jobs = Jobs(service, Store(settings.outputs))
        shelf = Shelf(jobs, offers(settings.checkpoint, str(BUNDLED)), Hub(allowed=own and not wants_no_hub))

        # Takes seconds; the mistakes above are told without it.
        from app.endpoints import MCP
        from app.studio import create_app, launch

        demo = create_app(service, jobs, shelf=shelf)
        if zero.ON:
            with contextlib.suppress(ValueError):  # the page says it
                service.load()
        address = launch(demo, jobs, settings.host, settings.port)
    except ValueError as fault:
        print(f"{Path(sys.argv[0]).name}: {fault}", file=sys.stderr)
        return 2
    print(f"RPiAE Studio is at {address}", flush=True)
    tools = f"MCP at {address}gradio_api/mcp/" if MCP else 'no MCP tools, for these take: pip install "gradio[mcp]"'
    print(f"For programs: endpoints at {address}gradio_api/info, {tools}", flush=True)
    jobs.start()
    demo.block_thread()  # returns on Ctrl + C
    jobs.close()
    gc.freeze()  # at its end Python would look through all that libraries hold for garbage, for seconds
    return 0


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="RPiAE Studio: edit, generate and compare pictures in the browser."
    )
    parser.add_argument(
        "--checkpoint",
        default=str(BUNDLED),
        metavar="DIR | FILE | hf:ORG/NAME",
        help="what to load: a checkpoint, or the authors' files; only hf: asks the hub (default: the bundled one)",
    )
    parser.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1",
        help="address to listen on (default: $GRADIO_SERVER_NAME, else 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=int, help="default: $GRADIO_SERVER_PORT, else the first free one from 7860 on"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32"),
        default="auto",
        help="auto: the transformer in bfloat16 where the device is faster with it; a small one whose requests "
        "share batches stays in float32 (default)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the transformer's steps by torch.compile after the first answer, when nobody waits",
    )
    parser.add_argument(
        "--together",
        type=int,
        metavar="N",
        help="answer waiting requests of equal settings in batches of up to N pictures (default: 8 on a GPU, else 1)",
    )
    parser.add_argument(
        "--outputs",
        default=str(ROOT / "outputs"),
        metavar="DIR",
        help="where results are kept (default: outputs)",
    )
    return parser.parse_args()


def _is_own(host: str) -> bool:
    """Whether only this machine can reach the page."""
    return (host.startswith("127.") or host in ("localhost", "::1")) and not os.environ.get("SPACE_ID")


def _stay_at_home(checkpoint: str) -> None:
    """No request leaves this machine, unless the person asked for a checkpoint on the hub."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if not checkpoint.startswith("hf:"):
        os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    sys.exit(main())
