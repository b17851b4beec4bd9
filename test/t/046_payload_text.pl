# What an event carries is its payload as the server would show it, byte for byte.  One
# whose text there is no memory for holds up nothing but its key.
#
# Bugs that this catches, planted and seen to fail: a control character that is not
# escaped; no comma behind an empty object; a text that is made however long it becomes.

use strict;
use warnings;

use Encode ();
use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $node = new_drain_node('payloads');
my $db = 'texts';

$node->safe_psql('postgres', "CREATE DATABASE $db ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0");
$node->safe_psql($db, 'CREATE EXTENSION order_idempotency');
create_sink($node, $db);
subscribe($node, 'audit', db => $db);
$node->safe_psql($db, <<~"SQL");
	CREATE TABLE wanted (n serial, payload jsonb);
	INSERT INTO wanted (payload) VALUES
		('{}'), ('[]'), ('null'), ('true'), ('false'), ('0'), ('""'), ('"plain"'), ('-12.340'), ('1e400'), ('1E-7'),
		('[[], {}, [[]], {"a": {}}, [1, [2, [3, "x"]], null], true]'),
		('{"a": [], "b": {}, "c": {"d": [{"e": null}, {}]}, "": "empty key"}'),
		('[{"n": 1.00}, -0.0, 123456789012345678901234567890, false]'),
		(to_jsonb(E'\\b\\f\\n\\r\\t"\\\\/ \\x7f'::text)),
		(to_jsonb(U&'\\00e9\\20ac\\+01f600\\2028'::text));
	-- each character that there is below a space, alone, first, in the middle and last, in values and keys
	INSERT INTO wanted (payload)
	SELECT jsonb_build_object(c || 'k' || c, jsonb_build_array(c, c || 'x', 'x' || c || c || 'y', 'x' || c))
	FROM generate_series(1, 127) i, chr(i) c;
	-- long ones, and many members
	INSERT INTO wanted (payload)
	SELECT jsonb_build_object('long', repeat(left(E'ab"c\\n', i % 5 + 1), i * 97), 'many',
		(SELECT jsonb_object_agg('key ' || j, j::numeric / 7) FROM generate_series(1, i * 10) j))
	FROM generate_series(1, 30) i;
	SELECT count($api.emit_event('test', 'key-' || n, payload)) FROM wanted;
	SQL
drained($node, 'audit', $db);

# The member is the last of a line.
my %found;
foreach my $line (split /\n/, slurp_file(sink_dir($node) . '/audit.jsonl'))
{
	my ($key) = $line =~ /"subject": ?"(key-\d+)"/ or die "no key in: $line";
	my ($data) = $line =~ /"data": ?(.*)\}$/ or die "no data in: $line";

	$found{$key} = $data;
}
my @rows = split /\n/, $node->safe_psql($db,
	q(SELECT 'key-' || n || ' ' || encode(convert_to(payload::text, 'UTF8'), 'hex') FROM wanted ORDER BY n));
my @wrong;
foreach my $row (@rows)
{
	my ($key, $hex) = split / /, $row;
	my $text = pack 'H*', $hex;

	push @wrong, "$key: $text" if ($found{$key} // '') ne $text;
}
is(scalar(keys %found), scalar(@rows), 'each event is there');
is("@wrong", '', 'with its payload as the server shows it');

# Payloads of 0.1 MB that have 1.1 GB as text, in the log although no function of ours would
# write them there: in the middle of a key, and of more keys than the receiver is taken
# for down for.
my $pid = worker_pid($node, 'audit', $db);
subscribe($node, 'skips', db => $db, options => q('{"on_dead": "skip"}'));
$node->safe_psql($db, <<~"SQL");
	INSERT INTO $api.outbox_0 (position, xid, event_id, key, type, payload, created_at)
	SELECT nextval('$api.outbox_position'), x.xid, gen_random_uuid(), key, 'test', payload, now()
	FROM (SELECT pg_current_xact_id() AS xid OFFSET 0) x, (SELECT 'a' AS key, '1'::jsonb AS payload UNION ALL
		SELECT substr('abcdefg', i, 1), ('[' || repeat('1e131071,', 8200) || '1]')::jsonb FROM generate_series(1, 7) i UNION ALL
		SELECT 'a', '2' UNION ALL SELECT 'z', '3') v
	SQL
foreach my $name ('audit', 'skips')
{
	my ($goes, $waits) = $name eq 'audit' ? ('a z', 1) : ('a a z', 0);

	ok( $node->poll_query_until($db, <<~"SQL"), "$name: seven are dead letters, the others are not");
		SELECT dead = 7 AND parked = $waits AND lag_events = $waits FROM $api.subscription_status WHERE name = '$name'
		SQL
	is($node->safe_psql($db, "SELECT DISTINCT reason FROM $api.dead_letters WHERE subscription = '$name'"),
		'payload has more than 67108864 bytes as text', "$name: and why");
	is(join(' ', sort grep { length == 1 } split / /, events_of($node, "$name.jsonl")), $goes, "$name: what goes out");
}
is(worker_pid($node, 'audit', $db), $pid, 'the worker goes on');

# Tried again, it is no other than before.
$node->safe_psql($db, "SELECT $api.redrive('audit', everything => true)");
ok($node->poll_query_until($db, "SELECT dead = 7 FROM $api.subscription_status WHERE name = 'audit'"), 'redriven: dead letters again');
$node->safe_psql($db, "SELECT $api.discard('audit', everything => true)");
drained($node, 'audit', $db);
like(events_of($node, 'audit.jsonl'), qr/ a$/, 'and what waited goes out');

$node->stop;
done_testing();
