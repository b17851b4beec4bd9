# Promises 4, 5 and 7 at their simplest: what a subscription sends, from where
# on, and in which form.  An event of an order carries the id that the call
# returned; nothing of before the subscription is sent unless it asks for it; all
# of its own transaction is.
#
# Bugs that this catches: a snapshot that omits its own transaction (events
# lost or, if its xid is taken for an ended one, never looked at again); missing
# position 1; sending anew from the start after a drop and create.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_drain_node('first_event');
my $api = 'order_idempotency';

# Position 1 is drawn when nothing is there yet.
subscribe($node, 'audit');
my $id = $node->safe_psql('postgres', <<~"SQL");
	SELECT event_id FROM $api.create_order('k1', 100, 'EUR', 'a',
		headers => '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
					 "tracestate": "x=y", "tenant": "t1", "Not-An-Attribute": "n", "id": "taken"}')
	SQL
drained($node, 'audit');
my @events = read_events($node, 'audit.jsonl');
is(scalar @events, 1, 'the first event of all comes');
my $event = $events[0];
my $line = slurp_file(sink_dir($node) . '/audit.jsonl');

is(delete $event->{specversion}, '1.0', 'specversion');
is(delete $event->{id}, $id, 'id is the event\'s id');
is(delete $event->{source}, '/order_idempotency/postgres', 'source');
is(delete $event->{type}, 'order.created', 'type');
is(delete $event->{subject}, 'k1', 'subject is the key');
is(delete $event->{partitionkey}, 'k1', 'so is partitionkey');
is(delete $event->{sequence}, '1', 'sequence is the position');
like($line, qr/"sequence":"1"/, 'as a string');
is(delete $event->{datacontenttype}, 'application/json', 'datacontenttype');
is(delete $event->{traceparent},
	'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'traceparent');
is(delete $event->{tracestate}, 'x=y', 'tracestate');
is(delete $event->{tenant}, 't1', 'a header that can be an attribute');
my $time = delete $event->{time};
like($time, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, 'time');
sql_is($node, "SELECT created_at = '$time'::timestamptz FROM $api.outbox", 't',
	'time is that of the event');
is($event->{data}{amount}, 100, 'data is the payload');
delete $event->{data};
is(join(' ', sort keys %$event), '', 'and nothing else, no header that cannot be one');

# No payload, and one that JSON has to escape.
$node->safe_psql('postgres', <<~"SQL");
	SELECT $api.emit_event('note', 'quote " back \\ / tab	');
	SELECT $api.emit_event('note', 'n', '{"t": "line\\nbreak \\u0001 \\"q\\""}');
	SELECT $api.emit_event('note', 'n', 'null');
	SQL
drained($node, 'audit');
@events = read_events($node, 'audit.jsonl');
is(scalar @events, 4, 'three more');
is($events[1]{subject}, "quote \" back \\ / tab\t", 'a key with quotes');
ok(!exists $events[1]{data} && !exists $events[1]{datacontenttype},
	'no payload, no data');
is($events[2]{data}{t}, "line\nbreak \x01 \"q\"", 'a payload with all of it');
ok(exists $events[3]{data} && !defined $events[3]{data}, 'a JSON null is data');

# Types, and what is of before.
subscribe($node, 'late');
subscribe($node, 'whole', options => q('{"from": "start"}'));
subscribe($node, 'notes', options => q('{"from": "start", "batch_size": 1}'),
	event_types => q(ARRAY['note']), topic => q('only-notes.json'));
subscribe($node, 'now', options => q('{"from": "now"}'));
$node->safe_psql('postgres', emit('after') . emit('after', 'note'));
drained($node, $_) foreach qw(late whole notes now);
is(events_of($node, 'late.jsonl'), 'after after', 'from now on by default');
is(events_of($node, 'now.jsonl'), 'after after', 'from now on when asked for');
is(events_of($node, 'whole.jsonl'), events_of($node, 'audit.jsonl'), 'from the start');
is(scalar(my @notes = read_events($node, 'only-notes.json')), 4,
	'from the start, one type, to a topic of its own');

# In one transaction: events before and after the call, in a subtransaction of
# it too, and none of what is rolled back.
$node->safe_psql('postgres', <<~SQL);
	BEGIN;
	@{[ emit('own-before') ]}
	SELECT $api.create_subscription('own', 'files');
	@{[ emit('own-after') ]}
	SAVEPOINT a;
	@{[ emit('own-never') ]}
	SELECT $api.create_subscription('never', 'files');
	ROLLBACK TO a;
	SAVEPOINT b;
	@{[ emit('own-sub') ]}
	SELECT $api.create_subscription('sub', 'files');
	COMMIT;
	SQL
wait_for_worker($node, $_) foreach qw(own sub);
drained($node, $_) foreach qw(own sub audit);
is(events_of($node, "$_.jsonl"), 'own-before own-after own-sub',
	"all of the transaction that created the subscription ($_)")
  foreach qw(own sub);
sql_is($node,
	"SELECT count(*) FROM $api.subscription_workers() w JOIN $api.subscriptions s ON s.id = w.subscription",
	'7', 'a worker for each subscription');
ok(!-e sink_dir($node) . '/never.jsonl', 'none for one that was rolled back');

# Rolled back as a whole: nothing is left, and the worker of a drop that is
# rolled back goes on.
$node->safe_psql('postgres', <<~SQL);
	BEGIN; SELECT $api.create_subscription('gone', 'files'); ROLLBACK;
	BEGIN; SELECT $api.drop_subscription('own'); ROLLBACK;
	@{[ emit('go-on') ]}
	SQL
drained($node, 'own');
is(events_of($node, 'own.jsonl'), 'own-before own-after own-sub go-on', 'drop rolled back');
sql_is($node, "SELECT count(*) FROM $api.subscriptions WHERE name = 'gone'", '0',
	'create rolled back');

# Dropped: the worker goes, without a failure, and frees its place; created anew:
# it goes on at the file's end, from then on.
my $pid = worker_pid($node, 'own');
my $log = -s $node->logfile;
$node->safe_psql('postgres', "SELECT $api.drop_subscription('own')");
$node->poll_query_until('postgres',
	"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid")
  or die 'the worker did not go';
$node->safe_psql('postgres', emit('unseen'));
subscribe($node, 'own');
$node->safe_psql('postgres', emit('again'));
drained($node, 'own');
is(events_of($node, 'own.jsonl'), 'own-before own-after own-sub go-on again',
	'dropped and created anew');
unlike(slurp_file($node->logfile, $log), qr/own.*(ERROR|FATAL|exit code)/, 'no failure');
sql_is($node, "SELECT count(*) FROM $api.subscription_workers()", '7', 'no place is lost');
sql_is($node,
	"SELECT count(*) FROM $api.subscription_cursors c WHERE NOT EXISTS (SELECT FROM $api.subscriptions s WHERE s.id = c.subscription)",
	'0', 'no cursor is left behind');

all_once($node, 'audit.jsonl', 'in the end');
done_testing();
