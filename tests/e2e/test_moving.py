"""Import of the VAPID key and the subscriptions of another push sender."""

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

# The columns of a OneSignal export without those of the keys.
COLUMNS = ["id", "identifier", "language", "device_type", "tags", "invalid_identifier", "external_user_id"]


def parse_id(kind: str, text: str) -> UUID:
    id_ = ids.parse(kind, text)
    assert id_ is not None
    return id_


async def test_imported_browsers_receive_with_their_old_key(database_url: str, tmp_path: Path) -> None:
    """Browsers that are subscribed with the VAPID key of another sender receive messages after that key is imported."""
    key = VapidKey.generate()
    pem_file, text_file = tmp_path / "vapid.pem", tmp_path / "vapid.txt"
    pem_file.write_bytes(key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    text_file.write_text(encode_base64url(key.private_bytes()) + "\n")
    async with gateway(database_url) as parts:
        settings = {
            "GATEWAY_DATABASE_URL": database_url,
            "GATEWAY_MASTER_KEY": MASTER_KEY.decode(),
            "GATEWAY_PUSH_HOSTS": ",".join(parts.sim.origins.values()),
        }
        application_ids: list[UUID] = []
        for name, file in (("Shop", pem_file), ("Other", text_file)):
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
            application = (await command(*create, **settings)).json
            application_ids.append(parse_id(ids.APPLICATION, application["id"]))
            assert application["vapid_public_key"] == key.public_text
        pem_file.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
        refused = await command(*create[:-2], str(pem_file), **settings)
        assert (refused.code, "contains no private key" in refused.err) == (2, True)

        # The simulator's endpoints are http: URLs, which a OneSignal export cannot have, so this import is JSON.
        first, second, third = parts.sim.subscribe_many(Vendor.FCM, 3, key.public_key)
        json_file = tmp_path / "subscriptions.json"
        json_file.write_text(
            json.dumps([second.to_json(), {"subscription": third.to_json(), "user_id": "u-3"}, {"no": 1}])
        )
        output = (
            await command("devices", "import", str(json_file), "--app", "Shop", "--dry-run", "--json", **settings)
        ).out
        assert json.loads(output)["valid"] == 2
        result = await command("devices", "import", str(json_file), "--app", "Shop", "--json", **settings)
        assert result.code == 1
        report = json.loads(result.out)
        assert (report["created"], report["refreshed"], report["refused"]) == (2, 0, 1)
        assert report["errors"][0]["line"] == 3
        ndjson_file = tmp_path / "lines.ndjson"
        ndjson_file.write_text("\n".join(json.dumps(browser.to_json()) for browser in (first, second)) + "\n")
        assert (await command("devices", "import", str(ndjson_file), "--app", "Shop", "--json", **settings)).json == {
            "created": 1,
            "refreshed": 1,
            "refused": 0,
            "errors": [],
        }
        sent = (
            await command("send", "--app", "Shop", "--title", "Still here", "--everyone", "--json", **settings)
        ).json
        async with parts.run_worker():
            shop = replace(parts, application_id=application_ids[0])
            await shop.wait_until_done(parse_id(ids.NOTIFICATION, sent["id"]))
        assert {message.endpoint for message in parts.sim.messages} == {first.endpoint, second.endpoint, third.endpoint}


async def test_onesignal_import_keeps_tags_users_languages(database_url: str, tmp_path: Path) -> None:
    """An import of a OneSignal export reports each row that is not a valid browser with its line, and skips it."""
    async with gateway(database_url) as parts:
        [browser] = parts.subscribe(Vendor.APPLE, 1)
        keys = browser.subscription
        # OneSignal exports keys in standard base64.
        p256dh, auth = (b64encode(octets).decode() for octets in (keys.p256dh, keys.auth))
        tags = {"plan": "pro", "city": "Wien"}
        web_row = {"identifier": "https://web.push.apple.com/Qx", "language": "de", "tags": json.dumps(tags)}
        rows = [
            web_row | {"external_user_id": "u-1", "web_p256": p256dh, "web_auth": auth, "invalid_identifier": "f"},
            web_row | {"identifier": "https://web.push.apple.com/gone", "web_p256": p256dh, "web_auth": auth}
            | {"invalid_identifier": "t"},
            web_row | {"identifier": "ann@example.org"},
            web_row | {"identifier": "https://web.push.apple.com/x", "web_p256": p256dh, "web_auth": auth, "tags": "{"},
        ]  # fmt: skip
        export = tmp_path / "export.csv"
        with export.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, "web_auth", "web_p256"])
            writer.writeheader()
            writer.writerows(rows)
        settings = {"GATEWAY_DATABASE_URL": database_url, "GATEWAY_MASTER_KEY": MASTER_KEY.decode()}
        app = ("--app", parts.application["id"])
        result = await command("devices", "import", str(export), *app, **settings)
        assert result.code == 1
        for message in (
            "line 3: the subscription has ended",
            "line 4: not a Web Push",
            "line 5: the tags are not valid JSON",
        ):
            assert message in result.out + result.err
        assert await parts.scalar("SELECT user_id || locale || (attributes ->> 'city') FROM devices") == "u-1deWien"
        for name, message in (("nothing.csv", "No such file"), ("other.csv", "the file is neither NDJSON")):
            if name == "other.csv":
                (tmp_path / name).write_text("a,b\n1,2\n")
            refused = await command("devices", "import", str(tmp_path / name), *app, **settings)
            assert refused.code == 1
            assert message in refused.err
            assert refused.err.count("\n") == 1
