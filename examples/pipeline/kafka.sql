-- Where the events go: exactly once to topic "events", those of rejected messages to
-- "commands.rejected".  psql -v brokers=127.0.0.1:9092 -f kafka.sql shop
CREATE SERVER kafka FOREIGN DATA WRAPPER order_idempotency_kafka
	OPTIONS ("bootstrap.servers" :'brokers', exactly_once 'on');
SELECT order_idempotency.create_subscription('events', 'kafka',
	ARRAY['order.created', 'order.paid', 'order.completed', 'order.cancelled', 'parcel.sent'], 'events');
SELECT order_idempotency.create_subscription('rejected', 'kafka', ARRAY['command.rejected'], 'commands.rejected');
