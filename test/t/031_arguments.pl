# Promise 9, and clear errors: who may create and drop subscriptions, on which
# servers, and what is refused with which SQLSTATE.
#
# Bugs that this catches: a topic that leaves the directory of its server; a
# server without USAGE; a path set by anyone; dropping another's subscription; a
# name that two transactions take at once; writing in a read-only transaction.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('arguments');
my $api = 'order_idempotency';
my $dir = sink_dir($node);

# Checks the SQLSTATE of a script's first error ("00000": none).
sub state_is
{
	my ($sql, $state, $what, $pattern) = @_;
	my ($rc, $out, $err) =
	  $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);
	my ($got) = $err =~ /(?:ERROR|FATAL): +([0-9A-Z]{5}):/;

	is($got // '00000', $state, $what) or diag($err);
	like($err, $pattern, "$what: the message") if defined $pattern;
	return;
}

sub create
{
	return "SELECT $api.create_subscription(" . join(', ', @_) . ');';
}

my @calls = (
	[ create('NULL', q('files')), '22004', 'no name' ],
	[ create(q('s'), 'NULL'), '22004', 'no server' ],
	[ create(q(''), q('files')), '22023', 'empty name' ],
	[ create("'" . 's' x 64 . "'", q('files')), '22001', 'long name' ],
	[ create(q('Upper'), q('files')), '22023', 'upper case', qr/HINT/ ],
	[ create(q('1st'), q('files')), '22023', 'digit first' ],
	[ create(q('a/b'), q('files')), '22023', 'slash in the name' ],
	[ create(q('a b'), q('files')), '22023', 'blank in the name' ],
	[ create(q('s'), q('nowhere')), '42704', 'no such server' ],
	[ create(q('s'), q('other')), '42809', 'server that is no sink', qr/HINT/ ],
	[ create(q('s'), q('files'), q(ARRAY[]::text[])), '22023', 'no types', qr/HINT/ ],
	[ create(q('s'), q('files'), q(ARRAY['a', NULL])), '22004', 'null type' ],
	[ create(q('s'), q('files'), q(ARRAY['a', ''])), '22023', 'empty type' ],
	[ create(q('s'), q('files'), q(ARRAY[['a'], ['b']])), '2202E', 'two dimensions' ],
	[ create(q('s'), q('files'), 'NULL', q('')), '22023', 'empty topic' ],
	[ create(q('s'), q('files'), 'NULL', q('.')), '22023', 'topic .' ],
	[ create(q('s'), q('files'), 'NULL', q('..')), '22023', 'topic ..' ],
	[ create(q('s'), q('files'), 'NULL', q('../x')), '22023', 'topic ../x' ],
	[ create(q('s'), q('files'), 'NULL', q('a/b')), '22023', 'topic a/b' ],
	[ create(q('s'), q('files'), 'NULL', q('a b')), '22023', 'topic with a blank' ],
	[ create(q('s'), q('files'), 'NULL', "E'a\\nb'"), '22023', 'topic with a newline' ],
	[ create(q('s'), q('files'), 'NULL', "'" . 't' x 256 . "'"), '22001', 'long topic' ],
	[ create(q('s'), q('files'), 'NULL', 'NULL', q('[]')), '22023', 'options an array' ],
	[ create(q('s'), q('files'), 'NULL', 'NULL', q('1')), '22023', 'options a number' ],
	[ create(q('s'), q('files'), 'NULL', 'NULL', q('{"form": "now"}')), '22023',
		'unknown option', qr/HINT.*from/ ],
	[ create(q('s'), q('files'), 'NULL', 'NULL', q('{"from": "then"}')), '22023', 'bad from' ],
	[ create(q('s'), q('files'), 'NULL', 'NULL', q('{"from": {"now": "now"}}')), '22023',
		'from an object' ],
	map({
		[ create(q('s'), q('files'), 'NULL', 'NULL', qq('{"batch_size": $_}')), '22023',
			"batch_size $_" ]
	} '0', '-1', '1.5', '5001', '1e30', '"5"', 'null', 'true'),
	[ "SELECT $api.drop_subscription(NULL);", '22004', 'drop without a name' ],
	[ "SELECT $api.drop_subscription('s');", '42704', 'drop of none' ],
	[ 'BEGIN READ ONLY;' . create(q('s'), q('files')), '25006', 'create in READ ONLY' ],
	[ "BEGIN READ ONLY; SELECT $api.drop_subscription('s');", '25006', 'drop in READ ONLY' ],
	[ "CREATE SERVER x FOREIGN DATA WRAPPER ${api}_file;", 'HV002', 'server without a path' ],
	[ "CREATE SERVER x FOREIGN DATA WRAPPER ${api}_file OPTIONS (path 'here');", 'HV024',
		'relative path' ],
	[ "CREATE SERVER x FOREIGN DATA WRAPPER ${api}_file OPTIONS (path '/x', color 'red');",
		'HV00D', 'unknown server option', qr/HINT.*fsync, path/ ],
	[ "CREATE SERVER x FOREIGN DATA WRAPPER ${api}_file OPTIONS (path '/x', fsync 'red');",
		'42601', 'fsync is not boolean' ],
	[ 'ALTER SERVER files OPTIONS (DROP path);', 'HV002', 'path dropped' ],
	[ q(CREATE USER MAPPING FOR CURRENT_USER SERVER files OPTIONS (password 'x');), 'HV00D',
		'user mapping with an option' ],
	[ "ALTER FOREIGN DATA WRAPPER ${api}_file OPTIONS (path '/x');", 'HV00D',
		'wrapper with an option' ]);

