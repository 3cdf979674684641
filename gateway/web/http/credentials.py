"""Look up credentials within a limit for each client address."""

from gateway.domain.errors import Unauthenticated
from gateway.service.access.authentication import Principal
from gateway.web.http.routing import WebState


async def identify(state: WebState, address: str, bearer: str) -> Principal:
    """Return the principal behind a bearer token; charge the lookup of an unknown credential to the client address.

    A lookup that succeeds or cannot be done costs nothing, and a credential that succeeded before is looked up whatever
    else its address has sent.

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
