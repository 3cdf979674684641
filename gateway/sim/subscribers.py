"""Subscriptions of simulated devices and real browsers."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.domain.device import Subscription
from gateway.sim import base64url
from gateway.sim.journal import Journal
from gateway.sim.keys import DeviceKeys, load_point
from gateway.sim.messages import Message, MessageLog
from gateway.sim.profiles import PROFILES, Vendor


@dataclass(frozen=True, slots=True)
class Channel:
    """Identifies a subscription of a real Firefox: the id of the browser (`uaid`), and the channel id that it chose."""

    uaid: str
    channel_id: str


@dataclass(slots=True, eq=False)
class Subscriber:
    """One subscription. A simulated device has `keys`; a real browser has a `channel` and does not reveal its keys."""

    token: str
    vendor: Vendor
    endpoint: str
    vapid_public_key: bytes | None
    keys: DeviceKeys | None
    channel: Channel | None
    gone: bool = False
    _messages: MessageLog = field(repr=False, kw_only=True)

    @property
    def messages(self) -> list[Message]:
        """Return the stored messages to this subscription, oldest first."""
        return self._messages.find_by_endpoint(self.endpoint)

    @property
    def p256dh(self) -> bytes:
        """Return the public key."""
        return self._require_keys.p256dh

    @property
    def auth(self) -> bytes:
        """Return the authentication secret."""
        return self._require_keys.auth

    @property
    def subscription(self) -> Subscription:
        """Return endpoint and keys."""
        return Subscription(self.endpoint, self.p256dh, self.auth)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of PushSubscription.toJSON() (Push API section 8)."""
        keys = {"p256dh": base64url.encode(self.p256dh), "auth": base64url.encode(self.auth)}
        return {"endpoint": self.endpoint, "expirationTime": None, "keys": keys}

    @property
    def _require_keys(self) -> DeviceKeys:
        if self.keys is None:
            raise LookupError("the subscription is that of a real browser, which does not reveal its keys")
        return self.keys


class Subscribers:
    """All subscriptions by token, stored in `state_file` if given.

    Endpoints are built from `origins` and tokens, so they are the same after a restart with the same ports.
    """

    def __init__(self, messages: MessageLog, origins: Mapping[Vendor, str], state_file: Path | None) -> None:
        """Load the state file."""
        self._messages = messages
        self._origins = origins
        self._by_token: dict[str, Subscriber] = {}
        self._by_channel: dict[Channel, Subscriber] = {}
        self._journal = None if state_file is None else Journal(state_file)
        if self._journal is not None:
            for record in self._journal.replay():
                self._replay(record)

    def add(
        self,
        vendor: Vendor,
        vapid_public_key: bytes | None,
        keys: Iterable[DeviceKeys] = (),
        channel: Channel | None = None,
    ) -> list[Subscriber]:
        """Create a subscription for each of the keys, or one for a browser's channel.

        Raises:
            ValueError: the VAPID key is invalid.
        """
        if vapid_public_key is not None:
            load_point(vapid_public_key)
        all_keys: Iterable[DeviceKeys | None] = [None] if channel else keys
        added = [
            self._create(secrets.token_urlsafe(32), vendor, vapid_public_key, device_keys, channel)
            for device_keys in all_keys
        ]
        if self._journal is not None:
            self._journal.append(map(_to_record, added))
        return added

    def remove(self, subscriber: Subscriber) -> None:
        """Mark a subscription as gone."""
        self._mark_gone(subscriber)
        if self._journal is not None:
            self._journal.append([{"gone": subscriber.token}])

    def get(self, token: str) -> Subscriber | None:
        """Return the subscription with this token."""
        return self._by_token.get(token)

    def find_by_endpoint(self, endpoint: str) -> Subscriber | None:
        """Return the subscription with this endpoint."""
        return next((subscriber for subscriber in self if subscriber.endpoint == endpoint), None)

    def find_by_channel(self, channel: Channel) -> Subscriber | None:
        """Return the subscription of this channel."""
        return self._by_channel.get(channel)

    def has_browser(self, uaid: str) -> bool:
        """Return whether a browser has a subscription."""
        return any(channel.uaid == uaid for channel in self._by_channel)

    def close(self) -> None:
        """Close the state file."""
        if self._journal is not None:
            self._journal.close()

    def __iter__(self) -> Iterator[Subscriber]:
        """Iterate over all subscriptions."""
        return iter(self._by_token.values())

    def __len__(self) -> int:
        """Return the number of subscriptions."""
        return len(self._by_token)

    def _create(
        self,
        token: str,
        vendor: Vendor,
        vapid_public_key: bytes | None,
        keys: DeviceKeys | None,
        channel: Channel | None,
    ) -> Subscriber:
        endpoint = self._origins[vendor] + PROFILES[vendor].path.format(token=token)
        subscriber = Subscriber(token, vendor, endpoint, vapid_public_key, keys, channel, _messages=self._messages)
        self._by_token[token] = subscriber
        if channel is not None:
            self._by_channel[channel] = subscriber
        return subscriber

    def _mark_gone(self, subscriber: Subscriber) -> None:
        subscriber.gone = True
        if subscriber.channel is not None:
            self._by_channel.pop(subscriber.channel, None)

    def _replay(self, record: dict[str, Any]) -> None:
        if "gone" in record:
            self._mark_gone(self._by_token[record["gone"]])
            return
        vapid, keys, channel = record["vapid_public_key"], record["keys"], record["channel"]
        self._create(
            record["token"],
            Vendor(record["vendor"]),
            vapid and base64url.decode(vapid),
            keys and DeviceKeys(int(keys[0], 16), base64url.decode(keys[1]), base64url.decode(keys[2])),
            channel and Channel(*channel),
        )


def _to_record(subscriber: Subscriber) -> dict[str, Any]:
    vapid, keys, channel = subscriber.vapid_public_key, subscriber.keys, subscriber.channel
    return {
        "token": subscriber.token,
        "vendor": subscriber.vendor,
        "vapid_public_key": vapid and base64url.encode(vapid),
        "keys": keys and [f"{keys.scalar:x}", base64url.encode(keys.p256dh), base64url.encode(keys.auth)],
        "channel": channel and [channel.uaid, channel.channel_id],
    }
