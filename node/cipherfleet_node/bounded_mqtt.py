"""paho's MQTT client, with a bound on what a broker can make it keep."""

from __future__ import annotations

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from cipherfleet_node.core.wire import MAX_MESSAGE_BYTES

# An MQTT packet may have 256 MiB. Of a longer one than this, the rest is read and not kept. A topic
# has at most 64 KiB, so what is kept is still refused as too long a message.
MAX_PACKET_BYTES = MAX_MESSAGE_BYTES + 128 * 1024
READ_BYTES = 64 * 1024  # at once from the socket
QOS_2 = 0b100  # of the first byte of a PUBLISH packet


class BoundedClient(paho.Client):
    """paho's client, with a bound on what a broker can make it keep; paho has no option for it.

    It overrides internal methods of paho 2.x. `test_a_long_packet_takes_no_memory` and
    `test_messages_at_qos_2_are_not_kept` fail if a release of paho changes these.
    """

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho counts the bytes to come by themselves, so the packet may be cut between two reads.
        del self._in_packet["packet"][MAX_PACKET_BYTES:]
        return super()._sock_recv(min(bufsize, READ_BYTES))

    def _handle_publish(self) -> MQTTErrorCode:
        # paho keeps a message at QoS 2 until the broker releases it. All our subscriptions are at
        # QoS 0, so a broker must not send any.
        if self._in_packet["command"] & QOS_2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()
