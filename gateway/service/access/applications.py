"""Applications (the tenants of the gateway), with their API keys and VAPID keys."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict
from urllib.parse import urlsplit
from uuid import UUID

from gateway.domain import ids
from gateway.domain.errors import FieldError, NotFound, ValidationError
from gateway.push.encryption import encode_base64url
from gateway.push.vapid import VapidKey, check_subject
from gateway.records import applications as records
from gateway.records.postgres.engine import Connection, Row
from gateway.service import views
from gateway.service.access.authentication import REGISTER, SCOPES
from gateway.service.access.secrets import Keyring, digest, new_key


class NewKey(NamedTuple):
    """A new API key, and the row that is stored for it. The row does not contain the key."""

    key: str
    row: Row[Any]


class ApplicationChange(TypedDict, total=False):
    """Changed fields of an application. `require_identity`: requests of web pages must prove the user id."""

    name: str
    subject: str
    allowed_origins: list[str]
    require_identity: bool


async def create(
    conn: Connection,
    keyring: Keyring,
    name: str,
    subject: str,
    allowed_origins: Sequence[str],
    vapid_private_key: bytes | None = None,
) -> views.CreatedApplication:
    """Create an application with a VAPID key, a publishable key and a secret key.

    `vapid_private_key` is the key of a push server that this gateway replaces: browsers' subscriptions with that key
    stay valid. By default a new key is generated.

    Raises:
        ValidationError: the subject, an origin or the VAPID key is not valid.
    """
    _check(subject, allowed_origins)
    key = VapidKey.generate() if vapid_private_key is None else _parse_vapid_key(vapid_private_key)
    id_ = ids.new_id()
    await records.add(conn, id_, name, subject, _canonical_origins(allowed_origins))
    await _store_vapid_key(conn, keyring, id_, key)
    publishable = await _add_key(conn, id_, "publishable key", (REGISTER,))
    secret = await _add_key(conn, id_, "secret key", SCOPES)
    return {**await get(conn, id_), "publishable_key": publishable.key, "secret_key": secret.key}


async def get(conn: Connection, id_: UUID) -> views.Application:
    """Return an application with its API keys.

    Raises:
        NotFound: there is no such application.
    """
    row = await records.get(conn, id_)
    if row is None:
        raise NotFound(f"there is no application {ids.format_id(ids.APPLICATION, id_)}")
    [application] = await _to_views(conn, [row])
    keys = [key_to_view(key) for key in await records.list_keys(conn, id_)]
    return {**application, "keys": keys}  # type: ignore[typeddict-item]  # identity_secret is not required


async def list_page(conn: Connection, *, after: UUID | None, limit: int) -> list[views.ListedApplication]:
    """Return a page of applications, oldest first; `after` is the last id of the previous page."""
    return await _to_views(conn, await records.list_by_creation(conn, after=after, limit=limit))


async def change(
    conn: Connection,
    keyring: Keyring,
    id_: UUID,
    changed: ApplicationChange,
) -> views.Application:
    """Change fields of an application.

    Setting `require_identity` to true creates a new identity secret. Only the view returned here contains the secret.
    From then on user ids that pages sent without a proof are ignored.

    Raises:
        NotFound: there is no such application.
        ValidationError: the subject or an origin is not valid.
    """
    current = await get(conn, id_)
    values: dict[str, Any] = {**changed}
    _check(values.get("subject", current["subject"]), values.get("allowed_origins", []))
    if "allowed_origins" in values:
        values["allowed_origins"] = _canonical_origins(values["allowed_origins"])
    identity_secret: str | None = None
    if (requires_identity := values.pop("require_identity", None)) is not None:
        identity_secret = new_key("is") if requires_identity else None
        if requires_identity != current["require_identity"]:
            values["identity_enforced"] = requires_identity
        values["identity_secret"] = (
            None if identity_secret is None else keyring.seal(identity_secret.encode(), "identity")
        )
    if values:
        await records.change(conn, id_, values)
    application = await get(conn, id_)
    if identity_secret is not None:
        application["identity_secret"] = identity_secret
    return application


async def add_key(conn: Connection, application_id: UUID, name: str, scopes: Sequence[str]) -> views.CreatedKey:
    """Create an API key. Only the view returned here contains the key itself.

    Raises:
        NotFound: there is no such application.
    """
    await get(conn, application_id)
    created = await _add_key(conn, application_id, name, scopes)
    return {**key_to_view(created.row), "key": created.key}


async def remove_key(conn: Connection, application_id: UUID, key_id: UUID) -> None:
    """Delete an API key. Requests with the key are refused from now on.

    Raises:
        NotFound: the application has no such key.
    """
    if not await records.remove_key(conn, application_id, key_id):
        raise NotFound(f"there is no key {ids.format_id(ids.KEY, key_id)}")


async def add_vapid_key(conn: Connection, keyring: Keyring, application_id: UUID) -> VapidKey:
    """Add a VAPID key for new subscriptions.

    The existing keys stay: messages to subscriptions that were created with them are signed with them.
    """
    key = VapidKey.generate()
    await _store_vapid_key(conn, keyring, application_id, key)
    return key


async def _store_vapid_key(conn: Connection, keyring: Keyring, application_id: UUID, key: VapidKey) -> None:
    sealed = keyring.seal(key.private_bytes(), "vapid")
    await records.add_vapid_key(conn, ids.new_id(), application_id, key.public_key, sealed)


def _parse_vapid_key(private: bytes) -> VapidKey:
    if len(private) != 32:
        raise ValidationError([FieldError("/vapid_private_key", f"must be 32 octets; this is {len(private)}")])
    try:
        return VapidKey.from_private_bytes(private)
    except ValueError:
        raise ValidationError([FieldError("/vapid_private_key", "is not a private key of P-256")]) from None


async def rotate_vapid_key(conn: Connection, keyring: Keyring, application_id: UUID) -> str:
    """Add a VAPID key for new subscriptions, and return its public key in base64url.

    Raises:
        NotFound: there is no such application.
    """
    await get(conn, application_id)
    return (await add_vapid_key(conn, keyring, application_id)).public_text


async def get_vapid_public_key(conn: Connection, application_id: UUID) -> str:
    """Return the VAPID public key for new subscriptions, in base64url."""
    keys = await records.list_vapid_public_keys(conn, [application_id])
    return encode_base64url(keys[application_id][0][1])


def key_to_view(row: Row[Any]) -> views.Key:
    """Return the view of an API key without the key itself."""
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
    row = await records.add_key(conn, ids.new_id(), application_id, name, scopes, digest(key), hint)
    return NewKey(key, row)


async def _to_views(conn: Connection, rows: Sequence[Row[Any]]) -> list[views.ListedApplication]:
    keys = await records.list_vapid_public_keys(conn, [row.id for row in rows])
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
    """Check the subject and the origins of an application; raises ValidationError."""
    errors = []
    if (error := check_subject(subject)) is not None:
        errors.append(FieldError("/subject", error))
    for index, origin in enumerate(allowed_origins):
        if _canonical_origin(origin) is None:
            errors.append(
                FieldError(f"/allowed_origins/{index}", "must be a web origin such as https://app.example.org")
            )
    if errors:
        raise ValidationError(errors)


def _canonical_origins(origins: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(origin for text in origins if (origin := _canonical_origin(text)) is not None))


def _canonical_origin(text: str) -> str | None:
    """Return an origin in the form that browsers send, or None if the text is not an origin.

    The form has the scheme, the host in lower case, and the port unless it is the default port of the scheme.
    """
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
    default_port = {"https": 443, "http": 80}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in (None, default_port) else f":{port}")


async def get_allowed_origins(conn: Connection, application_id: UUID) -> list[str]:
    """Return the web origins that an application allows."""
    return await records.get_allowed_origins(conn, application_id)
