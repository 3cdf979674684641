"""Applications: the tenants, their API keys and their VAPID keys."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from gateway.domain import ids
from gateway.domain.errors import FieldError, NotFound, ValidationError
from gateway.push.encryption import encode_base64url
from gateway.push.vapid import VapidKey, check_subject
from gateway.records import applications
from gateway.records.postgres.engine import Connection, Row
from gateway.service.access.authentication import REGISTER, SCOPES
from gateway.service.access.secrets import Keyring, digest, new_key


class NewKey(NamedTuple):
    """`key` is shown this once and never again."""

    key: str
    row: Row[Any]


async def create(
    conn: Connection,
    vault: Keyring,
    name: str,
    subject: str,
    allowed_origins: Sequence[str],
    vapid_private_key: bytes | None = None,
) -> dict[str, Any]:
    """A new application with a VAPID key, a publishable key and a secret key. Raises Invalid.

    With the VAPID key of before, what browsers had subscribed to before goes on.
    """
    _check(subject, allowed_origins)
    key = VapidKey.generate() if vapid_private_key is None else _vapid_key(vapid_private_key)
    id_ = ids.new_id()
    await applications.add(conn, id_, name, subject, _canonical(allowed_origins))
    await _keep_vapid_key(conn, vault, id_, key)
    publishable = await _add_key(conn, id_, "publishable key", (REGISTER,))
    secret = await _add_key(conn, id_, "secret key", SCOPES)
    return {**await get(conn, id_), "publishable_key": publishable.key, "secret_key": secret.key}


async def get(conn: Connection, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    row = await applications.get(conn, id_)
    if row is None:
        raise NotFound(f"there is no application {ids.format_id(ids.APPLICATION, id_)}")
    [shown] = await _shown(conn, [row])
    keys = [show_key(key) for key in await applications.list_keys(conn, id_)]
    return {**shown, "keys": keys}


async def page(conn: Connection, *, after: UUID | None, limit: int) -> list[dict[str, Any]]:
    return await _shown(conn, await applications.list_by_creation(conn, after=after, limit=limit))


async def change(
    conn: Connection,
    vault: Keyring,
    id_: UUID,
    values: dict[str, Any],
) -> dict[str, Any]:
    """Change `name`, `subject`, `allowed_origins`, `require_identity`. Raises NotFound and Invalid.

    Demanding proofs answers with the `identity_secret` they are made with, this once; demanding them anew replaces it.
    """
    before = await get(conn, id_)
    values = dict(values)
    _check(values.get("subject", before["subject"]), values.get("allowed_origins", []))
    if "allowed_origins" in values:
        values["allowed_origins"] = _canonical(values["allowed_origins"])
    once: dict[str, Any] = {}
    if (require := values.pop("require_identity", None)) is not None:
        secret = new_key("is") if require else None
        values["identity_secret"] = None if secret is None else vault.seal(secret.encode(), "identity")
        once = {} if secret is None else {"identity_secret": secret}
    if values:
        await applications.change(conn, id_, values)
    return {**await get(conn, id_), **once}


async def add_key(conn: Connection, application_id: UUID, name: str, scopes: Sequence[str]) -> dict[str, Any]:
    """Raises NotFound. The answer holds the key itself, this once."""
    await get(conn, application_id)
    added = await _add_key(conn, application_id, name, scopes)
    return {**show_key(added.row), "key": added.key}


async def remove_key(conn: Connection, application_id: UUID, key_id: UUID) -> None:
    """Raises NotFound. The key is refused from the next request on."""
    if not await applications.remove_key(conn, application_id, key_id):
        raise NotFound(f"there is no key {ids.format_id(ids.KEY, key_id)}")


async def add_vapid_key(conn: Connection, vault: Keyring, application_id: UUID) -> VapidKey:
    """A key that browsers subscribe with from now on; those with older ones are still sent to with those."""
    key = VapidKey.generate()
    await _keep_vapid_key(conn, vault, application_id, key)
    return key


async def _keep_vapid_key(conn: Connection, vault: Keyring, application_id: UUID, key: VapidKey) -> None:
    sealed = vault.seal(key.private_bytes(), "vapid")
    await applications.add_vapid_key(conn, ids.new_id(), application_id, key.public_key, sealed)


def _vapid_key(private: bytes) -> VapidKey:
    if len(private) != 32:
        raise ValidationError([FieldError("/vapid_private_key", f"must be 32 octets; this is {len(private)}")])
    try:
        return VapidKey.from_private_bytes(private)
    except ValueError:
        raise ValidationError([FieldError("/vapid_private_key", "is not a private key of P-256")]) from None


async def rotate_vapid_key(conn: Connection, vault: Keyring, application_id: UUID) -> str:
    """The new public key, base64url. Raises NotFound."""
    await get(conn, application_id)
    return (await add_vapid_key(conn, vault, application_id)).public_text


async def vapid_public_key(conn: Connection, application_id: UUID) -> str:
    """base64url: what a page subscribes with."""
    keys = await applications.list_vapid_public_keys(conn, [application_id])
    return encode_base64url(keys[application_id][0][1])


def show_key(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": ids.format_id(ids.KEY, row.id),
        "name": row.name,
        "scopes": row.scopes,
        "hint": row.hint,
        "created_at": row.created_at,
    }


async def _add_key(conn: Connection, application_id: UUID, name: str, scopes: Sequence[str]) -> NewKey:
    key = new_key("pk" if tuple(scopes) == (REGISTER,) else "sk")
    hint = f"{key[:3]}…{key[-4:]}"
    row = await applications.add_key(conn, ids.new_id(), application_id, name, scopes, digest(key), hint)
    return NewKey(key, row)


async def _shown(conn: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    keys = await applications.list_vapid_public_keys(conn, [row.id for row in rows])
    return [
        {
            "id": ids.format_id(ids.APPLICATION, row.id),
            "name": row.name,
            "subject": row.subject,
            "allowed_origins": row.allowed_origins,
            "require_identity": row.identity_secret is not None,
            "vapid_public_key": encode_base64url(keys[row.id][0][1]),
            "created_at": row.created_at,
        }
        for row in rows
    ]


def _check(subject: str, allowed_origins: Sequence[str]) -> None:
    faults = []
    if (wrong := check_subject(subject)) is not None:
        faults.append(FieldError("/subject", wrong))
    for index, origin in enumerate(allowed_origins):
        if _origin(origin) is None:
            faults.append(
                FieldError(f"/allowed_origins/{index}", "must be a web origin such as https://app.example.org")
            )
    if faults:
        raise ValidationError(faults)


def _canonical(origins: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(origin for text in origins if (origin := _origin(text)) is not None))


def _origin(text: str) -> str | None:
    """As a browser sends it: scheme, lower-case host, port only when it is not the default one."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.path not in ("", "/"):
        return None
    if parts.query or parts.fragment or "@" in parts.netloc or any(c.isspace() for c in text):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"https": 443, "http": 80}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in (None, default) else f":{port}")
