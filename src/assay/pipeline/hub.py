"""`assay reward push`: a model folder or an export on a hub, by huggingface_hub (the extra hub)."""

from pathlib import Path

from assay.errors import AssayError, missing_extra
from assay.session import FILES

LEFT = ("*.partial/*", "*.saving/*", "*.tmp", "trackers/*", "metrics.jsonl", "left_out.jsonl", "lock", *FILES)
"""What tells how a model was made, and where, and is no part of it."""


def kind_of(folder: Path) -> str:
    """What a folder is to a hub: "model" or "dataset". Raises AssayError where it is neither."""
    if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
        return "model"
    if (folder / "config.json").exists() or (folder / "run.toml").exists():
        raise AssayError(
            f"{folder}: a run, with people's answers and accounts in it, is not put on a hub; give one of its models "
            f"({folder}/seed-0/models/final), or labels that `assay reward export` wrote"
        )
    if folder.is_dir() and (any(folder.glob("*.parquet")) or any(folder.glob("*.jsonl"))):
        return "dataset"
    raise AssayError(f"{folder}: neither a model folder nor one of exported labels (assay reward export)")


def push(folder: Path, repo: str, public: bool) -> str:
    """Upload the folder, in one commit, and return its address. A repository that is not there is made, private unless
    `public`; one that is there stays as visible as it is. Raises AssayError with what the hub said."""
    kind = kind_of(folder)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ImportError as error:
        raise missing_extra("huggingface-hub", "hub") from error
    try:
        api = HfApi()
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        told = api.upload_folder(
            folder_path=folder,
            repo_id=repo,
            repo_type=kind,
            ignore_patterns=list(LEFT),
            commit_message="assay reward push",
        )
    except LocalTokenNotFoundError as error:
        raise AssayError("no token of the hub here; run: hf auth login (or set HF_TOKEN)") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise AssayError(f"{repo}: {str(error).strip()}") from error
    except Exception as error:
        if not type(error).__module__.startswith("httpx"):  # or httpx2, as the hub's client has it
            raise
        raise AssayError(f"{repo}: the hub cannot be reached ({str(error).strip()})") from error
    return str(told.commit_url)
