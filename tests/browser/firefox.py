"""A real headless Firefox whose push service is ours, and the notifications its user would see.

Firefox draws notifications itself here (no D-Bus), as small windows of its own. With system access a test reads and
clicks those windows, so 'shown' means on screen and not 'the service worker says so'.
"""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bidi import Bidi, BidiError

T = TypeVar("T")

BINARY = shutil.which("firefox-esr") or shutil.which("firefox")

START_SECONDS = 60
STOP_SECONDS = 10
# What has no event to await (windows of the browser itself) is looked at this often.
LOOK_SECONDS = 0.05

PUSH_PREFS: dict[str, Any] = {
    "dom.push.enabled": True,
    "dom.push.connection.enabled": True,
    "dom.push.testing.allowInsecureServerURL": True,
    "dom.push.retryBaseInterval": 200,
    # The remote agent's recommended preferences turn push off.
    "remote.prefs.recommended": False,
    "permissions.default.desktop-notification": 1,
    "alerts.useSystemBackend": False,
    # Where it is, whoever asks: in Vienna.
    "permissions.default.geo": 1,
    "geo.provider.network.url": 'data:application/json,{"location": {"lat": 48.2082, "lng": 16.3738}, "accuracy": 20}',
    "geo.provider.use_geoclue": False,
}
QUIET_PREFS: dict[str, Any] = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.aboutwelcome.enabled": False,
    "browser.ml.enable": False,
    "browser.newtabpage.enabled": False,
    "browser.preonboarding.enabled": False,
    "browser.region.network.url": "",
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.search.update": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "browser.startup.page": 0,
    "browser.topsites.contile.enabled": False,
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.usage.uploadEnabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.systemAddon.update.enabled": False,
    "extensions.update.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disablePrefetch": True,
    "network.manage-offline-status": False,
    "network.prefetch-next": False,
    "security.certerrors.mitm.priming.enabled": False,
    "security.remote_settings.intermediates.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "termsofuse.bypassNotification": True,
    "toolkit.startup.max_resumed_crashes": -1,
    "toolkit.telemetry.server": "",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """One notification on screen."""

    context: str
    title: str
    body: str
    source: str


