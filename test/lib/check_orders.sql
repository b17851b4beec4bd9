-- Do state, history, ledger and events of every order tell the same story?
-- One row for each thing that is wrong; none where all is well.  Promises 2
-- (all or nothing), 3 (no path around the lifecycle) and 6 (order per key).
--
-- Everything is derived from the history and the lifecycle in force, and then
-- compared in both directions with what is stored.
WITH rule AS (
	SELECT * FROM order_idempotency.current_lifecycle
), movement (effect, money_status) AS (
	VALUES ('hold', 'held'), ('capture', 'captured'),
		   ('release', 'returned'), ('refund', 'returned')
), step AS (
	-- one row a version, with the rule that allowed it
	SELECT o.key, o.tombstone, o.amount, o.currency, o.account,
		   h.ordinality AS place, h.version, h.state, h.event_id,
		   h.request_key, p.from_state, r.event_type, r.ledger_effect
	FROM order_idempotency.orders o
		CROSS JOIN unnest(o.history) WITH ORDINALITY h
		CROSS JOIN LATERAL (SELECT o.history[h.ordinality - 1].state AS from_state) p
		LEFT JOIN rule r ON r.to_state = h.state
			AND r.from_state IS NOT DISTINCT FROM p.from_state
), money AS (
	SELECT DISTINCT ON (s.key) s.key, m.money_status
	FROM step s JOIN movement m ON m.effect = s.ledger_effect
	ORDER BY s.key, s.version DESC
), expected_ledger AS (
	SELECT key AS order_key, version, ledger_effect,
		   CASE ledger_effect WHEN 'hold' THEN account
			   WHEN 'refund' THEN 'revenue' ELSE 'escrow' END,
		   CASE ledger_effect WHEN 'hold' THEN 'escrow'
			   WHEN 'capture' THEN 'revenue' ELSE account END,
		   amount, currency
	FROM step
	WHERE ledger_effect IS NOT NULL AND account IS NOT NULL
), found_ledger AS (
	SELECT order_key, version, effect, debit_account, credit_account, amount, currency
	FROM order_idempotency.ledger
), expected_event AS (
	SELECT key, version, event_id, event_type, state, from_state, amount, currency,
		   account, request_key
	FROM step
	WHERE NOT tombstone
), found_event AS (
	SELECT key, version, event_id, type, payload->>'state', payload->>'from_state',
		   (payload->>'amount')::bigint, payload->>'currency', payload->>'account',
		   payload->>'request_key'
	FROM order_idempotency.outbox
	WHERE version IS NOT NULL OR type IN (SELECT event_type FROM rule)
), expected_balance AS (
	-- money held is in escrow, money captured is revenue
	SELECT CASE o.money_status WHEN 'held' THEN 'escrow' ELSE 'revenue' END AS account,
		   o.currency, sum(o.amount) AS balance
	FROM order_idempotency.orders o
	WHERE o.account IS NOT NULL AND o.money_status IN ('held', 'captured')
	GROUP BY 1, 2
), found_balance AS (
	SELECT account, currency, balance
	FROM order_idempotency.account_balance
	WHERE account IN ('escrow', 'revenue') AND balance <> 0
)
SELECT o.key, 'row and history differ' AS problem
FROM order_idempotency.orders o
WHERE (o.state, o.version, o.changed_at) IS DISTINCT FROM
	(o.history[cardinality(o.history)].state, cardinality(o.history),
	 o.history[cardinality(o.history)].at)
UNION ALL
SELECT key, 'version ' || place || ' of the history is missing'
FROM step WHERE version <> place
UNION ALL
SELECT key, 'illegal step from ' || COALESCE(from_state, 'nothing') || ' to ' || state
FROM step WHERE event_type IS NULL AND NOT tombstone
UNION ALL
SELECT key, 'a tombstone that lived'
FROM step WHERE tombstone AND (place > 1 OR event_id IS NOT NULL)
UNION ALL
SELECT key, 'request key ' || request_key || ' was used twice'
FROM step WHERE request_key IS NOT NULL
GROUP BY key, request_key HAVING count(*) > 1
UNION ALL
SELECT o.key, 'money status ' || o.money_status
FROM order_idempotency.orders o LEFT JOIN money m USING (key)
WHERE NOT o.tombstone AND o.money_status IS DISTINCT FROM COALESCE(m.money_status, 'none')
UNION ALL
SELECT order_key, 'ledger row missing: ' || e::text
FROM (SELECT * FROM expected_ledger EXCEPT ALL SELECT * FROM found_ledger) e
UNION ALL
SELECT order_key, 'ledger row unexplained: ' || e::text
FROM (SELECT * FROM found_ledger EXCEPT ALL SELECT * FROM expected_ledger) e
UNION ALL
SELECT key, 'event missing: ' || e::text
FROM (SELECT * FROM expected_event EXCEPT ALL SELECT * FROM found_event) e
UNION ALL
SELECT key, 'event unexplained: ' || e::text
FROM (SELECT * FROM found_event EXCEPT ALL SELECT * FROM expected_event) e
UNION ALL
SELECT key, 'event of version ' || version || ' is before that of an earlier one'
FROM (SELECT key, version, position,
			 lag(position) OVER (PARTITION BY key ORDER BY version) AS earlier
	  FROM order_idempotency.outbox WHERE version IS NOT NULL) e
WHERE position <= earlier
UNION ALL
SELECT NULL, 'event id ' || event_id || ' was given twice'
FROM order_idempotency.outbox GROUP BY event_id HAVING count(*) > 1
UNION ALL
SELECT account, 'balance missing: ' || e::text
FROM (SELECT * FROM expected_balance EXCEPT ALL SELECT * FROM found_balance) e
UNION ALL
SELECT account, 'balance unexplained: ' || e::text
FROM (SELECT * FROM found_balance EXCEPT ALL SELECT * FROM expected_balance) e
ORDER BY 1, 2;
