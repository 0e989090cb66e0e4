"""Secrets are planted where a person keeps them; afterwards they are in no log, row, folder, wandb file or process list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ablate.launching.jobs import Cluster
from ablate.study import UserError
from tests.clusters import OwnCluster, ablate
from tests.conftest import until
from tests.launching.test_launch import SMALL, desk_of

KEY = "c0ffee" + "ca4a41" * 5 + "5eed"
"""As long as a key of wandb's."""
PASSWORD = "pa55-ca4a41"
HOOK = "h00k-ca4a41"
"""In a URL that the user's own on_event command is given: others see it in the process list, so only that is left out below."""


def command_lines() -> str:
    """Of every process there is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return "\n".join(found)


def files_with(root: Path, secrets: tuple[str, ...]) -> Iterator[str]:
    for path in root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            yield from (f"{path}: {secret[:6]}…" for secret in secrets if secret.encode() in content)


def test_key_and_token_are_in_no_log_row_folder_wandb_file_or_process_list(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    told = f'wandb            = true\non_event = "true https://me:{HOOK}@127.0.0.1:9/told"'
    text = SMALL.replace("wandb            = false", told).replace("faults.seconds       = 0.0", "faults.seconds       = 2.0")
    desk = desk_of(tmp_path, text)
    with OwnCluster(2) as own:
        secrets = (KEY, own.token, PASSWORD)
        environment = {
            **own.environment,
            "WANDB_API_KEY": KEY,
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9",
        }
        words = ("launch", "--study", str(tmp_path / "runs.toml"), "--address", own.address, "--run", "A1")
        launch = ablate(*words, environment=environment)
        seen: list[str] = []

        def ended() -> bool:
            seen.append(command_lines())
            return launch.poll() is not None

        until(ended, 120)
        said = launch.communicate()[0]
        assert launch.returncode == 0, said
        assert any("examples.quick.train" in lines for lines in seen), "the ranks were seen at work"
        assert [secret[:6] for secret in secrets if any(secret in lines for lines in seen)] == []
        assert [secret[:6] for secret in (*secrets, HOOK) if secret in said] == []
        assert list(files_with(own.folder, (KEY, PASSWORD, HOOK))) == []
        (tmp_path / "runs.toml").unlink()  # the only file that may hold one
        assert list(files_with(tmp_path, (*secrets, HOOK))) == []
    assert desk.store.attempts()
    assert list(tmp_path.rglob("*.wandb")), "wandb wrote its file"


@pytest.mark.parametrize("address", [f"ray://me:{PASSWORD}@host:10001", f"me:{PASSWORD}@host:6379"])
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UserError, match=r"--address holds a user name or password.*RAY_AUTH_TOKEN") as error:
        Cluster.connect(address)
    assert PASSWORD not in str(error.value)


def test_nothing_listens_beyond_loopback(cluster: Cluster) -> None:
    assert cluster.address.startswith("127.")
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for pid in ours
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address for address in listening if not address.startswith("127.") and address != "::1"} == set()
