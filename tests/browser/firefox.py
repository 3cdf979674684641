"""A real headless Firefox that is connected to the simulated push service.

Without D-Bus, Firefox displays notifications in its own windows. Tests read and click these windows, which needs
Firefox's system access, so they check what is on screen and not only what the service worker reports.
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

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
# Firefox raises no event for its notification windows, so tests poll for them.
POLL_INTERVAL_S = 0.05

PUSH_PREFS: dict[str, Any] = {
    "dom.push.enabled": True,
    "dom.push.connection.enabled": True,
    "dom.push.testing.allowInsecureServerURL": True,
    "dom.push.retryBaseInterval": 200,
    # The remote agent's recommended preferences disable push.
    "remote.prefs.recommended": False,
    "permissions.default.desktop-notification": 1,
    "alerts.useSystemBackend": False,
    # The location of every page is Vienna.
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
class ScreenNotification:
    """One notification on screen."""

    context: str
    title: str
    body: str
    source: str


class Tab:
    """One tab of the browser."""

    def __init__(self, bidi: Bidi, context: str) -> None:
        self.bidi = bidi
        self.context = context

    async def open(self, url: str) -> None:
        """Navigate and wait until the page has loaded."""
        await self.bidi.command("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def js(self, expression: str, timeout: float = 30) -> Any:
        """Evaluate an expression in the page."""
        return await self.bidi.evaluate(self.context, expression, timeout)

    async def until(self, condition: str, timeout: float = 15) -> Any:
        """Wait in the page until the expression is truthy, and return its value."""
        try:
            return await self.js(
                "new Promise(resolve => { const check = async () => { const value = await (" + condition + ");"
                " if (value) resolve(value); else setTimeout(check, 20); }; check(); })",
                timeout,
            )
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {condition}") from None

    async def click(self, selector: str) -> None:
        """Click an element with the mouse, which gives the user activation that permission prompts require."""
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
        """Close the tab."""
        await self.bidi.command("browsingContext.close", context=self.context)


class Firefox:
    """The browser: its tabs, permissions and notifications."""

    def __init__(self, bidi: Bidi) -> None:
        self.bidi = bidi

    @asynccontextmanager
    async def tab(self, url: str) -> AsyncIterator[Tab]:
        """Open a URL in a new tab, and close it at the end."""
        result = await self.bidi.command("browsingContext.create", type="tab")
        tab = Tab(self.bidi, result["context"])
        try:
            await tab.open(url)
            yield tab
        finally:
            await tab.close()

    async def urls(self) -> list[str]:
        """Return the URLs of all open pages."""
        tree = await self.bidi.command("browsingContext.getTree")
        return [context["url"] for context in tree["contexts"]]

    async def wait_for_page(self, url: str, timeout: float = 15) -> None:
        """Wait until a page with this URL is open."""

        async def find() -> bool | None:
            return url in await self.urls() or None

        await _poll(find, timeout)

    async def close_pages(self, prefix: str) -> None:
        """Close all pages whose URL starts with the prefix."""
        tree = await self.bidi.command("browsingContext.getTree")
        for context in tree["contexts"]:
            if context["url"].startswith(prefix):
                await self.bidi.command("browsingContext.close", context=context["context"])

    async def set_permission(self, origin: str, state: str) -> None:
        """Set the notification permission of an origin: `granted`, `denied` or `prompt`."""
        await self.bidi.command(
            "permissions.setPermission", descriptor={"name": "notifications"}, state=state, origin=origin
        )

    async def drop_subscription(self, scope: str) -> None:
        """Remove the subscription of a worker scope, as a push service may, and notify the worker."""
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

    async def notifications(self) -> list[ScreenNotification]:
        """Return the notifications on screen."""
        tree = await self.bidi.command("browsingContext.getTree", **{"moz:scope": "chrome"})
        notifications = []
        for context in tree["contexts"]:
            if not context["url"].endswith("/alert.xhtml"):
                continue
            try:
                texts = await self.bidi.evaluate(
                    context["context"],
                    "[alertTitleLabel.getAttribute('value'), alertTextLabel.textContent,"
                    " alertSourceLabel.getAttribute('value')]",
                )
            except BidiError:
                continue  # The window has just closed, or has not been drawn yet.
            notifications.append(ScreenNotification(context["context"], *texts))
        return notifications

    async def wait_for_notification(self, title: str, timeout: float = 15) -> ScreenNotification:
        """Wait until a notification with this title is on screen."""

        async def find() -> ScreenNotification | None:
            return next((item for item in await self.notifications() if item.title == title), None)

        return await _poll(find, timeout)

    async def wait_until_closed(self, notification: ScreenNotification, timeout: float = 15) -> None:
        """Wait until a notification is no longer on screen."""

        async def find() -> bool | None:
            return notification.context not in {item.context for item in await self.notifications()} or None

        await _poll(find, timeout)

    async def click_notification(self, notification: ScreenNotification) -> None:
        """Click a notification."""
        await self.bidi.evaluate(notification.context, "alertNotification.click()")

    async def dismiss(self, notification: ScreenNotification) -> None:
        """Close a notification with its close button."""
        await self.bidi.evaluate(notification.context, "document.getElementById('alert-close').doCommand()")

    async def dismiss_all(self) -> None:
        """Close all notifications immediately, without the animation of a dismissal."""
        for notification in await self.notifications():
            await self.bidi.evaluate(notification.context, "setTimeout(() => window.close())")
            await self.wait_until_closed(notification)


async def _poll(find: Callable[[], Awaitable[T | None]], timeout: float) -> T:
    """Call `find` until it returns a value, and return the value."""
    async with asyncio.timeout(timeout):
        while (result := await find()) is None:  # noqa: ASYNC110 - the state is in another process
            await asyncio.sleep(POLL_INTERVAL_S)
    return result


def _read_session_url(port_file: Path) -> str | None:
    """Return the WebSocket URL of the BiDi session, or None until Firefox has written the file."""
    try:
        server = json.loads(port_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return f"ws://{server['ws_host']}:{server['ws_port']}/session"


def _write_profile(profile: Path, push_socket: str) -> dict[str, str]:
    """Write the preferences into the profile, and return the environment of the Firefox process."""
    prefs = QUIET_PREFS | PUSH_PREFS | {"dom.push.serverURL": push_socket}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items()]
    (profile / "user.js").write_text("".join(lines))
    environment = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    return environment | {
        "HOME": str(profile),
        "MOZ_CRASHREPORTER_DISABLE": "1",
        # A release build ignores services.settings.server without this.
        "MOZ_REMOTE_SETTINGS_DEVTOOLS": "1",
        "DBUS_SESSION_BUS_ADDRESS": "disabled:",
    }


@asynccontextmanager
async def running_firefox(push_socket: str) -> AsyncIterator[Firefox]:
    """Run Firefox with a temporary profile; `push_socket` is the ws:// URL of its push service."""
    assert BINARY
    with tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as directory:
        profile = Path(directory)
        process = await asyncio.create_subprocess_exec(
            *[BINARY, "--headless", "--no-remote", "--new-instance", "--profile", directory],
            *["--remote-debugging-port", "0", "--remote-allow-system-access", "about:blank"],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=_write_profile(profile, push_socket),
            start_new_session=True,
        )

        async def find_session_url() -> str | None:
            assert process.returncode is None, f"Firefox ended with {process.returncode}"
            return await asyncio.to_thread(_read_session_url, profile / "WebDriverBiDiServer.json")

        try:
            bidi = await Bidi.connect(await _poll(find_session_url, START_TIMEOUT_S))
            try:
                await bidi.command("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
                yield Firefox(bidi)
                await bidi.command("browser.close")
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            finally:
                await bidi.close()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # `start_new_session` gave the process its own group
                await process.wait()