$node->safe_psql('postgres', <<~'SQL');
	CREATE FOREIGN DATA WRAPPER plain;
	CREATE FOREIGN DATA WRAPPER "order_idempotency_../x";
	CREATE SERVER other FOREIGN DATA WRAPPER plain;
	CREATE SERVER evil FOREIGN DATA WRAPPER "order_idempotency_../x";
	SQL
state_is(@$_) foreach @calls;
state_is(create(q('s'), q('evil')), '42809', 'wrapper with a path in its name');
sql_is($node, "SELECT count(*) FROM $api.subscriptions", '0', 'none was created');
sql_is($node, "SELECT count(*) FROM $api.subscription_cursors", '0', 'nor a cursor');

# The bounds themselves are good, and what is refused leaves the transaction's
# other work intact.
$node->safe_psql('postgres', <<~SQL);
	BEGIN;
	SELECT $api.create_subscription('${\ ('s' x 63) }', 'files', topic => '${\ ('t' x 255) }',
		options => '{"batch_size": 5000}');
	SAVEPOINT a;
	\\set ON_ERROR_STOP off
	SELECT $api.create_subscription('S', 'files');
	\\set ON_ERROR_STOP on
	ROLLBACK TO a;
	SELECT $api.create_subscription('a-1_b', 'files', options => '{}');
	COMMIT;
	SQL
sql_is($node, "SELECT name, topic FROM $api.subscriptions WHERE name < 'b'",
	'a-1_b|a-1_b.jsonl', 'the file is named after the subscription');
sql_is($node, "SELECT count(*) FROM $api.subscriptions", '2', 'two were created');

# One name, once: committed, in this transaction, in another one.
state_is(create(q('a-1_b'), q('files')), '42710', 'a name that is taken');
state_is('BEGIN;' . create(q('x'), q('files')) x 2, '42710', 'taken by this transaction');
my $pool = OrderIdempotency::Sessions->new($node, 2);
foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	my $name = lc $level =~ s/ /-/r;

	$pool->run(1, "BEGIN ISOLATION LEVEL $level; SELECT 1;");
	$pool->run(0, 'BEGIN;' . create("'$name'", q('files')));
	$pool->send(1, create("'$name'", q('files')));
	$pool->wait_blocked(1);
	$pool->run(0, 'COMMIT;');
	like($pool->collect(1), qr/42710/, "a name taken by a session at work, $level");
	$pool->run(1, 'ROLLBACK;');
	$pool->run(1, "BEGIN ISOLATION LEVEL $level; SELECT 1;");
	like($pool->run(1, "SELECT $api.drop_subscription('$name'); COMMIT; \\echo :SQLSTATE"),
		qr/^(00000|40001)$/m, "dropped while its worker is at work, $level");
}
$pool->quit;

# Privileges.
$node->safe_psql('postgres', <<~SQL);
	CREATE ROLE operator LOGIN;
	CREATE ROLE another LOGIN;
	CREATE ROLE nologin;
	SELECT $api.grant_operator('operator');
	SELECT $api.grant_operator('another');
	SELECT $api.grant_operator('nologin');
	GRANT USAGE ON FOREIGN DATA WRAPPER ${api}_file TO operator;
	SQL
state_is('SET ROLE operator;' . create(q('op'), q('files')), '42501',
	'a server without USAGE', qr/permission denied for foreign server files/);
$node->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER files TO operator, nologin');
state_is('SET ROLE operator;' . create(q('op'), q('files')), '00000', 'with USAGE');
sql_is($node, "SELECT owner FROM $api.subscriptions WHERE name = 'op'", 'operator',
	'who creates a subscription owns it');
state_is("SET ROLE another; SELECT $api.drop_subscription('op');", '42501',
	'drop of another\'s', qr/must be owner of subscription "op"/);
state_is("GRANT operator TO another; SET ROLE another; SELECT $api.drop_subscription('op');",
	'00000', 'by a member of the owner');
state_is('SET ROLE nologin;' . create(q('op'), q('files')), '00000',
	'an owner who cannot log in is warned', qr/WARNING.*cannot connect/);
state_is("SELECT $api.drop_subscription('op');", '00000', 'drop by a superuser');
state_is("SET ROLE operator; CREATE SERVER mine FOREIGN DATA WRAPPER ${api}_file OPTIONS (path '$dir');",
	'42501', 'a path without pg_write_server_files', qr/HINT.*pg_write_server_files/);
state_is("GRANT pg_write_server_files TO operator; SET ROLE operator; CREATE SERVER mine FOREIGN DATA WRAPPER ${api}_file OPTIONS (path '$dir');",
	'00000', 'with it');

# Without preloading there is no worker, and one is told so.
my $other = PostgreSQL::Test::Cluster->new('not_preloaded');
$other->init;
$other->start;
$other->safe_psql('postgres', 'CREATE EXTENSION order_idempotency');
create_sink($other, 'postgres');
my ($rc, $out, $err) = $other->psql('postgres', create(q('s'), q('files')));
is($rc, 0, 'created without preloading');
like($err, qr/WARNING:.*has no worker.*\nHINT:.*shared_preload_libraries/, 'with a warning');
is($other->safe_psql('postgres', "SELECT name, state FROM $api.subscription_status"),
	's|stopped', 'its state');
$other->safe_psql('postgres', emit('x') . "SELECT $api.drop_subscription('s');");
done_testing();
