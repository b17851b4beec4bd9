# Promises 5 and 9: a subscription's worker acts with its owner's rights and no others, and
# what the owner, or a database's owner, has set for its sessions changes nothing that comes
# out.  Who loses a right loses it at once.
#
# Bugs that this catches, planted and seen to fail: a right to the server that came by a
# membership, or by being a superuser, and outlives that; a worker of who may not log in any more,
# or not connect to the database; a mapping of another user's, with his secret; a schema of the
# extension's name that is taken for the extension.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use IPC::Run qw(start);
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_drain_node('hostile_owner', encoding => 'UTF8',
	conf => "log_min_messages = warning\norder_idempotency.poll_interval = 100\n");

# Runs statements as a role that logs in, whatever becomes of each.
sub as_role
{
	my ($role, $db, $sql) = @_;

	return $node->psql($db, $sql, extra_params => [ '-U', $role, '-q' ], on_error_stop => 0);
}

# Waits until the status of a subscription is like this.
sub status_is
{
	my ($name, $condition, $what) = @_;

	ok($node->poll_query_until('postgres', "SELECT $condition FROM $api.subscription_status WHERE name = '$name'"), $what)
	  or diag $node->safe_psql('postgres', "SELECT * FROM $api.subscription_status WHERE name = '$name'");
	return;
}

# -- what they set for their sessions -------------------------------------------------------

$node->safe_psql('postgres', <<~SQL);
	CREATE ROLE nobody;
	CREATE ROLE owner LOGIN;
	GRANT nobody TO owner;
	SELECT $api.grant_operator('owner');
	GRANT USAGE ON FOREIGN SERVER files TO owner;
	CREATE ROLE dbo LOGIN;
	CREATE DATABASE shop OWNER dbo;
	SQL
create_extension($node, 'shop');
create_sink($node, 'shop');

