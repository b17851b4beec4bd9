# Promise 7 through a failover, with the sink "kafka": a standby that is promoted goes on
# where its primary was, in the middle of a delivery; the former primary, which does not know
# that it is one, is shut out, says so, and does not try to get back in; and a database that
# lost its last transactions says that Kafka is ahead of it, and goes on.
#
# Bugs that this catches: two servers that deliver for one subscription; a former primary
# that fences its successor (planted and seen to fail); a loss that is papered over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Fault;
use OrderIdempotency::Kafka;
use OrderIdempotency::Node;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';
my $primary = new_node('kafka_primary', streaming => 1, conf => fault_conf() . "max_worker_processes = 24\n");
OrderIdempotency::Kafka::require_kafka($primary);
prepare_faults($primary);
my $kafka = OrderIdempotency::Kafka->new($primary->basedir . '/kafka');
my $n = 0;

# Events of one key, with a number that grows; returns the numbers.
sub write_events
{
	my ($node, $count) = @_;
	my @numbers = map { ++$n } 1 .. $count;

	$node->safe_psql('postgres', join '', map { "SELECT $api.emit_event('test.event', 'key', '{\"n\": $_}');\n" } @numbers);
	return @numbers;
}

# The numbers in a topic, in their order.
sub numbers_in
{
	my ($topic) = @_;

	return join ' ', map { /"n": (\d+)/ } map { $_->{payload} } $kafka->records($topic);
}

# A subscription, and a standby of its server that has it.
sub subscribe_and_back_up
{
	my ($topic) = @_;
	my $standby = PostgreSQL::Test::Cluster->new("kafka_standby_$topic");

	$kafka->create_topic($topic, partitions => 1);
	$primary->safe_psql('postgres', <<~"SQL");
		CREATE SERVER $topic FOREIGN DATA WRAPPER order_idempotency_kafka
			OPTIONS ("bootstrap.servers" '@{[ $kafka->servers ]}');
		SELECT $api.create_subscription('$topic', '$topic', NULL, '$topic', '{"batch_size": 3, "backoff_min": 50, "backoff_max": 200}');
		SQL
	wait_for_worker($primary, $topic);
	$primary->backup($topic);
	$standby->init_from_backup($primary, $topic, has_streaming => 1);
	$standby->start;
	return $standby;
}

# Waits until the standby has all that the primary wrote.
sub catch_up
{
	my ($standby) = @_;

	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return;
}

# A failover in the middle of a delivery, while the former primary lives on.
my $standby = subscribe_and_back_up('moved');
my @numbers = write_events($primary, 5);
drained($primary, 'moved');
set_fault($primary, 'kafka:sent', 'hang');
push @numbers, write_events($primary, 5);
ok(wait_for_fault($primary, 'kafka:sent'), 'the primary is in the middle of a delivery');
catch_up($standby);
$standby->promote;
wait_for_worker($standby, 'moved');
push @numbers, write_events($standby, 5);
drained($standby, 'moved');
end_hang($primary, 'kafka:sent');
ok(poll($primary, 'postgres', "SELECT last_error ~ 'taken over' FROM $api.subscription_status WHERE name = 'moved'"),
	'the former primary is told that it is one');
write_events($primary, 5);
ok(poll($primary, 'postgres', <<~"SQL"), 'and by which timeline');
	SELECT last_error ~ 'taken over by a server on timeline 2, this one is on timeline 1'
	FROM $api.subscription_status WHERE name = 'moved'
	SQL
my $errors = () = slurp_file($primary->logfile) =~ /taken over/g;
push @numbers, write_events($standby, 5);
drained($standby, 'moved');
$primary->restart;
wait_for_worker($primary, 'moved');
ok(poll($primary, 'postgres', <<~"SQL"), 'a restart does not change that');
	SELECT last_error ~ 'taken over by a server on timeline 2' FROM $api.subscription_status WHERE name = 'moved'
	SQL
push @numbers, write_events($standby, 5);
drained($standby, 'moved');
is(numbers_in('moved'), "@numbers", 'each event of the new primary exactly once, in order, and none of the former one');
cmp_ok($errors, '<', 20, 'the former primary does not try all the time');
is($standby->safe_psql('postgres', "SELECT last_error FROM $api.subscription_status WHERE name = 'moved'"), '',
	'and does not disturb the new one');
$standby->stop;
$primary->safe_psql('postgres', "SELECT $api.drop_subscription('moved')");

# A failover that loses what was delivered.
$standby = subscribe_and_back_up('lost');
@numbers = write_events($primary, 5);
drained($primary, 'lost');
catch_up($standby);
$standby->safe_psql('postgres', q(ALTER SYSTEM SET primary_conninfo = ''));
$standby->reload;
ok($primary->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_replication'), 'replication ends');
push @numbers, write_events($primary, 5);
drained($primary, 'lost');
$primary->stop('immediate');
$standby->promote;
wait_for_worker($standby, 'lost');
push @numbers, write_events($standby, 5);
drained($standby, 'lost');
like(slurp_file($standby->logfile), qr/WARNING:  receiver of subscription "lost" is ahead of the database/,
	'a database that lost what it sent says so');
is(numbers_in('lost'), "@numbers", 'and goes on');

$standby->stop;
$kafka->stop;
done_testing();
