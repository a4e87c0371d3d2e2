"""Files of repositories on the Hugging Face hub, fetched and cached by the hub's own package."""

import hashlib
import os
import re
from pathlib import Path

from resnext_jax.errors import BadInput, MissingPackage

PREFIXES = ("hf-hub:", "hf_hub:")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_CHUNK = 1 << 20


def hub_repository(weights: str) -> str | None:
    """The repository that weights name, as "owner/name" or "owner/name@revision"; None if they name a path.

    Without "hf-hub:" before it, a name is a path if it is there, or its first folder is.

    Args:
        weights: as in `create_model`.
    """
    for prefix in PREFIXES:
        if weights.startswith(prefix):
            return weights.removeprefix(prefix)
    path = Path(weights)
    if not _REPOSITORY.fullmatch(weights) or path.exists() or path.parent.exists():
        return None
    return weights


def fetch(repository: str, *names: str) -> Path:
    """Path of a file of a repository in the hub's cache; it is downloaded if it is not there, or changed.

    The hub's own variables apply: `HF_HOME` (its cache), `HF_TOKEN`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`.

    Args:
        repository: "owner/name" or "owner/name@revision".
        names: of the file; the first that the repository has is taken.

    Raises:
        MissingPackage: huggingface_hub is not installed.
        BadInput: no such repository or file, one that needs a login, or damaged content.
        ConnectionError: offline, or refused by the server, and the file is not in the cache.
    """
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise MissingPackage(
            f"weights={repository}: weights of the hub need huggingface_hub: pip install 'resnext-jax[hub]'"
        ) from None
    repo_id, _, revision = repository.partition("@")
    for name in names:
        try:
            path = Path(hf_hub_download(repo_id, name, revision=revision or None))
        except errors.LocalEntryNotFoundError as error:
            reason = "offline mode is on (HF_HUB_OFFLINE)" if _offline() else _first_line(error.__cause__)
            raise ConnectionError(
                f"cannot fetch {name} of {repository} from the hub: {reason}, and it is not in the cache; "
                f"fetch it where there is a network (hf download {repo_id}) and give the folder, with "
                "config.json, as weights"
            ) from None
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError:
            raise BadInput(
                f"{repository}: the hub gives it only to those who accepted its terms; do so on its page, "
                "then log in (hf auth login) or set HF_TOKEN"
            ) from None
        except errors.RepositoryNotFoundError:
            raise BadInput(
                f"{repository}: no path here, and no such repository on the hub, or a private one; check the "
                "name, or log in (hf auth login) or set HF_TOKEN"
            ) from None
        except errors.RevisionNotFoundError:
            raise BadInput(f"{repository}: the repository has no revision {revision!r}") from None
        except errors.HFValidationError as error:
            raise BadInput(f"{repository}: no name of a repository: {_first_line(error)}") from None
        except PermissionError:
            raise
        except Exception as error:  # of whichever HTTP package the hub's version uses
            raise ConnectionError(
                f"cannot fetch {name} of {repository} from the hub: {_first_line(error)}; try again"
            ) from error
        _check_hash(path, repository)
        return path
    raise BadInput(f"{repository}: the repository has no file {' or '.join(names)}")


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _check_hash(path: Path, repository: str) -> None:
    """Compare a file in the cache with its hash, which is the name that the hub's cache gives to contents."""
    if not path.is_symlink():
        return  # a system without links: the cache does not keep the hash
    blob = path.parent / os.readlink(path)
    expected = blob.name
    if re.fullmatch("[0-9a-f]{64}", expected):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", expected):  # small files, which Git itself keeps
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    else:
        return
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise BadInput(
            f"{repository}: {path.name} has another hash than the hub says: damaged or replaced; it was "
            "removed from the cache, try again"
        )
