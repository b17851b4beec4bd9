# What an event carries is its payload as the server would show it, byte for byte.
#
# Bugs that this catches, planted and seen to fail: a control character that is not
# escaped; no comma behind an empty object.

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

$node->stop;
done_testing();
