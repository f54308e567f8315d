"""Train: `python -m train CONFIG STAGE [key=value ...] [--resume] [--dry-run]`.

    python -m train stickers-256 all             # every stage that is not finished, then the checkpoint folder
    python -m train smoke all output=/tmp/smoke  # seconds
    python -m train evaluate stickers-256 --checkpoint assets/checkpoints/stickers-256
"""

import argparse
import sys

from .config import load_config
from .runtime import set_up


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    command = _evaluate if arguments[:1] == ["evaluate"] else _train
    try:
        command(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _train(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a name in train/configs, or a YAML file")
    parser.add_argument("stage", help="a stage of the config, or all")
    parser.add_argument("settings", nargs="*", help="overrides, such as stages.edit.samples=1000")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--dry-run", action="store_true", help="print settings, parameters and cost, then stop")
    options = parser.parse_args(arguments)
    config = load_config(options.config, options.settings)
    set_up(config)
    from .stages import Stages  # after set_up: it imports the models

    stages = Stages(config)
    names = stages.names(options.stage)
    if options.dry_run:
        from .cost import describe

        print(describe(config, names))
        return
    for name in names:
        stages.run(name, resume=options.resume or options.stage == "all")
    stages.publish()


def _evaluate(arguments: list[str]) -> None:
    from .evaluate.command import main as evaluate

    evaluate(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
