"""The simulator's control API, restarts with a state file, ports and TLS."""

import socket
import ssl
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pywebpush import WebPusher
from sim_sender import Sender, encrypt

from gateway.sim import Rule, Sim, Vendor
from gateway.sim.base64url import encode
from gateway.sim.subscribers import Channel


async def send_request(http: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, Any]:
    """Return (status, body), where the body is parsed JSON or text."""
    async with http.request(method, url, **options) as response:
        is_json = response.content_type == "application/json"
        return response.status, await response.json() if is_json else await response.text()


@pytest.mark.parametrize("vendor", list(Vendor))
async def test_control_api_lists_all_origins(sim: Sim, http: aiohttp.ClientSession, vendor: Vendor) -> None:
    """Every vendor's origin has the control API, which lists the origins of all vendors."""
    status, body = await send_request(http, "GET", f"{sim.origins[vendor]}/_sim")
    assert (status, body) == (200, {"origins": sim.origins, "websocket": sim.websocket_url})


async def test_control_api_creates_and_reads_devices(sim: Sim, http: aiohttp.ClientSession) -> None:
    """A test in any language can create devices and read the messages that they received."""
    control, sender = f"{sim.origins[Vendor.FCM]}/_sim", Sender(http)
    request = {"vendor": "apple", "count": 3, "vapid_public_key": encode(sender.public_key)}
    status, subscriptions = await send_request(http, "POST", f"{control}/subscribers", json=request)
    assert (status, len(subscriptions)) == (201, 3)
    assert subscriptions[0].keys() == {"endpoint", "expirationTime", "keys"}
    assert subscriptions[0]["keys"].keys() == {"p256dh", "auth"}
    endpoint = subscriptions[1]["endpoint"]
    body = bytes(WebPusher(subscriptions[1]).encode(b"over http", "aes128gcm")["body"])
    assert (await sender.post(endpoint, body, {"Topic": "news"})).status == 201

    _, [message] = await send_request(http, "GET", f"{control}/messages", params={"endpoint": endpoint})
    assert (message["payload"], message["topic"], message["ttl"]) == ("over http", "news", 60)
    assert (await send_request(http, "GET", f"{control}/messages", params={"endpoint": subscriptions[0]["endpoint"]}))[
        1
    ] == []
    _, counters = await send_request(http, "GET", f"{control}/counters")
    assert counters == {"counters": {"fcm": {}, "mozilla": {}, "apple": {"201": 1}, "wns": {}}, "accepted": 1}
    _, listed_subscribers = await send_request(http, "GET", f"{control}/subscribers")
    assert [subscriber["messages"] for subscriber in listed_subscribers] == [0, 1, 0]

    assert (await send_request(http, "DELETE", f"{control}/subscribers", params={"endpoint": endpoint}))[0] == 204
    assert (await sender.post(endpoint)).status == 410
    assert (await send_request(http, "DELETE", f"{control}/subscribers", params={"endpoint": "http://x"}))[0] == 404


async def test_undecryptable_message_has_a_reason(sim: Sim, http: aiohttp.ClientSession) -> None:
    """The control API returns the reason why a message could not be decrypted."""
    await Sender(http).post(sim.subscribe(Vendor.FCM).endpoint, b"not encrypted at all")
    _, [message] = await send_request(http, "GET", f"{sim.origins[Vendor.FCM]}/_sim/messages")
    assert (message["payload"], message["undecryptable"]) == (None, "20 octets are too few for an aes128gcm message")


async def test_control_api_sets_behaviour(sim: Sim, sender: Sender, http: aiohttp.ClientSession) -> None:
    """The rules come from the request or from a preset; an empty request removes them."""
    url, device = f"{sim.origins[Vendor.WNS]}/_sim/behaviour", sim.subscribe(Vendor.FCM)
    request = {"rules": [{"vendor": "fcm", "status": 429, "retry_after": 2, "times": 1}], "seed": 3}
    assert await send_request(http, "PUT", url, json=request) == (200, {"rules": 1, "seed": 3})
    assert [(await sender.post(device.endpoint)).status for _ in range(2)] == [429, 201]
    assert await send_request(http, "PUT", url, json={"preset": "demo"}) == (200, {"rules": 6, "seed": 0})
    assert await send_request(http, "PUT", url, json={}) == (200, {"rules": 0, "seed": 0})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "behaviour", '{"rules": [{"status": 99}]}'),
        ("PUT", "behaviour", '{"rules": [{"share": 2}]}'),
        ("PUT", "behaviour", '{"rules": [{"stauts": 410}]}'),
        ("PUT", "behaviour", '{"preset": "nightmare"}'),
        ("PUT", "behaviour", "nonsense"),
        ("POST", "subscribers", '{"vendor": "opera"}'),
        ("POST", "subscribers", '{"vendor": "fcm", "count": 0}'),
        ("POST", "subscribers", '{"vendor": "fcm", "vapid_public_key": "abc"}'),
        ("POST", "subscribers", '{"vendor": "fcm", "vapid_public_key": "!"}'),
    ],
)
async def test_invalid_control_request_changes_nothing(
    sim: Sim, http: aiohttp.ClientSession, method: str, path: str, body: str
) -> None:
    """The response has the faults of the request; devices and rules stay as they are."""
    sim.behave(Rule(status=500))
    status, faults = await send_request(http, method, f"{sim.origins[Vendor.FCM]}/_sim/{path}", data=body)
    assert status == 422
    assert faults[0]["msg"]
    assert len(sim.subscribers) == 0
    assert sim.behaviour.rules == (Rule(status=500),)


