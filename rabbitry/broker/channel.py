"""A channel: what each method does, and in which mode the channel is (confirms, a transaction, direct reply-to).

What must stay true: a method is carried out wholly or refused (`Refusal`) with nothing changed; a reply is queued
before what it sets off (deliveries to a new consumer, say). Queues the answers, sends nothing. What is published is in
`publishing`, what is consumed and settled in `consuming`, what is declared and bound in `declaring`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rabbitry.broker.consuming import Consuming, Outcome
from rabbitry.broker.declaring import DECLARING, declare
from rabbitry.broker.messages import Message
from rabbitry.broker.names import generated_name
from rabbitry.broker.peer import Peer
from rabbitry.broker.publishing import Publishing
from rabbitry.broker.queues import Queue
from rabbitry.broker.replies import REPLY_TO
from rabbitry.broker.transactions import Publish, Settlement, Transaction
from rabbitry.broker.unsettled import Unsettled
from rabbitry.protocol.server.events import Command
from rabbitry.protocol.server.refusals import Refusal, term
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method

__all__ = ["Channel"]


class Channel:
    """One channel of one client."""

    __slots__ = (
        "_consuming",
        "_last_queue",
        "_number",
        "_peer",
        "_publishing",
        "_reply_address",
        "_reply_tag",
        "_transaction",
    )

    def __init__(self, number: int, peer: Peer) -> None:
        self._number = number
        self._peer = peer
        self._publishing = Publishing(number, peer)
        self._consuming = Consuming(number, peer)
        self._transaction: Transaction | None = None
        self._reply_address = self._reply_tag = ""
        self._last_queue = ""

    # --- what happens to it ----------------------------------------------------------------------------------------

    def handle(self, command: Command, now: float) -> None:
        """Carry out a command. Raises `Refusal`."""
        handler = _HANDLERS.get(type(command.method))
        if handler is None:
            raise Refusal(503, "unimplemented method")
        handler(self, command.method if handler is not Channel._publish else command, now)

    def release(self, now: float) -> None:
        """The channel is over: consumers go, what is not settled comes back to its queues."""
        self._peer.vhost.replies.remove(self._reply_address)
        transaction, self._transaction = self._transaction, None
        self._consuming.release(() if transaction is None else transaction.held(), now)
        self._publishing.release(now)

    def flush_confirms(self) -> None:
        """Confirm what was published since the last time."""
        self._publishing.flush_confirms()

    def look_at_time(self, now: float) -> float | None:
        """When to be called next, if ever. Raises the `Refusal` of a delivery that was held too long."""
        return self._consuming.look_at_time(now)

    def go_on(self, now: float) -> None:
        """The client has read what waited for it."""
        self._consuming.go_on(now)

    @property
    def held(self) -> Iterable[Unsettled]:
        """The deliveries that are not settled, the oldest first."""
        return self._consuming.held

    def deliver_reply(self, message: Message) -> None:
        """See `ReplyConsumer`."""
        self._consuming.deliver_reply(self._reply_tag, message)

    def _send(self, method: Method) -> None:
        self._peer.connection.send(self._number, method)

    # --- publishing ------------------------------------------------------------------------------------------------

    def _publish(self, command: Command, now: float) -> None:
        method: methods.BasicPublish = command.method  # type: ignore[assignment]
        exchange, message = self._publishing.check(command, self._reply_address)
        if self._transaction is not None:
            queues = self._peer.vhost.route(exchange, message)
            self._transaction.publishes.append(Publish(exchange, message, method.mandatory, queues))
        else:
            self._publishing.publish(exchange, message, method.mandatory, now)

    def _confirm_select(self, method: methods.ConfirmSelect, now: float) -> None:
        if self._transaction is not None:
            raise Refusal(406, "cannot switch from tx to confirm mode")
        self._publishing.is_confirmed = True
        if not method.nowait:
            self._send(methods.ConfirmSelectOk())

    # --- consuming -------------------------------------------------------------------------------------------------

    def _qos(self, method: methods.BasicQos, now: float) -> None:
        self._consuming.qos(method, now)

    def _consume(self, method: methods.BasicConsume, now: float) -> None:
        if method.queue == REPLY_TO:
            self._consume_replies(method)
        else:
            self._consuming.check_tag(method.consumer_tag)
            self._consuming.consume(self._queue_name(method.queue), method, now)

    def _consume_replies(self, method: methods.BasicConsume) -> None:
        self._consuming.check_tag(method.consumer_tag)
        if not method.no_ack:
            raise Refusal(406, "reply consumer cannot acknowledge")
        if self._reply_address:
            raise Refusal(406, "reply consumer already set")
        self._reply_tag = method.consumer_tag or generated_name("amq.ctag")
        self._reply_address = self._peer.vhost.replies.add(self)
        if not method.nowait:
            self._send(methods.BasicConsumeOk(consumer_tag=self._reply_tag))

    def _cancel(self, method: methods.BasicCancel, now: float) -> None:
        if method.consumer_tag == self._reply_tag and self._reply_address:
            self._peer.vhost.replies.remove(self._reply_address)
            self._reply_address = self._reply_tag = ""
        self._consuming.cancel(method, now)

    def _get(self, method: methods.BasicGet, now: float) -> None:
        self._consuming.get(self._queue_name(method.queue), method, now)

    # --- settling --------------------------------------------------------------------------------------------------

    def _ack(self, method: methods.BasicAck, now: float) -> None:
        self._settle("ack", method.delivery_tag, method.multiple, now)

    def _nack(self, method: methods.BasicNack, now: float) -> None:
        outcome = self._consuming.returning if method.requeue else "reject"
        self._settle(outcome, method.delivery_tag, method.multiple, now)

    def _reject(self, method: methods.BasicReject, now: float) -> None:
        self._settle("requeue" if method.requeue else "reject", method.delivery_tag, False, now)

    def _settle(self, outcome: Outcome, tag: int, multiple: bool, now: float) -> None:
        taken = self._consuming.take(tag, multiple, outcome)
        if self._transaction is not None:
            self._transaction.settle(outcome, taken)
        else:
            self._consuming.settle(outcome, taken, now)

    def _recover(self, method: methods.BasicRecover | methods.BasicRecoverAsync, now: float) -> None:
        if not method.requeue:
            raise Refusal(540, "requeue=false")
        outcome = self._consuming.returning
        taken = self._consuming.take_all(outcome)
        if isinstance(method, methods.BasicRecover):
            self._send(methods.BasicRecoverOk())
        self._consuming.settle(outcome, taken, now)

    # --- transactions ----------------------------------------------------------------------------------------------

    def _tx_select(self, method: methods.TxSelect, now: float) -> None:
        if self._publishing.is_confirmed:
            raise Refusal(406, "cannot switch from confirm to tx mode")
        if self._transaction is None:
            self._transaction = Transaction()
        self._send(methods.TxSelectOk())

    def _tx_commit(self, method: methods.TxCommit, now: float) -> None:
        transaction = self._end_transaction()
        publishes = [self._with_routes_of_now(each) for each in transaction.publishes]
        settlements = list(transaction.settlements())
        alive = self._peer.vhost.queues
        if all(alive.get(each.name) is not None for _, _, _, routed in publishes for each in routed):
            settlements = self._settle_ahead(settlements, now)
        is_whole = True
        for exchange, message, mandatory, routed in publishes:
            queues = [queue for each in routed if (queue := self._peer.vhost.queues.get(each.name)) is not None]
            if len(queues) < len(routed) and self._peer.compat.commits_without == "resource error":
                self._consuming.put_back(transaction.held())
                raise self._undeliverable(routed)
            if len(queues) < len(routed) and self._peer.compat.commits_without == "partial":
                gone = [each for each in routed if each not in queues]
                stream = next((each for each in gone if each.kind == "stream"), None)
                if stream is not None:
                    self._consuming.put_back(transaction.held())
                    raise Refusal(506, f"Stream not found for {self._peer.vhost.called('queue', stream.name)}")
                mandatory = False
                is_whole = is_whole and all(each.kind != "classic" for each in gone)
            is_whole = self._publishing.publish(exchange, message, mandatory, now, queues) and is_whole
        for outcome, taken in settlements:
            self._consuming.settle(outcome, taken, now)
        if not is_whole:
            raise Refusal(406, "partial tx completion")
        self._send(methods.TxCommitOk())

    def _with_routes_of_now(self, publish: Publish) -> Publish:
        """A publish as it is committed: a route by the default exchange is a name where its queue is looked up then."""
        if publish.exchange.name or self._peer.compat.commits_without != "passed over":
            return publish
        exchange, message, mandatory, _ = publish
        return Publish(exchange, message, mandatory, self._peer.vhost.route(exchange, message))

    def _settle_ahead(self, settlements: Iterable[Settlement], now: float) -> list[Settlement]:
        """Settle what quorum queues have delivered, which they heed before what is published to them; what is left."""
        left: list[Settlement] = []
        for outcome, taken in settlements:
            urgent = [each for each in taken if each.queue is not None and each.queue.is_quorum]
            self._consuming.settle(outcome, urgent, now)
            left.append((outcome, [each for each in taken if each.queue is None or not each.queue.is_quorum]))
        return left

    def _undeliverable(self, queues: Iterable[Queue]) -> Refusal:
        """The refusal of a commit to the first of these queues that is gone."""
        vhost = self._peer.vhost
        name = next(queue.name for queue in queues if queue.name not in vhost.queues)
        resource = f"{{resource,{term(vhost.name.encode())},queue,{term(name.encode())}}}"
        return Refusal(506, f"failed to deliver message: {{not_found,\n{' ' * 31}{resource}}}")

    def _tx_rollback(self, method: methods.TxRollback, now: float) -> None:
        self._consuming.put_back(self._end_transaction().held())
        self._send(methods.TxRollbackOk())

    def _end_transaction(self) -> Transaction:
        """What is in it; the next one begins."""
        transaction = self._transaction
        if transaction is None:
            raise Refusal(406, "channel is not transactional")
        self._transaction = Transaction()
        return transaction

    # --- others ----------------------------------------------------------------------------------------------------

    def _queue_name(self, name: str) -> str:
        """The queue that is meant: an empty name is the last one declared on this channel."""
        if name:
            return name
        if not self._last_queue:
            raise Refusal(404, "no previously declared queue")
        return self._last_queue

    def _flow(self, method: methods.ChannelFlow, now: float) -> None:
        if not method.active:
            raise Refusal(540, "active=false")
        self._send(methods.ChannelFlowOk(active=True))

    def _access(self, method: methods.AccessRequest, now: float) -> None:
        self._send(methods.AccessRequestOk(ticket=1))

    def _declaring(self, method: Method, now: float) -> None:
        reply, self._last_queue = declare(self._peer, self._last_queue, method, now)
        if not getattr(method, "nowait", False):
            self._send(reply)


_Handler = Callable[[Channel, Any, float], None]

_HANDLERS: dict[type[Method], _Handler] = {
    methods.BasicPublish: Channel._publish,
    methods.BasicAck: Channel._ack,
    methods.BasicNack: Channel._nack,
    methods.BasicReject: Channel._reject,
    methods.BasicGet: Channel._get,
    methods.BasicConsume: Channel._consume,
    methods.BasicCancel: Channel._cancel,
    methods.BasicQos: Channel._qos,
    methods.BasicRecover: Channel._recover,
    methods.BasicRecoverAsync: Channel._recover,
    methods.ConfirmSelect: Channel._confirm_select,
    methods.TxSelect: Channel._tx_select,
    methods.TxCommit: Channel._tx_commit,
    methods.TxRollback: Channel._tx_rollback,
    methods.ChannelFlow: Channel._flow,
    methods.AccessRequest: Channel._access,
    **dict.fromkeys(DECLARING, Channel._declaring),
}
