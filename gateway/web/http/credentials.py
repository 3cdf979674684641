"""Look up credentials within a limit for each client address."""

from gateway.domain.errors import Unauthenticated
from gateway.service.access.authentication import Principal
from gateway.web.http.routing import WebState


async def identify(state: WebState, address: str, bearer: str) -> Principal:
    """Return the principal of a bearer token; charge the lookup of an unknown credential to the client address.

    A lookup is not charged if it succeeds, or if the database is unavailable. A credential whose lookup has succeeded
    before is looked up even if its address has used up the limit.

    Raises:
        RateLimited: the address has sent too many unknown credentials.
        Unauthenticated: the credential is unknown, or was removed.
    """
    if not state.authenticator.may_fail_lookup(bearer):
        return await state.authenticator.identify(bearer)
    state.limits.lookup_buckets.acquire(address)
    is_unknown = False
    try:
        return await state.authenticator.identify(bearer)
    except Unauthenticated:
        is_unknown = True
        raise
    finally:
        if not is_unknown:
            state.limits.lookup_buckets.refund(address)
