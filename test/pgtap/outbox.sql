-- Promises 2, 5 and 7: a change and its event are written together; each event
-- has an id of its own, a UUIDv7, the same wherever it is shown; what is in
-- the log is never changed.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(57);

-- The events of an order.
SELECT create_order('k1', 100, 'EUR', 'a', '{"items": [1, 2]}');
SELECT transition_order('k1', 'paid', 'pay-1', '{"psp": "x"}');
SELECT transition_order('k1', 'completed');
SELECT create_order('k2', 5, 'USD');
SELECT cancel_order('k2', 'why', 'stop-1');
SELECT pg_temp.rows_are($$SELECT key, version, type, payload FROM outbox ORDER BY position$$, $$VALUES
	('k1', 1, 'order.created', '{"key": "k1", "state": "created", "version": 1, "amount": 100, "currency": "EUR",
		"account": "a", "payload": {"items": [1, 2]}}'::jsonb),
	('k1', 2, 'order.paid', '{"key": "k1", "state": "paid", "from_state": "created", "version": 2, "amount": 100,
		"currency": "EUR", "account": "a", "request_key": "pay-1", "payload": {"psp": "x"}}'),
	('k1', 3, 'order.completed', '{"key": "k1", "state": "completed", "from_state": "paid", "version": 3, "amount": 100,
		"currency": "EUR", "account": "a"}'),
	('k2', 1, 'order.created', '{"key": "k2", "state": "created", "version": 1, "amount": 5, "currency": "USD"}'),
	('k2', 2, 'order.cancelled', '{"key": "k2", "state": "cancelled", "from_state": "created", "version": 2, "amount": 5,
		"currency": "USD", "reason": "why", "request_key": "stop-1"}')$$, 'the built-in lifecycle''s events, to the letter');
SELECT is_empty($$SELECT * FROM outbox WHERE xid <> pg_current_xact_id()$$, 'under the transaction that wrote them');
SELECT is_empty($$SELECT * FROM outbox WHERE created_at NOT BETWEEN now() AND clock_timestamp()$$, 'at their time');
SELECT is((SELECT payload FROM orders WHERE key = 'k1'), '{"items": [1, 2]}',
		  'the payload of a transition goes with its event only');

-- event_id.
SELECT is((SELECT count(DISTINCT event_id) FROM outbox), 5::bigint, 'each has an id');
SELECT is_empty($$SELECT event_id FROM outbox WHERE substr(event_id::text, 15, 1) <> '7'$$, 'of UUID version 7');
SELECT is_empty($$SELECT event_id FROM outbox WHERE substr(event_id::text, 20, 1) !~ '[89ab]'$$, 'and of the RFC''s variant');
SELECT is_empty($$SELECT event_id, created_at FROM outbox
	WHERE abs(('x' || replace(left(event_id::text, 13), '-', ''))::bit(48)::bigint
			  - floor(extract(epoch FROM created_at) * 1000)) > 1000$$, 'it begins with the time of the event');
SELECT pg_temp.rows_are($$SELECT event_id FROM order_history('k1')$$,
				  $$SELECT event_id FROM outbox WHERE key = 'k1' ORDER BY version$$, 'the history shows the same ids');
CREATE TEMPORARY TABLE r AS SELECT * FROM create_order('k3', 1, 'EUR');
SELECT is((SELECT event_id FROM r), (SELECT event_id FROM outbox WHERE key = 'k3'), 'so does the result');
CREATE TEMPORARY TABLE many AS SELECT emit_event('load.test', 'k') AS id FROM generate_series(1, 5000);
SELECT is((SELECT count(DISTINCT id) FROM many), 5000::bigint, 'five thousand in one transaction are all different');

-- position.
SELECT is_empty($$SELECT position FROM outbox GROUP BY 1 HAVING count(*) > 1$$, 'no position is given twice');
SELECT is_empty($$SELECT * FROM (SELECT position, lag(position) OVER (PARTITION BY key ORDER BY version) AS before
								 FROM outbox WHERE version IS NOT NULL) p WHERE position <= before$$,
				'positions follow the versions');

-- emit_event.
CREATE TEMPORARY TABLE e AS SELECT emit_event('mail.sent', 'k1', '{"to": "x"}', '{"h": "v"}') AS id;
SELECT pg_temp.rows_are($$SELECT event_id, key, version, type, payload, headers FROM outbox WHERE type = 'mail.sent'$$,
				  $$SELECT id, 'k1', NULL::int, 'mail.sent', '{"to": "x"}'::jsonb, '{"h": "v"}'::jsonb FROM e$$,
				  'emit_event: as it was given');
SELECT is(substr(id::text, 15, 1), '7', 'emit_event: of version 7') FROM e;
SELECT isnt(emit_event('mail.sent', 'nobody'), NULL, 'emit_event: its key need not be that of an order');
SELECT pg_temp.rows_are($$SELECT payload, headers FROM outbox WHERE key = 'nobody'$$, $$VALUES (NULL::jsonb, NULL::jsonb)$$,
				  'emit_event: payload and headers may be missing');
SELECT isnt(emit_event('mail.sent', 'n', 'null'), NULL, 'emit_event: any JSON is a payload');
SELECT is((SELECT payload FROM outbox WHERE key = 'n'), 'null', 'as it was given');
SELECT throws_ok(format('SELECT emit_event(%L, %L)', t, 'k1'), '22023', NULL, 'emit_event: no forging of ' || t)
FROM unnest(ARRAY['order.created', 'order.paid', 'order.completed', 'order.cancelled']) t;
SELECT isnt(emit_event('order.shipped', 'k1'), NULL, 'emit_event: other types are free');
SELECT is((SELECT version FROM get_order('k1')), 3, 'an event of the application is no change of the order');
SELECT is((SELECT payload FROM outbox WHERE key = 'k1' AND version = 1)->>'state', 'created', 'nor of its log');

-- Headers.
SELECT create_order('h1', 1, 'EUR', headers => '{"traceparent": "00-1"}');
SELECT is(headers, '{"traceparent": "00-1"}', 'create_order: headers') FROM outbox WHERE key = 'h1' AND version = 1;
SELECT transition_order('h1', 'paid', headers => '{"traceparent": "00-2"}');
SELECT is(headers, '{"traceparent": "00-2"}', 'transition_order: headers') FROM outbox WHERE key = 'h1' AND version = 2;
SELECT transition_order('h1', 'completed');
SELECT is(headers, NULL, 'none') FROM outbox WHERE key = 'h1' AND version = 3;
SELECT create_order('h2', 1, 'EUR', headers => '{}');
SELECT cancel_order('h2', headers => '{"a": "1", "b": "2"}');
SELECT is(headers, '{"a": "1", "b": "2"}', 'cancel_order: headers') FROM outbox WHERE key = 'h2' AND version = 2;
SET LOCAL order_idempotency.headers = '{"traceparent": "00-9"}';
SELECT create_order('h3', 1, 'EUR');
SELECT is(headers, '{"traceparent": "00-9"}', 'the setting is used where the call gives none')
FROM outbox WHERE key = 'h3' AND version = 1;
SELECT transition_order('h3', 'paid', headers => '{"own": "1"}');
SELECT is(headers, '{"own": "1"}', 'the call''s go before it') FROM outbox WHERE key = 'h3' AND version = 2;
SELECT transition_order('h3', 'completed', headers => '{}');
SELECT is(headers, '{}', 'even if they are empty') FROM outbox WHERE key = 'h3' AND version = 3;
SELECT emit_event('mail.sent', 'h4');
SELECT is(headers, '{"traceparent": "00-9"}', 'emit_event: too') FROM outbox WHERE key = 'h4';
SET LOCAL order_idempotency.headers = '';
SELECT emit_event('mail.sent', 'h5');
SELECT is(headers, NULL, 'an empty setting is none') FROM outbox WHERE key = 'h5';

-- Nothing without a change.
CREATE TEMPORARY TABLE counts AS SELECT count(*) AS before FROM outbox;
SELECT create_order('k1', 100, 'EUR', 'a', '{"items": [1, 2]}');
SELECT transition_order('k1', 'paid', 'pay-1');
SELECT cancel_order('k1');
SELECT cancel_order('k2');
SELECT cancel_order('tomb', if_missing => 'tombstone');
SELECT transition_order('k1', 'cancelled', on_conflict => 'report');
SELECT claim_key('c');
SELECT is((SELECT count(*) FROM outbox), before, 'no event without a change') FROM counts;
SELECT is((pg_temp.ending($$DO 'BEGIN
	PERFORM order_idempotency.emit_event(''mail.sent'', ''ghost'');
	PERFORM order_idempotency.create_order(''ghost'', 1, ''EUR'');
	RAISE division_by_zero; END'$$)).code, '22012', 'what is rolled back');
SELECT is((SELECT count(*) FROM outbox WHERE key = 'ghost'), 0::bigint, 'leaves no ghost');

-- Append-only, for its owner too, in each of its tables.
SELECT throws_ok(format(s, t), 'OI003', NULL, format(s, t))
FROM unnest(ARRAY['UPDATE %s SET type = ''x''', 'DELETE FROM %s', 'TRUNCATE %s',
	'MERGE INTO %s o USING (VALUES (''k1'')) v(k) ON o.key = v.k WHEN MATCHED THEN DELETE']) s,
	 unnest(ARRAY['outbox_0', 'outbox_1', 'outbox_2', 'outbox_3']) t;
SELECT throws_ok('DELETE FROM outbox', '55000', NULL, 'the view over them is for reading');
SELECT is((SELECT count(*) FROM outbox), before, 'all of it is there') FROM counts;

SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