def find_free_ports() -> int:
    """Return the first of four consecutive free ports."""
    for base in range(23_500, 32_000, 4):
        try:
            for port in range(base, base + 4):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return base
    raise OSError("no four consecutive free ports")


async def test_devices_survive_a_restart(sender: Sender, tmp_path: Path) -> None:
    """A simulator with a state file restores subscribed devices, gone devices and the channels of Firefox."""
    state, port = tmp_path / "sim" / "state.ndjson", find_free_ports()
    sender_of_other_key = Sender(sender.http)
    channel = Channel("browser", "b2f0b5a2-3b5c-4f0e-9d6c-0a4a4a1f8c11")
    async with Sim(port=port, state_file=state) as sim:
        devices = [sim.subscribe(vendor, sender.public_key) for vendor in Vendor]
        gone = sim.subscribe(Vendor.APPLE)
        sim.unsubscribe(gone)
        [firefox] = sim.subscribers.add(Vendor.MOZILLA, sender.public_key, channel=channel)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600

    async with Sim(port=port, state_file=state) as sim:
        for device in devices:
            assert await sender.push(device, b"still there") == 201
            restored = sim.subscribers.find_by_endpoint(device.endpoint)
            assert restored is not None
            assert [message.text for message in restored.messages] == ["still there"]
            assert (await sender_of_other_key.post(device.endpoint)).status in (400, 401, 403)
        assert (await sender.post(gone.endpoint)).status == 410
        assert (await sender.post(firefox.endpoint)).status == 201
        async with sender.http.ws_connect(sim.websocket_url) as browser:
            await browser.send_json({"messageType": "hello", "uaid": "browser"})
            assert (await browser.receive_json(timeout=5))["uaid"] == "browser"
            # The message that was sent while the browser was not connected.
            assert (await browser.receive_json(timeout=5))["channelID"] == channel.channel_id


async def test_truncated_line_of_state_file_is_dropped(sender: Sender, tmp_path: Path) -> None:
    """The state file of a simulator that was killed while writing is still readable."""
    state = tmp_path / "state.ndjson"
    async with Sim(state_file=state) as sim:
        sim.subscribe_many(Vendor.FCM, 2)
    state.write_bytes(state.read_bytes()[:-10])
    async with Sim(state_file=state) as sim:
        assert len(sim.subscribers) == 1
        sim.subscribe(Vendor.WNS)
    async with Sim(state_file=state) as sim:
        assert [subscriber.vendor for subscriber in sim.subscribers] == [Vendor.FCM, Vendor.WNS]


async def test_ports_are_consecutive(tmp_path: Path) -> None:
    """The vendors have consecutive ports, from the port of the argument on, and a port in use is an error."""
    port = find_free_ports()
    async with Sim(port=port) as sim:
        assert list(sim.origins.values()) == [f"http://127.0.0.1:{port + index}" for index in range(4)]
        with pytest.raises(OSError, match="in use"):
            await Sim(port=port).start()


async def test_simulator_can_be_restarted(sender: Sender) -> None:
    """A stopped simulator can be started again."""
    sim = Sim()
    for _ in range(2):
        async with sim:
            assert await sender.push(sim.subscribe(Vendor.APPLE), b"hello") == 201
    assert sim.messages.total == 2


async def test_tls_simulator_has_https_endpoints(tmp_path: Path) -> None:
    """A simulator with a certificate has https endpoints and a wss URL, and accepts JWTs for its https origins."""
    server, client = _tls_contexts(tmp_path)
    async with (
        Sim(ssl_context=server) as sim,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client)) as http,
    ):
        sender = Sender(http)
        device = sim.subscribe(Vendor.FCM, sender.public_key)
        assert device.endpoint.startswith("https://127.0.0.1:")
        assert sim.websocket_url.startswith("wss://")
        assert (await sender.post(device.endpoint, encrypt(device, b"hello"))).status == 201
        assert device.messages[0].text == "hello"


def _tls_contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context with a self-signed certificate, and a client's context that trusts it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sim")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "sim.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=pem)
