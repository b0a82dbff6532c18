"""An export as a repository of the model hub: said first, done when that is asked for."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import LuthierError, UserError
from luthier.export.safety import require_safe
from luthier.units import ByteSize


def upload(folder: Path, repository: str, *, dry_run: bool = True) -> str:
    """Put a folder's files into a private repository; returns what was done, or would be.

    The key is that of `hf auth login`, or of HF_TOKEN.

    Raises:
        UserError: the repository's name is none, or the hub refuses.
        ModelError: the folder holds something that might run when it is loaded.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--upload {repository}: {error}") from None
    require_safe(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    size = ByteSize(sum(file.stat().st_size for file in files))
    told = f"{len(files)} files, {size}: {', '.join(str(file.relative_to(folder)) for file in files)}"
    if dry_run:
        return f"would upload to {repository} (private; --yes does it)\n{told}"
    try:
        hub = HfApi()
        place = hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported by Luthier")
    except LocalTokenNotFoundError:
        raise UserError("the model hub asks for a key: hf auth login, or HF_TOKEN") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise LuthierError(f"{repository}: the model hub did not take it: {str(error).splitlines()[0]}") from None
    return f"uploaded to {place}\n{told}"
