"""Read a model on the Hub as evidence: small files of one commit, and facts about the weights.

The weights are not downloaded: their SHA-256 is in the Hub's list of files, and the file's first
bytes hold the names and shapes of their tensors.
"""

from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError, SafetensorsParsingError

from hub_cards.evidence.folder import Evidence, read_evidence
from hub_cards.evidence.weights import weights_of

FILES = (
    "config.json", "preprocessor_config.json", "eval_results.json", "robustness_results.json",
    "speed_results.json", "train_results.json", "conversion.json", "recipe.toml",
)  # fmt: skip


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub at one commit; `license` is that of its card, or None."""

    repo_id: str
    commit: str
    license: str | None
    evidence: Evidence


def read_hub_model(api: HfApi, repo_id: str, revision: str | None = None) -> HubModel:
    """Read one commit of a model repository as evidence.

    Args:
        api: with the token to use.
        repo_id: as user/name.
        revision: branch, tag or commit; the newest commit of the main branch if None.

    Raises:
        FileNotFoundError: if files of a model folder are missing there.
        ValueError: if they cannot be read, or contradict each other or the weights.
        HfHubHTTPError: if the Hub refuses; errors of the connection are those of its client.
    """
    info = api.model_info(repo_id, revision=revision, files_metadata=True)
    commit = str(info.sha)
    files = {file.rfilename: file for file in info.siblings or []}
    listed = files.get("model.safetensors")
    if listed is None or listed.lfs is None:
        raise FileNotFoundError(
            f"{repo_id} at {commit} must have weights in model.safetensors, as a large file"
        )
    try:
        header = api.parse_safetensors_file_metadata(repo_id, listed.rfilename, revision=commit)
        folder = api.snapshot_download(repo_id, revision=commit, allow_patterns=list(FILES))
    except SafetensorsParsingError as error:
        raise ValueError(f"the weights of {repo_id} cannot be read; {error}") from error
    except LocalEntryNotFoundError as error:  # hides why the Hub was not reached
        raise (error.__cause__ or error) from None
    tensors = {name: (one.dtype, one.shape) for name, one in header.tensors.items()}
    weights = weights_of(tensors, sha256=listed.lfs.sha256, num_bytes=listed.lfs.size)
    evidence = read_evidence(folder, weights)
    license = info.card_data.get("license") if info.card_data else None
    return HubModel(repo_id=repo_id, commit=commit, license=license, evidence=evidence)
