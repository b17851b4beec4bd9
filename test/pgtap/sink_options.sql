-- Promise 9: nothing that an application can write leads to another place, and
-- what a server of a sink can be told is on a list.
--
-- Bugs that this catches: an option that the broker's library knows and that runs
-- code; a file of the server's that anybody can name; a secret that is visible or
-- repeated in an error; a topic that leaves its place in a hierarchy; a bound of a
-- size, an address, a path or a secret that is one off.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(117);

-- Servers that there can be, with every option.
CREATE TEMP TABLE good (sink text, options text, mapping text);
INSERT INTO good VALUES
	('rabbitmq', $$host 'mq.example.com', allow_addresses 'fc00::/7'$$, NULL),
	('rabbitmq', $$host '::1', port '5671', virtual_host '/', exchange 'shop.events', tls 'on', auth 'external', heartbeat '5', max_in_flight '5000', timeout '25000', ca_file '/a', cert_file '/b', key_file '/c'$$,
		$$user 'u', password 'with space and é'$$),
	('nats', $$url 'nats://127.0.0.1', allow_addresses '::1, 10.0.0.0/8'$$, NULL),
	('nats', $$url 'nats://a:4222,tls://[::1]:4223,nats://b', stream 'ORDERS', max_in_flight '1', timeout '100', ca_file '/a', cert_file '/b', key_file '/c'$$,
		$$user 'u', password 'p', token 't', nkey 'UABC', nkey_seed 'SUABC', jwt 'ey.J.x'$$),
	('kafka', $$"bootstrap.servers" 'a:9092,[::1]:9093', allow_addresses '10.1.2.3'$$, NULL),
	('kafka', $$"bootstrap.servers" 'a:9092', "security.protocol" 'sasl_ssl', "sasl.mechanism" 'SCRAM-SHA-512', "ssl.ca.location" '/a', "compression.type" 'zstd'$$,
		$$"sasl.username" 'u', "sasl.password" 'p', "ssl.key.password" 'k'$$),
	('redis', $$host '127.0.0.1'$$, NULL),
	('redis', $$host 'redis', port '6380', database '3', maxlen '1000000', max_in_flight '1', timeout '100', wait_replicas '1', wait_timeout '500', allow_addresses '10.0.0.0/8'$$,
		$$user 'u', password 'p'$$),
	('file', $$path '/a', rotate_size '1kB'$$, NULL),
	('http', $$url 'HTTPS://a.example:8443/x/%7Ey'$$,
		$$secret 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA+/', token '!~'$$);
SELECT lives_ok(format('CREATE SERVER good_%s FOREIGN DATA WRAPPER order_idempotency_%s OPTIONS (%s)', row_number() OVER (), sink, options),
				sink || ': ' || options) FROM good;
SELECT lives_ok(format('CREATE USER MAPPING FOR CURRENT_USER SERVER good_%s OPTIONS (%s)', n, mapping), 'mapping: ' || sink)
FROM (SELECT *, row_number() OVER () AS n FROM good) AS g WHERE mapping IS NOT NULL;

-- Those that cannot be.
CREATE TEMP TABLE bad (sink text, options text, state text);
INSERT INTO bad VALUES
	('rabbitmq', $$port '1'$$, 'HV002'), ('nats', $$timeout '1000'$$, 'HV002'),
	('kafka', $$"linger.ms" '1'$$, 'HV002'), ('redis', $$port '1'$$, 'HV002'),
	('kafka', $$"bootstrap.servers" 'a:1', "plugin.library.paths" '/tmp/x.so'$$, 'HV00D'),
	('kafka', $$"bootstrap.servers" 'a:1', "sasl.kerberos.kinit.cmd" 'touch /tmp/x'$$, 'HV00D'),
	('kafka', $$"bootstrap.servers" 'a:1', "sasl.mechanism" 'GSSAPI'$$, 'HV024'),
	('kafka', $$"bootstrap.servers" 'a'$$, 'HV024'), ('kafka', $$"bootstrap.servers" 'a:1,'$$, 'HV024'),
	('kafka', $$"bootstrap.servers" 'a:0'$$, 'HV024'), ('kafka', $$"bootstrap.servers" 'a:65536'$$, 'HV024'),
	('kafka', $$"bootstrap.servers" 'a b:1'$$, 'HV024'), ('kafka', $$"bootstrap.servers" ':1'$$, 'HV024'),
	('kafka', $$"bootstrap.servers" 'a:1', "sasl.password" 'p'$$, 'HV00D'),
	('rabbitmq', $$host ''$$, 'HV024'), ('rabbitmq', $$host 'a/b'$$, 'HV024'), ('rabbitmq', $$host 'a:1'$$, 'HV024'),
	('rabbitmq', $$host 'u@a'$$, 'HV024'), ('rabbitmq', $$host '-a'$$, 'HV024'), ('rabbitmq', $$host 'a', port '0'$$, 'HV024'),
	('rabbitmq', $$host 'a', exchange ''$$, 'HV024'), ('rabbitmq', $$host 'a', exchange 'a b'$$, 'HV024'),
	('rabbitmq', $$host 'a', auth 'gssapi'$$, 'HV024'), ('rabbitmq', $$host 'a', tls 'perhaps'$$, '42601'),
	('rabbitmq', $$host 'a', ca_file 'relative'$$, 'HV024'), ('rabbitmq', $$host 'a', password 'p'$$, 'HV00D'),
	('nats', $$url 'a:4222'$$, 'HV024'), ('nats', $$url 'http://a'$$, 'HV024'), ('nats', $$url 'nats://'$$, 'HV024'),
	('nats', $$url 'nats://u:p@a'$$, 'HV024'), ('nats', $$url 'nats://a,b'$$, 'HV024'), ('nats', $$url 'nats://a/x'$$, 'HV024'),
	('nats', $$url 'nats://a', stream 'a>b'$$, 'HV024'), ('nats', $$url 'nats://a', token 't'$$, 'HV00D'),
	('redis', $$host 'a', tls 'on'$$, 'HV00D'), ('redis', $$host 'a b'$$, 'HV024'),
	('redis', $$host 'a', wait_replicas '0'$$, 'HV024'), ('redis', $$host 'a', allow_addresses 'b'$$, '22P02'),
	('file', $$path '/a', rotate_size '1023B'$$, 'HV024'), ('file', $$path '/a', rotate_size '1025GB'$$, 'HV024'),
	('file', $$path '/a', rotate_size '-1MB'$$, 'HV024'), ('file', $$path '/a', rotate_size 'much'$$, 'HV024'),
	('file', $$path 'a'$$, 'HV024'), ('http', $$url 'ftp://a'$$, 'HV024'), ('http', $$url 'https://'$$, 'HV024'),
	('http', $$url 'https:///x'$$, 'HV024'), ('http', $$url 'https://u@a'$$, 'HV024'), ('http', $$url 'https://a?q'$$, 'HV024'),
	('http', $$url 'https://a#f'$$, 'HV024'), ('http', $$url 'https://a b'$$, 'HV024'), ('http', $$url 'https://ä'$$, 'HV024'),
	('kafka', $$"bootstrap.servers" 'a:123456'$$, 'HV024'), ('kafka', $$"bootstrap.servers" '[1::x]:1'$$, 'HV024'),
	('kafka', format($$"bootstrap.servers" '[%s1]:1'$$, repeat('0', 60)), 'HV024'), ('redis', $$host '1::x'$$, 'HV024'),
	('redis', format($$host '/%s'$$, repeat('s', 107)), 'HV024'),
	('redis', $$host 'a', maxlen '0'$$, 'HV024'), ('redis', $$host 'a', database '-1'$$, 'HV024');
SELECT throws_ok(format('CREATE SERVER x FOREIGN DATA WRAPPER order_idempotency_%s OPTIONS (%s)', sink, options), state, NULL,
				 sink || ': ' || options) FROM bad;

-- Secrets that cannot be.
CREATE TEMP TABLE bad_secret (options text);
INSERT INTO bad_secret VALUES
	($$secret 'whsec_AAAA'$$), ($$secret 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'$$),
	($$secret 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA_A'$$), (format($$secret 'whsec_%s'$$, repeat('A', 132))),
	($$token ''$$), ($$token 'a b'$$), ($$token 'é'$$);
SELECT throws_ok(format('CREATE USER MAPPING FOR pg_monitor SERVER good_10 OPTIONS (%s)', options), 'HV024', NULL, options)
FROM bad_secret;

-- Secrets are not repeated.
SELECT throws_ok($$CREATE USER MAPPING FOR CURRENT_USER SERVER good_1 OPTIONS (password E'canary\n')$$, 'HV024',
				 'option "password" must be 1 to 8192 bytes without control characters', 'a bad secret is not repeated');

-- Files take the right to read them, for every sink.
CREATE ROLE sink_maker LOGIN;
GRANT USAGE ON FOREIGN DATA WRAPPER order_idempotency_rabbitmq, order_idempotency_nats, order_idempotency_kafka, order_idempotency_redis TO sink_maker;
DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO sink_maker', current_database()); END$$;
SELECT is(pg_temp.ending_as('sink_maker', format('CREATE SERVER hers FOREIGN DATA WRAPPER order_idempotency_%s OPTIONS (%s)', sink, options)),
		  '42501', 'no right to files: ' || options)
FROM (VALUES ('rabbitmq', $$host 'a', ca_file '/etc/passwd'$$), ('rabbitmq', $$host 'a', key_file '/etc/passwd'$$),
	('nats', $$url 'nats://a', cert_file '/etc/passwd'$$), ('redis', $$host '/tmp/redis.sock'$$),
	('kafka', $$"bootstrap.servers" 'a:1', "ssl.key.location" '/etc/passwd'$$)) AS v (sink, options);
SELECT is(pg_temp.ending_as('sink_maker', $$CREATE SERVER hers FOREIGN DATA WRAPPER order_idempotency_rabbitmq OPTIONS (host 'a')$$),
		  '00000', 'but to all else');

-- Topics.
CREATE SERVER hooks FOREIGN DATA WRAPPER order_idempotency_http OPTIONS (url 'https://example.com/hooks');
CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/tmp');
CREATE TEMP TABLE topics (server text, topic text, state text);
INSERT INTO topics VALUES
	('good_1', '{type}', '00000'), ('good_1', '{type}.{key}', '00000'), ('good_1', 'a/{type}', '00000'),
	('good_3', 'shop.{type}', '00000'), ('good_3', 'shop', '00000'), ('good_5', 'shop-{type}', '00000'),
	('good_7', 'shop/{key}', '00000'), ('hooks', '{type}', '00000'), ('hooks', 'a/{type}/{key}', '00000'),
	('good_3', '{type}', '22023'), ('good_3', '.{type}', '22023'), ('good_3', '_INBOX.{type}', '22023'),
	('good_3', 'shop{type}', '22023'), ('good_3', 'a..{type}', '22023'), ('good_3', 'a.', '22023'), ('good_3', '.a', '22023'),
	('good_5', '__consumer_{type}', '22023'), ('good_5', 'a/{type}', '22023'), ('good_7', '{key}', '22023'),
	('files', 'a-{type}', '22023'), ('hooks', 'a/../b', '22023'), ('hooks', '..', '22023'), ('hooks', './a', '22023'),
	('good_1', '{type}{key}', '22023'), ('good_1', '{other}', '22023'), ('good_1', 'a.>', '22023'), ('good_1', 'a.*', '22023'),
	('good_1', 'a.#', '22023'), ('good_1', 'a b', '22023'), ('good_1', '{type', '22023');
SELECT is((pg_temp.ending(format('SELECT create_subscription(%L, %L, topic => %L)', 's' || row_number() OVER (), server, topic))).code,
		  state, server || ': topic ' || topic) FROM topics;

SELECT * FROM finish();
ROLLBACK;
