"""A control of the adversary suite: the bystander's alert without an attack."""

from tests.support.bystander import Bystander


async def test_bystander_alert_is_on_time_when_idle(bystander: Bystander) -> None:
    """The bystander's alert reaches every device in time while nothing else happens."""
    await bystander.check_alert()
