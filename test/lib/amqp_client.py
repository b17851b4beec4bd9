#!/usr/bin/python3
"""What tests ask a RabbitMQ: amqp_client.py CONNECTION COMMAND ARGUMENT, all in JSON.

CONNECTION: port; user, password, virtual_host, ca_file for TLS.

    declare     {"exchanges": [[name, type, arguments]],
                 "queues": [[name, arguments]], "bindings": [[queue, exchange, key]],
                 "delete_exchanges": [name], "delete_queues": [name],
                 "unbindings": [[queue, exchange, key]]}
    take        {"queue": name}: all messages that are in it, each a line
    drain       {"queue": name}: the same of a queue that nobody writes to any more, faster
"""

import json
import ssl
import sys

import pika


def connect(port, user="guest", password="guest", virtual_host="/", ca_file=None):
    """A channel of a new connection."""
    tls = ca_file and pika.SSLOptions(ssl.create_default_context(cafile=ca_file), "localhost")
    parameters = pika.ConnectionParameters(
        "127.0.0.1", port, virtual_host, pika.PlainCredentials(user, password),
        ssl_options=tls or None, connection_attempts=20, retry_delay=0.5)
    return pika.BlockingConnection(parameters).channel()


def declare(channel, exchanges=(), queues=(), bindings=(), delete_exchanges=(), delete_queues=(),
            unbindings=()):
    """Make exchanges, queues and bindings, or remove them."""
    for name in delete_exchanges:
        channel.exchange_delete(name)
    for name in delete_queues:
        channel.queue_delete(name)
    for name, kind, arguments in exchanges:
        channel.exchange_declare(name, kind, durable=True, arguments=arguments)
    for name, arguments in queues:
        channel.queue_declare(name, durable=True, arguments=arguments)
    for queue, exchange, key in bindings:
        channel.queue_bind(queue, exchange, key)
    for queue, exchange, key in unbindings:
        channel.queue_unbind(queue, exchange, key)


def show(method, properties, body):
    """Print a message."""
    print(json.dumps({
        "key": method.routing_key, "exchange": method.exchange,
        "redelivered": method.redelivered, "body": body.decode(),
        "headers": properties.headers, "id": properties.message_id,
        "mode": properties.delivery_mode, "content_type": properties.content_type,
        "type": properties.type, "timestamp": properties.timestamp,
        "app_id": properties.app_id}))


def take(channel, queue):
    """Print what is in a queue, and take it out."""
    while True:
        # an acknowledgement of its own could get lost with the connection
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            break
        show(method, properties, body)


def drain(channel, queue):
    """The same, without asking for each message."""
    left = channel.queue_declare(queue, passive=True).method.message_count
    if left > 0:
        for method, properties, body in channel.consume(queue, auto_ack=True):
            show(method, properties, body)
            left -= 1
            if left == 0:
                break


def main():
    connection, command, argument = sys.argv[1:]
    channel = connect(**json.loads(connection))
    {"declare": declare, "take": take, "drain": drain}[command](channel, **json.loads(argument))
    channel.connection.close()


main()
