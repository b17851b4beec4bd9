-- peers.sql: what the extension is compared with, as one writes it by hand.

CREATE SCHEMA peer;

-- The bare row: what was ordered, under the key it was ordered by.
CREATE TABLE peer.bare_orders (
	key text COLLATE "C" PRIMARY KEY,
	amount bigint NOT NULL,
	currency text COLLATE "C" NOT NULL,
	account text COLLATE "C",
	payload jsonb
);

-- The bare change of state: one row updated (HOT, as ours are), one inserted.
CREATE TABLE peer.bare_states (
	key text COLLATE "C" PRIMARY KEY,
	state text COLLATE "C" NOT NULL,
	amount bigint NOT NULL,
	currency text COLLATE "C" NOT NULL,
	account text COLLATE "C",
	payload jsonb
) WITH (fillfactor = 80);
CREATE TABLE peer.bare_events (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	key text COLLATE "C" NOT NULL,
	type text COLLATE "C" NOT NULL,
	at timestamptz NOT NULL DEFAULT now()
);

-- The same work by hand: the order's row is the claim of its key, a ledger with
-- the hold, a log of events that is read by xid8 below the oldest one running.
CREATE TABLE peer.orders (
	key text COLLATE "C" PRIMARY KEY,
	state text COLLATE "C" NOT NULL,
	version int NOT NULL,
	amount bigint NOT NULL,
	currency text COLLATE "C" NOT NULL,
	account text COLLATE "C",
	payload jsonb,
	event_id uuid NOT NULL,
	created_at timestamptz NOT NULL,
	changed_at timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE TABLE peer.ledger (
	order_key text COLLATE "C" NOT NULL,
	version int NOT NULL,
	effect text COLLATE "C" NOT NULL,
	debit_account text COLLATE "C" NOT NULL,
	credit_account text COLLATE "C" NOT NULL,
	amount bigint NOT NULL,
	currency text COLLATE "C" NOT NULL,
	posted_at timestamptz NOT NULL,
	PRIMARY KEY (order_key, version)
);
CREATE TABLE peer.events (
	position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
	event_id uuid NOT NULL,
	key text COLLATE "C" NOT NULL,
	version int NOT NULL,
	type text COLLATE "C" NOT NULL,
	payload jsonb,
	created_at timestamptz NOT NULL
);

-- The usual way has a table of keys besides, with a hash of the request and the
-- response to repeat.
CREATE TABLE peer.keys (
	key text COLLATE "C" PRIMARY KEY,
	request_hash bytea NOT NULL,
	response jsonb,
	created_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION peer.event_payload(key text, state text, version int, amount bigint, currency text,
								   account text, payload jsonb)
	RETURNS jsonb LANGUAGE sql IMMUTABLE
	RETURN jsonb_build_object('key', key, 'state', state, 'version', version, 'amount', amount,
							  'currency', currency, 'account', account, 'payload', payload);

-- create_order by hand: one winner, a mismatch found, key, order, ledger row and
-- event in one transaction.
CREATE FUNCTION peer.create_order(p_key text, p_amount bigint, p_currency text, p_account text, p_payload jsonb,
								  OUT outcome text, OUT state text, OUT version int, OUT event_id uuid,
								  OUT changed_at timestamptz)
	LANGUAGE plpgsql AS $$
DECLARE
	existing peer.orders;
BEGIN
	IF p_amount < 0 OR p_currency !~ '^[A-Z]{3}$' OR octet_length(p_key) NOT BETWEEN 1 AND 255 THEN
		RAISE EXCEPTION 'bad argument' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	outcome := 'created';
	state := 'created';
	version := 1;
	event_id := gen_random_uuid();
	changed_at := clock_timestamp();
	INSERT INTO peer.orders (key, state, version, amount, currency, account, payload, event_id, created_at, changed_at)
		VALUES (p_key, 'created', 1, p_amount, p_currency, p_account, p_payload, create_order.event_id,
				create_order.changed_at, create_order.changed_at)
		ON CONFLICT (key) DO NOTHING;
	IF NOT FOUND THEN
		SELECT * INTO existing FROM peer.orders o WHERE o.key = p_key;
		IF (existing.amount, existing.currency, existing.account, existing.payload)
		   IS DISTINCT FROM (p_amount, p_currency, p_account, p_payload) THEN
			RAISE EXCEPTION 'key was used with a different request';
		END IF;
		outcome := 'replayed';
		state := existing.state;
		version := existing.version;
		event_id := existing.event_id;
		changed_at := existing.changed_at;
		RETURN;
	END IF;
	IF p_account IS NOT NULL THEN
		INSERT INTO peer.ledger (order_key, version, effect, debit_account, credit_account, amount, currency, posted_at)
			VALUES (p_key, 1, 'hold', p_account, 'escrow', p_amount, p_currency, create_order.changed_at);
	END IF;
	INSERT INTO peer.events (event_id, key, version, type, payload, created_at)
		VALUES (create_order.event_id, p_key, 1, 'order.created',
				peer.event_payload(p_key, 'created', 1, p_amount, p_currency, p_account, p_payload),
				create_order.changed_at);
END
$$;

-- The same with the table of keys.
CREATE FUNCTION peer.create_order_with_key(p_key text, p_amount bigint, p_currency text, p_account text,
										   p_payload jsonb, OUT outcome text, OUT response jsonb)
	LANGUAGE plpgsql AS $$
DECLARE
	hash bytea := sha256(convert_to(jsonb_build_array(p_amount, p_currency, p_account, p_payload)::text, 'UTF8'));
	id uuid := gen_random_uuid();
	at timestamptz := clock_timestamp();
	existing peer.keys;
BEGIN
	IF p_amount < 0 OR p_currency !~ '^[A-Z]{3}$' OR octet_length(p_key) NOT BETWEEN 1 AND 255 THEN
		RAISE EXCEPTION 'bad argument' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	outcome := 'created';
	response := jsonb_build_object('state', 'created', 'version', 1, 'event_id', id, 'changed_at', at);
	INSERT INTO peer.keys AS k (key, request_hash, response)
		VALUES (p_key, hash, create_order_with_key.response)
		ON CONFLICT (key) DO NOTHING;
	IF NOT FOUND THEN
		SELECT * INTO existing FROM peer.keys k WHERE k.key = p_key;
		IF existing.request_hash <> hash THEN
			RAISE EXCEPTION 'key was used with a different request';
		END IF;
		outcome := 'replayed';
		response := existing.response;
		RETURN;
	END IF;
	INSERT INTO peer.orders (key, state, version, amount, currency, account, payload, event_id, created_at, changed_at)
		VALUES (p_key, 'created', 1, p_amount, p_currency, p_account, p_payload, id, at, at);
	IF p_account IS NOT NULL THEN
		INSERT INTO peer.ledger (order_key, version, effect, debit_account, credit_account, amount, currency, posted_at)
			VALUES (p_key, 1, 'hold', p_account, 'escrow', p_amount, p_currency, at);
	END IF;
	INSERT INTO peer.events (event_id, key, version, type, payload, created_at)
		VALUES (id, p_key, 1, 'order.created',
				peer.event_payload(p_key, 'created', 1, p_amount, p_currency, p_account, p_payload), at);
END
$$;