# traps, to be found before the server's own
my $traps = <<~'SQL';
	CREATE SCHEMA evil;
	CREATE TABLE evil.ran (who text);
	CREATE FUNCTION evil.trap() RETURNS boolean LANGUAGE plpgsql SECURITY INVOKER AS
		$$BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN true; END$$;
	CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS 'SELECT evil.trap(); SELECT NULL::pg_catalog.jsonb';
	CREATE FUNCTION evil.min(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT evil.trap(); SELECT 0::pg_catalog.int8';
	CREATE FUNCTION evil.eq(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT evil.trap()';
	CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.eq);
	CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.trap()';
	CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
	CREATE FUNCTION evil.ge(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT evil.trap()';
	CREATE OPERATOR evil.>= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.ge);
	CREATE TABLE evil.subscriptions (id int, name text);
	CREATE TABLE evil.outbox (position bigint);
	SQL
$node->safe_psql('postgres', 'GRANT CREATE ON DATABASE postgres TO owner');
foreach (['owner', 'postgres'], ['dbo', 'shop'])
{
	is((as_role(@$_, $traps))[2], '', "$_->[0] sets traps");
}

# the settings of sessions that anybody can make, one value each
my $settings = <<~'SQL';
	SELECT format('ALTER %s SET %I = %s', :'what', s.name, v.value)
	FROM pg_settings s, LATERAL (
		SELECT CASE
			WHEN s.name = 'search_path' THEN 'evil, pg_catalog'
			WHEN s.name = 'DateStyle' THEN '''SQL, DMY'''
			WHEN s.name = 'TimeZone' THEN '''Asia/Kathmandu'''
			WHEN s.name = 'client_encoding' THEN '''LATIN1'''
			WHEN s.name = 'order_idempotency.headers' THEN '''{"x": "mine"}'''
			WHEN s.name LIKE '%timeout' THEN :'least'
			WHEN s.vartype = 'bool' THEN CASE s.boot_val WHEN 'on' THEN 'off' ELSE 'on' END
			WHEN s.vartype = 'enum' THEN quote_literal(s.enumvals[CASE :'least' WHEN '1' THEN 1 ELSE cardinality(s.enumvals) END])
			WHEN s.vartype IN ('integer', 'real') THEN CASE :'least' WHEN '1' THEN s.min_val ELSE s.max_val END
			END) v (value)
	WHERE s.context = 'user' AND v.value IS NOT NULL AND s.name !~ '^(debug_print|trace_|transaction_(?!timeout))'
	  -- nor what psql would make much of
	  AND s.name NOT IN ('client_min_messages', 'exit_on_error', 'idle_session_timeout', 'temp_buffers')
	SQL

subscribe($node, 'plain');
$node->safe_psql('postgres', "SET SESSION AUTHORIZATION owner; SELECT $api.create_subscription('hers', 'files')");
subscribe($node, 'shop', db => 'shop');
foreach my $round ([ 'least', '1' ], [ 'most', '2147483647' ])
{
	my ($which, $least) = @$round;
	my @set;

	foreach (['owner', 'postgres', 'ROLE owner'], ['dbo', 'shop', 'DATABASE shop'])
	{
		my ($role, $db, $what) = @$_;
		my @commands = split /\n/, $node->safe_psql('postgres', $settings, extra_params => [ '-v', "what=$what", '-v', "least=$least" ]);

		# by psql of a database without these settings, as the role itself
		as_role($role, 'postgres', join '', map { "$_;\n" } @commands, $role eq 'owner' ? 'ALTER ROLE owner SET role = nobody' : ());
		push @set, $node->safe_psql('postgres', $role eq 'owner'
			? q(SELECT cardinality(setconfig) FROM pg_db_role_setting WHERE setrole = 'owner'::regrole)
			: q(SELECT cardinality(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = 'shop'));
	}
	cmp_ok($set[0], '>', 100, "$which: settings of the owner's");
	cmp_ok($set[1], '>', 100, "$which: settings of the database owner's");

	# workers and maintenance with them, the test's own sessions without
	$node->restart;
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_" } 'search_path=public', 'default_transaction_read_only=off',
	  'statement_timeout=0', 'lock_timeout=0', 'default_transaction_isolation=read\\ committed', 'client_encoding=UTF8',
	  'transform_null_equals=off', 'idle_in_transaction_session_timeout=0',
	  $node->pg_version >= 17 ? 'transaction_timeout=0' : ();
	$node->safe_psql('postgres', <<~SQL);
		SELECT $api.create_order('o-$which-' || i, 100, 'EUR', 'alice', jsonb_build_object('n', i, 'at', now(), 'x', 1e-7), pay_within => '1 ms') FROM generate_series(1, 20) i;
		SELECT $api.emit_event('t', U&'\\00e9-$which-' || i, '{"a": [1.50, null]}', '{"traceparent": "t"}') FROM generate_series(1, 20) i;
		SQL
	$node->safe_psql('shop', "SELECT $api.create_order('o-$which-' || i, 100, 'EUR', 'alice', pay_within => '1 ms') FROM generate_series(1, 20) i");
	ok(poll($node, 'postgres', "SELECT count(*) = 0 FROM $api.payment_deadlines"), "$which: deadlines are kept");
	ok(poll($node, 'shop', "SELECT count(*) = 0 FROM $api.payment_deadlines"), "$which: with what the database's owner set, too");
	drained($node, 'plain');
	drained($node, 'hers');
	ok(poll($node, 'shop', "SELECT lag_events = 0 FROM $api.subscription_status"), "$which: the database's events are delivered");
	is($node->safe_psql('shop', "SELECT count(*) FROM $api.orders WHERE state = 'cancelled' AND key LIKE 'o-$which-%'"), '20', "$which: all of its orders were cancelled");
	is(slurp_file(sink_dir($node) . '/hers.jsonl'), slurp_file(sink_dir($node) . '/plain.jsonl'), "$which: her file is that of everybody else, byte for byte");
	sql_is($node, 'SELECT count(*) FROM evil.ran', '0', "$which: no trap went off in the owner's worker");
	is($node->safe_psql('shop', "SELECT count(*) FROM evil.ran"), '0', "$which: nor in the database");
}
all_once($node, 'hers.jsonl', 'hers');
consistent($node, 'at the end');
$node->safe_psql('postgres', 'ALTER ROLE owner RESET ALL; ALTER DATABASE shop RESET ALL');
$node->restart;

# -- rights that are lost ---------------------------------------------------------------------

# A right that is taken away: nothing more comes until it is given back.
my $n = 0;

sub lost_and_found
{
	my ($what, $take, $give, $error) = @_;
	my $key = 'lost-' . ++$n;
	my $file = sink_dir($node) . '/rights.jsonl';

	$node->safe_psql('postgres', emit("$key-before"));
	drained($node, 'rights');
	$node->safe_psql('postgres', $take);
	$node->safe_psql('postgres', emit($key));
	drained($node, 'plain');
	status_is('rights', "lag_events > 0 AND last_error ~ '$error'", "$what: it stops");
	unlike(slurp_file($file), qr/"$key"/, "$what: nothing is delivered");
	$node->safe_psql('postgres', $give);
	drained($node, 'rights');
	like(slurp_file($file), qr/"$key"/, "$what: it goes on with the right");
	return;
}

$node->safe_psql('postgres', <<~SQL);
	CREATE ROLE may_publish;
	GRANT USAGE ON FOREIGN SERVER files TO may_publish;
	CREATE ROLE rights LOGIN IN ROLE may_publish;
	SELECT $api.grant_operator('rights');
	SET SESSION AUTHORIZATION rights;
	SELECT $api.create_subscription('rights', 'files');
	SQL
wait_for_worker($node, 'rights');
my $denied = 'permission denied for foreign server files';
lost_and_found('a membership', 'REVOKE may_publish FROM rights', 'GRANT may_publish TO rights', $denied);
lost_and_found('the group\'s right', 'REVOKE USAGE ON FOREIGN SERVER files FROM may_publish',
	'GRANT USAGE ON FOREIGN SERVER files TO may_publish', $denied);
lost_and_found('being permitted to log in', 'ALTER ROLE rights NOLOGIN', 'ALTER ROLE rights LOGIN', 'not permitted to log in|worker ended');
lost_and_found('being permitted to connect', 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC',
	'GRANT CONNECT ON DATABASE postgres TO PUBLIC', 'not permitted to connect|worker ended');
$node->safe_psql('postgres', 'ALTER ROLE rights SUPERUSER; REVOKE may_publish FROM rights');
lost_and_found('being a superuser', 'ALTER ROLE rights NOSUPERUSER', 'ALTER ROLE rights SUPERUSER', $denied);

# -- another's mapping ---------------------------------------------------------------------------

SKIP:
{
	skip 'the sink http was left out of the build (no libcurl)', 3
	  if !-e $node->config_data('--pkglibdir') . '/order_idempotency_http.so';

	my ($in, $out, $log) = ('', '', $node->basedir . '/receiver.log');
	my $receiver = start([ 'python3', "$FindBin::RealBin/../lib/http_receiver.py", $log ], '<', \$in, '>', \$out);
	$receiver->pump while $out !~ /^\d+\n/;
	chomp $out;
	$node->safe_psql('postgres', <<~SQL);
		CREATE SERVER hook FOREIGN DATA WRAPPER order_idempotency_http OPTIONS (url 'http://127.0.0.1:$out', allow_addresses '127.0.0.1');
		CREATE USER MAPPING FOR CURRENT_USER SERVER hook OPTIONS (token 'canary-of-another');
		GRANT USAGE ON FOREIGN SERVER hook TO owner;
		SET SESSION AUTHORIZATION owner;
		SELECT $api.create_subscription('borrowed', 'hook', ARRAY['borrowed'], 'x');
		SQL
	$node->safe_psql('postgres', emit('b', 'borrowed'));
	drained($node, 'borrowed');
	my $got = slurp_file($log);
	like($got, qr/borrowed/, 'an event comes to a server that is shared');
	unlike($got, qr/canary/, 'without the secret of another user\'s mapping');
	(undef, undef, my $err) = as_role('owner', 'postgres', "SELECT umoptions FROM pg_user_mappings WHERE srvname = 'hook'");
	unlike($err . (as_role('owner', 'postgres', "SELECT umoptions FROM pg_user_mappings"))[1], qr/canary/, 'which its user does not see either');
	$receiver->kill_kill;
}

# -- a schema of the extension's name ----------------------------------------------------------

# Where the extension is not, anybody may make one who may make schemas, and the maintenance
# process comes by as a superuser.
my %traps = (
	trap_kind => <<~SQL,
		CREATE SCHEMA $api;
		CREATE TABLE $api.subscription_cursors ();
		CREATE VIEW $api.subscriptions AS SELECT 1 AS id;
		SQL
	trap_rows => <<~SQL);
		CREATE SCHEMA $api;
		CREATE TABLE $api.subscription_cursors ();
		CREATE TABLE $api.subscriptions (id int, name text, server text, owner oid);
		INSERT INTO $api.subscriptions VALUES (1, 'sprung', 'files', 10);
		CREATE TABLE $api.installation (id bigint);
		INSERT INTO $api.installation VALUES (1);
		CREATE SEQUENCE $api.in_use;
		SELECT nextval('$api.in_use');
		CREATE TABLE $api.payment_deadlines (order_key bigint, due_at bigint);
		INSERT INTO $api.payment_deadlines VALUES (1, 0);
		SQL
foreach my $db (sort keys %traps)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db OWNER dbo");
	is((as_role('dbo', $db, $traps{$db}))[2], '', "$db is set");
}
my $visits = q(SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname = '%s');
ok(poll($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname LIKE 'trap%'"), 'nobody is connected to them');
my %before = map { $_ => $node->safe_psql('postgres', sprintf($visits, $_)) } keys %traps;
$node->restart;
ok($node->poll_query_until('postgres', sprintf("SELECT ($visits) > $before{$_}", $_)), "$_ is visited") foreach sort keys %traps;
subscribe($node, 'later', db => 'shop');
unlike(slurp_file($node->logfile), qr/(?:LOG|WARNING|ERROR|FATAL):  (?!statement:).*sprung/, 'no worker began for a row that looks like a subscription');

$node->stop('fast');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal|ERROR:  XX/, 'nothing crashed');
done_testing();