class Tab:
    def __init__(self, bidi: Bidi, context: str) -> None:
        self.bidi = bidi
        self.context = context

    async def open(self, url: str) -> None:
        await self.bidi.command("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def js(self, expression: str, timeout: float = 30) -> Any:
        return await self.bidi.evaluate(self.context, expression, timeout)

    async def until(self, condition: str, timeout: float = 15) -> Any:
        """Wait in the page until the expression is truthy, and answer its value."""
        try:
            return await self.js(
                "new Promise(found => { const look = async () => { const value = await (" + condition + ");"
                " if (value) found(value); else setTimeout(look, 20); }; look(); })",
                timeout,
            )
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {condition}") from None

    async def click(self, selector: str) -> None:
        """Click as a user does: what follows has the user activation that browsers demand for some questions."""
        located = await self.bidi.command(
            "browsingContext.locateNodes", context=self.context, locator={"type": "css", "value": selector}
        )
        [node] = located["nodes"]
        origin = {"type": "element", "element": {"sharedId": node["sharedId"]}}
        actions = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        await self.bidi.command(
            "input.performActions",
            context=self.context,
            actions=[{"type": "pointer", "id": "mouse", "actions": actions}],
        )

    async def close(self) -> None:
        await self.bidi.command("browsingContext.close", context=self.context)


class Firefox:
    def __init__(self, bidi: Bidi) -> None:
        self.bidi = bidi

    @asynccontextmanager
    async def tab(self, url: str) -> AsyncIterator[Tab]:
        created = await self.bidi.command("browsingContext.create", type="tab")
        tab = Tab(self.bidi, created["context"])
        try:
            await tab.open(url)
            yield tab
        finally:
            await tab.close()

    async def urls(self) -> list[str]:
        """Addresses of all open pages."""
        tree = await self.bidi.command("browsingContext.getTree")
        return [context["url"] for context in tree["contexts"]]

    async def page(self, url: str, timeout: float = 15) -> None:
        """Wait for a page with this address to be open."""

        async def find() -> bool | None:
            return url in await self.urls() or None

        await _look(find, timeout)

    async def close_pages(self, prefix: str) -> None:
        tree = await self.bidi.command("browsingContext.getTree")
        for context in tree["contexts"]:
            if context["url"].startswith(prefix):
                await self.bidi.command("browsingContext.close", context=context["context"])

    async def permit(self, origin: str, state: str) -> None:
        """Set the notification permission of an origin: `granted`, `denied` or `prompt`."""
        await self.bidi.command(
            "permissions.setPermission", descriptor={"name": "notifications"}, state=state, origin=origin
        )

    async def drop_subscription(self, scope: str) -> None:
        """Take the subscription of this worker scope away, as a push service may, and tell the worker."""
        tree = await self.bidi.command("browsingContext.getTree", **{"moz:scope": "chrome"})
        window = next(context for context in tree["contexts"] if context["url"].endswith("/browser.xhtml"))
        await self.bidi.evaluate(
            window["context"],
            "new Promise((resolve, reject) => {"
            f" const scope = {json.dumps(scope)};"
            " const principal = Services.scriptSecurityManager.createContentPrincipalFromOrigin(new URL(scope).origin);"
            " const push = Cc['@mozilla.org/push/Service;1'].getService(Ci.nsIPushService);"
            " const notifier = Cc['@mozilla.org/push/Notifier;1'].getService(Ci.nsIPushNotifier);"
            " push.unsubscribe(scope, principal, result => {"
            "  if (result) reject(result);"
            "  else { notifier.notifySubscriptionChange(scope, principal); resolve(true); }"
            " }); })",
        )

    async def alerts(self) -> list[Alert]:
        tree = await self.bidi.command("browsingContext.getTree", **{"moz:scope": "chrome"})
        alerts = []
        for context in tree["contexts"]:
            if not context["url"].endswith("/alert.xhtml"):
                continue
            try:
                words = await self.bidi.evaluate(
                    context["context"],
                    "[alertTitleLabel.getAttribute('value'), alertTextLabel.textContent,"
                    " alertSourceLabel.getAttribute('value')]",
                )
            except BidiError:
                continue  # It closed while we looked, or has not been drawn yet.
            alerts.append(Alert(context["context"], *words))
        return alerts

    async def alert(self, title: str, timeout: float = 15) -> Alert:
        """Wait for the notification with this title to be on screen."""

        async def find() -> Alert | None:
            return next((alert for alert in await self.alerts() if alert.title == title), None)

        return await _look(find, timeout)

    async def alert_closed(self, alert: Alert, timeout: float = 15) -> None:
        async def find() -> bool | None:
            return alert.context not in {shown.context for shown in await self.alerts()} or None

        await _look(find, timeout)

    async def click_alert(self, alert: Alert) -> None:
        await self.bidi.evaluate(alert.context, "alertNotification.click()")

    async def dismiss_alert(self, alert: Alert) -> None:
        await self.bidi.evaluate(alert.context, "document.getElementById('alert-close').doCommand()")

    async def dismiss_all_alerts(self) -> None:
        """Clear the screen at once, without the fading out of a dismissal."""
        for alert in await self.alerts():
            await self.bidi.evaluate(alert.context, "setTimeout(() => window.close())")
            await self.alert_closed(alert)


async def _look(find: Callable[[], Awaitable[T | None]], timeout: float) -> T:
    """Look until it is found: the browser has no event for these things."""
    async with asyncio.timeout(timeout):
        while (found := await find()) is None:  # noqa: ASYNC110 - what is looked at is in another process
            await asyncio.sleep(LOOK_SECONDS)
    return found


def _written_port(port_file: Path) -> str | None:
    try:
        written = json.loads(port_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return f"ws://{written['ws_host']}:{written['ws_port']}/session"


def _prepare(profile: Path, push_socket: str) -> dict[str, str]:
    """Write the profile's settings; gives the environment to run with."""
    prefs = QUIET_PREFS | PUSH_PREFS | {"dom.push.serverURL": push_socket}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items()]
    (profile / "user.js").write_text("".join(lines))
    displayless = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    return displayless | {
        "HOME": str(profile),
        "MOZ_CRASHREPORTER_DISABLE": "1",
        # Without it a release build ignores services.settings.server.
        "MOZ_REMOTE_SETTINGS_DEVTOOLS": "1",
        "DBUS_SESSION_BUS_ADDRESS": "disabled:",
    }


@asynccontextmanager
async def running_firefox(push_socket: str) -> AsyncIterator[Firefox]:
    """Firefox with a fresh profile, its push connection at `push_socket` (ws://...); gone without a trace after."""
    assert BINARY
    with tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as directory:
        profile = Path(directory)
        process = await asyncio.create_subprocess_exec(
            *[BINARY, "--headless", "--no-remote", "--new-instance", "--profile", directory],
            *["--remote-debugging-port", "0", "--remote-allow-system-access", "about:blank"],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=_prepare(profile, push_socket),
            start_new_session=True,
        )

        async def control() -> str | None:
            assert process.returncode is None, f"Firefox ended with {process.returncode}"
            return await asyncio.to_thread(_written_port, profile / "WebDriverBiDiServer.json")

        try:
            bidi = await Bidi.connect(await _look(control, START_SECONDS))
            try:
                await bidi.command("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
                yield Firefox(bidi)
                await bidi.command("browser.close")
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            finally:
                await bidi.close()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # Its own process group: only ours.
                await process.wait()
