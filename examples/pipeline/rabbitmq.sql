-- Where the events go: at least once to queue "events", those of rejected messages to
-- "commands.rejected".  psql -v host=127.0.0.1 -v port=5672 -f rabbitmq.sql shop
CREATE SERVER rabbitmq FOREIGN DATA WRAPPER order_idempotency_rabbitmq OPTIONS (host :'host', port :'port');
SELECT order_idempotency.create_subscription('events', 'rabbitmq',
	ARRAY['order.created', 'order.paid', 'order.completed', 'order.cancelled', 'parcel.sent'], 'events');
SELECT order_idempotency.create_subscription('rejected', 'rabbitmq', ARRAY['command.rejected'], 'commands.rejected');
