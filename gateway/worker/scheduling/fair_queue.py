"""The order of messages in each lane: round-robin between tenants, and between the hosts of one tenant.

A tenant is an application. A `MessageQueue` contains the messages of one tenant for one host in one lane, in order of
arrival. A queue is ready if it takes part in the round-robin. Otherwise it waits at a full host (`host_gate`), which
makes it ready again. The fair queue uses hosts only as keys; `host_gate` decides whether messages may be sent to them.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar
from uuid import UUID

from gateway.domain.notification import Lane

M = TypeVar("M")


class MessageQueue(Generic[M]):
    """The waiting messages of one tenant for one host in one lane, first in, first out."""

    __slots__ = ("host", "lane", "messages", "tenant")

    def __init__(self, tenant: "TenantQueue[M]", host: str, messages: Iterable[M]) -> None:
        """Create a queue with `messages`, which is not ready yet."""
        self.tenant = tenant
        self.lane = tenant.lane
        self.host = host
        self.messages = deque(messages)


class TenantQueue(Generic[M]):
    """The queues of one tenant in one lane, one for each host. `ready` has the ready ones, in round-robin order."""

    __slots__ = ("application_id", "lane", "queue_count", "ready")

    def __init__(self, lane: Lane, application_id: UUID) -> None:
        """Create a tenant without queues."""
        self.lane = lane
        self.application_id = application_id
        self.queue_count = 0
        self.ready: deque[MessageQueue[M]] = deque()


class FairQueue(Generic[M]):
    """The messages of all tenants.

    The head of a lane is the queue whose turn it is. The caller either takes a message from the head (`pop`), and then
    it is the turn of the next tenant. Or the caller removes the head from the round-robin (`skip`), and then it is the
    turn of the same tenant's next queue.
    """

    __slots__ = ("_round_robin", "_tenants")

    def __init__(self) -> None:
        """Create an empty fair queue."""
        # The tenants with at least one ready queue, in round-robin order.
        self._round_robin: dict[Lane, deque[TenantQueue[M]]] = {lane: deque() for lane in Lane}
        # The tenants with at least one queue, ready or not.
        self._tenants: dict[tuple[Lane, UUID], TenantQueue[M]] = {}

    @property
    def has_ready(self) -> bool:
        """Whether any queue is ready."""
        return any(self._round_robin.values())

    @property
    def is_empty(self) -> bool:
        """Whether there are no queues, neither ready ones nor ones that wait at a host."""
        return not self._tenants

    def open(self, lane: Lane, application_id: UUID, host: str, messages: Iterable[M]) -> MessageQueue[M]:
        """Create a queue and make it ready. `messages` must not be empty."""
        tenant = self._tenants.get((lane, application_id))
        if tenant is None:
            tenant = self._tenants[lane, application_id] = TenantQueue(lane, application_id)
        tenant.queue_count += 1
        queue = MessageQueue(tenant, host, messages)
        self.make_ready(queue)
        return queue

    def close(self, queue: MessageQueue[M]) -> None:
        """Remove a queue that is not ready, and its tenant if that has no other queue."""
        tenant = queue.tenant
        tenant.queue_count -= 1
        if not tenant.queue_count:
            del self._tenants[tenant.lane, tenant.application_id]

    def make_ready(self, queue: MessageQueue[M]) -> None:
        """Append a queue to the round-robin."""
        tenant = queue.tenant
        if not tenant.ready:
            self._round_robin[tenant.lane].append(tenant)
        tenant.ready.append(queue)

    def head(self, lane: Lane) -> MessageQueue[M] | None:
        """Return the queue whose turn it is, or None if no queue of the lane is ready."""
        tenants = self._round_robin[lane]
        return tenants[0].ready[0] if tenants else None

    def pop(self, lane: Lane) -> M:
        """Take the first message of the head; then it is the next tenant's turn. An empty queue is no longer ready."""
        tenants = self._round_robin[lane]
        ready = tenants[0].ready
        messages = ready[0].messages
        message = messages.popleft()
        if messages:
            ready.rotate(-1)
        else:
            ready.popleft()
        if ready:
            tenants.rotate(-1)
        else:
            tenants.popleft()
        return message

    def skip(self, lane: Lane) -> None:
        """Remove the head from the round-robin. The turn passes to the next queue of the same tenant, if it has one."""
        tenants = self._round_robin[lane]
        ready = tenants[0].ready
        ready.popleft()
        if not ready:
            tenants.popleft()

    def remove(self, queue: MessageQueue[M]) -> bool:
        """Remove a queue from the round-robin; return False if the queue is not ready."""
        tenant = queue.tenant
        if queue not in tenant.ready:
            return False
        tenant.ready.remove(queue)
        if not tenant.ready:
            self._round_robin[tenant.lane].remove(tenant)
        return True
