"""The subscriptions that this push service knows, of simulated devices and of real browsers."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.domain.device import Subscription
from gateway.sim import base64url
from gateway.sim.journal import Journal
from gateway.sim.keys import Keys, load_point
from gateway.sim.messages import Message, MessageLog
from gateway.sim.profiles import PROFILES, Vendor


@dataclass(frozen=True, slots=True)
class Channel:
    """A real Firefox's subscription: the browser (`uaid`) and its own name for the subscription."""

    uaid: str
    channel_id: str


@dataclass(slots=True, eq=False)
class Subscriber:
    """One subscription. A simulated device has `keys`, a real browser a `channel` and its keys to itself."""

    token: str
    vendor: Vendor
    endpoint: str
    vapid_public_key: bytes | None
    keys: Keys | None
    channel: Channel | None
    gone: bool = False
    _messages: MessageLog = field(repr=False, kw_only=True)

    @property
    def messages(self) -> list[Message]:
        """What it was sent and is still kept, oldest first."""
        return self._messages.to(self.endpoint)

    @property
    def p256dh(self) -> bytes:
        return self._own_keys.p256dh

    @property
    def auth(self) -> bytes:
        return self._own_keys.auth

    @property
    def subscription(self) -> Subscription:
        return Subscription(self.endpoint, self.p256dh, self.auth)

    def to_json(self) -> dict[str, Any]:
        """As PushSubscription.toJSON() gives it (Push API section 8)."""
        keys = {"p256dh": base64url.encode(self.p256dh), "auth": base64url.encode(self.auth)}
        return {"endpoint": self.endpoint, "expirationTime": None, "keys": keys}

    @property
    def _own_keys(self) -> Keys:
        if self.keys is None:
            raise LookupError("the keys of a real browser are known to the browser only")
        return self.keys


class Subscribers:
    """By token; kept in `state_file` when there is one. Endpoints follow `origins`, so fixed ports keep them."""

    def __init__(self, messages: MessageLog, origins: Mapping[Vendor, str], state_file: Path | None) -> None:
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
        keys: Iterable[Keys] = (),
        channel: Channel | None = None,
    ) -> list[Subscriber]:
        """One for each of the keys, or the one of a browser's channel; raises ValueError for a bad VAPID key."""
        if vapid_public_key is not None:
            load_point(vapid_public_key)
        owners: Iterable[Keys | None] = [None] if channel else keys
        added = [self._keep(secrets.token_urlsafe(32), vendor, vapid_public_key, own, channel) for own in owners]
        if self._journal is not None:
            self._journal.append(map(_record, added))
        return added

    def remove(self, subscriber: Subscriber) -> None:
        """From now on it is gone, and its endpoint says so."""
        self._forget(subscriber)
        if self._journal is not None:
            self._journal.append([{"gone": subscriber.token}])

    def get(self, token: str) -> Subscriber | None:
        return self._by_token.get(token)

    def at(self, endpoint: str) -> Subscriber | None:
        return next((subscriber for subscriber in self if subscriber.endpoint == endpoint), None)

    def on(self, channel: Channel) -> Subscriber | None:
        return self._by_channel.get(channel)

    def knows_browser(self, uaid: str) -> bool:
        return any(channel.uaid == uaid for channel in self._by_channel)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(self._by_token.values())

    def __len__(self) -> int:
        return len(self._by_token)

    def _keep(
        self, token: str, vendor: Vendor, vapid_public_key: bytes | None, keys: Keys | None, channel: Channel | None
    ) -> Subscriber:
        endpoint = self._origins[vendor] + PROFILES[vendor].path.format(token=token)
        subscriber = Subscriber(token, vendor, endpoint, vapid_public_key, keys, channel, _messages=self._messages)
        self._by_token[token] = subscriber
        if channel is not None:
            self._by_channel[channel] = subscriber
        return subscriber

    def _forget(self, subscriber: Subscriber) -> None:
        subscriber.gone = True
        if subscriber.channel is not None:
            self._by_channel.pop(subscriber.channel, None)

    def _replay(self, record: dict[str, Any]) -> None:
        if "gone" in record:
            self._forget(self._by_token[record["gone"]])
            return
        vapid, keys, channel = record["vapid_public_key"], record["keys"], record["channel"]
        self._keep(
            record["token"],
            Vendor(record["vendor"]),
            vapid and base64url.decode(vapid),
            keys and Keys(int(keys[0], 16), base64url.decode(keys[1]), base64url.decode(keys[2])),
            channel and Channel(*channel),
        )


def _record(subscriber: Subscriber) -> dict[str, Any]:
    vapid, keys, channel = subscriber.vapid_public_key, subscriber.keys, subscriber.channel
    return {
        "token": subscriber.token,
        "vendor": subscriber.vendor,
        "vapid_public_key": vapid and base64url.encode(vapid),
        "keys": keys and [f"{keys.scalar:x}", base64url.encode(keys.p256dh), base64url.encode(keys.auth)],
        "channel": channel and [channel.uaid, channel.channel_id],
    }
