# Promises 1 (one winner), 2 (all or nothing), 4 (no event lost), 6 (order per key) and 7 (exactly
# once where the sink can), the whole way: a topic of commands, the consumer of examples/pipeline, its
# transaction with the claim of the message's id and the order functions, the log, the sink kafka, a
# topic of events.  A fifth of the messages are repeats, some of them by way of another partition and
# ahead of the first; some cannot be carried out.  Consumers, broker and database server are killed,
# every second time while a message is committed and its offset is not.  Who reads what is committed
# has the effect of each message exactly once, each order's in their order.
#
# Bugs that this catches, each planted and seen to fail: offsets committed before the database commits;
# the claim committed by a transaction of its own.
#
# The full run: make test KIND=tap TESTS=160_pipeline_kafka OI_PIPELINE=full FILE_TIMEOUT=3600

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Kafka;
use OrderIdempotency::Node;
use OrderIdempotency::Pipeline;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('pipeline_kafka', conf => "max_worker_processes = 24\n");
OrderIdempotency::Kafka::require_kafka($node);
require_broker(OrderIdempotency::Pipeline::requirements());

my $kafka = OrderIdempotency::Kafka->new($node->basedir . '/kafka',
	conf => "group.min.session.timeout.ms=1000\ngroup.initial.rebalance.delay.ms=0\n");
$kafka->create_topic('commands', partitions => 6);
$kafka->create_topic('events');
$kafka->create_topic('commands.rejected', partitions => 1);

# How many members the group has, and how many commands are left for it.
sub group
{
	return $kafka->admin('group', 'pipeline', 'commands');
}

my $pipeline = OrderIdempotency::Pipeline->new(
	kind => 'kafka', node => $node, broker => $kafka, variables => { brokers => $kafka->servers },
	env => { KAFKA => $kafka->servers, SESSION_TIMEOUT => '3s' });
wait_for_worker($node, $_) foreach qw(events rejected);
$pipeline->run_all;
$pipeline->wait_consumed(sub { group() =~ / 0$/ });
$pipeline->finish;
is(group(), '0 0', 'those who end leave the group, and every offset is committed');
$pipeline->compare(sub { $kafka->records_to_file(@_) });

$node->stop;
$kafka->kill9;
done_testing();
