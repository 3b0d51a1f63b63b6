"""The embedded Valkey."""

import contextlib
import os
import shutil
import signal
import socket
from pathlib import Path
from urllib.parse import quote

from deps.embedded import EmbeddedServer
from deps.process import find_valkey


class EmbeddedValkey(EmbeddedServer):
    """Valkey with its append-only file in `home`, flushed to disk every second; nothing is written
    when it is `fast`."""

    name = "Valkey"

    @property
    def socket_path(self) -> Path:
        return self.socket_directory / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket_path), safe='/')}"

    def is_ready(self) -> bool:
        return self._ask(b"PING\r\n").startswith(b"+PONG")

    def pid(self) -> int | None:
        for line in self._ask(b"INFO server\r\n").splitlines():
            if line.startswith(b"process_id:"):
                return int(line.partition(b":")[2])
        return None

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(command)
                return connection.recv(16_384)
            except OSError:
                return b""

    def _start_process(self) -> None:
        durable = ["--appendonly", "no" if self.fast else "yes", "--appendfsync", "everysec"]
        access = ["--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]
        command = [str(find_valkey()), *access, *durable, "--save", "", "--dir", str(self.home)]
        self._wait_until_ready(lambda: self._launch(command, None, self.home))

    def _delete(self) -> None:
        shutil.rmtree(self.home / "appendonlydir", ignore_errors=True)

    def _ask_to_stop(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
