"""Upload an exported folder to a model repository at Hugging Face, through the package huggingface-hub.

Nothing is sent but by `push`. Who pushes is known to that package: `hf auth login` stores an access token, which must
be allowed to write; HF_ENDPOINT names another server than its own.
"""

from folio.base.errors import FolioError

_INSTALL = "python -m pip install huggingface-hub"


def require(repository):
    """Raise FolioError, with what to do, where the package is missing or cannot be a repository's name."""
    try:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise FolioError(f"--push needs huggingface-hub, which is not installed: {_INSTALL}") from None
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise FolioError(f"{repository} cannot be a repository's name, which is USER/NAME or NAME, in letters, digits, "
                         f"and . _ - ({_first_line(error)})") from None


def push(folder, repository, endpoint=None, token=True):
    """Upload all files of a folder to a repository in one commit. -> its address

    repository: USER/NAME, or NAME among one's own; created where there is none, as a private one.
    endpoint: of the server (default: that of Hugging Face); token: an access token (default: the stored one).
    Raises FolioError, with one sentence, where that fails; the folder stays as it is.
    """
    require(repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
    api = HfApi(endpoint=endpoint, token=token)
    kept = f"The folder {folder} is written, and stays."
    try:
        address = api.create_repo(repository, visibility="private", exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message="Upload a model made with Folio")
        return str(address)
    except LocalTokenNotFoundError:
        raise FolioError(f"Pushing needs an access token of Hugging Face, and none is stored here: hf auth login. "
                         f"{kept}") from None
    except OfflineModeIsEnabled:
        raise FolioError(f"Pushing needs the network, and HF_HUB_OFFLINE forbids it here: unset it. {kept}") from None
    except HfHubHTTPError as error:
        raise FolioError(f"{api.endpoint} refused {repository}: {_reason(error)} {kept}") from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise FolioError(f"The upload of {repository} to {api.endpoint} failed ({_first_line(error)}): "
                         f"is there a network? {kept}") from None


def _reason(error):
    """Return what a server's refusal means, in a sentence or two."""
    status = error.response.status_code
    said = f"HTTP {status}, {_first_line(error.server_message or error.response.reason_phrase)}."
    if status in (401, 403):
        return f"{said} The access token must be valid and allowed to write there: hf auth login."
    return said


def _first_line(error):
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
