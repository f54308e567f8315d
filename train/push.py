"""A finished checkpoint to the hub: `python -m train push CONFIG ORG/NAME [--public] [key=value ...]`.

The folder goes as it lies there, the model card (README.md) and the list of legs included. It may hold the tokenizer
alone: models that the hub has of an earlier checkpoint are deleted then; what else it holds stays. New repositories are
private unless asked otherwise.
"""

import argparse
import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from .config import load_config
from .states import RUBBISH

CARD = "README.md"
# What a pipeline of another time has left there is not of this checkpoint.
OURS = ["model_index.json", "vae/*", "transformer/*", "text_encoder/*", "scheduler/*"]
# A checkpoint has one of them: of a pipeline, or of a tokenizer alone.
INDICES = ("model_index.json", "vae/config.json")


def push(folder: Path, repo: str, public: bool = False) -> str:
    """Upload a checkpoint folder; the address of the repository.

    Raises:
        ValueError: no finished checkpoint, no hub, or no right to write there; with what to do.
    """
    for files in (INDICES, (CARD,)):
        if not any((folder / file).is_file() for file in files):
            missing = " and no ".join(files)
            raise ValueError(
                f"{folder} is no finished checkpoint: it has no {missing}; train it first (python -m train)"
            )
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, ignore_patterns=[f"*{RUBBISH}"], delete_patterns=OURS,
            commit_message=f"Checkpoint {folder.name}",
        )  # fmt: skip
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is no name for the hub, such as org/name: {error}") from None
    except OfflineModeIsEnabled:
        raise ValueError("HF_HUB_OFFLINE is set, so nothing is sent to the hub; unset it to push") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ValueError(
                f"the hub did not let us write to {repo} ({status}): log in with `hf auth login`, or set HF_TOKEN to a "
                "token with the right to write there"
            ) from None
        raise ValueError(f"the hub refused {repo}: {error.server_message or status}") from None
    except Exception as error:  # each layer below has its own kinds of "no connection"
        raise ValueError(f"the hub did not answer ({type(error).__name__}); try again, nothing is lost") from error
    return str(address)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train push", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a name in train/configs, or a YAML file; its checkpoint is sent")
    parser.add_argument("repo", help="on the hub, such as org/name")
    parser.add_argument("settings", nargs="*", help="overrides, such as checkpoint=FOLDER")
    parser.add_argument("--public", action="store_true", help="a new repository that everybody can read")
    options = parser.parse_intermixed_args(arguments)
    print(push(load_config(options.config, options.settings).checkpoint, options.repo, options.public))
