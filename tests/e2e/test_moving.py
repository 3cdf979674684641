"""Moving in from another sender: its VAPID key, and the browsers it knew, which need not subscribe anew."""

import csv
import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.domain import ids
from gateway.push.encryption import encode_base64url
from gateway.push.vapid import VapidKey
from gateway.sim import Vendor
from tests.support.command import command
from tests.support.gateway_parts import MASTER_KEY, gateway

COLUMNS = ["id", "identifier", "language", "device_type", "tags", "invalid_identifier", "external_user_id"]


def named(kind: str, text: str) -> UUID:
    found = ids.parse(kind, text)
    assert found is not None
    return found


async def test_browsers_of_another_sender_are_sent_to_with_the_key_they_know(database_url: str, tmp_path: Path) -> None:
    key = VapidKey.generate()
    pem, text = tmp_path / "vapid.pem", tmp_path / "vapid.txt"
    pem.write_bytes(key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    text.write_text(encode_base64url(key.private_bytes()) + "\n")
    async with gateway(database_url) as parts:
        settings = {
            "GATEWAY_DATABASE_URL": database_url,
            "GATEWAY_MASTER_KEY": MASTER_KEY.decode(),
            "GATEWAY_PUSH_HOSTS": ",".join(parts.sim.origins.values()),
        }
        shops: list[UUID] = []
        for name, file in (("Shop", pem), ("Other", text)):
            create = (
                "apps",
                "create",
                name,
                "--subject",
                "mailto:ops@example.org",
                "--origin",
                "https://shop.example.org",
            )
            create = (*create, "--vapid-key", str(file), "--json")
            made = (await command(*create, **settings)).json
            shops.append(named(ids.APPLICATION, made["id"]))
            assert made["vapid_public_key"] == key.public_text
        pem.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
        refused = await command(*create[:-2], str(pem), **settings)
        assert (refused.code, "holds no private key" in refused.err) == (2, True)

        # The simulator's addresses are http; what an export has are https, and rows that are no browsers at all.
        one, two, three = parts.sim.subscribe_many(Vendor.FCM, 3, key.public_key)
        listed = tmp_path / "subscriptions.json"
        listed.write_text(json.dumps([two.to_json(), {"subscription": three.to_json(), "user_id": "u-3"}, {"no": 1}]))
        said = (await command("devices", "import", str(listed), "--app", "Shop", "--dry-run", "--json", **settings)).out
        assert json.loads(said)["valid"] == 2
        ended = await command("devices", "import", str(listed), "--app", "Shop", "--json", **settings)
        assert ended.code == 1
        told = json.loads(ended.out)
        assert (told["created"], told["refreshed"], told["refused"]) == (2, 0, 1)
        assert told["errors"][0]["line"] == 3
        lines = tmp_path / "lines.ndjson"
        lines.write_text("\n".join(json.dumps(line.to_json()) for line in (one, two)) + "\n")
        assert (await command("devices", "import", str(lines), "--app", "Shop", "--json", **settings)).json == {
            "created": 1,
            "refreshed": 1,
            "refused": 0,
            "errors": [],
        }
        sent = (
            await command("send", "--app", "Shop", "--title", "Still here", "--everyone", "--json", **settings)
        ).json
        async with parts.run_worker():
            await replace(parts, application_id=shops[0]).wait_until_done(named(ids.NOTIFICATION, sent["id"]))
        assert {message.endpoint for message in parts.sim.messages} == {one.endpoint, two.endpoint, three.endpoint}


async def test_an_export_of_onesignal_s_brings_tags_users_and_languages(database_url: str, tmp_path: Path) -> None:
    async with gateway(database_url) as parts:
        [browser] = parts.subscribe(Vendor.APPLE, 1)
        keys = browser.subscription
        p256dh, auth = (
            b64encode(octets).decode() for octets in (keys.p256dh, keys.auth)
        )  # standard base64, as it has it
        tags = {"plan": "pro", "city": "Wien"}
        web = {"identifier": "https://web.push.apple.com/Qx", "language": "de", "tags": json.dumps(tags)}
        rows = [
            web | {"external_user_id": "u-1", "web_p256": p256dh, "web_auth": auth, "invalid_identifier": "f"},
            web | {"identifier": "https://web.push.apple.com/gone", "web_p256": p256dh, "web_auth": auth}
            | {"invalid_identifier": "t"},
            web | {"identifier": "ann@example.org"},
            web | {"identifier": "https://web.push.apple.com/x", "web_p256": p256dh, "web_auth": auth, "tags": "{"},
        ]  # fmt: skip
        export = tmp_path / "export.csv"
        with export.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, "web_auth", "web_p256"])
            writer.writeheader()
            writer.writerows(rows)
        settings = {"GATEWAY_DATABASE_URL": database_url, "GATEWAY_MASTER_KEY": MASTER_KEY.decode()}
        app = ("--app", parts.application["id"])
        ended = await command("devices", "import", str(export), *app, **settings)
        assert ended.code == 1
        for words in (
            "line 3: its subscription had ended",
            "line 4: it is no Web Push",
            "line 5: its tags are not JSON",
        ):
            assert words in ended.out + ended.err
        assert await parts.scalar("SELECT user_id || locale || (attributes ->> 'city') FROM devices") == "u-1deWien"
        for name, words in (("nothing.csv", "No such file"), ("other.csv", "it is neither NDJSON")):
            if name == "other.csv":
                (tmp_path / name).write_text("a,b\n1,2\n")
            refused = await command("devices", "import", str(tmp_path / name), *app, **settings)
            assert refused.code == 1
            assert words in refused.err
            assert refused.err.count("\n") == 1
