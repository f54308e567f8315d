"""Train: `python -m train CONFIG STAGE [key=value ...] [--resume] [--dry-run]`.

    python -m train smoke all output=/tmp/smoke  # every stage that is not finished, then the checkpoint folder; seconds
    python -m train stickers-256 all checkpoint=runs/stickers-256/checkpoint    # the bundled one's kind: hours
    python -m train evaluate stickers-256 --checkpoint assets/checkpoints/stickers-256
    python -m train growth stickers-256          # what it could do after so many scenes: a table and curves
    python -m train study-pivot stickers-256     # what the pivot loss does: a table
    python -m train study-settings stickers-256  # short trials of single settings: tables
    python -m train study-sampling stickers-256  # steps, time shift and guidance, judged: a table
    python -m train study stickers-256           # six kinds of tokenizer at equal budget, the same transformer on each
    python -m train examples stickers-256        # the app's example pictures
    python -m train measure-reconstruction FOLDER --tokenizer rpiae     # rFID, PSNR, SSIM, LPIPS
    python -m train measure-samples samples.npz reference.npz           # gFID, IS, precision, recall
    python -m train export geneval PROMPTS OUT --checkpoint DIR         # pictures for an official scorer
    python -m train export classes OUT --checkpoint DIR                 # and OUT.npz, samples for measure-samples
    python -m train push stickers-256 ORG/NAME   # the finished checkpoint to the hub, privately
    accelerate launch --num_processes 8 -m train paper-256 pivot        # several GPUs (without GPUs: and --multi_gpu)
    python -m train data check FOLDER            # what is wrong with data of your own, before training starts
"""

import argparse
import sys

from .config import load_config
from .runtime import is_main_process, process_number, set_up, tear_down


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    command = COMMANDS.get(arguments[0] if arguments else "")
    try:
        if command is not None:
            command(arguments[1:])
        else:
            _train(arguments)
    except ValueError as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _sentence(error: ValueError) -> str:
    """An error's own words, also of a process that loads data, and which of several processes met it."""
    words = str(error)
    if words.startswith("Caught ValueError in DataLoader worker"):  # torch puts the whole trace around them
        words = words.rstrip().rpartition("ValueError: ")[2]
    return words if is_main_process() else f"on process {process_number()}: {words}"


def _train(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a name in train/configs, or a YAML file")
    parser.add_argument("stage", help="a stage of the config, or all")
    parser.add_argument("settings", nargs="*", help="overrides, such as stages.edit.samples=1000")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--dry-run", action="store_true", help="print settings, parameters and cost, then stop")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.config, options.settings)
    set_up(config)
    from .stages import Stages  # after set_up: it imports the models

    stages = Stages(config)
    names = stages.names(options.stage)
    if options.dry_run:
        from .cost import describe

        print(describe(config, names))
        return
    stages.check_data(names)
    stages.check_place(names)
    stages.check_seed(names)
    resume = options.resume or options.stage == "all"
    trained = [stages.run(name, resume, revise=options.resume) for name in names]
    if is_main_process() and (any(trained) or not stages.published()):
        stages.publish()
    tear_down()


def _evaluate(arguments: list[str]) -> None:
    from .evaluate.command import main as evaluate

    evaluate(arguments)


def _growth(arguments: list[str]) -> None:
    from .evaluate.growth import main as growth

    growth(arguments)


def _study_pivot(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train study-pivot", description="What the pivot loss does.")
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", help="overrides of the config")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.config, options.settings)
    set_up(config)
    from .evaluate import pivot_study

    print(pivot_study.table(pivot_study.run(config)))


def _study_sampling(arguments: list[str]) -> None:
    from .evaluate.sampling_study import main as study

    study(arguments)


def _study_settings(arguments: list[str]) -> None:
    from .evaluate.settings_study import main as study

    study(arguments)


def _study(arguments: list[str]) -> None:
    from .study.command import main as study

    study(arguments)


def _examples(arguments: list[str]) -> None:
    from .evaluate.examples import main as examples

    examples(arguments)


def _measure_reconstruction(arguments: list[str]) -> None:
    from .evaluate.folder import main as measure

    measure(arguments)


def _measure_samples(arguments: list[str]) -> None:
    from .evaluate.samples import main as measure

    measure(arguments)


def _export(arguments: list[str]) -> None:
    from .evaluate.exports import main as export

    export(arguments)


def _data(arguments: list[str]) -> None:
    from .data.check import main as data

    data(arguments)


def _push(arguments: list[str]) -> None:
    from .push import main as push

    push(arguments)


COMMANDS = {
    "evaluate": _evaluate,
    "growth": _growth,
    "study-pivot": _study_pivot,
    "study-sampling": _study_sampling,
    "study-settings": _study_settings,
    "study": _study,
    "examples": _examples,
    "measure-reconstruction": _measure_reconstruction,
    "measure-samples": _measure_samples,
    "export": _export,
    "push": _push,
    "data": _data,
}


if __name__ == "__main__":
    sys.exit(main())
