"""Run the demo as a stranger would: buy by REST, say a sentence, stop it, look for leftovers."""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


def main() -> int:
    # Short: the servers' sockets live in it.
    with tempfile.TemporaryDirectory(prefix="smoke-", dir="/tmp") as home:
        number = buy_in_demo(home)
        again_in_demo(home, number)
        leftovers = processes_mentioning(home)
        assert not leftovers, f"processes are left: {leftovers}"
    say("smoke: sale, chat, restart and stop are well")
    return 0


def buy_in_demo(home: str) -> int:
    with demo(home) as address, httpx.Client(base_url=address, timeout=30) as client:
        client.headers["X-Guest-Token"] = secrets.token_urlsafe(32)
        assert client.get("/health/ready").is_success
        number = buy(client)
        talk(client)
        return number


def again_in_demo(home: str, number: int) -> None:
    began = time.monotonic()
    with demo(home) as address, httpx.Client(base_url=address, timeout=30) as client:
        say(f"smoke: second start took {time.monotonic() - began:.1f} s")
        login = {"email": "merchant@example.com", "password": "harbour-and-pine"}
        token = ok(client.post("/v1/auth/login", json=login))["access_token"]
        order = ok(client.get(f"/v1/orders/{number}", headers={"Authorization": f"Bearer {token}"}))
        assert order["number"] == number, order


def buy(client: httpx.Client) -> int:
    cards = ok(client.get("/v1/products", params={"in_stock": True, "limit": 5}))["items"]
    sku = next(card["sku"] for card in cards if card["available"] > 0)
    cart = ok(client.post("/v1/carts"))
    path = f"/v1/carts/{cart['id']}"
    ok(client.post(f"{path}/lines", json={"sku": sku, "quantity": 1}))
    address = {
        "name": "Smoke Test",
        "line1": "Quay 1",
        "city": "Hamburg",
        "postal_code": "20457",
        "country_code": "DE",
    }
    details = {
        "email": "smoke@example.com",
        "shipping_address": address,
        "shipping_method": "standard",
    }
    total = ok(client.put(f"{path}/details", json=details))["total_amount"]
    order = ok(
        client.post(
            f"{path}/complete",
            json={"payment_method": "tok_visa", "expected_total_amount": total},
            headers={"Idempotency-Key": secrets.token_hex(16)},
        )
    )
    assert order["total_amount"] == total, order
    say(f"smoke: order {order['number']} of {total} {order['currency']}")
    return int(order["number"])


def talk(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat", json={"text": "show me mugs"}) as response:
        assert response.status_code == 200, response.read()
        names = [line[6:].strip() for line in response.iter_lines() if line.startswith("event:")]
    assert names[0] == "conversation", names
    assert names[-1] == "done", names
    assert "error" not in names, names


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def ok(response: httpx.Response) -> dict:
    assert response.is_success, f"{response.request.url}: {response.status_code} {response.text}"
    return response.json()


@contextmanager
def demo(home: str) -> Iterator[str]:
    """Start the demo on a free port, yield its address, end it with SIGTERM."""
    environment = {**os.environ, "SHOPKEEPER_DATA_DIR": home}
    for name in ("DATABASE_URL", "REDIS_URL"):
        environment.pop(name, None)
    output = Path(home) / "output.txt"
    with output.open("ab") as file:
        offset = file.tell()
        process = subprocess.Popen(
            [ROOT / "shopkeeper", "demo", "--port", "0", "--no-browser"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield wait_for_address(process, output, offset)
    except BaseException:
        sys.stderr.write(output.read_text()[-4000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_TIMEOUT_S)
    assert code == 0, f"the demo ended with {code}"


def wait_for_address(process: subprocess.Popen, output: Path, offset: int) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the demo ended with {process.returncode}"
        said = output.read_bytes()[offset:].decode()
        if found := re.search(r"Shop and chat\s+(http://\S+?)/\s", said):
            return found[1]
        time.sleep(0.05)
    raise AssertionError("the demo did not start in time")


def processes_mentioning(text: str) -> list[str]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = command.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It ended while we looked.
        if text in line and command.parent.name != str(os.getpid()):
            found.append(line)
    return found


if __name__ == "__main__":
    sys.exit(main())
